"""Endings that only the worker's parent knows: a child that was killed or timed out, a run revoked before it began."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery_stackstate import facts, publish
from celery_stackstate.attached import extension_of
from celery_stackstate.facts import next_epoch
from celery_stackstate.history import ENDINGS
from celery_stackstate.idempotency import Ticket
from celery_stackstate.records import RETRY
from celery_stackstate.stores.base import RunFacts, StoredEvent

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)


def close_from_parent(task: Any, run_id: str, status: str, details: Mapping[str, Any]) -> None:
    """Close the open attempt of a run, and its key, in the background: the worker's loop waits for no store."""
    extension = extension_of(task.app)
    if extension is None:
        return
    worker_state = sys.modules.get("celery.worker.state")  # a process that has not loaded it is not a worker
    request = None if worker_state is None else worker_state.requests.get(run_id)
    carried = None if request is None else request.request_dict.get(publish.HEADER)
    ticket, stamp = publish.read_ticket(carried), publish.read_stamp(carried)
    worker = None if request is None else request.hostname
    epoch = stamp.epoch if stamp else 0

    def close() -> None:
        if task.record_runs:
            _close_attempt(extension, task.name, run_id, status, worker=worker, epoch=epoch, details=details)
        if ticket is not None and status != RETRY:
            _close_key(extension, ticket)

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


def _close_key(extension: StackState, ticket: Ticket) -> None:
    extension.idempotency.close(ticket)
