"""One execution in a worker: its history, its key, and what became of both. Kept on the request, never on the task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.header import is_newer, read_ticket
from celery_stackstate.holding import HeldLocks
from celery_stackstate.key_record import FAILED, SUCCEEDED, Claim, Ticket
from celery_stackstate.liveness import Lease
from celery_stackstate.outcome import describe
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.stores.base import RunWrite

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

Settle = Callable[[Claim], "Claim | None"]


class Execution:
    """What the extension knows of the execution that a request is about.

    `ticket` is its key's, `follows` that of the run whose outcome it adopts, `window` that of the debounced requests it
    answers; `refused` says why it must fail. `is_newer`: its message is of a release ahead of this one. `body` is what
    the guard is around, from the moment on at which the execution is in the guard; `left`: it has left it, and what is
    published from then on follows it.
    """

    __slots__ = (
        *("attempt", "body", "claim", "extension", "follows", "is_newer", "left", "locks", "refused", "settled"),
        *("skipped", "ticket", "window", "_passed_on", "_succeeded"),
    )

    def __init__(self, extension: StackState, attempt: OpenAttempt, header: Any, *, ticket: Ticket | None) -> None:
        self.extension = extension
        self.attempt = attempt
        self.is_newer = is_newer(header)
        self.ticket: Ticket = ticket  # type: ignore[assignment]  # None without a key; guarded code has one
        self.follows, self.window = read_ticket(header, "follow"), read_ticket(header, "window")
        self.refused: Mapping[str, str] | None = header.get("refused") if isinstance(header, Mapping) else None
        self.claim: Claim | None = None
        self.locks = HeldLocks()
        self.body: Callable[..., Any] | None = None
        self.left = self.skipped = self.settled = False
        self._passed_on: Settle | None = None
        self._succeeded: tuple[str | None] | None = None

    @property
    def state(self) -> str | None:
        """The state of the key's record as this execution left it; None when it has no claim."""
        return None if self.claim is None else self.claim.record.state

    def begin(self) -> None:
        """Let the start of the attempt be written while it goes on."""
        if self.attempt.recorded:
            self.extension.recorder.begin(self.attempt)

    def opening(self) -> list[RunWrite]:
        """Return the start of the attempt for the key's claim to carry; nothing where the history lies elsewhere."""
        return self.attempt.opening() if self.attempt.recorded and self._shares_store else []

    @property
    def _shares_store(self) -> bool:
        return self.extension.runs_store is self.extension.store

    def pass_on(self, envelope: Envelope | None = None) -> None:
        """Record that the run goes on with a message that is about to be published; None for one that comes later.

        Inside of a transaction it is recorded when the body is left: a rollback would undo it.
        """
        keeps = envelope is not None and self.claim is not None and self.claim.record.envelope is not None
        kept = envelope.dump() if envelope is not None and keeps else None
        eta = 0 if envelope is None else envelope.moments().get("eta", 0)
        settle: Settle = lambda claim: self.extension.key_protocol.retrying(claim, envelope=kept, not_before=eta)  # noqa: E731
        if self.extension.store.in_transaction():
            self._passed_on = settle
        else:
            self._settle(settle)

    def settle_passed_on(self) -> None:
        """Record what `pass_on` has left for the end of the body."""
        settle, self._passed_on = self._passed_on, None
        if settle is not None:
            self._settle(settle)

    def succeed(self, result: str | None, *, heard: bool = True) -> None:
        """Record the return value of the body under the key: at once, if anybody hears of it before the attempt ends.

        Else it waits for the end, whose record goes along.
        """
        if heard or not (self.attempt.recorded and self._shares_store) or self.extension.store.in_transaction():
            self._settle(lambda claim: self.extension.key_protocol.succeed(claim, result))
        else:
            self._succeeded = (result,)

    def end_with(self, writes: Sequence[RunWrite] = ()) -> bool:
        """Record a success that has waited, and the end of the attempt with it; return whether the latter was done."""
        succeeded, self._succeeded = self._succeeded, None
        if succeeded is None:
            return False
        self._settle(lambda claim: self.extension.key_protocol.succeed(claim, succeeded[0], writes))
        return self.claim is not None and self.claim.told and self.state == SUCCEEDED

    def dispatched(self) -> None:
        """Record under the key that the callbacks of the success are out."""
        if self.state == SUCCEEDED:
            self._settle(self.extension.key_protocol.dispatched)

    def fail(self, error: BaseException | None = None) -> None:
        """Record the final failure under the key, also of a run that ended before it was claimed."""
        if self.claim is None:
            self.close_unclaimed(error)
        elif not self.skipped and self.claim.record.state != FAILED and not self.claim.record.abandoned:
            described = None if error is None else describe(error)
            self._settle(lambda claim: self.extension.key_protocol.fail(claim, described))

    def close_unclaimed(self, error: BaseException | None = None) -> None:
        """Close the key of a run that ended without ever having been claimed: a hook of the task ended it."""
        if self.ticket is None or self.claim is not None or self.skipped or self.settled or not self.extension.enabled:
            return
        keys, lease = self.extension.key_protocol, Lease(self.attempt.delivery.worker, self.attempt.delivery.boot)
        described = None if error is None else describe(error)
        for ticket in filter(None, (self.ticket, self.window)):
            self.extension.recorder.later(partial(keys.close, ticket, lease=lease, pid=0, error=described))

    def interrupted(self) -> None:
        """Record that the attempt ended without an outcome, so that the run can be taken up at once."""
        self._settle(self.extension.key_protocol.interrupted)

    def requeued(self) -> None:
        """Record that the message went back to its queue."""
        self._settle(self.extension.key_protocol.requeued)

    def _settle(self, settle: Settle) -> None:
        """Change the key's record; when that fails, do it in the background as soon as the store is back."""
        self._succeeded = None
        if self.claim is None:
            return
        if self.extension.store.in_transaction():  # left open by the body: its rollback would undo this
            self.extension.recorder.later(lambda: self._apply(settle))
            return
        try:
            self._apply(settle)
        except Exception as error:  # a time limit may strike in here; the task's outcome stands
            logger.warning("The key %r is updated in the background: %r", self.ticket.key, error)
            self.extension.recorder.later(lambda: self._apply(settle))

    def _apply(self, settle: Settle) -> None:
        claim = self.claim
        if claim is None:
            return
        self.claim, self.settled = settle(claim), True
        if self.claim is None:
            logger.warning(
                "The run %s of the key %r was taken over by another attempt while this one was running",
                self.ticket.task_id,
                self.ticket.key,
            )

    def skip(self, event: str, reason: str) -> None:
        """Note that no body was run for this delivery, and why."""
        self.skipped = True
        self.attempt.skip(event, {"reason": reason})
