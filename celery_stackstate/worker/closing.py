"""Endings that only the worker's parent knows: a child that was killed or timed out, a run revoked before it began."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from celery_stackstate import facts
from celery_stackstate.attached import extension_of
from celery_stackstate.facts import next_epoch
from celery_stackstate.header import HEADER, read_stamp, read_ticket
from celery_stackstate.history import ENDINGS
from celery_stackstate.records import RETRY
from celery_stackstate.stores.base import RunFacts, StoredEvent
from celery_stackstate.worker import leases

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)


#: The requests that this worker has, by id: Celery forgets its own before it says how one ended.
_requests: WeakValueDictionary[str, Any] = WeakValueDictionary()


def watch(request: Any) -> None:
    """Remember a request for as long as the worker has it."""
    _requests[request.id] = request


def close_from_parent(task: Any, run_id: str, status: str, details: Mapping[str, Any], *, context: Any = None) -> None:
    """Close the open attempt of a run, and its key, in the background: the worker's loop waits for no store.

    Args:
        task: Whose run it is.
        run_id: Which run.
        status: How it ended.
        details: Data of the event.
        context: The run's request as far as the signal knows it; a message revoked at its receipt has no other.
    """
    extension = extension_of(task.app)
    if extension is None:
        return
    request = _requests.get(run_id)
    message = request.request_dict if request is not None else vars(context) if context is not None else {}
    carried, worker = message.get(HEADER), message.get("hostname")
    ticket, stamp = read_ticket(carried), read_stamp(carried)
    epoch, pid = stamp.epoch if stamp else 0, getattr(request, "worker_pid", None) or 0

    def close() -> None:
        if task.record_runs:
            _close_attempt(extension, task.name, run_id, status, worker=worker, pid=pid, epoch=epoch, details=details)

    if ticket is not None and ticket.task_id == run_id and status != RETRY:
        keys, lease = extension.idempotency, leases.of_this_worker(worker)
        extension.recorder.later(lambda: keys.close(ticket, lease=lease, pid=pid))
    extension.recorder.later(close)


def _close_attempt(
    extension: StackState,
    task: str,
    run_id: str,
    status: str,
    *,
    worker: str | None,
    pid: int,
    epoch: int,
    details: Mapping[str, Any],
) -> None:
    found = extension.runs_store.run(run_id)
    events = found[1] if found else []
    begun = _begun_here(events, worker, pid)
    ended = {event.execution for event in events if event.name in ENDINGS - {"interrupted", "lost"}}
    start = next((event for event in reversed(begun) if event.execution not in ended), None)
    told = {event.execution for event in events if event.name == status.lower()}
    if start is None and pid and any(event.execution in told for event in begun):
        return  # Celery says some endings twice
    began = json.loads(start.data) if start else {}
    execution = start.execution if start else None
    if execution is None and pid:  # its process died before it could say that it had begun
        execution, details = f"unseen-{epoch}", {**details, "worker": worker, "pid": pid}
    extension.recorder.record(
        facts.ended(
            run_id,
            RunFacts(task=task),
            began.get("epoch") or epoch or next_epoch(),
            status,
            execution=execution,
            worker=worker,
            retries=began.get("retries", 0),
            waited=began.get("wait"),
            started=start.at if start else None,
            keep=extension.settings.retention,
            data=details,
        )
    )


def _begun_here(events: list[StoredEvent], worker: str | None, pid: int) -> list[StoredEvent]:
    """Return the starts of the attempts on this worker, of those in the process `pid` when that is known."""
    starts = [(event, json.loads(event.data)) for event in events if event.name == "started"]
    return [
        event
        for event, data in starts
        if (worker is None or data.get("worker") == worker) and (not pid or data.get("pid") == pid)
    ]
