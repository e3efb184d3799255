"""One key, one run: reserve, publish, confirm; claim before the body; finish by compare-and-set.

Every key has one record, changed only by compare-and-set on its version. The task id is derived from the key and a
generation, so that a request that is published again after a crash carries the same id, and its copies meet at the
claim. There is no TTL while a run is alive; retention starts at its end. Leases are counted from the record's last
change by the store's clock, so the clocks of workers and producers do not matter.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID, uuid4, uuid5

from celery_stackstate.errors import IdempotencyConflict, VersionConflict
from celery_stackstate.key_record import (
    FAILED,
    PUBLISHED,
    RESERVED,
    RETRYING,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Claim,
    Record,
    Reservation,
    Ticket,
    Verdict,
)
from celery_stackstate.keys import APP_SCOPE, IDEMPOTENCY, check_key, pack, scope_of
from celery_stackstate.liveness import Lease, is_live
from celery_stackstate.records import KeyRecord
from celery_stackstate.stores.base import Expect, PutResult, Store, StoredEntry
from celery_stackstate.surely import put_surely

NAMESPACE = UUID("6f1d6c5e-1f0e-5d0c-9a67-3c1a5b7c7a10")
ROUNDS = 20
#: Microseconds by which the clocks of producers and the store may differ.
EXPIRY_MARGIN = 60_000_000


class Idempotency:
    """The protocol over a store. See the module's docstring for its promise."""

    def __init__(self, store: Store, *, prefix: str, publish_lease: float, max_deliveries: int) -> None:
        self._store = store
        self._prefix = prefix
        self._publish_lease = publish_lease * 1_000_000
        self._max_deliveries = max_deliveries

    # -- producer --------------------------------------------------------------------------------------------------

    def reserve(
        self,
        *,
        scope: str,
        key: str,
        task: str,
        fingerprint: str,
        on_failure: str,
        ttl: float,
        expires: int | None = None,
    ) -> Reservation:
        """Take the key for a run that is about to be published, or find the run that has it.

        Raises:
            IdempotencyConflict: The key belongs to a run with another fingerprint.
            StoreUnavailable: The store did not answer; nothing was published.
        """
        ask = Ticket(scope, key, 0, "", task, fingerprint, on_failure, ttl, expires)
        token = uuid4().hex
        wanted = Record(RESERVED, self._next_generation(ask, 0), token)
        result, lost = self._write(wanted, Expect.ABSENT), None
        for _ in range(ROUNDS):
            if result.applied and result.entry is not None:
                return Reservation(True, wanted.ticket, result.entry.version, wanted, lost)
            current = result.entry
            if current is None:
                wanted, expect, lost = Record(RESERVED, self._next_generation(ask, 0), token), Expect.ABSENT, None
                result = self._write(wanted, expect)
                continue
            record = Record.load(current)
            successor = self._successor(record, current, ask, token)
            if successor is None:
                return Reservation(False, record.ticket, current.version, record)
            wanted, lost = successor, record if record.state == RUNNING else None
            result = self._write(wanted, current.version)
        raise VersionConflict(f"the idempotency key {key!r} was changed by others {ROUNDS} times at once", key=key)

    def _successor(self, record: Record, stored: StoredEntry, ask: Ticket, token: str) -> Record | None:
        """Return the record to put in place of `record`, or None when the key is taken."""
        if record.state == FAILED and record.ticket.on_failure == "release":
            return Record(RESERVED, self._next_generation(ask, record.ticket.generation), token)
        if _expired(record, stored):
            return Record(RESERVED, self._next_generation(ask, record.ticket.generation), token)
        if record.ticket.fingerprint != ask.fingerprint:
            raise _conflict(record, ask)
        again = replace(record, state=RESERVED, token=token, abandoned=False)
        if record.state == RESERVED:
            expired = stored.now - stored.updated >= self._publish_lease
            return again if record.abandoned or expired else None
        if record.state == RUNNING and not self._is_live(record, stored):
            if record.deliveries >= self._max_deliveries:
                return Record(RESERVED, self._next_generation(ask, record.ticket.generation), token)
            return again
        return None

    def confirm(self, reservation: Reservation) -> None:
        """Note that the message was published. Nothing depends on it but how soon a repeated call publishes again."""
        record = replace(reservation.record, state=PUBLISHED)
        self._store.put(reservation.ticket.store_key, record.dump(), expect=reservation.version)

    def release(self, reservation: Reservation) -> None:
        """Free the key: the message was certainly not published."""
        self._store.remove(reservation.ticket.store_key, expect=reservation.version)

    def abandon(self, reservation: Reservation) -> None:
        """Note that nobody knows whether the message was published: the next call publishes it again, same id."""
        record = replace(reservation.record, abandoned=True)
        self._store.put(reservation.ticket.store_key, record.dump(), expect=reservation.version)

    # -- worker ----------------------------------------------------------------------------------------------------

    def claim(self, ticket: Ticket, attempt: Attempt) -> Claim:
        """Take the run for one attempt before its body begins, or say what to do instead."""
        stored = self._store.get(ticket.store_key)
        for _ in range(ROUNDS):
            record = Record(PUBLISHED, ticket, "") if stored is None else Record.load(stored)
            if stored is not None and record.ticket.generation < ticket.generation:
                if record.state == RUNNING and self._is_live(record, stored):
                    return Claim(Verdict.BUSY, record, stored.version)
                record = Record(PUBLISHED, ticket, "")  # the store forgot the newer reservation
            verdict, lost = self._judge(record, stored, ticket, attempt)
            if verdict is not Verdict.RUN:
                return Claim(verdict, record, 0 if stored is None else stored.version, lost)
            running = replace(
                record,
                state=RUNNING,
                token=attempt.execution,
                worker=attempt.lease.worker,
                boot=attempt.lease.boot,
                pid=attempt.pid,
                epoch=attempt.epoch,
                deliveries=record.deliveries + (record.state != RETRYING),
            )
            result = self._write(running, Expect.ABSENT if stored is None else stored.version)
            if result.applied and result.entry is not None:
                return Claim(Verdict.RUN, running, result.entry.version, lost)
            stored = result.entry
        raise VersionConflict(f"the idempotency key {ticket.key!r} was changed by others {ROUNDS} times at once")

    def _judge(
        self, record: Record, stored: StoredEntry | None, ticket: Ticket, attempt: Attempt
    ) -> tuple[Verdict, Record | None]:
        if record.ticket.generation != ticket.generation:
            return Verdict.STALE, None
        if record.state == SUCCEEDED:
            return (Verdict.DONE if record.dispatched or record.result is None else Verdict.REPLAY), None
        if record.state == FAILED:
            return Verdict.DONE, None
        if record.state == RUNNING and stored is not None and record.token != attempt.execution:
            if self._is_live(record, stored):
                return Verdict.BUSY, None
            if record.deliveries >= self._max_deliveries:
                return Verdict.POISON, record
            return Verdict.RUN, record
        return Verdict.RUN, None

    def succeed(self, claim: Claim, result: str | None) -> Claim | None:
        """Record the return value as JSON (None: it cannot be kept). None is returned when the claim was lost."""
        return self._settle(claim, replace(claim.record, state=SUCCEEDED, result=result), ended=True)

    def dispatched(self, claim: Claim) -> Claim | None:
        """Record that the callbacks of the success were published: no copy of the message needs to do it again."""
        return self._settle(claim, replace(claim.record, dispatched=True), ended=True)

    def fail(self, claim: Claim) -> Claim | None:
        """Record the final failure; by the key's policy the next call may then begin a new run."""
        return self._settle(claim, replace(claim.record, state=FAILED, result=None), ended=True)

    def retrying(self, claim: Claim) -> Claim | None:
        """Record that the run goes on with a message that is about to be published."""
        return self._settle(claim, replace(claim.record, state=RETRYING), ended=False)

    def close(self, ticket: Ticket, *, lease: Lease, pid: int) -> None:
        """Record the final failure of a run that ended outside its body, if it is still the key's run.

        Args:
            ticket: Whose.
            lease: Of the worker that says so.
            pid: The process in which it ended; 0 for a run that had not begun.
        """
        for _ in range(ROUNDS):
            stored = self._store.get(ticket.store_key)
            if stored is None:
                return
            record = Record.load(stored)
            if record.ticket.generation != ticket.generation or record.state in (SUCCEEDED, FAILED):
                return
            claim = Claim(Verdict.RUN, record, stored.version)
            if self._ended_with(record, stored, lease, pid):
                if self.fail(claim) is not None:
                    return
            elif pid and record.state in (RESERVED, PUBLISHED, RETRYING) and not record.abandoned:
                # The process died before it claimed the run. If another message is out, the two meet at the claim.
                if self._settle(claim, replace(record, state=RESERVED, abandoned=True), ended=False) is not None:
                    return
            else:
                return

    def disclaim(self, ticket: Ticket, attempt: Attempt) -> None:
        """Give a run back whose claim may have been written although its answer never came."""
        stored = self._store.get(ticket.store_key)
        record = None if stored is None else Record.load(stored)
        if stored is not None and record is not None and record.state == RUNNING and record.token == attempt.execution:
            self.interrupted(Claim(Verdict.RUN, record, stored.version))

    def _ended_with(self, record: Record, stored: StoredEntry, lease: Lease, pid: int) -> bool:
        """Return whether nobody goes on with the run: not another live attempt, nor a message published since."""
        if not pid:
            return record.state != RUNNING or not self._is_live(record, stored)
        began_here = (record.worker, record.boot, record.pid) == (lease.worker, lease.boot, pid)
        return began_here and (record.state in (RUNNING, RETRYING) or record.abandoned)

    def interrupted(self, claim: Claim) -> None:
        """Record that the attempt ended without an outcome: whoever comes next may take the run up at once."""
        self._settle(claim, replace(claim.record, state=RESERVED, abandoned=True), ended=False)

    # -- people and tools ------------------------------------------------------------------------------------------

    def get(self, key: str, *, task: str | None = None) -> KeyRecord | None:
        """Return what is known of a key, or None when it is free.

        Args:
            key: The idempotency key.
            task: The name of the task it was used for; None for a key of scope "app".
        """
        record = self.record(APP_SCOPE if task is None else scope_of("task", task), key)
        if record is None:
            return None
        ticket = record.ticket
        return KeyRecord(ticket.key, ticket.task, ticket.task_id, record.state, record.deliveries, ticket.fingerprint)

    def reset(self, key: str, *, task: str | None = None) -> bool:
        """Free a key whatever its run does, for the next call; return False when it was free.

        A message of its run that is still with the broker then does nothing, and an attempt that is in the body goes on
        but is not recorded under the key. For a run whose message is known to be gone, as after a purge of its queue.
        """
        scope = APP_SCOPE if task is None else scope_of("task", task)
        stored = self._store.get(pack(IDEMPOTENCY, scope, check_key(key)))
        for _ in range(ROUNDS):
            if stored is None:
                return False
            record = Record.load(stored)
            if record.state == FAILED and record.ticket.on_failure == "release":
                return False
            freed = replace(record, state=FAILED, ticket=replace(record.ticket, on_failure="release"), result=None)
            result = self._write(freed, stored.version, ttl=record.ticket.ttl)
            if result.applied:
                return True
            stored = result.entry
        raise VersionConflict(f"the idempotency key {key!r} was changed by others {ROUNDS} times at once", key=key)

    def record(self, scope: str, key: str) -> Record | None:
        """Return the record of a key as it is stored, or None."""
        stored = self._store.get(pack(IDEMPOTENCY, scope, check_key(key)))
        return None if stored is None else Record.load(stored)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _settle(self, claim: Claim, record: Record, *, ended: bool) -> Claim | None:
        ttl = record.ticket.ttl if ended else None
        result = self._write(record, claim.version, ttl=ttl)
        if not result.applied or result.entry is None:
            return None
        return replace(claim, record=record, version=result.entry.version)

    def _write(self, record: Record, expect: Expect | int, *, ttl: float | None = None) -> PutResult:
        written = record.dump()
        same: Callable[[StoredEntry], bool] = lambda stored: stored.value == written  # noqa: E731
        micros = None if ttl is None else round(ttl * 1_000_000)
        return put_surely(self._store, record.ticket.store_key, written, mine=same, expect=expect, ttl=micros)

    def _is_live(self, record: Record, stored: StoredEntry) -> bool:
        return is_live(self._store, Lease(record.worker, record.boot), pid=record.pid, since=stored.updated)

    def _next_generation(self, ask: Ticket, previous: int) -> Ticket:
        generation = max(previous + 1, time.time_ns() // 1000)
        name = json.dumps([self._prefix, ask.scope, ask.key, generation])
        return replace(ask, generation=generation, task_id=str(uuid5(NAMESPACE, name)))


def _expired(record: Record, stored: StoredEntry) -> bool:
    """Return whether the run's message had expired before a worker began it; a broker may drop it without a word."""
    expires = record.ticket.expires
    return record.state in (PUBLISHED, RETRYING) and expires is not None and stored.now > expires + EXPIRY_MARGIN


def _conflict(record: Record, ask: Ticket) -> IdempotencyConflict:
    stored = record.ticket
    return IdempotencyConflict(
        f"the idempotency key {ask.key!r} belongs to the run {stored.task_id} of {stored.task} with other arguments "
        f"(its fingerprint is {stored.fingerprint[:12]}, this request's {ask.fingerprint[:12]}); "
        f"use another key, or send the same arguments",
        key=ask.key,
        task_id=stored.task_id,
        stored_fingerprint=stored.fingerprint,
        given_fingerprint=ask.fingerprint,
    )
