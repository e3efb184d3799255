"""A world of workers that live and of others that do not, and what is told of their runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from celery_stackstate import Run, StackState, facts, liveness
from celery_stackstate.attempt import Delivery
from celery_stackstate.facts import Stamp, now_micros, rank
from celery_stackstate.liveness import Lease
from celery_stackstate.records import STARTED
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store

ME, LIVE, OTHER = Lease("celery@me", "1"), Lease("celery@live", "1"), Lease("celery@other", "1")
DEAD, DEAD_TOO, STOPPED = Lease("celery@dead", "1"), Lease("celery@dead", "2"), Lease("celery@dead", "3")
NAMELESS = Lease("celery@dead", "")
PID, GONE = 4711, 4712
SECOND, HOUR = 1_000_000, 3600 * 1_000_000
EPOCH = 1_000


class Counting:
    """A store that counts the calls which go there."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)
        if not callable(verb) or name in ("in_transaction", "usable_here"):
            return verb

        def counted(*args: Any, **options: Any) -> Any:
            self.calls[name] += 1
            return verb(*args, **options)

        return counted


def enrol(store: Store, lease: Lease) -> None:
    liveness.enrol(store, lease, pid=PID, pids=[PID], started=now_micros())


def keep(status: str) -> float:
    return 3600.0


def queued(run_id: str, *, epoch: int = EPOCH, retries: int = 0) -> RunWrite:
    stamp = Stamp(now_micros(), now_micros(), epoch)
    known = RunFacts(task="t", created=stamp.first)
    return facts.queued(run_id, known, stamp, retries=retries, eta=None, data={}, keep=keep)


def received(run_id: str, lease: Lease, *, epoch: int = EPOCH, retries: int = 0) -> RunWrite:
    known = RunFacts(task="t", created=now_micros())
    boot = lease.boot or None
    return facts.received(run_id, known, epoch, worker=lease.worker, boot=boot, retries=retries, eta=None, keep=keep)


def started(run_id: str, lease: Lease, *, pid: int = PID, at: int | None = None, epoch: int = EPOCH + 1) -> RunWrite:
    at = now_micros() if at is None else at
    delivery = Delivery(lease.worker, lease.boot, pid, 0, redelivered=False, queued_at=None, eta=None)
    begun = delivery.start(f"{lease.worker}/{epoch}", at=at, epoch=epoch, payload={})
    standing = RunStanding(STARTED, lease.worker, started=at, forget=now_micros() + HOUR)
    return RunWrite(run_id, rank(STARTED, epoch), RunFacts(task="t", created=at), standing, [begun])


def ended(run_id: str, lease: Lease, status: str, *, epoch: int = EPOCH + 1) -> RunWrite:
    name = f"{lease.worker}/{epoch}"
    return facts.ended(run_id, RunFacts(), epoch, status, execution=name, worker=lease.worker, keep=keep, data={})


def append(store: Store, writes: Iterable[RunWrite]) -> None:
    """Write many facts, so many at once."""
    batch: list[RunWrite] = []
    for write in writes:
        batch.append(write)
        if len(batch) == 2_000:
            store.append(batch)
            batch = []
    store.append(batch)


def run(extension: StackState, run_id: str = "r") -> Run:
    found = extension.runs.get(run_id)
    assert found is not None
    return found


def statuses(store: Store) -> dict[str, int]:
    """Return how many runs have which status."""
    return {tally.status: tally.runs for tally in store.tally(0, now_micros() + HOUR)}
