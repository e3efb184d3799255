"""What one no-op costs a worker, solo and prefork, from the first body to the last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import publish
from benchmarks.apps import CONTENDER, STAMPS
from benchmarks.hosts import Host, hosted
from benchmarks.publish import QUEUE
from benchmarks.redis_info import Reads
from benchmarks.report import Column, Table, ratio_table
from benchmarks.rounds import Measured, Progress, interleaved
from benchmarks.servers import Servers
from benchmarks.setups import BARE, WORKER, Setup
from benchmarks.worker_process import Stamps, WorkerProcess, cpu_seconds

POOLS = {"solo": ("--pool", "solo"), "prefork": ("--pool", "prefork", "-c", "2")}
#: The share of the tasks before a worker counts as warm.
WARMING = 0.1
#: Seconds for which the CPU of what goes on behind the last body counts.
SETTLING = 0.3
COLUMNS = (
    Column("wall", "x bare, wall"),
    Column("cpu", "x bare, CPU"),
    Column("wall", "µs", scale=1e6),
    Column("trips", "Redis round trips"),
)


def run(
    servers: Servers, *, rounds: int, tasks: int, progress: Progress, pools: Sequence[str] = tuple(POOLS)
) -> Iterator[Table]:
    """Yield the tables of a solo and of a prefork worker, if not of others: `tasks` tasks in each round."""
    absent = {setup.name: reason for setup in WORKER if (reason := setup.missing(servers))}
    present = [setup for setup in WORKER if setup.name not in absent]
    with hosted(servers, "worker", [setup.name for setup in present]) as hosts:

        def measured(pool: str) -> Table:
            contenders: dict[str, Callable[[], Measured]] = {setup.name: dict for setup in WORKER}
            for setup in present:
                contenders[setup.name] = partial(_drain, servers, hosts[setup.name], setup, pool, tasks)
            results = interleaved(contenders, rounds=rounds, progress=progress, absent=absent, warm_up=False)
            title = f"One no-op, {' '.join(POOLS[pool])}"
            return ratio_table(f"worker-{pool}", title, COLUMNS, results, list(contenders), base=BARE)

        yield from map(measured, pools)


def _drain(servers: Servers, host: Host, setup: Setup, pool: str, tasks: int) -> Measured:
    reads = Reads(servers.redis_url(0))
    host.ask(do="publish", calls=tasks)
    folder = Path(servers.folder)
    stamps = Stamps(folder / "stamps", tasks)
    environment = {**servers.environment(), STAMPS: str(stamps.path), CONTENDER: setup.name}
    warm = max(1, int(tasks * WARMING))
    worker = WorkerProcess((*POOLS[pool], *setup.worker_flags), environment, folder / "worker.log")
    try:
        worker.wait_for(lambda: len(stamps.sorted()) >= warm)
        before, cpu, done = reads.since(), cpu_seconds(worker.pid), len(stamps.sorted())
        worker.wait_for(lambda: len(stamps.sorted()) == tasks)
        time.sleep(SETTLING)
        trips, cpu = reads.since() - before, cpu_seconds(worker.pid) - cpu
    finally:
        worker.stop()
        reads.forget(QUEUE)
    times = stamps.sorted()
    rest = max(1, tasks - done)
    return {"wall": (times[-1] - times[warm - 1]) / (tasks - warm), "cpu": cpu / rest, "trips": trips / rest}


# -- in the contender's process ----------------------------------------------------------------------------------------


def serve(contender: str) -> dict[str, Callable[..., Any]]:
    """Return what publishes the messages of a contender."""
    return publish.serve(contender, "worker")
