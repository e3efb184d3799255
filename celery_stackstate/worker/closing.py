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
            _close_attempt(extension, task.name, run_id, status, worker=worker, epoch=epoch, details=details)
        if ticket is not None and ticket.task_id == run_id and status != RETRY:
            extension.idempotency.close(ticket, lease=leases.of_this_worker(worker), pid=pid)

    extension.recorder.later(close)


def _close_attempt(
    extension: StackState,
    task: str,
    run_id: str,
    status: str,
    *,
    worker: str | None,
    epoch: int,
    details: Mapping[str, Any],
) -> None:
    found = extension.runs_store.run(run_id)
    start = _open_attempt(found[1], worker) if found else None
    began = json.loads(start.data) if start else {}
    extension.recorder.record(
        facts.ended(
            run_id,
            RunFacts(task=task),
            began.get("epoch") or epoch or next_epoch(),
            status,
            execution=start.execution if start else None,
            worker=worker,
            retries=began.get("retries", 0),
            waited=began.get("wait"),
            started=start.at if start else None,
            keep=extension.settings.retention,
            data=details,
        )
    )


def _open_attempt(events: list[StoredEvent], worker: str | None) -> StoredEvent | None:
    """Return the start of the newest attempt on this worker that has not ended, but for having been interrupted."""
    ended = {event.execution for event in events if event.name in ENDINGS - {"interrupted", "lost"}}
    for event in reversed(events):
        if event.name != "started" or event.execution in ended:
            continue
        if worker is None or json.loads(event.data).get("worker") == worker:
            return event
    return None
