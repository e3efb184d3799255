"""The producer's side of a key: reserve, publish, confirm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from uuid import uuid4

from celery_stackstate.errors import DuplicateRun, IdempotencyConflict
from celery_stackstate.fingerprint import is_same_request
from celery_stackstate.key_record import (
    FAILED,
    PUBLISHED,
    RESERVED,
    RUNNING,
    Record,
    Request,
    Reservation,
    Ticket,
    Window,
)
from celery_stackstate.key_store import ROUNDS, KeyStore, has_expired, too_busy
from celery_stackstate.stores.base import Expect, Put, PutResult, StoredEntry


class Reserving(KeyStore):
    """Takes keys for runs that are about to be published."""

    def reserve(self, ask: Request) -> Reservation:
        """Take the key for a run that is about to be published, or find the run that has it.

        Raises:
            IdempotencyConflict: The key belongs to a run with another fingerprint.
            DuplicateRun: The request is to replace a run that has begun.
            StoreUnavailable: The store did not answer; nothing was published.
        """
        token = uuid4().hex
        stored: StoredEntry | None = None
        wanted: Record | None = self._fresh(ask, 0, token)
        for _ in range(ROUNDS):
            before = None if stored is None else Record.load(stored)
            if stored is not None and before is not None:
                wanted = self._successor(before, stored, ask, token)
                if wanted is None:
                    poisoned = self._is_dead_poison(before, stored)
                    return Reservation(False, before.ticket, stored.version, before, poisoned=poisoned)
            assert wanted is not None  # noqa: S101 - for the type checker
            result = self._write(wanted, Expect.ABSENT if stored is None else stored.version)
            if result.applied and result.entry is not None:
                return _reservation(wanted, before, result.entry, token)
            stored = result.entry
            if stored is None:
                wanted = self._fresh(ask, 0, token)
        raise too_busy(ask.key)

    def _fresh(self, ask: Request, previous: int, token: str, until: int = 0) -> Record:
        """Return the record that begins the key's next run."""
        ticket, due = self._ticket(ask, previous), ask.not_before
        return Record(RESERVED, ticket, token, envelope=ask.envelope, not_before=due, window=ask.window, until=until)

    def _successor(self, record: Record, stored: StoredEntry, ask: Request, token: str) -> Record | None:
        """Return the record to put in place of `record`, or None when the key is taken."""
        fresh = partial(self._fresh, ask, record.ticket.generation, token, self._until(record, stored))
        released = record.ticket.on_failure == "release"
        if released and (record.state == FAILED or self._is_dead_poison(record, stored)):
            return fresh()
        if has_expired(record, stored) or (record.ended and ask.anew):
            return fresh()
        if record.window is not None and ask.window is not None:
            # One that has failed before its begin, and is kept, takes no payload any more.
            return None if record.ended else self._touched(record, stored, ask, token)
        if ask.replaces and record.state in (RESERVED, PUBLISHED) and not record.deliveries:
            return fresh()
        same = is_same_request(record.ticket.fingerprint, ask.fingerprint)
        if not same and not ask.replaces:
            raise _conflict(record, ask)
        revived = self._revived(record, stored, token)
        if ask.replaces and revived is None:
            raise _has_begun(record, ask)
        if not same:
            return fresh()  # in place of a run that nobody is left to run
        return revived and _asked_again(revived, ask)

    def _touched(self, record: Record, stored: StoredEntry, ask: Request, token: str) -> Record:
        """Return a debounced record with the payload of a later request, which also moves its begin.

        It keeps the token of who publishes it, unless nobody is left who does.
        """
        assert record.window is not None and ask.window is not None  # noqa: S101, PT018 - the caller looked
        opened = record.window.at(stored.updated).opened
        ticket = replace(record.ticket, fingerprint=ask.fingerprint)
        base = self._revived(record, stored, token) or record
        return replace(base, ticket=ticket, envelope=ask.envelope, window=replace(ask.window, opened=opened))

    def revive(self, store_key: bytes) -> Reservation | None:
        """Reserve the run of a key once more when nobody is left who publishes or runs it; None when somebody is."""
        stored = self._store.get(store_key)
        record = None if stored is None else Record.load(stored)
        if stored is None or record is None or has_expired(record, stored):
            return None
        token = uuid4().hex
        revived = self._revived(record, stored, token)
        result = None if revived is None else self._write(revived, stored.version)
        if revived is None or result is None or not result.applied or result.entry is None:
            return None
        return _reservation(revived, record, result.entry, token)

    def confirm(self, *reservations: Reservation) -> None:
        """Note that messages were published. Nothing depends on it but how soon a repeated call publishes again."""
        self._store.put_all(
            [
                Put(found.ticket.store_key, replace(found.record, state=PUBLISHED).dump(), expect=found.version)
                for found in reservations
                if found.record.window is None
            ]
        )
        for found in reservations:
            if found.record.window is not None:
                self._confirm_window(found, found.record.window)

    def _confirm_window(self, reservation: Reservation, window: Window) -> None:
        """Confirm a debounced request, whose window begins with its write."""
        record = replace(reservation.record, state=PUBLISHED, window=window.at(reservation.written))
        result = self._store.put(reservation.ticket.store_key, record.dump(), expect=reservation.version)
        if not result.applied:
            self._confirm_touched(reservation, result)

    def _confirm_touched(self, reservation: Reservation, result: PutResult) -> None:
        """Confirm a debounced request to which a later one has given its payload meanwhile."""
        for _ in range(ROUNDS):
            record = None if result.entry is None else Record.load(result.entry)
            if record is None or result.entry is None or record.state != RESERVED or record.window is None:
                return
            if record.ticket.generation != reservation.ticket.generation:
                return
            stored = result.entry
            record = replace(record, state=PUBLISHED, window=record.window.at(stored.updated))
            result = self._store.put(record.ticket.store_key, record.dump(), expect=stored.version)
            if result.applied:
                return

    def release(self, reservation: Reservation) -> None:
        """Free the key: the message was certainly not published."""
        self._store.remove(reservation.ticket.store_key, expect=reservation.version)

    def abandon(self, reservation: Reservation) -> None:
        """Note that nobody knows whether the message was published: the next call publishes it again, same id."""
        record = replace(reservation.record, abandoned=True)
        self._store.put(reservation.ticket.store_key, record.dump(), expect=reservation.version)

    def unreserved(self, ask: Request) -> Ticket:
        """Return the ticket of a run that is published although its key could not be reserved."""
        return replace(self._ticket(ask, 0), unreserved=True)


