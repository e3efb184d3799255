"""What the library adds to a process: the time of its import, and the memory of a worker that does nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks.apps import CONTENDER, STAMPS
from benchmarks.report import Row, Table
from benchmarks.rounds import Figure, Measured, Progress, interleaved
from benchmarks.servers import Servers
from benchmarks.setups import BARE
from benchmarks.worker_process import Stamps, WorkerProcess, resident_bytes

#: What a process with Celery has imported, lazily as Celery does it.
WITH_CELERY = "from celery import Celery, Task, signals; import celery.app.amqp, celery.app.task, kombu"
IN_WORKER = f"{WITH_CELERY}; import celery.bin.worker, celery.apps.worker, celery.worker.consumer"
IMPORT = "from celery_stackstate import StackState, StateTask"
NOTHING = "pass"
TIMED = """\
{before}
from time import perf_counter, process_time
wall, cpu = perf_counter(), process_time()
{text}
print(perf_counter() - wall, process_time() - cpu)
"""
IMPORTS: Mapping[str, tuple[str, str]] = {
    "nothing": (WITH_CELERY, NOTHING),
    "StackState and StateTask, in a producer": (WITH_CELERY, IMPORT),
    "StackState and StateTask, in a worker": (IN_WORKER, IMPORT),
}
WORKERS: Mapping[str, str] = {
    "bare Celery": BARE,
    "stackstate attached, task not tracked": "stackstate, Redis: task not tracked",
    "stackstate, Redis": "stackstate, Redis: history",
    "stackstate, SQLite": "stackstate, SQLite: history",
    "stackstate, PostgreSQL": "stackstate, PostgreSQL: history",
}
#: Seconds after which an idle worker has all that it will have.
IDLE = 2.0


def run(servers: Servers, *, rounds: int, workers: int, progress: Progress) -> Iterator[Table]:
    """Yield the tables of imports (`rounds` of them) and of idle workers (`workers` rounds)."""
    yield _imports(servers, rounds, progress)
    yield _memory(servers, workers, progress)


def _imports(servers: Servers, rounds: int, progress: Progress) -> Table:
    contenders = {name: partial(_import, servers, *texts) for name, texts in IMPORTS.items()}
    results = interleaved(contenders, rounds=rounds, progress=progress)
    rows = []
    for name in contenders:
        cells = [_scaled(results.figure(name, measure), 1e3) for measure in ("wall", "cpu")]
        rows.append(Row(name, cells, results.absent.get(name)))
    return Table("imports", "Import in a process that has Celery already", ["ms", "ms of CPU"], [1, 1], rows)


def _import(servers: Servers, before: str, text: str) -> Measured:
    command = [sys.executable, "-c", TIMED.format(before=before, text=text)]
    done = subprocess.run(command, env=servers.environment(), capture_output=True, text=True, check=True)  # noqa: S603
    wall, cpu = map(float, done.stdout.split())
    return {"wall": wall, "cpu": cpu}


def _memory(servers: Servers, rounds: int, progress: Progress) -> Table:
    absent = {} if servers.postgresql else {"stackstate, PostgreSQL": "no PostgreSQL server"}
    contenders: dict[str, Callable[[], Measured]] = {
        name: partial(_idle, servers, setup) for name, setup in WORKERS.items()
    }
    results = interleaved(contenders, rounds=rounds, progress=progress, absent=absent, warm_up=False)
    base = next(iter(WORKERS))
    rows = []
    for name in WORKERS:
        cells = [results.figure(name, "bytes"), results.more(name, "bytes", base)]
        rows.append(Row(name, [_scaled(cell, 1 / 2**20) for cell in cells], results.absent.get(name)))
    return Table("memory", "A solo worker that has run one task", ["MiB", "MiB more than bare"], [1, 1], rows)


def _idle(servers: Servers, setup: str) -> Measured:
    from benchmarks.hosts import Host

    folder = Path(servers.folder)
    stamps = Stamps(folder / "idle-stamps", 1)
    host = Host(servers, "worker", setup)
    try:
        host.ask(do="publish", calls=1)
    finally:
        host.close()
    environment = {**servers.environment(), STAMPS: str(stamps.path), CONTENDER: setup}
    worker = WorkerProcess(("--pool", "solo"), environment, folder / "idle.log")
    try:
        worker.wait_for(lambda: len(stamps.sorted()) == 1)
        time.sleep(IDLE)
        return {"bytes": float(resident_bytes(worker.pid))}
    finally:
        worker.stop()


def _scaled(figure: Figure | None, by: float) -> Figure | None:
    return None if figure is None else Figure(figure.median * by, figure.low * by, figure.high * by)
