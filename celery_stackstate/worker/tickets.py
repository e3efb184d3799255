"""Which record a run is claimed in: that of its key, or one of its own where the task asks for it by its attributes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_stackstate.header import read_stamp, read_ticket
from celery_stackstate.key_record import Ticket
from celery_stackstate.keys import ONE_RUN

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

MAX_ID = 255


def ticket_of(extension: StackState, task: Any, header: Any, run_id: str) -> Ticket | None:
    """Return the ticket under which a run is claimed, or None for one that is not.

    Args:
        extension: Of the task's app.
        task: The task.
        header: Our header of its message, None when there is none.
        run_id: The id of the run.
    """
    carried = read_ticket(header)
    if carried is not None:
        return carried if carried.task_id == run_id else None
    if read_ticket(header, "follow") is not None:
        return None
    if not is_rerun(task) and not getattr(task, "single_execution", False):
        return None
    # Whoever published it did not know that. The same id may be used again, for another run.
    ticket, stamp = ticket_of_one(extension, task, run_id), read_stamp(header)
    return ticket and replace(ticket, rerun=is_rerun(task), generation=stamp.first if stamp else 1)


def is_rerun(task: Any) -> bool:
    """Return whether a run of the task comes back when it is lost."""
    return getattr(task, "lost_policy", "mark") == "rerun"


def as_the_task_says(ticket: Ticket, task: Any) -> Ticket:
    """Return a ticket with what the task says of its runs, which a publisher by name did not know."""
    most = ticket.deliveries or getattr(task, "max_deliveries", None)
    return replace(ticket, deliveries=most, rerun=ticket.rerun or is_rerun(task))


def ticket_of_one(extension: StackState, task: Any, run_id: str) -> Ticket | None:
    """Return the ticket of a record of the run's own, or None when its id is too long for one."""
    if len(run_id) > MAX_ID:
        return None
    return Ticket(
        scope=ONE_RUN,
        key=run_id,
        generation=1,
        task_id=run_id,
        task=task.name,
        fingerprint="",
        on_failure="keep",
        ttl=extension.settings.idempotency_ttl,
        deliveries=task.max_deliveries,
    )