def _reservation(written: Record, before: Record | None, entry: StoredEntry, token: str) -> Reservation:
    revived = before is not None and before.ticket.generation == written.ticket.generation
    waiting = before is not None and before.state in (RESERVED, PUBLISHED)
    return Reservation(
        created=written.token == token,
        ticket=written.ticket,
        version=entry.version,
        record=written,
        revived=revived,
        lost=before if revived and before is not None and before.state == RUNNING else None,
        replaced=before if before is not None and waiting and not revived else None,
        written=entry.updated,
    )


def _conflict(record: Record, ask: Request) -> IdempotencyConflict:
    stored, what_to_do = record.ticket, "use another key, or send the same arguments"
    if record.abandoned and not record.deliveries:
        what_to_do = (
            "that run may never have been published, since the broker's answer is not known: send its arguments again "
            "to publish it, or free the key with stackstate.idempotency.reset"
        )
    return IdempotencyConflict(
        f"the idempotency key {ask.key!r} belongs to the run {stored.task_id} of {stored.task} with other arguments "
        f"(its fingerprint is {stored.fingerprint[:12]}, this request's {ask.fingerprint[:12]}); {what_to_do}",
        key=ask.key,
        task_id=stored.task_id,
        stored_fingerprint=stored.fingerprint,
        given_fingerprint=ask.fingerprint,
    )


def _has_begun(record: Record, ask: Request) -> DuplicateRun:
    return DuplicateRun(
        f"the idempotency key {ask.key!r} belongs to the run {record.ticket.task_id} of {record.ticket.task}, "
        f"which has begun ({record.state}): it cannot be replaced any more",
        key=ask.key,
        task_id=record.ticket.task_id,
    )


def _asked_again(record: Record, ask: Request) -> Record:
    """Return the record of a run that is to be published again, by a call that may let it expire at another time."""
    if ask.expires == record.ticket.expires or ask.envelope is None:
        return replace(record, envelope=record.envelope or ask.envelope)
    return replace(record, envelope=ask.envelope, ticket=replace(record.ticket, expires=ask.expires))
