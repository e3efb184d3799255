"""An app whose tasks end in every way there is, for the history to tell.

Without postponed annotations: Celery 5.5 does not resolve them for pydantic=True.
"""

import json
import logging
import logging.config
import os
import signal
import sys
import time
from typing import Any

import pydantic
from celery import Celery, Task, shared_task, signals
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_task_logger

from celery_stackstate import StateTask
from tests.worker.noting import note

BROKER, BACKEND = os.environ["STACKSTATE_TEST_BROKER"], os.environ["STACKSTATE_TEST_BACKEND"]
CONF, STORE = json.loads(os.environ["STACKSTATE_TEST_CONF"]), os.environ["STACKSTATE_TEST_STORE"]

app = Celery("history", broker=BROKER, backend=BACKEND, task_cls=StateTask)
app.conf.update(CONF)
app.conf.stackstate_url = STORE
app.conf.task_track_started = True

if os.environ.get("OWN_LOGGING"):

    @signals.setup_logging.connect(weak=False)
    def set_up_logging(**_: Any) -> None:
        """Set up logging in the project's own way, which replaces Celery's."""
        if os.environ["OWN_LOGGING"] == "basicConfig":
            logging.basicConfig(level="INFO", stream=sys.stdout)
            return
        console = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
        root = {"handlers": ["console"], "level": "INFO"}
        logging.config.dictConfig(
            {"version": 1, "disable_existing_loggers": False, "handlers": {"console": console}, "root": root}
        )


module_logger = logging.getLogger("shop.catalog")
task_logger = get_task_logger(__name__)


@app.task
def add(x: int, y: int = 2) -> int:
    """Return the sum."""
    return x + y


@app.task
def total(numbers: list[int]) -> int:
    """Return the sum of what a group returned."""
    return sum(numbers)


@app.task(ignore_result=True)
def silent(x: int) -> int:
    """Return what no result backend gets."""
    return x


@app.task
def slow(seconds: float) -> str:
    """Take a while."""
    note(app, "slow")
    time.sleep(seconds)
    return "slow"


@app.task(bind=True, max_retries=2)
def retried(self: Task, failures: int) -> str:
    """Retry by hand."""
    module_logger.info("attempt %d", self.request.retries)
    if self.request.retries < failures:
        try:
            raise ConnectionError("the shop is closed")
        except ConnectionError as error:
            raise self.retry(exc=error, countdown=1) from error
    return "open"


@app.task(autoretry_for=(KeyError,), retry_kwargs={"countdown": 0, "max_retries": 1})
def autoretried() -> None:
    """Fail twice."""
    raise KeyError("always")


@app.task(bind=True)
def retried_late(self: Task) -> None:
    """Retry by hand, when the test is over."""
    try:
        raise ConnectionError("closed for password=hunter2")
    except ConnectionError as error:
        raise self.retry(exc=error, countdown=600) from error


@app.task(autoretry_for=(ConnectionError,), retry_kwargs={"countdown": 600})
def autoretried_late() -> None:
    """Let Celery retry, when the test is over."""
    raise ConnectionError("closed for password=hunter2")


@app.task
def fail(message: str) -> None:
    """Fail with a message."""
    raise ValueError(message)


@app.task
def talk() -> None:
    """Log in every way."""
    module_logger.debug("too low to be kept")
    module_logger.info("by a module's logger: %d", 1)
    task_logger.warning("by the task logger: %d", 2)
    logging.getLogger().error("by the root logger: %d", 3)
    print("by print: 4")
    module_logger.info("%d", "not a number")


@app.task
def secrets_in(password: str, note: str = "", *, token: str = "", card: str = "") -> str:
    """Log and raise what is secret."""
    task_logger.info("signing in with password=%s", password)
    raise ValueError(f"cannot sign in: token={token}")


@app.task
def echo(value: Any, other: Any = None) -> Any:
    """Log the argument, and return it."""
    module_logger.info("%s", value)
    return value


@app.task
def echo_failing(value: str) -> None:
    """Raise with the argument."""
    raise ValueError(value)


@app.task
def odd_text(how: str) -> str:
    """Log, note and return what no store and no terminal likes."""
    text = {"nul": "a\0b", "surrogate": "a\ud800b", "emoji": "🦊" * 10, "html": "<script>'\"", "long": "x" * 1_000_000}[
        how
    ]
    module_logger.info("%s", text)
    odd_text.timeline.event("odd", text=text, **{"key " + text[:5]: 1})
    odd_text.timeline.progress(1, 2, text)
    if how in ("nul", "surrogate"):
        raise ValueError(text)
    return text


@app.task(bind=True)
def die(self: Task) -> None:
    """Kill the process after the start was written."""
    module_logger.info("last words")
    time.sleep(0.6)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(time_limit=1)
def too_long() -> None:
    """Run into the hard limit."""
    time.sleep(30)


@app.task(soft_time_limit=1)
def too_long_softly() -> None:
    """Run into the soft limit."""
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        module_logger.warning("out of time")
        raise


@app.task(record_runs=False)
def unrecorded() -> str:
    """Leave no trace."""
    return "seen by nobody"


@app.task(bind=True)
def parent(self: Task) -> str:
    """Call another task."""
    return str(add.delay(1).id)


@app.task(bind=True)
def replaced(self: Task, x: int) -> Any:
    """Become another task."""
    raise self.replace(add.s(x, 10))


@app.task(bind=True)
def steps(self: Task) -> None:
    """Tell how far it is."""
    self.timeline.event("batch", number=1, password="hunter2")
    self.timeline.progress(1, 4, "loading")
    time.sleep(1.5)
    self.timeline.progress(4, 4, "loaded")


class Order(pydantic.BaseModel):
    """What a pydantic task takes and gives."""

    number: int
    note: str = "-"


@app.task(pydantic=True)
def order(given: Order) -> Order:
    """Take and return a model."""
    assert isinstance(given, Order)
    return Order(number=given.number + 1)


@shared_task(bind=True)
def shared(self: Task, x: int) -> int:
    """Belong to no app in particular."""
    return x * 2


class Doubling(StateTask):
    """A task as a class, as old projects have them."""

    name = "doubling"

    def run(self, x: int) -> int:
        """Return the double."""
        return x * 2


doubling = app.register_task(Doubling())

second_app = Celery("second", broker=BROKER, backend=BACKEND, task_cls=StateTask, set_as_current=False)
second_app.conf.update(CONF)
second_app.conf.task_default_queue = "second"  # nobody works on it: a worker of the first would say what it lacks
second_app.conf.stackstate_url = STORE.replace("stackstate.sqlite3", "second.sqlite3")


@second_app.task(name="second.add")
def second_add(x: int) -> int:
    """A task of another app with another store."""
    return x + 1


@app.task
def call_second() -> str:
    """Call a task of the other app from this one's worker."""
    return str(second_add.delay(1).id)
