"""The app of a project that is being deployed: the same code runs on each release of the package."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task

import celery_stackstate
from celery_stackstate import StateTask

RELEASE = os.environ["ROLLING_RELEASE"]
assert Path(celery_stackstate.__file__).parts[-3] == RELEASE, celery_stackstate.__file__

logger = logging.getLogger(__name__)

app = Celery("rolling", broker=os.environ["ROLLING_BROKER"], task_cls=StateTask)
app.conf.stackstate_url = os.environ["ROLLING_STORE"]
app.conf.stackstate_worker_lease = 2
app.conf.broker_connection_retry_on_startup = True
app.conf.worker_prefetch_multiplier = 1
app.conf.broker_transport_options = {"polling_interval": 0.1}


@app.task(bind=True, acks_late=True, max_retries=10)
def hop(self: Task, queues: list[str]) -> dict[str, Any]:
    """Go from queue to queue by retries, under one lock, and tell which release ran each attempt."""
    with self.state.lock("hopping", ttl=60, keep_on_retry=True) as lock:
        number = self.state.run.increment("attempts")
        self.state.run.update("by", lambda before: [*before, RELEASE], [])
        self.state.run.update("fences", lambda before: [*before, lock.fence], [])
        self.timeline.progress(number, len(queues), RELEASE)
        self.timeline.event("hop", release=RELEASE)
        logger.info("attempt %d on %s", number, RELEASE)
        if number < len(queues):
            raise self.retry(queue=queues[number], countdown=1)  # the lock is parked by then
        carried = self.request.headers["stackstate"]
        return {
            "by": self.state.run.get("by"),
            "fences": self.state.run.get("fences"),
            "tenant": carried.get("tenant"),
        }


@app.task(bind=True, acks_late=True, lost_policy="rerun")
def stubborn(self: Task) -> list[str]:
    """Hang in the first attempt, to be killed there; a later one tells which releases ran it."""
    by: list[str] = self.state.run.update("by", lambda before: [*before, RELEASE], [])
    if len(by) == 1:
        time.sleep(120)
    return by


@app.task
def plain(text: str) -> str:
    """Return which release ran it."""
    return f"{text} by {RELEASE}"
