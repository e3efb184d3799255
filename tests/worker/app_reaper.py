"""An app whose workers die: what they had is told by others."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from celery import Celery, Task

from celery_stackstate import StackState, StateTask
from celery_stackstate.signals import run_lost
from tests.worker.noting import note

app = Celery(
    "reaper",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]
StackState(app)


@run_lost.connect(weak=False)
def on_lost(sender: str, run_id: str, **_: Any) -> None:
    """Leave a note."""
    note(app, "lost", run_id=run_id)


@app.task
def take(name: str, seconds: float) -> str:
    """Take a while; acknowledged early."""
    note(app, name)
    time.sleep(seconds)
    return name


@app.task(acks_late=True)
def take_at_first(name: str, seconds: float) -> str:
    """Take a while the first time; acknowledged late."""
    note(app, name)
    time.sleep(seconds if app.backend.client.incr(f"first:{name}") == 1 else 0)
    return name


@app.task(bind=True)
def try_again_later(self: Task) -> None:
    """Be tried again in a minute."""
    raise self.retry(countdown=60)


@app.task
def kill_all() -> None:
    """Kill the whole worker at once."""
    os.killpg(0, signal.SIGKILL)
