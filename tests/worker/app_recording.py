"""An app whose tasks call each other, are hot, have no base class, or are repeated; for the history to tell."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import warnings
from typing import Any

from celery import Celery, Task, chain, chord, group, signals

from celery_stackstate import StackState, StateTask
from celery_stackstate.signals import duplicate_suppressed, run_finished, run_lost
from tests.worker.noting import note

BROKER, BACKEND = os.environ["STACKSTATE_TEST_BROKER"], os.environ["STACKSTATE_TEST_BACKEND"]
CONF, STORE = json.loads(os.environ["STACKSTATE_TEST_CONF"]), os.environ["STACKSTATE_TEST_STORE"]

asks = threading.local()


def who_asks() -> str | None:
    """Name the user of the request that is answered just now; the tests say who that is."""
    who: str | None = getattr(asks, "user", None)
    if who == "nobody knows":
        raise LookupError("no request")
    return who


app = Celery("recording", broker=BROKER, backend=BACKEND)
app.conf.update(CONF)
app.conf.stackstate_url = STORE
app.conf.stackstate_origin = who_asks
if os.environ.get("RUNS_ELSEWHERE"):
    app.conf.stackstate_runs_url = BACKEND
StackState(app)
logger = logging.getLogger("shop")


@run_finished.connect(weak=False)
def on_finished(sender: str, run_id: str, status: str, error: str | None, runtime: float | None, **_: Any) -> None:
    """Leave a note, and be as wrong as a receiver can be."""
    note(app, "finished", task=sender, run_id=run_id, status=status, error=error, runtime=runtime)
    raise ValueError("a receiver that raises is nobody's problem")


@run_lost.connect(weak=False)
def on_lost(sender: str, run_id: str, error: str, **_: Any) -> None:
    """Leave a note."""
    note(app, "lost", task=sender, run_id=run_id, error=error)


@duplicate_suppressed.connect(weak=False)
def on_duplicate(sender: str, run_id: str, key: str, **_: Any) -> None:
    """Leave a note."""
    note(app, "duplicate", task=sender, run_id=run_id, key=key)


if os.environ.get("COUNT_APPENDS"):

    @signals.worker_process_init.connect(weak=False)
    def count_appends(**_: Any) -> None:
        """Leave a note of each write to the history, and of the thread that waited for it."""
        store = StackState.of(app).runs_store
        append = store.append

        def counted(writes: Any) -> None:
            append(writes)
            names = [[event.name for event in write.events] for write in writes]
            note(app, "append", thread=threading.current_thread().name, events=names)

        store.append = counted  # type: ignore[method-assign]


@app.task(base=StateTask)
def add(x: int, y: int = 2) -> int:
    """Return the sum."""
    return x + y


@app.task(base=StateTask, bind=True)
def look_at_oneself(self: Task) -> str:
    """Return the status that the history shows of this run at once."""
    run = StackState.of(app).runs.get(self.request.id)
    return run.status if run is not None else "unknown"


@app.task(base=StateTask, bind=True)
def use_state(self: Task, seconds: float) -> None:
    """Use keys, locks and a pace of several scopes, then take time, then use one key more."""
    self.state.set("shop:1", 1)
    self.state.get_many(["shop:1", "shop:2"])
    self.state.task.increment("done")
    self.state.scope("mail").throttle("gateway", 10, per=1)
    self.state.run.set("cursor", 5)
    with self.state.lock("rebuild"):
        time.sleep(seconds)
    self.state.delete("shop:3")


@app.task(base=StateTask)
def total(numbers: list[int]) -> int:
    """Return the sum of what a group returned."""
    return sum(numbers)


@app.task(base=StateTask, bind=True)
def parent(self: Task, depth: int) -> str:
    """Call a child, which calls a child."""
    return str(parent.delay(depth - 1).id) if depth else "leaf"


@app.task(base=StateTask, bind=True)
def fan_out(self: Task, count: int) -> Any:
    """Put a group in the place of the run."""
    raise self.replace(group(add.s(n) for n in range(count)))


@app.task(base=StateTask, bind=True)
def gather(self: Task, count: int) -> Any:
    """Put a chord in the place of the run."""
    raise self.replace(chord([add.s(n) for n in range(count)], total.s()))


@app.task(base=StateTask, bind=True)
def fan_out_to_failure(self: Task, kind: str) -> Any:
    """Put a canvas in the place of the run of which a part fails."""
    parts = {
        "group": group(add.s(1), pay.s(-1)),
        "chord": chord([add.s(1), pay.s(-1)], total.s()),
        "chain": chain(add.s(1), pay.si(-1), add.si(2)),
    }
    raise self.replace(parts[kind])


@app.task
def plain_count(number: int) -> int:
    """Tell the history nothing of itself."""
    if number < 0:
        raise ValueError("nothing is counted")
    return number


@app.task(base=StateTask, bind=True)
def by_plain(self: Task, number: int) -> Any:
    """Put a task without the base class in the place of the run."""
    raise self.replace(plain_count.s(number))


@app.task(base=StateTask, bind=True)
def one_by_one(self: Task, count: int) -> Any:
    """Put a chain in the place of the run."""
    raise self.replace(chain(add.s(1), *(add.s(n) for n in range(count))))


@app.task(base=StateTask)
def burn(seconds: float, megabytes: int) -> None:
    """Use the processor for a time, and memory."""
    kept, end = bytearray(megabytes * 1_048_576), time.process_time() + seconds
    kept[::4096] = b"x" * len(kept[::4096])
    while time.process_time() < end:
        pass


@app.task(base=StateTask)
def rest(seconds: float) -> None:
    """Take time without using the processor."""
    time.sleep(seconds)


@app.task(base=StateTask, bind=True)
def import_rows(self: Task, rows: int) -> None:
    """Tell the result backend how far it is, as Celery's documentation shows it."""
    for row in range(rows):
        self.update_state(state="PROGRESS", meta={"current": row + 1, "total": rows, "password": "hunter2"})
    self.update_state(task_id="somebody-else", state="PROGRESS", meta={"current": 99})


