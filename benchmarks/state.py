"""What one call of the state costs, beside the same by hand and in caches."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from benchmarks.apps import named
from benchmarks.calls.common import NAMES, Calls
from benchmarks.hosts import Host, hosted
from benchmarks.report import Column, Table, ratio_table
from benchmarks.rounds import Measured, Progress, Results, interleaved
from benchmarks.servers import Servers, from_environment
from benchmarks.setups import missing_module

REDIS_PY, SQLITE3, PSYCOPG = "redis-py", "sqlite3", "psycopg"


@dataclass(frozen=True)
class Caller:
    """Who makes the calls: `make(servers)` gives them."""

    make: Callable[[Servers], Calls]
    needs: tuple[str, ...] = ()
    database: bool = False


def _by(path: str, **options: Any) -> Callable[[Servers], Calls]:
    def make(servers: Servers) -> Calls:
        calls: Calls = named(f"benchmarks.calls.{path}")(servers, **options)
        return calls

    return make


def _ours(url: Callable[[Servers], str]) -> Callable[[Servers], Calls]:
    def make(servers: Servers) -> Calls:
        calls: Calls = named("benchmarks.calls.ours:on")(url(servers))
        return calls

    return make


CALLERS: Mapping[str, Caller] = {
    "raw socket": Caller(_by("redis:on_a_socket")),
    REDIS_PY: Caller(_by("redis:through_redis_py")),
    "stackstate, Redis": Caller(_ours(lambda servers: servers.redis_url(4))),
    "Django's cache, Redis": Caller(_by("caches:of_django"), ("django",)),
    "diskcache": Caller(_by("caches:of_diskcache"), ("diskcache",)),
    SQLITE3: Caller(_by("sql:in_sqlite", synchronous="full")),
    "stackstate, SQLite": Caller(_ours(lambda servers: servers.sqlite)),
    "sqlite3, synchronous=normal": Caller(_by("sql:in_sqlite", synchronous="normal")),
    "stackstate, SQLite, synchronous=normal": Caller(
        _ours(lambda servers: f"sqlite:///{servers.folder}/normal.sqlite3?synchronous=normal")
    ),
    PSYCOPG: Caller(_by("sql:in_postgresql"), ("psycopg",), database=True),
    "stackstate, PostgreSQL": Caller(_ours(lambda servers: servers.postgresql), ("psycopg", "sqlalchemy"), True),
    "stackstate, memory": Caller(_ours(lambda servers: "memory://")),
}
#: What ours is measured against where it is on the same driver.
DRIVERS = {
    "stackstate, Redis": REDIS_PY,
    "stackstate, SQLite": SQLITE3,
    "stackstate, SQLite, synchronous=normal": "sqlite3, synchronous=normal",
    "stackstate, PostgreSQL": PSYCOPG,
}


def run(servers: Servers, *, rounds: int, calls: int, progress: Progress) -> list[Table]:
    """Return the tables of the calls: each `calls` times in each round."""
    absent = {name: reason for name, caller in CALLERS.items() if (reason := _missing(caller, servers))}
    with hosted(servers, "state", [name for name in CALLERS if name not in absent]) as hosts:
        contenders: dict[str, Callable[[], Measured]] = {name: dict for name in CALLERS}
        contenders |= {name: partial(_round, host, calls) for name, host in hosts.items()}
        results = interleaved(contenders, rounds=rounds, progress=progress, absent=absent)
    return tables(results)


def tables(results: Results) -> list[Table]:
    """Return the same results as microseconds, as ratios to redis-py, and ours against its driver."""
    names = list(CALLERS)
    micros = [Column(name, name, scale=1e6) for name in NAMES]
    ratios = [Column(name, name) for name in NAMES]
    by_driver = {name: ratio_table("", "", ratios, results, [name], base=base).rows for name, base in DRIVERS.items()}
    own = Table(
        "state-driver",
        "One state call of ours, x the same by hand on the same driver",
        NAMES,
        [2] * len(NAMES),
        [row for rows in by_driver.values() for row in rows],
    )
    return [
        ratio_table("state", "One state call, x redis-py", ratios, results, names, base=REDIS_PY),
        ratio_table("state-time", "One state call, µs", micros, results, names, base=REDIS_PY),
        own,
    ]


def _missing(caller: Caller, servers: Servers) -> str | None:
    no_server = "no PostgreSQL server" if caller.database and not servers.postgresql else None
    return missing_module(*caller.needs) or no_server


def _round(host: Host, calls: int) -> Measured:
    measured: Measured = host.ask(do="round", calls=calls)
    return measured


# -- in the contender's process ----------------------------------------------------------------------------------------


def serve(contender: str) -> dict[str, Callable[..., Any]]:
    """Return what measures the calls of a contender."""
    verbs = CALLERS[contender].make(from_environment())
    numbers = count(1)

    def measure(calls: int) -> dict[str, float]:
        found = {}
        for name, call in verbs.items():
            chosen = [next(numbers) for _ in range(calls)]
            begun = time.perf_counter()
            for number in chosen:
                call(number)
            found[name] = (time.perf_counter() - begun) / calls
        return found

    return {"round": measure}
