"""An app whose workers may be switched off. What a body did it notes in the result backend."""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from celery import Celery, Task

from celery_stackstate import StateTask
from tests.worker.noting import note

app = Celery(
    "off",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]


@app.task(bind=True)
def charge(self: Task, amount: int) -> int:
    """Charge; the note says where it was done."""
    note(app, "charge", id=self.request.id, amount=amount, host=self.request.hostname)
    return amount


@app.task(bind=True, max_retries=2)
def flaky(self: Task, amount: int) -> int:
    """Fail the first time."""
    marked = "stackstate" in (self.request.headers or {})
    note(app, "flaky", id=self.request.id, retries=self.request.retries, marked=marked)
    self.timeline.progress(1, 2)
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return amount


@app.task(bind=True, idempotency_key="receipt:{amount}")
def receipt(self: Task, amount: int) -> int:
    """Have a key wherever it stands, also behind another task."""
    note(app, "receipt", id=self.request.id, host=self.request.hostname)
    return amount


@app.task(single_execution=True)
def one_delivery(amount: int) -> int:
    """Be run by one delivery at a time, whatever the broker does."""
    note(app, "one_delivery")
    return amount


class Hooked(StateTask):
    """A task class whose hook ends the run before its body."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Refuse every run."""
        raise ValueError("not today")


@app.task(base=Hooked, single_execution=True)
def hooked() -> None:
    """Never be run."""


@app.task
def names_of_threads() -> list[str]:
    """Return the threads of the worker's process."""
    return [thread.name for thread in threading.enumerate()]


@app.task(bind=True)
def counting(self: Task) -> int:
    """Use the state under a lock."""
    with self.state.lock("counting", ttl=30):
        note(app, "counting", id=self.request.id)
        return int(self.state.increment("counted"))
