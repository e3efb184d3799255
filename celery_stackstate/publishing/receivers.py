"""Receivers of the signals around each publish: they put our header on the message and record that it is queued."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.exceptions import Retry

from celery_stackstate import details, facts
from celery_stackstate.details import text_of
from celery_stackstate.facts import Stamp
from celery_stackstate.header import HEADER, read_error, read_key, read_stamp, stamp_headers
from celery_stackstate.payload import as_text
from celery_stackstate.publishing.publication import Publication, current
from celery_stackstate.receiving import safely
from celery_stackstate.recording import is_built_in, is_recorded, is_sampled, recorded_soon, replaces
from celery_stackstate.records import micros_of
from celery_stackstate.stores.base import RunFacts

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

MAX_ORIGIN = 255


def connect() -> None:
    """Connect the receivers; connecting again changes nothing."""
    for signal, receiver in (
        (signals.before_task_publish, before_publish),
        (signals.after_task_publish, after_publish),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_stackstate.{receiver.__name__}")


@safely
def before_publish(
    headers: dict[str, Any] | None = None,
    body: Any = None,
    declare: Any = None,
    properties: Any = None,
    routing_key: str | None = None,
    **_: Any,
) -> None:
    """Stamp the message, so that the worker knows when it was enqueued, by whom, and which key it has."""
    publication = current()
    if publication is None or headers is None or "id" not in headers:
        return
    if not _is_of(publication, headers):
        return  # the message of somebody else, published on the way
    publication.queue = declare[0].name if declare else routing_key
    publication.routing_key = None if routing_key == publication.queue else routing_key
    publication.priority = (properties or {}).get("priority")
    parts = {**publication.parts, **_chain_part(publication, headers, body), **_error_part(publication, headers)}
    if publication.task is None:
        parts["recorded"] = True
    publication.stamp = stamp_headers(
        headers,
        parts,
        after_epoch=publication.after_epoch,
        queue=publication.queue,
        origin=lambda: origin_of(publication.extension),
    )
    publication.stamped = True


@safely
def after_publish(sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
    """Record that the run is queued, or queued again for a retry."""
    publication = current()
    if publication is None or not headers or not _is_of(publication, headers):
        return
    publication.sent = True
    carried, stamp = headers.get(HEADER), publication.stamp
    if stamp is None or (is_built_in(str(sender)) and not replaces(carried)):
        return
    extension, run_id = publication.extension, str(headers["id"])
    if not is_recorded(extension, publication.task, carried) or not is_sampled(publication.task, run_id, carried):
        return
    data = details.request_details(extension, publication.task, headers, body, stamp)
    soon = publication.in_background or recorded_soon(publication.task)
    record = extension.recorder.post if soon else extension.recorder.record
    record(
        facts.queued(
            run_id,
            facts_of(headers, stamp),
            stamp,
            retries=headers.get("retries") or 0,
            eta=micros_of(headers.get("eta")),
            error=read_error(carried),
            data={**data, "routing_key": publication.routing_key, "priority": publication.priority},
            keep=extension.settings.retention,
        )
    )


def _is_of(publication: Publication, headers: Mapping[str, Any]) -> bool:
    return publication.run_id in (None, str(headers.get("id")))


def facts_of(headers: Mapping[str, Any], stamp: Stamp | None, *, queue: str | None = None) -> RunFacts:
    """Return the unchanging facts of a run from a message's headers; `queue` is where it came from without a stamp.

    The body of a chord has the group's id as well, but no place in it.
    """
    run_id, root_id = text_of(headers.get("id")), text_of(headers.get("root_id"))
    return RunFacts(
        task=headers.get("task"),
        queue=stamp.queue if stamp and stamp.queue else queue,
        key=read_key(headers.get(HEADER)),
        parent_id=parent_of(run_id, headers.get("parent_id")),
        root_id=None if root_id == run_id else root_id,
        group_id=None if headers.get("group_index") is None else text_of(headers.get("group")),
        host=(stamp.host or None) if stamp else None,
        origin=stamp.origin if stamp else None,
        created=stamp.first if stamp else None,
    )


def parent_of(run_id: Any, parent_id: Any) -> str | None:
    """Return the parent of a run; a retry names itself as its parent, which it is not."""
    return None if parent_id == run_id else text_of(parent_id)


def origin_of(extension: StackState) -> str | None:
    """Return whom the project names as asking for what is published here and now, else who asked for its parent."""
    hook = extension.settings.origin
    if hook is not None:
        try:
            named = hook()
        except Exception:  # a hook of the project's own never keeps a message back
            logger.warning("stackstate_origin failed; the run is recorded without an origin", exc_info=True)
            named = None
        if named is not None:
            return extension.redactor.text(as_text(named))[:MAX_ORIGIN]
    parent = extension.app.current_worker_task
    stamp = read_stamp((parent.request.headers or {}).get(HEADER)) if parent is not None else None
    return None if stamp is None else stamp.origin


def _chain_part(publication: Publication, headers: Mapping[str, Any], body: Any) -> dict[str, Any]:
    """Return the place of the message in its chain as a part of our header, or nothing.

    A message says only what comes behind it, so the count goes on from the header of the run that published it.
    """
    behind = body[2].get("chain") if isinstance(body, (list, tuple)) and len(body) == 3 else None
    if behind is None or headers.get("retries"):
        return {}
    parent = publication.extension.app.current_worker_task
    carried = ((parent.request.headers or {}).get(HEADER) or {}) if parent is not None else {}
    position, total = carried.get("chain") or (0, 0)
    if parent is not None and headers.get("parent_id") == parent.request.id and position + 1 + len(behind) == total:
        return {"chain": [position + 1, total]}
    return {"chain": [1, 1 + len(behind)]} if behind else {}


def _error_part(publication: Publication, headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the error that a run publishes its own retry for as a part of our header, for lists while it waits."""
    if not headers.get("retries"):
        return {}
    extension, error = publication.extension, sys.exc_info()[1]
    running = extension.app.current_worker_task
    if running is None or running.request.id != headers.get("id"):
        return {}
    if isinstance(error, Retry):
        error = error.exc
    if not isinstance(error, Exception) or not is_recorded(extension, publication.task, headers.get(HEADER)):
        return {}
    return {"error": facts.error_line(details.error_details(extension, error, None, None))}
