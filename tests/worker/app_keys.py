"""An app whose tasks are called with idempotency keys. What a body did it notes in the result backend."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from celery_stackstate import DuplicateRun, StackState, StateTask
from celery_stackstate.key_record import store_key
from tests.worker.noting import note

app = Celery(
    "keys",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]
app.conf.task_track_started = True


@app.task(bind=True)
def charge(self: Task, amount: int, currency: str = "EUR") -> str:
    """Charge; the note says how often it was done."""
    note(app, "charge", id=self.request.id, amount=amount)
    return f"{amount} {currency}"


@app.task(bind=True, max_retries=1)
def goes_on_quietly(self: Task) -> int:
    """Have a retry published, and return all the same."""
    note(app, "goes on", retries=self.request.retries)
    if not self.request.retries:
        self.retry(countdown=0.5, throw=False)
    return int(self.request.retries)


@app.task
def refund(amount: int) -> str:
    """Another task with the same arguments."""
    note(app, "refund", amount=amount)
    return f"refunded {amount}"


@app.task(bind=True)
def own_record(self: Task, key: str) -> dict[str, Any]:
    """Return what the key's record says while the body runs."""
    record = StackState.of(app).key_protocol.record(store_key(f"task:{self.name}", key))
    assert record is not None
    return {"state": record.state, "pid": record.pid == os.getpid(), "worker": record.worker}


class Hooked(StateTask):
    """A task class whose hook ends the run before its body."""

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Refuse what is negative, and ignore zero."""
        if args[0] < 0:
            raise ValueError("negative")
        if args[0] == 0:
            raise Ignore("zero")


@app.task(base=Hooked)
def hooked(amount: int) -> int:
    """Return what passed the hook."""
    return amount


class Gated(StateTask):
    """A task class of which one delivery waits before it comes to the guard."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Wait for the test to say "go", if this is the delivery that it asked to wait."""
        number = app.backend.client.incr(f"delivered:{task_id}")
        note(app, "delivered", number=number)
        if number == args[1]:
            app.backend.client.blpop("go", timeout=30)


@app.task(base=Gated, acks_late=True)
def gated(seconds: float, number: int) -> str:
    """Take a while; the delivery `number` waits first."""
    note(app, "gated")
    time.sleep(seconds)
    return "done"


@app.task(base=Gated)
def gated_early(seconds: float, number: int) -> str:
    """Do the same; acknowledged early."""
    note(app, "gated")
    time.sleep(seconds)
    return "done"


@app.task(bind=True)
def replacing(self: Task, seconds: float) -> Any:
    """Let another task go on under the same id."""
    raise self.replace(slow_part.si(seconds))


@app.task
def slow_part(seconds: float) -> str:
    """Take a while."""
    note(app, "slow_part")
    time.sleep(seconds)
    return "replaced"


@app.task(bind=True)
def retry_with_headers(self: Task) -> str:
    """Retry with headers of one's own, which take the place of ours."""
    note(app, "retry_with_headers")
    if self.request.retries == 0:
        raise self.retry(countdown=0, headers={"tenant": "acme"})
    return "done"


class Flaky(Exception):
    """What goes away when it is tried again."""


@app.task(bind=True, autoretry_for=(Flaky,), retry_kwargs={"countdown": 0.5, "max_retries": 3})
def flaky(self: Task, failures: int) -> str:
    """Fail some times first."""
    note(app, "flaky", id=self.request.id, retries=self.request.retries)
    if self.request.retries < failures:
        raise Flaky
    return "at last"


@app.task(bind=True, max_retries=3)
def halving(self: Task, number: int) -> int:
    """Retry with other arguments each time."""
    note(app, "halving", id=self.request.id, number=number)
    if number > 1:
        raise self.retry(args=(number // 2,), countdown=0.3)
    return number


@app.task
def fail(reason: str) -> None:
    """Fail for good."""
    note(app, "fail")
    raise ValueError(reason)


@app.task(bind=True)
def slow(self: Task, seconds: float) -> str:
    """Take a while; acknowledged early."""
    note(app, "slow", id=self.request.id)
    time.sleep(seconds)
    note(app, "slow ended")
    return "slow"


@app.task(bind=True, acks_late=True)
def slow_first(self: Task, seconds: float) -> str:
    """Take a while when it is delivered for the first time."""
    note(app, "slow_first", id=self.request.id, redelivered=self.request.delivery_info.get("redelivered"))
    if app.backend.client.incr("slow_first") == 1:
        time.sleep(seconds)
    return "done"


@app.task
def early_slow_first(seconds: float) -> str:
    """Take a while the first time; acknowledged early."""
    note(app, "early_slow_first")
    if app.backend.client.incr("early_slow_first") == 1:
        time.sleep(seconds)
    return "done"


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def poison(self: Task) -> None:
    """Kill the process that runs it, each time."""
    note(app, "poison", id=self.request.id)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def crash_once(self: Task) -> str:
    """Kill the process that runs it, the first time."""
    note(app, "crash_once", id=self.request.id)
    if app.backend.client.incr("crash_once") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@app.task
def mutate(items: list[int], *stamps: Any) -> list[int]:
    """Change its own argument."""
    items.append(99)
    return items


@app.task
def give_up(how: str) -> None:
    """End without a result."""
    note(app, "give_up", how=how)
    requeue = Reject("no more", requeue=True)
    raise {"ignore": Ignore("no more"), "reject": Reject("no more"), "exit": SystemExit("no more"), "requeue": requeue}[
        how
    ]


@app.task
def patient(seconds: float) -> str:
    """Take a while, and return at a soft time limit."""
    note(app, "patient")
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "swallowed"
    return "patient"


@app.task
def objects() -> object:
    """Return what no JSON backend can take."""
    note(app, "objects")
    return object()


@app.task
def duplicate_inside(key: str) -> None:
    """Let an error of the library out of the body."""
    charge.apply_async((1,), idempotency_key=key, on_duplicate="raise")


@app.task
def link_target(result: str) -> str:
    """Be called with another task's result."""
    note(app, "link_target", result=result)
    return result


@app.task(bind=True)
def times_ten(self: Task, number: int, seconds: float = 0) -> int:
    """Multiply, after a while."""
    note(app, "times_ten", number=number)
    time.sleep(seconds)
    return 10 * number


@app.task
def plus(first: int, second: int) -> int:
    """Be what a chain goes on with."""
    note(app, "plus", first=first, second=second)
    return first + second


@app.task
def total(numbers: list[int]) -> list[int]:
    """Be a chord's body."""
    note(app, "total", numbers=numbers)
    return numbers


__all__ = ["DuplicateRun", "app"]
