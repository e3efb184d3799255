"""An app whose tasks end in every way that Celery knows: one task for each row of the table of sequences."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject

from celery_stackstate import StateTask
from tests.worker.noting import note

app = Celery(
    "endings",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]
app.conf.task_track_started = True


@app.task
def add(x: int, y: int = 2) -> int:
    """Return the sum."""
    return x + y


@app.task(ignore_result=True)
def forgotten(x: int) -> int:
    """Return what the backend does not keep."""
    return x


@app.task(bind=True)
def retried(self: Task) -> str:
    """Succeed the second time."""
    if self.request.retries:
        return "open"
    try:
        raise ConnectionError("the shop is closed")
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=0.5) from error


@app.task(autoretry_for=(KeyError,), retry_kwargs={"countdown": 0.5, "max_retries": 1})
def autoretried() -> None:
    """Fail each time."""
    raise KeyError("always")


@app.task
def fail(how: str) -> None:
    """Raise."""
    raise {"value": ValueError("not a number"), "memory": MemoryError("too much")}[how]


@app.task
def unserialisable() -> object:
    """Return what no result backend takes."""
    return object()


@app.task(soft_time_limit=1)
def too_long_softly() -> None:
    """Run into the soft limit."""
    time.sleep(30)


@app.task(time_limit=1)
def too_long() -> None:
    """Run into the hard limit."""
    time.sleep(30)


@app.task
def ignore() -> None:
    """Give no result."""
    raise Ignore("never mind")


@app.task(bind=True)
def replaced(self: Task, x: int) -> Any:
    """Become another task."""
    raise self.replace(add.s(x, 10))


@app.task
def reject(*, requeue: bool) -> None:
    """Be acknowledged before it rejects its message."""
    note(app, "reject")
    raise Reject("not mine", requeue=requeue)


@app.task(bind=True, acks_late=True)
def reject_late(self: Task) -> str:
    """Send its message back the first time."""
    if self.request.delivery_info["redelivered"]:
        return "taken"
    raise Reject("not now", requeue=True)


class RaisesOnSuccess(StateTask):
    """A task whose handler fails."""

    abstract = True

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Raise when all is well."""
        raise RuntimeError("the handler failed")


@app.task(base=RaisesOnSuccess)
def raises_on_success() -> str:
    """Succeed."""
    return "done"


class RaisesOnFailure(StateTask):
    """A task one of whose handlers fails, too."""

    abstract = True

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Raise when it is this handler's turn."""
        _raise_if(args[0] == "on_failure")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Raise when it is this handler's turn."""
        _raise_if(args[0] == "after_return")


def _raise_if(it_is: bool) -> None:
    if it_is:
        raise RuntimeError("the handler failed")


@app.task(base=RaisesOnFailure)
def raises_on_failure(hook: str) -> None:
    """Fail, before the handler `hook` does."""
    raise ValueError("the body failed")


@app.task
def exit_process() -> None:
    """End the process that runs it."""
    sys.exit(3)


@app.task
def die() -> None:
    """Kill the process that runs it, at once."""
    note(app, "die")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def take(name: str, seconds: float) -> str:
    """Take a while; acknowledged early."""
    return _take(name, seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def take_late(name: str, seconds: float) -> str:
    """Take a while; acknowledged late."""
    return _take(name, seconds)


@app.task(acks_late=True, reject_on_worker_lost=True)
def take_at_first(name: str, seconds: float) -> str:
    """Take a while the first time; acknowledged late."""
    return _take(name, seconds if app.backend.client.incr(f"first:{name}") == 1 else 0)


@app.task(max_retries=1, default_retry_delay=1, retry_on_worker_lost=True)
def take_and_retry(name: str, seconds: float) -> str:
    """Take a while the first time; since Celery 5.7 it is tried again when its process is lost."""
    return _take(name, seconds if app.backend.client.incr(f"first:{name}") == 1 else 0)


def _take(name: str, seconds: float) -> str:
    note(app, name)
    time.sleep(seconds)
    return name
