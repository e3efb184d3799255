"""Endings that only the worker's parent knows: a child that was killed or timed out, a run revoked before it began."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from billiard.exceptions import WorkerLostError
from celery.app.task import Context

from celery_stackstate.attached import working_extension_of
from celery_stackstate.errors import LeaderFailed
from celery_stackstate.header import HEADER, read_ticket
from celery_stackstate.key_record import SUCCEEDED, Ticket
from celery_stackstate.outcome import describe
from celery_stackstate.records import FAILURE, LOST, RETRY
from celery_stackstate.worker import leases
from celery_stackstate.worker.ending import Ending, is_there
from celery_stackstate.worker.handover import close_behind
from celery_stackstate.worker.requeue import publish_again
from celery_stackstate.worker.tickets import is_rerun, ticket_of

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)


#: The requests that this worker has, by id and a number: Celery forgets its own before it says how one ended, and may
#: have several of one id. Of more than `COPIES` the others are not told apart.
_requests: WeakValueDictionary[tuple[str, int], Any] = WeakValueDictionary()
COPIES = 8


def watch(request: Any) -> None:
    """Remember a request for as long as the worker has it."""
    number = next((number for number in range(COPIES) if (request.id, number) not in _requests), 0)
    _requests[request.id, number] = request


def _request_of(run_id: str) -> Any:
    """Return the request of a run that has just ended; of several that whose process is gone."""
    found = [request for number in range(COPIES) if (request := _requests.get((run_id, number))) is not None]
    begun = [request for request in found if request.worker_pid]
    gone = [request for request in begun if not is_there(request.worker_pid)]
    return next(iter((*gone, *begun, *found)), None)


def close_from_parent(
    task: Any,
    run_id: str,
    status: str,
    data: Mapping[str, Any],
    *,
    context: Any = None,
    error: BaseException | None = None,
    told: bool = False,
) -> None:
    """Close the open attempt of a run, and its key, in the background: the worker's loop waits for no store.

    Args:
        task: Whose run it is.
        run_id: Which run.
        status: How it ended.
        data: Of the event.
        context: The run's request as far as the signal knows it; a message revoked at its receipt has no other.
        error: What it ended with. A run whose process was killed and that the reaper brings back is only LOST.
        told: Whether the attempt has said itself how it ended; then only the key is closed.
    """
    extension = working_extension_of(task.app)
    if extension is None:
        return
    request = _request_of(run_id)
    message = request.request_dict if request is not None else vars(context) if context is not None else {}
    carried = message.get(HEADER)
    ticket = ticket_of(extension, task, carried, run_id)
    comes_back = ticket is not None and (ticket.rerun or is_rerun(task)) and isinstance(error, WorkerLostError)
    ending = Ending(task, run_id, LOST if comes_back else status, data, request=request, message=message)
    if status not in (RETRY, LOST):
        keys, lease = extension.key_protocol, leases.of_this_worker(message.get("hostname"))
        reason = error or LeaderFailed(data.get("error"))
        close_behind(extension, getattr(request, "_context", None), reason)
        text = describe(reason)
        for one in filter(None, (ticket, read_ticket(carried, "window"))):
            closed = partial(keys.close, one, lease=lease, pid=ending.pid, error=text, comes_back=comes_back)
            extension.recorder.later(closed)
        if ticket is not None and request is not None and status == FAILURE:
            extension.recorder.later(partial(_replay, extension, task, request, ticket, pid=ending.pid))
    if not told and ending.is_recorded(extension):
        extension.recorder.later(partial(ending.record, extension), history=True)


def close_cancelled(task: Any, request: Any) -> None:
    """Close the attempt of a run that Celery cancels as its worker stops: it calls that a retry, but sends nothing.

    A message that was not acknowledged goes back, and its attempt has said itself that it was interrupted.
    """
    if not task.acks_late:
        data = {"error_type": "Lost", "error": "its worker was stopped, and its message is gone"}
        close_from_parent(task, request.id, LOST, data, context=request)


def _replay(extension: StackState, task: Any, request: Any, ticket: Ticket, *, pid: int) -> None:
    """Send a run again whose process died behind its success: Celery calls it a failure, and has no other message.

    The delivery gives Celery the stored result, which takes the place of the failure, and sends the callbacks.
    """
    record, lease = extension.key_protocol.record(ticket.store_key), leases.of_this_worker(request.hostname)
    if record is None or record.state != SUCCEEDED or record.dispatched or record.result is None:
        return
    if (record.ticket.generation, record.boot, record.pid) == (ticket.generation, lease.boot, pid):
        publish_again(task, Context(vars(request._context), args=request.args, kwargs=request.kwargs), 0)
