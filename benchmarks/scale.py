"""What a large history costs: its pages, its bytes, its purge, and the reaper that looks after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from benchmarks.redis_info import used_memory
from benchmarks.report import Row, Table
from benchmarks.rounds import Figure, Progress
from benchmarks.runs_data import begun, filled
from benchmarks.servers import Servers
from benchmarks.setups import missing_module

#: Rows of a page.
PAGE = 50
#: The lists of the admin, by the arguments of `runs.list`.
LISTS: Mapping[str, Mapping[str, Any]] = {
    "newest page": {},
    "filter: status": {"status": "FAILURE"},
    "filter: task": {"task": "shop.task7"},
    "filter: worker": {"worker": "celery@worker-7"},
    "filter: queue": {"queue": "queue-2"},
    "filter: host": {"host": "web-3"},
}
#: So many runs that are in the bodies of a live worker while the reaper goes its round.
BEGUN = 200


@dataclass
class Place:
    """A store that nobody else uses, and the bytes it takes."""

    extension: Any
    bytes_used: Callable[[], int]


def run(servers: Servers, *, rounds: int, sizes: Sequence[int], purged: int, progress: Progress) -> Iterator[Table]:
    """Yield a table for each store: `rounds` looks at each list at each size."""
    yield _of_place("Redis", _redis_place, servers, rounds, sizes, purged, progress)
    lacks = missing_module("psycopg", "sqlalchemy") or (None if servers.postgresql else "no PostgreSQL server")
    if lacks:
        yield Table("scale-postgresql", _title("PostgreSQL"), ["ms"], [2], [Row("PostgreSQL", note=lacks)])
    else:
        yield _of_place("PostgreSQL", _postgresql_place, servers, rounds, sizes, purged, progress)


def _title(store: str) -> str:
    return f"The history in {store}, by the number of runs in it"


def _of_place(
    name: str, opened: Any, servers: Servers, rounds: int, sizes: Sequence[int], purged: int, progress: Progress
) -> Table:
    with opened(servers) as place:
        columns = [_at_size(place, before, size, rounds, purged, progress) for before, size in _steps(sizes)]
    names = list(columns[0])
    rows = [Row(one, [column[one] for column in columns]) for one in names]
    titles = [f"{size:,}" for size in sizes]
    return Table(f"scale-{name.lower()}", _title(name), titles, [2] * len(titles), rows)


def _steps(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip([0, *sizes], sizes, strict=False)


def _at_size(
    place: Place, before: int, size: int, rounds: int, purged: int, progress: Progress
) -> Mapping[str, Figure | None]:
    extension = place.extension
    store = extension.runs_store
    progress(f"writing the runs {before:,} to {size:,}")
    bytes_before, started = place.bytes_used(), time.perf_counter()
    filled(store, before, size)
    seconds, added = time.perf_counter() - started, size - before
    grown = place.bytes_used() - bytes_before
    exact = f"benchmarks-{size // 2:012d}"
    found = {
        f"{name}, ms": _timed(lambda options=options: extension.runs.list(limit=PAGE, **options), rounds)  # type: ignore[misc]
        for name, options in LISTS.items()
    }
    found["exact id, ms"] = _timed(lambda: extension.runs.get(exact), rounds)
    found["count, ms"] = _timed(extension.runs.count, rounds)
    found["bytes of a run"] = _one(grown / added)
    found["runs written a second"] = _one(added / seconds)
    found["runs purged a second"] = _one(_purge_rate(extension, purged, size))
    found[f"a round of the reaper, {BEGUN} runs in bodies, ms"] = _reaper_round(extension, rounds)
    return found


def _timed(call: Callable[[], object], rounds: int) -> Figure:
    call()
    times = []
    for _ in range(rounds):
        begun_at = time.perf_counter()
        call()
        times.append((time.perf_counter() - begun_at) * 1000)
    return Figure.of(times)


def _one(number: float) -> Figure:
    return Figure(number, number, number)


def _purge_rate(extension: Any, purged: int, size: int) -> float:
    """Write runs that need be kept no longer among the others, and purge them."""
    first = 10**11 + size
    filled(extension.runs_store, first, first + purged, kept=-7200.0)
    started, left = time.perf_counter(), purged
    while left > 0 and (done := extension.runs_store.purge(limit=500)):
        left -= done
    return (purged - left) / (time.perf_counter() - started)


def _reaper_round(extension: Any, rounds: int) -> Figure:
    """Time the rounds of the reaper of a live worker that has runs in bodies, without what it counts and purges."""
    from celery_stackstate import liveness
    from celery_stackstate.facts import now_micros
    from celery_stackstate.liveness import Lease
    from celery_stackstate.worker.reaper import Reaper

    lease = Lease("celery@benchmarks", "1")
    liveness.enrol(extension.store, lease, pid=1, pids=[1], started=now_micros())
    liveness.renew(extension.store, lease, seconds=600, pids=[1], before=0, listed=now_micros())
    begun(extension.runs_store, lease, number=BEGUN, pid=1)
    reaper = Reaper(extension, lease)
    try:
        return _timed(reaper.round, rounds)
    finally:
        reaper.resign()
        extension.forget(*(f"begun-{one}" for one in range(BEGUN)))
        liveness.give_up(extension.store, lease)


# -- the stores --------------------------------------------------------------------------------------------------------


def _extension(url: str) -> Any:
    from celery import Celery

    from celery_stackstate import StackState

    app = Celery("benchmarks", broker="memory://", set_as_current=False)
    prefix = f"scale-{uuid4().hex[:8]}"
    app.conf.update(stackstate_url=url, stackstate_prefix=prefix, stackstate_store_timeout=60)
    return StackState(app)


@contextmanager
def _redis_place(servers: Servers) -> Iterator[Place]:
    url = servers.redis_url(4)
    extension = _extension(url)
    yield Place(extension, lambda: used_memory(url))
    extension.close()


@contextmanager
def _postgresql_place(servers: Servers) -> Iterator[Place]:
    import psycopg

    extension = _extension(servers.postgresql)
    extension.install()
    with psycopg.connect(servers.postgresql, autocommit=True) as connection:

        def bytes_used() -> int:
            found: Any = connection.execute("SELECT pg_database_size(current_database())").fetchone()
            return int(found[0])

        yield Place(extension, bytes_used)
    extension.close()
