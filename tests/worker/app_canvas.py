"""An app whose tasks stand in chains, groups and chords with idempotency keys. What a body did it notes."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery, Task, chain, chord, group

from celery_stackstate import DuplicateRun, StateTask
from tests.worker.noting import note

app = Celery(
    "canvas",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]


class CardRefused(Exception):
    """What a task fails of."""


@app.task(bind=True)
def double(self: Task, number: int, seconds: float = 0) -> int:
    """Return twice the number, after a while."""
    note(app, "double", id=self.request.id, number=number)
    time.sleep(seconds)
    return 2 * number


@app.task(bind=True)
def add(self: Task, left: int, right: int) -> int:
    """Add; what stands behind another task gets its result as `left`."""
    note(app, "add", id=self.request.id, left=left, right=right)
    return left + right


@app.task(bind=True)
def total(self: Task, numbers: list[int]) -> int:
    """Be the body of a chord."""
    note(app, "total", id=self.request.id, numbers=numbers)
    return sum(numbers)


@app.task
def refuse(reason: str, seconds: float = 0) -> None:
    """Fail for good."""
    note(app, "refuse", reason=reason)
    time.sleep(seconds)
    raise CardRefused(reason)


@app.task
def heard(result: Any) -> None:
    """Be called back."""
    note(app, "heard", result=result)


@app.task
def failed(run_id: str) -> None:
    """Be called back after a failure."""
    note(app, "failed", id=run_id)


@app.task(bind=True, max_retries=3)
def flaky(self: Task, number: int) -> int:
    """Fail the first time."""
    note(app, "flaky", id=self.request.id, retries=self.request.retries)
    if self.request.retries == 0:
        raise self.retry(countdown=0.5)
    return 2 * number


@app.task(bind=True, acks_late=True)
def late_first(self: Task, number: int) -> int:
    """Take long the first time; acknowledged late."""
    note(app, "late_first", id=self.request.id)
    if app.backend.client.incr("late_first") == 1:
        time.sleep(60)
    return 2 * number


@app.task(bind=True)
def early_first(self: Task, number: int) -> int:
    """Take long the first time; acknowledged early."""
    note(app, "early_first", id=self.request.id)
    if app.backend.client.incr("early_first") == 1:
        time.sleep(60)
    return 2 * number


@app.task(bind=True, keep_payload=False)
def unkept_first(self: Task, number: int) -> int:
    """Take long the first time; acknowledged early, and nobody else knows what it was asked for."""
    note(app, "unkept_first", id=self.request.id)
    if app.backend.client.incr("unkept_first") == 1:
        time.sleep(60)
    return 2 * number


@app.task(idempotency_key="order:{order}")
def ship(order: Any) -> str:
    """Have a key that is made of what the task before has returned."""
    note(app, "ship", order=order)
    return f"shipped {order}"


@app.task(lost_policy="rerun")
def watched(number: int) -> int:
    """Be looked after by the reaper, without a key."""
    note(app, "watched", number=number)
    return number


@app.task
def nothing(*args: Any) -> None:
    """Return what no key can be made of."""


class Reporting(StateTask):
    """A task class whose hook makes keyed calls of its own."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Note what a duplicate raises."""
        try:
            double.apply_async((retval,), idempotency_key="hook", on_duplicate="raise")
        except DuplicateRun as error:
            note(app, "raised", key=error.key)


@app.task(base=Reporting)
def report(number: int) -> int:
    """Return the number."""
    return number


@app.task(base=Task)
def plain_double(number: int, seconds: float) -> int:
    """Be a task that knows nothing of keys."""
    time.sleep(seconds)
    return 2 * number


@app.task(bind=True)
def fan_out(self: Task, how: str, number: int) -> Any:
    """Let a canvas go on under the same id."""
    note(app, "fan_out", id=self.request.id, how=how)
    parts = {
        "task": lambda: double.si(number, 1),
        "plain": lambda: plain_double.si(number, 1),
        "chain": lambda: chain(double.si(number, 1), add.s(1)),
        "chord": lambda: chord([double.si(number, 1), double.si(number + 1)], total.s()),
        "group": lambda: group(double.si(number, 1), double.si(number + 1)),
        "failure": lambda: chain(refuse.si("no", 1), add.s(1)),
        "keyed": lambda: chain(double.si(number, 1).set(idempotency_key="inner"), add.s(1)),
    }
    raise self.replace(parts[how]())
