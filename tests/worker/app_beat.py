"""An app for beats: each entry names its key by a function, which also writes down that it was asked."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path

from celery import Celery
from celery.schedules import crontab

from celery_stackstate import StateTask

ASKED = Path(os.environ["STACKSTATE_TEST_ASKED"])
LONG_AGO = datetime(2020, 1, 1, tzinfo=timezone.utc)

app = Celery("beats", broker=os.environ["STACKSTATE_TEST_BROKER"], task_cls=StateTask)
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]


@app.task
def report() -> None:
    """Do nothing: the tests look at the messages."""


def slot_key(due: datetime) -> str:
    """Return the key of the entry with an interval."""
    return _written(f"slot:{due.isoformat()}")


def daily_key(due: datetime) -> str:
    """Return the key of the entry with a crontab."""
    return _written(f"daily:{due:%Y-%m-%d}")


def _written(key: str) -> str:
    with ASKED.open("a") as file:
        file.write(f"{os.getpid()} {key}\n")
    return key


app.conf.beat_schedule = {
    "slot": {"task": report.name, "schedule": 2.0, "options": {"idempotency_key": slot_key}},
    "daily": {
        "task": report.name,
        "schedule": crontab(hour=os.environ["STACKSTATE_TEST_HOUR"], minute="0"),
        "options": {"idempotency_key": daily_key},
        "last_run_at": LONG_AGO,  # so that each beat without a memory sends it at once
    },
}
