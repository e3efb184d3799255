"""What bodies leave for the tests to find. Workers import this, so it imports nothing that only a test needs."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery

NOTES = "stackstate-test-notes"


def note(app: Celery, name: str, **data: Any) -> None:
    """Leave a note for the test, in the result backend: the library's store may be down, or be what is tested."""
    app.backend.client.rpush(NOTES, json.dumps({"name": name, "pid": os.getpid(), "at": time.time(), **data}))
