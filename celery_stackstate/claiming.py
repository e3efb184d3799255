"""The worker's side of a key: claim before the body, finish by compare-and-set, close what ended elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

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
    Ticket,
    Verdict,
)
from celery_stackstate.key_store import ROUNDS, KeyStore, has_expired, too_busy
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import Expect, RunWrite, StoredEntry


class Claiming(KeyStore):
    """Lets one attempt at a time into the body of a run, and records how the run ended."""

    def claim(
        self,
        ticket: Ticket,
        attempt: Attempt,
        writes: Sequence[RunWrite] = (),
        *,
        envelope: Callable[[], str | None] = lambda: None,
    ) -> Claim:
        """Take the run for one attempt before its body begins, or say what to do instead.

        Args:
            ticket: Whose run. What it says of `rerun` and `deliveries` goes into a record that does not say it.
            attempt: For whom.
            writes: What the history is to know of the attempt from its claim on; `Claim.told` says whether it does.
            envelope: Makes what publishes the run again, for one to be rerun of which nothing is kept.
        """
        stored = self._store.get(ticket.store_key)
        for _ in range(ROUNDS):
            record, verdict, lost = Record(PUBLISHED, ticket, ""), Verdict.RUN, None
            before = None if stored is None else Record.load(stored)
            if stored is not None and before is not None:
                verdict, record = self._found(before, stored, ticket)
            if verdict is Verdict.RUN:
                record = _completed(record, ticket)
                verdict, lost = self._judge(record, stored, attempt)
            if verdict is not Verdict.RUN:
                return Claim(verdict, record, 0 if stored is None else stored.version, lost)
            if ticket.rerun and not _is_watched(record, before):
                self.watch(ticket)
                record = replace(record, envelope=record.envelope or envelope())
            running = _running(record, attempt)
            result = self._write(running, Expect.ABSENT if stored is None else stored.version, writes=writes)
            if result.applied and result.entry is not None:
                return Claim(Verdict.RUN, running, result.entry.version, lost, told=result.appended)
            stored = result.entry
        raise too_busy(ticket.key)

    def _found(self, record: Record, stored: StoredEntry, ticket: Ticket) -> tuple[Verdict, Record]:
        """Return what a stored record means for a run: RUN with the record under which it may run, or what else."""
        mine, same = record.ticket.task_id == ticket.task_id, record.ticket.generation == ticket.generation
        if mine and (same or ticket.unreserved):
            return Verdict.RUN, record
        fresh = Record(PUBLISHED, ticket, "")
        if ticket.unreserved and record.state == FAILED and record.ticket.on_failure == "release":
            return Verdict.RUN, fresh
        if ticket.unreserved or same:
            if not self._is_orphan(record, stored):
                return Verdict.FOLLOW, record
            return Verdict.RUN, replace(record, ticket=replace(ticket, generation=record.ticket.generation))
        if record.ticket.generation > ticket.generation:
            return Verdict.STALE, record
        if record.state == RUNNING and self._is_live(record, stored):
            return Verdict.BUSY, record
        return Verdict.RUN, fresh  # the store forgot the newer reservation

    def _judge(self, record: Record, stored: StoredEntry | None, attempt: Attempt) -> tuple[Verdict, Record | None]:
        """Return what the state of a run's own record means for one more delivery of it."""
        if record.state == SUCCEEDED:
            return self._judge_success(record, stored, attempt), None
        if record.state == FAILED:
            return Verdict.DONE, None
        if record.state == RUNNING and stored is not None and record.token != attempt.execution:
            if self._is_live(record, stored):
                return Verdict.BUSY, None
            return (Verdict.POISON if self._is_poison(record) else Verdict.RUN), record
        return (Verdict.POISON if record.abandoned and self._is_poison(record) else Verdict.RUN), None

    def _judge_success(self, record: Record, stored: StoredEntry | None, attempt: Attempt) -> Verdict:
        """Return whether a delivery of a run that has succeeded is needed for the callbacks, or may be, later."""
        if record.dispatched or record.result is None:
            return Verdict.DONE
        sending = attempt.callbacks and stored is not None and self._is_live(record, stored)
        return Verdict.BUSY if sending else Verdict.REPLAY

    def awaited(self, store_key: bytes) -> Record | None:
        """Return the record of the run that has the key; None when there is none, or none that can still end."""
        stored = self._store.get(store_key)
        record = None if stored is None else Record.load(stored)
        return None if stored is None or record is None or self._is_orphan(record, stored) else record

    def _is_orphan(self, record: Record, stored: StoredEntry) -> bool:
        """Return whether the run has nobody left who runs it, nor a message, and nobody knows how to publish it."""
        if record.ended:
            return False
        return has_expired(record, stored) or (
            record.envelope is None and self._revived(record, stored, "") is not None
        )

    def keep(self, claim: Claim, envelope: str | None) -> Claim | None:
        """Keep with a claimed run what it was asked for in the end; None is returned when the claim was lost."""
        return self._settle(claim, replace(claim.record, envelope=envelope), ended=False)

    def succeed(self, claim: Claim, result: str | None, writes: Sequence[RunWrite] = ()) -> Claim | None:
        """Record the return value as JSON (None: it cannot be kept). None is returned when the claim was lost.

        Args:
            claim: Whose run.
            result: The return value.
            writes: What the history is to know of the end; `Claim.told` says whether it does.
        """
        record = replace(claim.record, state=SUCCEEDED, result=result, envelope=None)
        return self._settle(claim, record, ended=True, writes=writes)

    def dispatched(self, claim: Claim) -> Claim | None:
        """Record that the callbacks of the success were published: no copy of the message needs to do it again."""
        return self._settle(claim, replace(claim.record, dispatched=True), ended=True)

    def fail(self, claim: Claim, error: str | None = None) -> Claim | None:
        """Record the final failure; by the key's policy the next call may then begin a new run."""
        failed = replace(claim.record, state=FAILED, result=None, error=error, envelope=None)
        return self._settle(claim, failed, ended=True)

    def retrying(self, claim: Claim, *, envelope: str | None = None, not_before: int = 0) -> Claim | None:
        """Record that the run goes on with a message that is about to be published."""
        record = replace(claim.record, state=RETRYING, envelope=envelope, not_before=not_before)
        return self._settle(claim, record, ended=False)

    def interrupted(self, claim: Claim) -> Claim | None:
        """Record that the attempt ended without an outcome: whoever comes next may take the run up at once."""
        return self._settle(claim, replace(claim.record, state=RESERVED, abandoned=True), ended=False)

    def requeued(self, claim: Claim) -> Claim | None:
        """Record that the attempt gave its message back to the broker, by its own will: it does not count."""
        again = replace(claim.record, state=PUBLISHED, deliveries=claim.record.deliveries - 1)
        return self._settle(claim, again, ended=False)

    # -- what ended elsewhere --------------------------------------------------------------------------------------

    def close(
        self, ticket: Ticket, *, lease: Lease, pid: int, error: str | None = None, comes_back: bool = False
    ) -> None:
        """Record the final failure of a run that ended outside its body, if it is still the key's run.

        Args:
            ticket: Whose.
            lease: Of the worker that says so.
            pid: The process in which it ended; 0 for a run that had not begun.
            error: What went wrong, as text for `Record.error`.
            comes_back: It has not failed for good: the reaper brings it back.
        """
        for _ in range(ROUNDS):
            stored = self._store.get(ticket.store_key)
            if stored is None:
                return
            record = Record.load(stored)
            if _is_other(record, ticket) or record.ticket.task_id != ticket.task_id:
                return
            claim = Claim(Verdict.RUN, record, stored.version)
            if self._ended_with(record, stored, lease, pid):
                if (self.interrupted(claim) if comes_back else self.fail(claim, error)) is not None:
                    return
            elif pid and record.state in (RESERVED, PUBLISHED, RETRYING) and not record.abandoned:
                # The process died before it claimed the run. If another message is out, the two meet at the claim.
                if self._settle(claim, replace(record, state=RESERVED, abandoned=True), ended=False) is not None:
                    return
            else:
                return

    def _ended_with(self, record: Record, stored: StoredEntry, lease: Lease, pid: int) -> bool:
        """Return whether nobody goes on with the run: not another live attempt, nor a message published since."""
        if not pid:
            return record.state != RUNNING or not self._is_live(record, stored)
        began_here = (record.worker, record.boot, record.pid) == (lease.worker, lease.boot, pid)
        return began_here and (record.state in (RUNNING, RETRYING) or record.abandoned)

    def disclaim(self, ticket: Ticket, attempt: Attempt) -> None:
        """Give a run back whose claim may have been written although its answer never came."""
        stored = self._store.get(ticket.store_key)
        record = None if stored is None else Record.load(stored)
        if stored is not None and record is not None and record.state == RUNNING and record.token == attempt.execution:
            self.interrupted(Claim(Verdict.RUN, record, stored.version))

    def poisoned(self, store_key: bytes, error: str) -> Record | None:
        """Record the failure of a run that was begun too often and is dead; return its record, or None if it is not."""
        stored = self._store.get(store_key)
        record = None if stored is None else Record.load(stored)
        if stored is None or record is None or record.ended or not self._is_dead_poison(record, stored):
            return None
        return record if self.fail(Claim(Verdict.POISON, record, stored.version), error) is not None else None

    # -- debounced runs --------------------------------------------------------------------------------------------

    def seconds_to_wait(self, window: Ticket) -> float | None:
        """Return for how long a debounced run has to wait; None when its window is closed, or another run's by now."""
        stored = self._store.get(window.store_key)
        record = None if stored is None else Record.load(stored)
        if stored is None or record is None or record.window is None or _is_other(record, window):
            return None
        return max(0.0, (record.window.due(stored) - stored.now) / 1_000_000)

    def close_window(self, window: Ticket, claim: Claim) -> Claim | None:
        """End the window of a debounced run that was claimed: from now on a request begins another run.

        The last payload is kept with the claim before the window goes, so that a takeover finds it.
        Return the claim with the payload as its record's envelope, or None when it was lost.
        """
        held: Claim | None = claim
        for _ in range(ROUNDS):
            stored = self._store.get(window.store_key)
            record = None if stored is None else Record.load(stored)
            if stored is None or record is None or held is None or _is_other(record, window):
                return held
            held = self.keep(held, record.envelope)
            if self._store.remove(window.store_key, expect=stored.version) is not None:
                return held
        raise too_busy(window.key)


def _is_other(record: Record, ticket: Ticket) -> bool:
    return record.ticket.generation != ticket.generation or record.ended


def _is_watched(record: Record, before: Record | None) -> bool:
    """Return whether who made the record that is stored has let the reaper look after the run."""
    return before is not None and before.ticket.rerun and before.ticket.generation == record.ticket.generation


def _completed(record: Record, ticket: Ticket) -> Record:
    """Return the record with what a worker knows of the run and its publisher did not."""
    rerun, most = record.ticket.rerun or ticket.rerun, record.ticket.deliveries or ticket.deliveries
    return replace(record, ticket=replace(record.ticket, rerun=rerun, deliveries=most))


def _running(record: Record, attempt: Attempt) -> Record:
    return replace(
        record,
        state=RUNNING,
        token=attempt.execution,
        worker=attempt.lease.worker,
        boot=attempt.lease.boot,
        pid=attempt.pid,
        epoch=attempt.epoch,
        abandoned=False,
        deliveries=record.deliveries + (record.state != RETRYING),
    )
