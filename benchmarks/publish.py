"""What one `apply_async` costs: keys that are all different, and one key over and over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any

from benchmarks.hosts import Host, hosted
from benchmarks.redis_info import Reads
from benchmarks.report import Column, Table, ratio_table
from benchmarks.rounds import Measured, Progress, interleaved
from benchmarks.sampling import Sampler
from benchmarks.servers import Servers, from_environment
from benchmarks.setups import BARE, DUPLICATES, PUBLISH, Setup, find

QUEUE = "celery"
COLUMNS = (
    Column("wall", "x bare, wall"),
    Column("cpu", "x bare, CPU"),
    Column("wall", "µs", scale=1e6),
    Column("trips", "Redis round trips"),
)


def run(servers: Servers, *, rounds: int, calls: int, progress: Progress) -> Iterator[Table]:
    """Yield the tables of publishing: `calls` calls in each round."""
    absent = {setup.name: reason for setup in PUBLISH if (reason := setup.missing(servers))}
    with hosted(servers, "publish", [setup.name for setup in PUBLISH if setup.name not in absent]) as hosts:

        def measured(title: str, setups: tuple[Setup, ...], name: str, *, same: bool) -> Table:
            contenders = {one: partial(_round, servers, host, calls, same) for one, host in hosts.items()}
            chosen = {setup.name: contenders.get(setup.name, _nothing) for setup in setups}
            gone = {one: reason for one, reason in absent.items() if one in chosen}
            results = interleaved(chosen, rounds=rounds, progress=progress, absent=gone)
            return ratio_table(name, title, COLUMNS, results, list(chosen), base=BARE)

        yield measured("One apply_async, each with a key of its own", tuple(PUBLISH), "publish", same=False)
        yield measured("One apply_async, the same key over and over", DUPLICATES, "publish-duplicate", same=True)


def _round(servers: Servers, host: Host, calls: int, same: bool) -> Measured:
    reads = Reads(servers.redis_url(0))
    answer: dict[str, float] = host.ask(do="round", calls=calls, same=same)
    trips = reads.since() / calls
    reads.forget(QUEUE)
    return {**answer, "trips": trips}


def _nothing() -> Measured:
    return {}


# -- in the contender's process ----------------------------------------------------------------------------------------


def serve(contender: str, subject: str = "publish") -> dict[str, Callable[..., Any]]:
    """Make the app of a contender; return what its host can be asked for."""
    from benchmarks.apps import make

    setup = find(subject, contender)
    app, task = make(setup, from_environment())
    if setup.django:
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
    settle = _settling(app, setup)
    # No other contender, subject or run has used those as keys: hosts start one after the other.
    numbers = count(time.time_ns() // 1_000)

    def send(number: int) -> None:
        if setup.keyed:
            task.apply_async((number,), idempotency_key=f"benchmarks:{number}")
        else:
            task.apply_async((number,))

    def measure(calls: int, same: bool) -> dict[str, float]:
        chosen = [0] * calls if same else [next(numbers) for _ in range(calls)]
        wall, cpu = time.perf_counter(), time.process_time()
        for number in chosen:
            send(number)
        wall = time.perf_counter() - wall
        settle()
        return {"wall": wall / calls, "cpu": (time.process_time() - cpu) / calls}

    def publish(calls: int) -> None:
        for _ in range(calls):
            send(next(numbers))
        settle()

    def sampled(calls: int, same: bool) -> dict[str, Any]:
        measure(1, same)
        sampler = Sampler()
        sampler.start()
        try:
            return {"wall": measure(calls, same)["wall"], "seen": sampler.seen}
        finally:
            sampler.stop()

    return {"round": measure, "publish": publish, "sampled": sampled}


def _settling(app: Any, setup: Setup) -> Callable[[], None]:
    """Return what waits until the background has done its share, so that its CPU counts."""
    if "stackstate_url" not in setup.conf:
        return lambda: None
    from celery_stackstate import StackState

    def settle() -> None:
        StackState.of(app).recorder.flush()

    return settle
