"""Receivers of the worker's parent: it has the message, or learns how it ended without a body that could say so."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from celery_stackstate import facts
from celery_stackstate.attached import attached_to, working_extension_of
from celery_stackstate.facts import next_epoch, now_micros
from celery_stackstate.header import HEADER, read_error, read_stamp, read_ticket
from celery_stackstate.publishing.options import OPTION_NAMES
from celery_stackstate.publishing.receivers import facts_of
from celery_stackstate.receiving import safely
from celery_stackstate.recording import is_ours, is_recorded, is_sampled
from celery_stackstate.records import FAILURE, REVOKED, micros_of
from celery_stackstate.worker import copies, leases
from celery_stackstate.worker.closing import close_from_parent, watch

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState
    from celery_stackstate.stores.base import RunWrite

logger = logging.getLogger(__name__)


@safely
def on_received(request: Any = None, **_: Any) -> None:
    """Note that a worker has the message: for its attempt to tell, and for the history if it is to wait here."""
    task, carried = request.task, request.request_dict.get(HEADER)
    if not is_ours(task, carried):
        return
    _complain_about_strays(request)
    watch(request)
    extension = attached_to(task)
    if not is_recorded(extension, task, carried) or not is_sampled(task, request.id, carried):
        return
    if (request.delivery_info or {}).get("redelivered"):
        copies.of_this_worker.add(request.id)
    at = now_micros()
    for headers in (request.request_dict, request.request_dict.get("headers")):
        if isinstance(headers, dict) and isinstance(headers.get(HEADER), dict):
            headers[HEADER]["received"] = at  # the process that runs the body gets the same headers
    extension.recorder.write_unless_over(partial(_receipt, extension, ref(request), at))


def _receipt(extension: StackState, waiting: ref[Any], at: int) -> RunWrite | None:
    """Return that the message was received; None when its run is over, which has told that itself."""
    request = waiting()
    if request is None:
        return None
    headers, info = request.request_dict, request.delivery_info or {}
    stamp = read_stamp(headers.get(HEADER))
    return facts.received(
        request.id,
        facts_of(headers, stamp, queue=info.get("routing_key")),
        stamp.epoch if stamp else next_epoch(),
        worker=request.hostname,
        boot=leases.of_this_worker(request.hostname).boot,
        retries=headers.get("retries") or 0,
        eta=micros_of(headers.get("eta")),
        error=read_error(headers.get(HEADER)),
        at=at,
        keep=extension.settings.retention,
    )


def _complain_about_strays(request: Any) -> None:
    """Say loudly that a publisher without the extension gave our options, which then are properties of the message."""
    strays = sorted(set(OPTION_NAMES).intersection(request.message.properties or {}))
    if strays:
        logger.error(
            "%s[%s] was published by %s with %s, but that process does not know celery-stackstate, so the option does "
            "nothing: call StackState(app) there",
            request.name,
            request.id,
            request.request_dict.get("origin"),
            ", ".join(strays),
        )


@safely
def on_revoked(
    sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
) -> None:
    """Record that the run was revoked, or had expired, and close its key."""
    if is_ours(sender):
        reason = "it was terminated" if terminated else "it had expired" if expired else "it was revoked"
        close_from_parent(sender, request.id, REVOKED, {"error_type": "Revoked", "error": reason}, context=request)


@safely
def on_unknown(sender: Any = None, message: Any = None, name: str = "", id: str = "", **_: Any) -> None:
    """Record that the worker threw a message away whose task it does not have, and close its key."""
    extension = working_extension_of(sender.app)
    carried = (message.headers or {}).get(HEADER)
    stamp = read_stamp(carried)
    if extension is None or stamp is None:
        return
    error = f"the worker {sender.hostname} has no task {name!r}; does it import the module that defines it?"
    extension.recorder.post(
        facts.ended(
            id,
            facts_of(message.headers, stamp, queue=(message.delivery_info or {}).get("routing_key")),
            next_epoch(stamp.epoch),
            FAILURE,
            worker=sender.hostname,
            keep=extension.settings.retention,
            data={"error_type": "NotRegistered", "error": error},
        )
    )
    keys, lease = extension.key_protocol, leases.of_this_worker(sender.hostname)
    for ticket in filter(None, (read_ticket(carried), read_ticket(carried, "window"))):
        extension.recorder.later(partial(keys.close, ticket, lease=lease, pid=0))
