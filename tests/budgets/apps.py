"""The app whose paths are counted."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from celery import Celery

from celery_stackstate import StackState, StateTask

log = logging.getLogger(__name__)


@contextmanager
def an_app(url: str) -> Iterator[Celery]:
    """Make an app over a store, with a queue of its own in the broker that all apps of a process share."""
    name = f"budgets-{uuid4().hex}"
    app = Celery(name, broker="memory://", set_as_current=False, task_cls=StateTask)
    app.conf.update(stackstate_url=url, stackstate_prefix=name, task_default_queue=name)
    level, handlers = logging.root.level, list(logging.root.handlers)

    @app.task(shared=False, name="nothing")
    def nothing(number: int = 0) -> int:
        return number

    @app.task(shared=False, name="unrecorded", record_runs=False)
    def unrecorded(number: int = 0) -> int:
        return number

    @app.task(shared=False, name="hot", record_in_background=True)
    def hot(number: int = 0) -> int:
        return number

    @app.task(shared=False, name="chatter")
    def chatter(lines: int) -> None:
        for number in range(lines):
            log.warning("line %d", number)

    app.finalize()
    yield app
    StackState.of(app).close()
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers
