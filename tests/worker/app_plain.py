"""A plain Celery app without the extension: what it cannot do is not the extension's fault."""

from __future__ import annotations

import json
import os
import signal
import time

from celery import Celery

app = Celery("plain", broker=os.environ["STACKSTATE_TEST_BROKER"], backend=os.environ["STACKSTATE_TEST_BACKEND"])
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.task_track_started = True


@app.task
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@app.task(acks_late=True)
def sleep_then_return(seconds: float, value: str) -> str:
    """Take a while; a copy is run again if the worker dies meanwhile."""
    time.sleep(seconds)
    return value


@app.task
def crash() -> None:
    """Kill the process that runs this task."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def environment(name: str) -> str | None:
    """Return a variable as the worker sees it."""
    return os.environ.get(name)
