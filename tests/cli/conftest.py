"""A project in a folder, with a history, for the command line."""

from __future__ import annotations

import importlib.util
import logging
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery

from celery_stackstate import StackState
from celery_stackstate.facts import now_micros
from celery_stackstate.stores.base import RunWrite, StoredLog
from tests.cli.commands import celery, environment
from tests.services import RedisServer

PROJECT = """
import logging
import time

from celery import Celery
from celery_stackstate import StateTask

app = Celery("proj", broker={broker!r}, task_cls=StateTask)
app.conf.update({conf!r})
logger = logging.getLogger("shop")


@app.task(name="shop.import_rows", bind=True)
def import_rows(self, count, pause=0.0):
    for number in range(1, count + 1):
        self.timeline.progress(number, count, f"row {{number}}")
        logger.warning("importing row %s", number)
        time.sleep(pause)
    self.timeline.event("imported", rows=count, skipped=0, dry=False, host="feed")
    return {{"rows": count}}


@app.task(name="shop.pay", acks_late=True)
def pay(amount):
    if amount < 0:
        raise ValueError(f"negative amount {{amount}} \\x1b[31m<b>")
    return amount


@app.task(name="shop.early", idempotency_key="{{number}}")
def early(number):
    pass
"""

#: Makes a project and returns its app, on the store that the command line uses as well.
MakeProject = Callable[..., Celery]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[MakeProject]:
    """Write proj.py with settings into the test's folder, and import it."""
    made: list[tuple[str, Celery]] = []

    def make(broker: str = "memory://", **conf: object) -> Celery:
        conf = {"stackstate_url": f"sqlite:///{tmp_path}/state.sqlite3", **conf}
        (tmp_path / "proj.py").write_text(PROJECT.format(broker=broker, conf=conf))
        name = f"proj_{uuid.uuid4().hex}"
        spec = importlib.util.spec_from_file_location(name, tmp_path / "proj.py")
        assert spec is not None
        assert spec.loader is not None
        module = ModuleType(name)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        app: Celery = module.app
        made.append((name, app))
        return app

    yield make
    for name, app in made:
        StackState.of(app).close()
        app.close()
        del sys.modules[name]


@pytest.fixture
def history(project: MakeProject) -> Celery:
    """The project with some runs: eager ones, which are recorded like others but for their log."""
    app = project(stackstate_record_eager=True)
    imported = app.tasks["shop.import_rows"].apply((3,))
    lines = [StoredLog("e", n, now_micros(), logging.WARNING, "shop", f"importing row {n}") for n in (1, 2, 3)]
    StackState.of(app).runs_store.append([RunWrite(imported.id, 1, logs=lines)])
    for amount in (1, 2, -1):
        app.tasks["shop.pay"].apply((amount,))
    return app


@pytest.fixture
def broker(redis_server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of our own, to be the broker and a store."""
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(redis_server_binary, folder, "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Start workers of the project, each in a process of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        words = celery("-A", "proj", "worker", "--pool", "solo", "-l", "warning")
        with (tmp_path / f"worker{len(started)}.log").open("wb") as output:
            process = subprocess.Popen(
                words, cwd=tmp_path, env=environment(tmp_path), stdout=output, stderr=subprocess.STDOUT
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGKILL)
        process.wait(10)
