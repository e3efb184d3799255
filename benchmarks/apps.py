"""Makes the Celery app and the no-op task of a set-up."""

from __future__ import annotations

import importlib
import mmap
import os
import time
from pathlib import Path
from typing import Any

from benchmarks.servers import Servers
from benchmarks.setups import Setup

#: The file in which a worker's no-ops leave the times of their bodies.
STAMPS = "STACKSTATE_BENCHMARKS_STAMPS"
#: Whose app a worker loads.
CONTENDER = "STACKSTATE_BENCHMARKS_CONTENDER"
#: Where a worker leaves what was seen of where its time goes.
SAMPLES = "STACKSTATE_BENCHMARKS_SAMPLES"


def make(setup: Setup, servers: Servers) -> tuple[Any, Any]:
    """Return the app and its task."""
    if setup.django:
        os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.django_settings"
    from celery import Celery

    app: Any = Celery("benchmarks", broker=servers.redis_url(0))
    app.conf.update({"task_ignore_result": True, "worker_hijack_root_logger": False})
    app.conf.update(setup.configuration(servers))
    task = app.task(_body(), name="benchmarks.nothing", base=named(setup.base), shared=False, **setup.task)
    if setup.attached:
        named("celery_stackstate:StackState")(app)
    if setup.floor:
        named("benchmarks.floor:record_each")(app)
    app.finalize()
    return app, task


def named(path: str) -> Any:
    """Return what `module:name` names."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _body() -> Any:
    path = os.environ.get(STAMPS)
    if path is None:

        def nothing(number: int) -> None:
            """Do nothing."""

        return nothing

    with Path(path).open("r+b") as file:
        times = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")  # shared with the children of a pool
    size = len(times)

    def stamped(number: int) -> None:
        times[number % size] = time.monotonic()

    return stamped
