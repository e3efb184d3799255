"""An app whose tasks tell the history what it cannot take, log from odd places, and run out of time."""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import time
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

from celery_stackstate import StackState, StateTask
from celery_stackstate.signals import run_finished
from tests.worker.noting import note
from tests.worker.probes import notes

app = Celery(
    "telling",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]

console = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
alone = {"handlers": ["console"], "level": "INFO", "propagate": False}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": console},
    "root": {"handlers": ["console"], "level": "INFO"},
    "loggers": {"apart": alone, "apart.again": alone},
}

if os.environ.get("OWN_LOGGING"):

    @signals.setup_logging.connect(weak=False)
    def set_up_logging(**_: Any) -> None:
        """Set up logging as Django's LOGGING is: some loggers hand nothing up."""
        logging.config.dictConfig(LOGGING)

else:
    for name in ("apart", "apart.again"):
        logging.getLogger(name).propagate = False

    @signals.after_setup_task_logger.connect(weak=False)
    def let_up(logger: logging.Logger, **_: Any) -> None:
        """Let the lines of the task loggers go up to the root as well."""
        logger.propagate = True


@run_finished.connect(weak=False)
def on_finished(sender: str, run_id: str, status: str, **_: Any) -> None:
    """Leave a note."""
    note(app, "finished", task=sender, run_id=run_id, status=status)


class Closed(Mapping[str, Any]):
    """A row whose connection is closed."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("the row was closed")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class SpeechlessError(Exception):
    """An error that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@app.task
def add(x: int, y: int = 2) -> int:
    """Return the sum."""
    return x + y


@app.task(bind=True)
def report(self: Task) -> None:
    """Change the report after it was given."""
    told: dict[str, Any] = {"current": 1, "total": 10}
    self.update_state(state="PROGRESS", meta=told)
    told.update(current=2, rows=Closed())
    logging.getLogger("shop").info("one line")
    time.sleep(1)


@app.task(ignore_result=True)
def return_what_cannot_be_shown(what: str) -> Any:
    """Return what the history cannot show."""
    return Closed() if what == "a closed row" else 10**5000


@app.task
def raise_what_cannot_be_shown() -> None:
    """Raise what the history cannot show."""
    raise SpeechlessError


@app.task(autoretry_for=(SpeechlessError,), retry_kwargs={"countdown": 600})
def retry_for_what_cannot_be_shown() -> None:
    """Retry, when the test is over, for what the history cannot show."""
    raise SpeechlessError


@app.task(bind=True)
def tell_odd_things(self: Task) -> str:
    """Tell what cannot be told, and numbers of other types."""
    self.timeline.event("odd", row=Closed())
    self.timeline.state("ODD", {"row": Closed()})
    self.timeline.progress(Decimal(3), 10, SpeechlessError())
    return "told"


@app.task(bind=True)
def open_attempts(self: Task) -> int:
    """Return how many attempts beside this one this process takes to go on."""
    return len(StackState.of(self.app).recorder._live) - 1


@app.task(soft_time_limit=2)
def call_in_time(how: str) -> float:
    """Call another task when the test says so; return after how many seconds the limit was seen, -1 if it never was."""
    note(app, "ready")
    began = time.monotonic()
    while not notes(app, "go"):
        time.sleep(0.02)
    try:
        call = add.apply_async if how == "published" else add.apply
        call((1,), task_id="child")
        time.sleep(5)
    except SoftTimeLimitExceeded:
        return time.monotonic() - began
    return -1


@app.task
def helper(where: str) -> None:
    """Log in several ways, from inside of another task."""
    logging.getLogger("shop").info("%s: by a module's logger", where)
    get_task_logger(__name__).info("%s: by the task logger", where)
    print(f"{where}: by print", file=sys.stdout)


@app.task(record_runs=False)
def unrecorded(how: str) -> None:
    """Log through another task."""
    helper("inside") if how == "called" else helper.apply(("inside",))


@app.task
def calls(how: str, outer: bool = True) -> None:
    """Call tasks in this process, some of which call another."""
    logging.getLogger("shop").info("before")
    if how == "called":
        unrecorded("called")
    else:
        unrecorded.apply(("applied",))
    if outer:
        calls(how, outer=False)  # itself, too
    logging.getLogger("shop").info("after")


@app.task
def talk_apart() -> None:
    """Log by loggers that hand nothing up, and by one below such a logger."""
    for name in ("apart", "apart.again", "apart.below", "shop"):
        logging.getLogger(name).info("by %s", name)
    get_task_logger(__name__).info("by the task logger")
