"""Runs by the thousand, as a shop's workers would have recorded them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from celery_stackstate import facts
from celery_stackstate.facts import Stamp, now_micros, rank
from celery_stackstate.liveness import Lease
from celery_stackstate.records import STARTED
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store

BATCH = 500
HOUR = 3_600_000_000
WORDS = [f"{part}{number}" for number in range(100) for part in ("blue", "chair", "large", "oak", "table", "lamp")]


def filled(store: Store, first: int, last: int, *, kept: float = 86_400.0) -> None:
    """Record the runs numbered `first` to `last` - 1 that ended, newest last, each with about 1 kB of arguments."""
    batch: list[RunWrite] = []
    base = now_micros() - HOUR
    for number in range(first, last):
        batch += _run(number, base + number, kept)
        if len(batch) >= BATCH:
            store.append(batch)
            batch = []
    store.append(batch)


def _run(number: int, at: int, kept: float) -> Iterator[RunWrite]:
    """Yield what a producer and a worker tell of one run."""

    def keep(_: str) -> float:
        return kept

    chance = random.Random(number)  # noqa: S311
    run_id, worker = f"benchmarks-{number:012d}", f"celery@worker-{number % 20}"
    known = RunFacts(f"shop.task{number % 50}", f"queue-{number % 5}", host=f"web-{number % 10}", created=at)
    stamp = Stamp(at, at, epoch=at // 1000, host="web-1", pid=1, program="gunicorn", queue=known.queue)
    payload = {"args": [number], "kwargs": _arguments(chance)}
    yield facts.queued(run_id, known, stamp, retries=0, eta=None, data=payload, keep=keep)
    status = "FAILURE" if number % 100 == 0 else "SUCCESS"
    options: dict[str, Any] = {"execution": f"{number}/1", "worker": worker, "started": at + 5, "at": at + 50}
    yield facts.ended(run_id, known, stamp.epoch + 1, status, **options, keep=keep, data={"result": "True"})


def _arguments(chance: random.Random) -> dict[str, Any]:
    """Return an order whose JSON has about 1,000 bytes."""
    order: list[dict[str, Any]] = []
    while len(json.dumps(order)) < 920:
        name = " ".join(chance.choices(WORDS, k=3))
        order.append({"sku": chance.randrange(10**6), "name": name, "price": round(chance.random() * 100, 2)})
    return {"order": order}


def begun(store: Store, worker: Lease, *, number: int, pid: int) -> None:
    """Record runs that a worker has in their bodies."""
    at = now_micros()
    standing = RunStanding(STARTED, worker.worker, started=at, forget=at + 24 * HOUR)
    known = RunFacts(task="shop.long", created=at)
    event = facts.event("started", "started", execution="e", worker=worker.worker, boot=worker.boot, pid=pid)
    store.append([RunWrite(f"begun-{one}", rank(STARTED, at), known, standing, [event]) for one in range(number)])
