"""What a duplicate does that has a message of its own: it adopts the outcome of the run that has the key."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from celery.exceptions import Ignore, Reject
from celery.states import READY_STATES
from kombu.utils import json as kombu_json

from celery_stackstate.errors import ConfigurationError, IdempotencyConflict, LeaderFailed, StoreUnavailable
from celery_stackstate.fingerprint import is_same_request
from celery_stackstate.key_record import FAILED, SUCCEEDED, Record, Ticket
from celery_stackstate.outcome import restore
from celery_stackstate.publishing import keyed
from celery_stackstate.worker.execution import Execution
from celery_stackstate.worker.requeue import postponement, publish_again, waited

logger = logging.getLogger(__name__)

_NOT_SENT = "%s[%s] cannot be sent again for later (%s): the broker does not take its message. %s: %r"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended that is followed: what it returned, or what it failed of."""

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value


def outcome_of(task: Any, execution: Execution, wanted: Ticket) -> Outcome | None:
    """Return the outcome of the run that has the key of `wanted`; None when this run may have the key itself.

    Raises:
        Ignore, Reject: That run has not ended; this one was sent again, or goes back, to look later.
    """
    keys, record = execution.extension.key_protocol, None
    try:
        record = keys.awaited(wanted.store_key)
        if record is None or (record.ticket.task_id == task.request.id and not record.ended):
            return None
        if not is_same_request(record.ticket.fingerprint, wanted.fingerprint):
            return Outcome(error=_conflict(record, wanted))
        if record.ended:
            return _adopted(task, execution, record)
        _recover(execution, wanted)
    except (StoreUnavailable, ConfigurationError) as error:
        raise come_back(task, execution, 10.0, f"the key could not be read: {error}") from error
    leader, seconds = record.ticket.task_id, waited(task.request)
    if seconds < execution.extension.settings.lock_wait_max:
        raise come_back(task, execution, 10.0, f"it follows the run {leader}, which has not ended")
    return Outcome(
        error=LeaderFailed(
            f"the run {leader}, which has the idempotency key {wanted.key!r}, did not end within the {seconds:,.0f} s "
            f"for which {task.request.id} waited (stackstate_lock_wait_max)",
            key=wanted.key,
            task_id=leader,
        )
    )


def _recover(execution: Execution, wanted: Ticket) -> None:
    """Publish the run that has the key again if it is lost; where the broker is away, the next look at it does."""
    try:
        keyed.recover(execution.extension, wanted.store_key)
    except (StoreUnavailable, ConfigurationError):
        raise
    except Exception as error:
        logger.warning("The run of the idempotency key %r could not be published again: %r", wanted.key, error)


def is_awaited(task: Any) -> bool:
    """Return whether somebody waits for the outcome of a run whose body is not to be run, and has not got it yet."""
    request = task.request
    if not any((request.chord, request.chain, request.callbacks, request.errbacks, request.group)):
        return False
    try:
        return task.backend.get_state(request.id) not in READY_STATES
    except Exception:  # no backend, or one that is away: its message is not worth a second callback
        return False


def come_back(
    task: Any, execution: Execution, retry_after: float, reason: str, *, exactly: bool = False, is_copy: bool = False
) -> Ignore | Reject:
    """Send the run again, and return what ends this delivery of it.

    Where the broker does not take the message, the one that was delivered goes back to it. One that was acknowledged
    early cannot: a copy is then dropped, since the run goes on elsewhere; any other run fails, so that it is not lost
    without a word.

    Args:
        task: The task.
        execution: The delivery.
        retry_after: After how many seconds at the latest.
        reason: Why, for its history.
        exactly: Not earlier either.
        is_copy: Whether another attempt is running the run.
    """
    ended: Ignore | Reject = Ignore(reason)
    try:
        publish_again(task, task.request, retry_after if exactly else postponement(task.request, retry_after))
    except Exception as error:
        if not is_copy and not task.acks_late:
            logger.error(_NOT_SENT, task.name, task.request.id, reason, "It was acknowledged, so it fails", error)
            raise
        done = "Its message goes back" if task.acks_late else "It is a copy, and was acknowledged: it is dropped"
        logger.error(_NOT_SENT, task.name, task.request.id, reason, done, error)
        ended = Reject(reason, requeue=True) if task.acks_late else ended
    execution.skip("postponed", reason=reason)
    return ended


def _adopted(task: Any, execution: Execution, record: Record) -> Outcome:
    ticket = record.ticket
    if record.state == SUCCEEDED and record.result is not None:
        execution.attempt.note("followed", {"leader": ticket.task_id})
        return Outcome(kombu_json.loads(record.result))
    error = restore(task.backend, record.error) if record.state == FAILED else None
    how = "has failed" if record.state == FAILED else "has succeeded, but its result could not be kept for others"
    text = f"the run {ticket.task_id}, which has the idempotency key {ticket.key!r}, {how}"
    return Outcome(error=error or LeaderFailed(text, key=ticket.key, task_id=ticket.task_id))


def _conflict(record: Record, wanted: Ticket) -> IdempotencyConflict:
    """Return what a run fails of whose key has gone to one with other arguments."""
    ticket = record.ticket
    return IdempotencyConflict(
        f"the idempotency key {wanted.key!r} belongs to the run {ticket.task_id} of {ticket.task} with other arguments",
        key=wanted.key,
        task_id=ticket.task_id,
        stored_fingerprint=ticket.fingerprint,
        given_fingerprint=wanted.fingerprint,
    )
