"""Reading and writing the records of keys: by compare-and-set alone, with leases counted by the store's clock."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID, uuid5

from celery_stackstate.errors import VersionConflict
from celery_stackstate.key_record import (
    PUBLISHED,
    RESERVED,
    RETRYING,
    RUNNING,
    Claim,
    Record,
    Request,
    Ticket,
)
from celery_stackstate.keys import OPEN, pack
from celery_stackstate.liveness import Lease, is_live
from celery_stackstate.stores.base import Expect, PutResult, RunWrite, Store, StoredEntry
from celery_stackstate.surely import put_surely

NAMESPACE = UUID("6f1d6c5e-1f0e-5d0c-9a67-3c1a5b7c7a10")
ROUNDS = 20
#: Microseconds by which the clocks of producers and the store may differ.
EXPIRY_MARGIN = 60_000_000


class KeyStore:
    """The records of keys in a store, and what can be told of a record: is it live, is it to be published again."""

    def __init__(
        self, store: Store, *, prefix: str, publish_lease: float, max_deliveries: int, start_deadline: float = 86_400
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._publish_lease = publish_lease * 1_000_000
        self._max_deliveries = max_deliveries
        self._start_deadline = start_deadline * 1_000_000

    def record(self, store_key: bytes) -> Record | None:
        """Return the record of a key as it is stored, or None."""
        stored = self._store.get(store_key)
        return None if stored is None else Record.load(stored)

    def watch(self, run: Request | Ticket) -> None:
        """Let the reaper look after a run: one that is about to be reserved, or that may never be published."""
        self._store.put(pack(OPEN, run.scope, run.key), b"")

    def _settle(self, claim: Claim, record: Record, *, ended: bool, writes: Sequence[RunWrite] = ()) -> Claim | None:
        ttl = kept_for(record, time.time_ns() // 1000) if ended else None
        result = self._write(record, claim.version, ttl=ttl, writes=writes)
        if not result.applied or result.entry is None:
            return None
        return replace(claim, record=record, version=result.entry.version, told=result.appended)

    def _write(
        self, record: Record, expect: Expect | int, *, ttl: float | None = None, writes: Sequence[RunWrite] = ()
    ) -> PutResult:
        written = record.dump()
        same: Callable[[StoredEntry], bool] = lambda stored: stored.value == written  # noqa: E731
        micros = None if ttl is None else round(ttl * 1_000_000)
        key = record.ticket.store_key
        try:
            return put_surely(self._store, key, written, mine=same, expect=expect, ttl=micros, writes=writes)
        except ValueError:
            if not writes:
                raise
            return self._write(record, expect, ttl=ttl)  # the history does not take such a run; the key does

    def _revived(self, record: Record, stored: StoredEntry, token: str) -> Record | None:
        """Return what takes the place of a record whose run has nobody left who publishes or runs it, else None."""
        # Nor is it of the process any more that ran it: what that one's end says too late is not about this message.
        again = replace(record, state=RESERVED, token=token, abandoned=False, worker="", boot="", pid=0)
        if self._is_poison(record) and (record.abandoned or record.state == RUNNING):
            return None  # it has failed
        if record.state == RESERVED:
            expired = stored.now - stored.updated >= self._publish_lease
            return again if record.abandoned or expired else None
        if record.state == RUNNING:
            return None if self._is_live(record, stored) else again
        return again if self._is_overdue(record, stored) else None

    def _is_dead_poison(self, record: Record, stored: StoredEntry) -> bool:
        """Return whether the run was begun as often as it may be, and nobody runs it."""
        if not self._is_poison(record):
            return False
        return record.abandoned or (record.state == RUNNING and not self._is_live(record, stored))

    def _is_poison(self, record: Record) -> bool:
        """Return whether the body was begun as often as it may be."""
        return record.deliveries >= (record.ticket.deliveries or self._max_deliveries)

    def _is_overdue(self, record: Record, stored: StoredEntry) -> bool:
        """Return whether the message should have been begun so long ago that it is taken for lost."""
        if record.state not in (PUBLISHED, RETRYING):
            return False
        due = max(stored.updated, record.not_before, record.window.due(stored) if record.window else 0)
        return stored.now > due + self._start_deadline

    def _until(self, record: Record, stored: StoredEntry) -> int:
        """Return to when messages of the run, if it has not ended, or of former ones may come."""
        latest = 0 if record.ended else max(stored.now, record.not_before) + round(self._start_deadline)
        return max(record.until, latest)

    def _is_live(self, record: Record, stored: StoredEntry) -> bool:
        return is_live(self._store, Lease(record.worker, record.boot), pid=record.pid, since=stored.updated)

    def _ticket(self, ask: Request, previous: int) -> Ticket:
        """Return the ticket of the key's next run."""
        generation = max(previous + 1, time.time_ns() // 1000)
        name = json.dumps([self._prefix, ask.scope, ask.key, generation])
        return Ticket(
            scope=ask.scope,
            key=ask.key,
            generation=generation,
            task_id=ask.task_id or str(uuid5(NAMESPACE, name)),
            task=ask.task,
            fingerprint=ask.fingerprint,
            on_failure=ask.on_failure,
            ttl=ask.ttl,
            expires=ask.expires,
            deliveries=ask.deliveries,
            rerun=ask.rerun,
        )


def kept_for(record: Record, now: int) -> float:
    """Return for how many seconds the record of a run that has ended is kept."""
    return max(record.ticket.ttl, (record.until - now) / 1_000_000)


def has_expired(record: Record, stored: StoredEntry) -> bool:
    """Return whether the run's message had expired before a worker began it, or the key after the run's end.

    A broker may drop such a message without a word; such a record is there for other messages alone, see `until`.
    """
    if record.ended:
        return bool(record.until) and stored.now > stored.updated + record.ticket.ttl * 1_000_000
    expires = record.ticket.expires
    return record.state in (PUBLISHED, RETRYING) and expires is not None and stored.now > expires + EXPIRY_MARGIN


def too_busy(key: str) -> VersionConflict:
    """Return the error for a key that too many writers change at once."""
    return VersionConflict(f"the idempotency key {key!r} was changed by others {ROUNDS} times at once", key=key)
