"""One execution in a worker: its history, its key, and what became of both. Kept on the request, never on the task."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.key_record import FAILED, Claim, Ticket
from celery_stackstate.liveness import Lease

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

Settle = Callable[[Claim], "Claim | None"]


class Execution:
    """What the extension knows of the execution that a request is about."""

    __slots__ = ("attempt", "claim", "extension", "recorded", "settled", "skipped", "ticket")

    def __init__(self, extension: StackState, attempt: OpenAttempt, *, ticket: Ticket | None, recorded: bool) -> None:
        self.extension = extension
        self.attempt = attempt
        self.ticket: Ticket = ticket  # type: ignore[assignment]  # None without a key; guarded code has one
        self.recorded = recorded
        self.claim: Claim | None = None
        self.skipped = self.settled = False

    def pass_on(self) -> None:
        """Record that the run goes on with a message that is about to be published."""
        self._settle(self.extension.idempotency.retrying)

    def succeed(self, result: str | None) -> None:
        """Record the return value of the body under the key."""
        self._settle(lambda claim: self.extension.idempotency.succeed(claim, result))

    def dispatched(self) -> None:
        """Record under the key that the callbacks of the success are out."""
        self._settle(self.extension.idempotency.dispatched)

    def fail(self) -> None:
        """Record the final failure under the key, also of a run that ended before it was claimed."""
        if self.claim is None:
            self.close_unclaimed()
        elif not self.skipped and self.claim.record.state != FAILED:
            self._settle(self.extension.idempotency.fail)

    def close_unclaimed(self) -> None:
        """Close the key of a run that ended without ever having been claimed: a hook of the task ended it."""
        if self.ticket is None or self.claim is not None or self.skipped or self.settled:
            return
        lease = Lease(self.attempt.origin.worker, self.attempt.origin.boot)
        self.extension.recorder.later(lambda: self.extension.idempotency.close(self.ticket, lease=lease, pid=0))

    def interrupted(self) -> None:
        """Record that the attempt ended without an outcome, so that the run can be taken up at once."""
        self._settle(self.extension.idempotency.interrupted)

    def _settle(self, settle: Settle) -> None:
        """Change the key's record; when that fails, do it in the background as soon as the store is back."""
        if self.claim is None:
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
