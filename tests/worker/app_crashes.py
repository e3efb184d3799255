"""An app whose processes die at chosen places: see tests.killing. Each task's first argument names its scenario."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery, Task, signals

from celery_stackstate import StateTask
from tests import killing
from tests.worker.noting import note

killing.register()

app = Celery(
    "crashes",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]
app.conf.task_track_started = True
LATE = {"acks_late": True, "reject_on_worker_lost": True}


@signals.task_prerun.connect(dispatch_uid="crashes begin")
def begin_execution(task: Any = None, args: Any = (), **_: Any) -> None:
    """Begin an execution of the scenario that the task belongs to; another task's calls are nobody's."""
    killing.begin(str(args[0]) if task.name in SCENARIOS else "nothing")


@signals.before_task_publish.connect(dispatch_uid="crashes before")
def before_publish(sender: str = "", **_: Any) -> None:
    """Take a step before a message goes out; that of a slow callback takes its time."""
    killing.reach("before_task_publish")
    if sender == slow_to_publish.name:
        time.sleep(1.5)


@signals.after_task_publish.connect(dispatch_uid="crashes after")
def after_publish(**_: Any) -> None:
    """Take a step when a message is out."""
    killing.reach("after_task_publish")


@signals.task_postrun.connect(dispatch_uid="crashes end")
def end_execution(**_: Any) -> None:
    """Take the last step: Celery has stored the result, and not acknowledged the message."""
    killing.reach("task_postrun")


@app.task(**LATE)
def late(name: str) -> list[str]:
    """Work; acknowledged late."""
    note(app, "body", of=name)
    return [name]


@app.task(**LATE)
def slow(name: str, seconds: float) -> list[str]:
    """Work for a while; acknowledged late."""
    note(app, "body", of=name)
    time.sleep(seconds)
    return [name]


@app.task
def early(name: str) -> list[str]:
    """Work; acknowledged early."""
    note(app, "body", of=name)
    return [name]


@app.task(**LATE)
def parent(name: str) -> str:
    """Call a task with a key in the body."""
    note(app, "body", of=name)
    effect.apply_async(([name],), idempotency_key=f"nested/{name}")
    return name


@app.task(bind=True, **LATE)
def retried(self: Task, name: str) -> list[str]:
    """Be tried twice."""
    note(app, "body", of=name)
    note(app, "left", of=name)
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return [name]


@app.task
def effect(result: list[str]) -> str:
    """Do something with a result."""
    note(app, "effect", of=result[0])
    return result[0]


@app.task
def unkeyed_effect(result: list[str]) -> str:
    """Do something with a result, without a key."""
    note(app, "unkeyed", of=result[0])
    return result[0]


@app.task
def slow_to_publish(result: list[str]) -> str:
    """Do something with a result; its message takes a while to go out."""
    note(app, "unkeyed", of=result[0])
    return result[0]


@app.task(**LATE)
def busy(name: str, seconds: float) -> str:
    """Take a while, and say when that began and when it ended."""
    return took(name, seconds)


@app.task
def early_busy_first(name: str, seconds: float) -> str:
    """Take a while the first time; acknowledged early."""
    return took(name, seconds if app.backend.client.incr(f"first:{name}") == 1 else 0)


@app.task(**LATE)
def busy_first(name: str, seconds: float) -> str:
    """Take a while the first time."""
    return took(name, seconds if app.backend.client.incr(f"first:{name}") == 1 else 0)


def took(name: str, seconds: float) -> str:
    """Take a while, between two notes."""
    note(app, "began", of=name)
    time.sleep(seconds)
    note(app, "ended", of=name)
    return name


@app.task(**LATE)
def poison(name: str, *, whole: bool = False) -> None:
    """Kill the process that runs it, each time."""
    note(app, "body", of=name)
    killing.die(whole=whole)


SCENARIOS = {task.name for task in (late, early, parent, retried)}