@app.task(base=StateTask, record_sample=0.0)
def hot(fail: bool = False) -> None:
    """Be called so often that only the failures are of interest."""
    logger.info("hot")
    if fail:
        raise ValueError("hot and wrong")


@app.task(base=StateTask, record_sample=0.0, bind=True, max_retries=1)
def hot_retried(self: Task) -> None:
    """Fail, after a retry."""
    raise self.retry(exc=ValueError("wrong"), countdown=0)


@app.task(base=StateTask, record_sample=0.5)
def lukewarm() -> None:
    """Be recorded every other time."""


@app.task
def plain(x: int) -> int:
    """Have no base class."""
    logger.info("plain")
    if x < 0:
        raise ValueError("negative")
    return x


@app.task(base=StateTask, bind=True, max_retries=2)
def flaky(self: Task, failures: int) -> str:
    """Fail at first."""
    if self.request.retries < failures:
        raise self.retry(exc=ConnectionError("closed"), countdown=0)
    return "open"


@app.task(base=StateTask, keep_payload=True)
def pay(order: int, token: str = "") -> str:
    """Be worth running again."""
    note(app, "paid", order=order, token=token)
    if order < 0:
        raise ValueError("refunds are not paid")
    return "paid"


@app.task(base=StateTask)
def warn() -> None:
    """Say something in the other ways there are."""
    warnings.warn("by a warning", stacklevel=1)
    print("by print")
    logger.critical("by a logger")


@app.task(base=StateTask)
def chatter(lines: int, pause: float = 0.0) -> None:
    """Log a lot."""
    for number in range(lines):
        logger.info("line %d", number)
        time.sleep(pause)
