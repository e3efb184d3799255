"""A Celery app whose worker runs in a process of its own, for operations that only a prefork pool can do."""

from __future__ import annotations

import os
import time

from celery import Celery

from celery_stackstate import StateTask

app = Celery(
    "terminating", broker=os.environ.get("TERMINATING_BROKER", "memory://"), task_cls=StateTask, set_as_current=False
)
app.conf.stackstate_url = os.environ.get("TERMINATING_STORE", "memory://terminating")
app.conf.stackstate_prefix = app.conf.task_default_queue = os.environ.get("TERMINATING_PREFIX", "terminating")


@app.task(name="terminating.forever")
def forever() -> None:
    """Never end."""
    while True:
        time.sleep(0.1)
