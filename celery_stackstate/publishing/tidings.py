"""What the publisher's side tells the run history: attempts that were lost, runs that were replaced, duplicates."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from uuid import uuid4

from celery_stackstate import facts, signals
from celery_stackstate.facts import next_epoch
from celery_stackstate.key_record import Record, Reservation, Ticket
from celery_stackstate.keys import ONE_RUN
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.records import FAILURE, LOST, REVOKED
from celery_stackstate.stores.base import RunFacts, RunWrite

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

#: Options of a message whose run somebody else waits for.
FOLLOWED = ("group_id", "chord", "chain", "link", "link_error")

#: The type of the error that a run ends with which was replaced before it began.
REPLACED = "Replaced"


def facts_of(ticket: Ticket) -> RunFacts:
    """Return what a ticket tells of its run."""
    return RunFacts(task=ticket.task, key=None if ticket.scope == ONE_RUN else ticket.key)


def lost(extension: StackState, record: Record | None) -> int:
    """Record that the attempt of a RUNNING record is lost: its process is gone. Return its epoch, 0 for no record."""
    if record is None:
        return 0
    extension.recorder.record(
        facts.ended(
            record.ticket.task_id,
            facts_of(record.ticket),
            record.epoch,
            LOST,
            execution=record.token,
            worker=record.worker,
            keep=extension.settings.retention,
            data={
                "error_type": "Lost",
                "error": f"{record.worker} (pid {record.pid}) is gone; nobody is left who runs it",
            },
        )
    )
    return record.epoch


def poisoned(extension: StackState, record: Record) -> None:
    """Record that a run has failed because its body was begun too often, by workers that died each time."""
    extension.recorder.record(
        facts.ended(
            record.ticket.task_id,
            facts_of(record.ticket),
            next_epoch(record.epoch),
            FAILURE,
            keep=extension.settings.retention,
            data={"error_type": "TooManyDeliveries", "error": begun_too_often(record)},
        )
    )


def begun_too_often(record: Record) -> str:
    """Say why a run is not begun again."""
    return (
        f"{record.ticket.task}[{record.ticket.task_id}] was begun {record.deliveries} times and each time its worker "
        f"died (stackstate_max_deliveries); it is not begun again"
    )


def replaced(extension: StackState, reservation: Reservation) -> None:
    """Tell that a run which had not begun has given its place to another: it is revoked, for whoever waits for it."""
    if reservation.replaced is None:
        return
    ticket = reservation.replaced.ticket
    error = f"it was replaced by the run {reservation.ticket.task_id} before it began"
    extension.recorder.record(
        facts.ended(
            ticket.task_id,
            facts_of(ticket),
            next_epoch(),
            REVOKED,
            keep=extension.settings.retention,
            data={"error_type": REPLACED, "error": error, "replaced_by": reservation.ticket.task_id},
        )
    )
    _revoke(extension, reservation.replaced, error)


def _revoke(extension: StackState, record: Record, reason: str) -> None:
    """Tell the result backend; not of a run that something follows, which has its outcome when its message arrives."""
    options = {} if record.envelope is None else Envelope.load(record.envelope).options
    task = extension.app._tasks.get(record.ticket.task)
    ignored = options.get("ignore_result", getattr(task, "ignore_result", False))
    if record.envelope is None or ignored or any(options.get(name) for name in FOLLOWED):
        return
    try:
        backend = extension.app.backend if task is None else task.backend
        backend.mark_as_revoked(record.ticket.task_id, reason)
    except Exception as error:  # the other run is out
        logger.warning("Whoever waits for the run %s was not told that %s: %r", record.ticket.task_id, reason, error)


def duplicate(extension: StackState, task: str, run_id: str, key: str, *, name: str = "duplicate") -> None:
    """Tell, and record on the run's timeline in the background, that a request was suppressed or refused.

    Those of a moment are one event, which counts them: a sender that goes mad shall not fill the history.
    """
    if name == "duplicate":
        signals.duplicate_suppressed.send(task, app=extension.app, run_id=run_id, key=key)
    counts = extension.suppressed
    counts[run_id, name] += 1
    if counts[run_id, name] == 1:
        extension.recorder.later(lambda: _tell_of(extension, run_id, name), history=True)


def _tell_of(extension: StackState, run_id: str, name: str) -> None:
    event = facts.event(f"{name}:{uuid4().hex}", name, count=extension.suppressed.pop((run_id, name), 0))
    known = RunFacts(duplicated="yes") if name == "duplicate" else RunFacts()
    extension.recorder.post(RunWrite(run_id, 0, known, None, [event]))
