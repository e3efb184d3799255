"""An app whose tasks use locks, steps and paces. What a body did it notes in the result backend."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Reject

from celery_stackstate import LockBusy, LockLost, StackState, StateTask
from tests.worker.noting import note

app = Celery(
    "state",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]

if os.environ.get("STACKSTATE_TEST_USE_AT_IMPORT"):
    StackState.of(app).state.increment("imports")  # in the worker's parent, before it forks


class NotYetError(Exception):
    """The work is not done."""


@app.task(bind=True, max_retries=0)
def hold(self: Task, name: str, seconds: float, **options: Any) -> str:
    """Hold a lock for a while."""
    with self.state.lock(name, **{"ttl": 5, **options}) as lock:
        note(app, "hold", id=self.request.id, fence=lock.fence, retries=self.request.retries)
        time.sleep(seconds)
        note(app, "let go", id=self.request.id, fence=lock.fence)
        return "held"


@app.task(bind=True, max_retries=0)
def go_on_without(self: Task, name: str) -> str:
    """Swallow what a busy lock raises."""
    try:
        with self.state.lock(name, ttl=5):
            return "held"
    except Exception:
        return "without"


@app.task(bind=True, max_retries=0)
def hold_late(self: Task, name: str, seconds: float) -> str:
    """Hold a lock, with acks_late so that a second delivery may come while the first is at work."""
    with self.state.lock(name, ttl=5) as lock:
        note(app, "hold", id=self.request.id, fence=lock.fence)
        time.sleep(seconds)
        return "held"


@app.task(bind=True, max_retries=0, acks_late=True)
def hold_and_die(self: Task, name: str) -> None:
    """Hold a lock, and be killed with it."""
    with self.state.lock(name, ttl=5):
        note(app, "hold", id=self.request.id)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, max_retries=3)
def keep(self: Task, name: str, attempts: int, countdown: float, how: str) -> str:
    """Keep a lock over retries."""
    with self.state.lock(name, ttl=5, keep_on_retry=True) as lock:
        note(app, "keep", fence=lock.fence, retries=self.request.retries)
        if self.request.retries < attempts:
            if how == "retry":
                raise self.retry(countdown=countdown)
            raise NotYetError
        return "done"


@app.task(bind=True, autoretry_for=(NotYetError,), retry_backoff=False, default_retry_delay=6, max_retries=1)
def keep_auto(self: Task, name: str, attempts: int) -> str:
    """Keep a lock over retries that Celery makes of an exception."""
    with self.state.lock(name, ttl=5, keep_on_retry=True) as lock:
        note(app, "keep", fence=lock.fence, retries=self.request.retries)
        if self.request.retries < attempts:
            raise NotYetError
        return "done"


@app.task(bind=True, autoretry_for=(Exception,), max_retries=0)
def keep_while_busy(self: Task, kept: str, busy: str) -> str:
    """Keep one lock while another is busy; autoretry would count what is no failure."""
    with self.state.lock(kept, ttl=5, keep_on_retry=True) as first:
        note(app, "keep", fence=first.fence, retries=self.request.retries)
        with self.state.lock(busy, ttl=5):
            return "done"


@app.task(bind=True)
def end_with(self: Task, name: str, how: str) -> str:
    """Leave a kept lock in every way there is."""
    with self.state.lock(name, ttl=5, keep_on_retry=True):
        note(app, "hold", id=self.request.id)
        if how == "error":
            raise ValueError(how)
        if how == "reject":
            raise Reject(how)
        if how == "exit":
            sys.exit(1)
        if how == "sleep":
            time.sleep(30)
    return how


class Hooked(StateTask):
    """A task class with hooks that use state, and a __call__ of its own that does not call ours."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Wait for what must be free before the body begins."""
        if kwargs.get("gate"):
            with self.state.lock(kwargs["gate"], ttl=5):
                note(app, "gate", id=task_id)

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Try a lock that is busy."""
        if kwargs.get("after"):
            try:
                with self.state.lock(kwargs["after"], ttl=5):
                    note(app, "never")
            except LockBusy:
                note(app, "busy after the end")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body as many projects do it."""
        return self.run(*args, **kwargs) if kwargs.get("own_call") else super().__call__(*args, **kwargs)


@app.task(bind=True, base=Hooked, max_retries=0)
def hooked(self: Task, name: str, *, fail: bool = False, **options: Any) -> str:
    """Take a lock in a task with hooks."""
    with self.state.lock(name, ttl=5, keep_on_retry=True):
        note(app, "hooked", id=self.request.id)
        if fail:
            raise ValueError(name)
        return "done"


@app.task(bind=True)
def stall(self: Task, name: str) -> list[str]:
    """Stop in the middle of a lock until somebody lets the process go on, and tell what is then refused."""
    with self.state.lock(name, ttl=5, on_lock_lost="warn") as lock:
        note(app, "stalling", worker=os.getpid(), fence=lock.fence)
        os.kill(os.getpid(), signal.SIGSTOP)
        refused = []
        for what, write in (
            ("check", lock.check),
            ("set", lambda: self.state.set("guarded", "stale", fence=lock)),
            ("increment", lambda: self.state.increment("counted", fence=lock)),
        ):
            try:
                write()
            except LockLost:
                refused.append(what)
        return refused


@app.task(bind=True, max_retries=2)
def order(self: Task, number: int, how: str) -> dict[str, Any]:
    """Charge once and ship once, though the run is interrupted in between."""
    paid = self.step("charge", _charge, number)
    if how == "retry" and self.request.retries < 2:
        raise self.retry(countdown=0.1)
    if how == "kill" and self.state.run.add("killed", True):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"paid": paid, "shipped": self.step("ship", _ship, number)}


def _charge(number: int) -> str:
    note(app, "charge", number=number)
    return f"paid {number}"


def _ship(number: int) -> str:
    note(app, "ship", number=number)
    return f"shipped {number}"


@app.task(bind=True, max_retries=0)
def call_api(self: Task, number: int) -> int:
    """Call something that allows two calls a second."""
    self.state.throttle("api", 2, per=1).or_retry()
    note(app, "call", number=number, retries=self.request.retries)
    return number


@app.task(bind=True)
def count(self: Task, times: int) -> int:
    """Count, as fast as it goes."""
    counts: list[int] = [self.state.increment("count") for _ in range(times)]
    return counts[-1]


@app.task(bind=True)
def exchange(self: Task, number: int, times: int) -> int:
    """Use every kind of state call."""
    for turn in range(times):
        with self.state.lock("exchange", ttl=30, wait=30):
            self.state.set("last", {"number": number, "turn": turn})
            self.state.update("sum", lambda value: value + 1, 0)
        self.state.run.set(f"turn:{turn}", turn)
    return len(self.state.run.keys())
