"""How long a contended lock lies idle between two holders, and how long they wait for it."""

from __future__ import annotations

import mmap
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks.calls.common import TTL
from benchmarks.hosts import Host, hosted
from benchmarks.report import Column, Table, ratio_table
from benchmarks.rounds import Measured, Progress, interleaved
from benchmarks.servers import Servers, from_environment
from benchmarks.setups import missing_module

REDIS_PY = "redis-py's Lock"
#: Seconds for which a holder holds, and about for which it then does something else.
HOLD, ELSEWHERE = 0.002, 0.005
WAIT = 30
COLUMNS = (
    Column("idle", "idle between holders, ms", scale=1e3, digits=2),
    Column("idle", "x redis-py's Lock"),
    Column("idle 95 %", "idle, 95 %, ms", scale=1e3, digits=1),
    Column("wait", "wait, ms", scale=1e3, digits=1),
    Column("wait 95 %", "wait, 95 %, ms", scale=1e3, digits=0),
    Column("rate", "holders a second", scale=1, digits=0),
)


def _redis_lock(servers: Servers, **options: Any) -> Any:
    import redis

    return redis.Redis.from_url(servers.redis_url(1)).lock(
        "benchmarks:contended", timeout=TTL, blocking_timeout=WAIT, **options
    )


def _our_lock(url: str) -> Any:
    from celery import Celery

    from celery_stackstate import StackState

    app = Celery("benchmarks", broker="memory://", set_as_current=False)
    app.conf.stackstate_url = url
    return StackState(app).state.lock("benchmarks:contended", ttl=TTL, wait=WAIT)


#: Who waits: `make(servers)` gives an object with `acquire` and `release`.
LOCKS: Mapping[str, Callable[[Servers], Any]] = {
    REDIS_PY: _redis_lock,
    "redis-py's Lock, sleep=0.01": lambda servers: _redis_lock(servers, sleep=0.01),
    "stackstate, Redis": lambda servers: _our_lock(servers.redis_url(4)),
    "stackstate, PostgreSQL": lambda servers: _our_lock(servers.postgresql),
    "stackstate, SQLite": lambda servers: _our_lock(servers.sqlite),
}


def run(servers: Servers, *, rounds: int, seconds: float, processes: int, progress: Progress) -> list[Table]:
    """Return the table of locks that `processes` contend for: `seconds` for each in each round."""
    absent = {}
    if (reason := missing_module("psycopg", "sqlalchemy")) or not servers.postgresql:
        absent["stackstate, PostgreSQL"] = reason or "no PostgreSQL server"
    present = [name for name in LOCKS if name not in absent]
    with ExitStack() as stack:
        teams = [stack.enter_context(hosted(servers, "locks", present)) for _ in range(processes)]

        def round_of(name: str) -> Callable[[], Measured]:
            return lambda: _round([team[name] for team in teams], Path(servers.folder), seconds)

        contenders: dict[str, Callable[[], Measured]] = {name: dict for name in LOCKS}
        contenders |= {name: round_of(name) for name in present}
        results = interleaved(contenders, rounds=rounds, progress=progress, absent=absent)
    title = f"One lock, {processes} processes that want it all the time"
    return [ratio_table("locks", title, COLUMNS, results, list(LOCKS), base=REDIS_PY)]


def _round(team: list[Host], folder: Path, seconds: float) -> Measured:
    left = folder / "released"
    left.write_bytes(bytes(8))
    for host in team:
        host.tell(do="contend", seconds=seconds, left=str(left))
    answers = [host.answer() for host in team]
    idle = [gap for answer in answers for gap in answer["idle"]]
    waits = [wait for answer in answers for wait in answer["waits"]]
    return {**_spread("idle", idle), **_spread("wait", waits), "rate": len(waits) / seconds}


def _spread(name: str, numbers: list[float]) -> dict[str, float]:
    """Return the median of some numbers, and what 95 of 100 stay below."""
    if len(numbers) < 2:
        return {name: sum(numbers), f"{name} 95 %": sum(numbers)}
    parts = quantiles(numbers, n=20, method="inclusive")
    return {name: parts[9], f"{name} 95 %": parts[18]}


# -- in one of the contending processes --------------------------------------------------------------------------------


def serve(contender: str) -> dict[str, Callable[..., Any]]:
    """Return what contends for the lock."""
    lock = LOCKS[contender](from_environment())
    random.seed(os.getpid())

    def contend(seconds: float, left: str) -> dict[str, list[float]]:
        with Path(left).open("r+b") as file:
            released = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")
        idle: list[float] = []
        waits: list[float] = []
        end = time.monotonic() + seconds
        while (asked := time.monotonic()) < end:
            if not lock.acquire():
                continue
            now, before = time.monotonic(), released[0]
            waits.append(now - asked)
            if asked < before < now:  # it was waited for when the holder before let go of it
                idle.append(now - before)
            time.sleep(HOLD)
            released[0] = time.monotonic()
            lock.release()
            time.sleep(random.uniform(0.5, 1.5) * ELSEWHERE)  # noqa: S311
        return {"idle": idle, "waits": waits}

    return {"contend": contend}
