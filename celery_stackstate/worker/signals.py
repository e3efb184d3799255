"""Receivers of Celery's signals: what happens to a run becomes facts of its history.

They run in every process that publishes or executes. None raises: Celery would log it, and history is never worth a
task.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import signals, states

from celery_stackstate import facts, publish
from celery_stackstate.attached import all_extensions, extension_of
from celery_stackstate.attempt import OpenAttempt, Origin
from celery_stackstate.facts import Stamp, next_epoch
from celery_stackstate.header import HEADER, read_stamp, read_ticket, stamp_headers
from celery_stackstate.records import FAILURE, IGNORED, LOST, REJECTED, RETRY, REVOKED, SUCCESS, micros_of
from celery_stackstate.stores.base import RunFacts
from celery_stackstate.worker import leases, payloads
from celery_stackstate.worker.closing import close_from_parent, watch
from celery_stackstate.worker.execution import Execution
from celery_stackstate.worker.requeue import Postponed

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

STATES = {states.IGNORED: IGNORED, states.REJECTED: REJECTED}


def connect() -> None:
    """Connect all receivers; connecting again changes nothing."""
    for signal, receiver in RECEIVERS.items():
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_stackstate.{receiver.__name__}")


def _safely(receiver: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(receiver)
    def safe(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except Exception:
            logger.exception("celery-stackstate failed in %s; the task goes on", receiver.__name__)

    return safe


def is_recorded(task: Any) -> bool:
    """Return whether the runs of a task are recorded; None is a task that is not known in this process."""
    return task is None or (getattr(task, "record_runs", False) and not task.name.startswith("celery."))


# -- publishing ----------------------------------------------------------------------------------------------------


@_safely
def before_publish(headers: dict[str, Any] | None = None, declare: Any = None, **signal: Any) -> None:
    """Stamp the message, so that the worker knows when it was enqueued and which key it has."""
    publication = publish.current()
    if publication is None or headers is None or "id" not in headers:
        return
    ticket = publication.ticket
    if ticket is not None and ticket.task_id != str(headers["id"]):
        return  # the message of somebody else, published on the way
    stamp_headers(headers, ticket, after_epoch=publication.after_epoch)
    publication.stamped = True
    publication.queue = declare[0].name if declare else signal.get("routing_key")


@_safely
def after_publish(
    sender: Any = None, headers: Any = None, body: Any = None, routing_key: str | None = None, **_: Any
) -> None:
    """Record that the run is queued, or queued again for a retry."""
    publication = publish.current()
    if publication is None or not headers or str(sender).startswith("celery.") or not is_recorded(publication.task):
        return
    extension = publication.extension
    stamp = read_stamp(headers.get(HEADER))
    if stamp is None:
        return
    known = facts_of(headers, stamp, queue=publication.queue or routing_key)
    details = payloads.request_details(extension, publication.task, headers, body, stamp)
    extension.recorder.record(
        facts.queued(
            str(headers["id"]),
            known,
            stamp,
            retries=headers.get("retries") or 0,
            eta=micros_of(headers.get("eta")),
            data=details,
            keep=extension.settings.retention,
        )
    )


def facts_of(headers: Mapping[str, Any], stamp: Stamp | None, *, queue: str | None) -> RunFacts:
    """Return the unchanging facts of a run from a message's headers."""
    ticket = read_ticket(headers.get(HEADER))
    return RunFacts(
        task=headers.get("task"),
        queue=queue,
        key=ticket.key if ticket else None,
        parent_id=parent_of(headers.get("id"), headers.get("parent_id")),
        root_id=headers.get("root_id"),
        created=stamp.first if stamp else None,
    )


def parent_of(run_id: Any, parent_id: Any) -> str | None:
    """Return the parent of a run; a retry names itself as its parent, which it is not."""
    return None if parent_id == run_id else parent_id


# -- the worker's parent -------------------------------------------------------------------------------------------


@_safely
def on_received(request: Any = None, **_: Any) -> None:
    """Record, in the background, that a worker has the message."""
    task = request.task
    if not _is_ours(task):
        return
    watch(request)
    if not is_recorded(task):
        return
    extension = _extension(task)
    headers = request.request_dict
    stamp = read_stamp(headers.get(HEADER))
    known = facts_of(headers, stamp, queue=(request.delivery_info or {}).get("routing_key"))
    extension.recorder.post(
        facts.received(
            request.id,
            known,
            stamp.epoch if stamp else next_epoch(),
            worker=request.hostname,
            retries=headers.get("retries") or 0,
            eta=micros_of(headers.get("eta")),
            keep=extension.settings.retention,
        )
    )


@_safely
def on_revoked(
    sender: Any = None, request: Any = None, terminated: bool = False, expired: bool = False, **_: Any
) -> None:
    """Record that the run was revoked, or had expired, and close its key."""
    if _is_ours(sender):
        reason = "it was terminated" if terminated else "it had expired" if expired else "it was revoked"
        close_from_parent(sender, request.id, REVOKED, {"error_type": "Revoked", "error": reason}, context=request)


@_safely
def on_unknown(sender: Any = None, message: Any = None, name: str = "", id: str = "", **_: Any) -> None:
    """Record that the worker threw a message away whose task it does not have, and close its key."""
    extension = extension_of(sender.app)
    carried = (message.headers or {}).get(HEADER)
    ticket, stamp = read_ticket(carried), read_stamp(carried)
    if extension is None or stamp is None:
        return
    error = f"the worker {sender.hostname} has no task {name!r}; does it import the module that defines it?"
    extension.recorder.post(
        facts.ended(
            id,
            facts_of(message.headers, stamp, queue=(message.delivery_info or {}).get("routing_key")),
            stamp.epoch,
            FAILURE,
            worker=sender.hostname,
            keep=extension.settings.retention,
            data={"error_type": "NotRegistered", "error": error},
        )
    )
    if ticket is not None:
        keys, lease = extension.idempotency, leases.of_this_worker(sender.hostname)
        extension.recorder.later(lambda: keys.close(ticket, lease=lease, pid=0))


# -- the process that runs the body --------------------------------------------------------------------------------


@_safely
def on_prerun(task_id: str, task: Any = None, args: Any = (), kwargs: Any = None, **_: Any) -> None:
    """Open an attempt, and keep it on the request."""
    request = task.request
    if not _is_ours(task) or request.is_eager:
        return
    extension = _extension(task)
    carried = (request.headers or {}).get(HEADER)
    if isinstance(carried, Mapping) and carried.get("id") != task_id:
        carried = None
    stamp, ticket = read_stamp(carried), read_ticket(carried)
    delivery, lease = request.delivery_info or {}, leases.of_this_worker(request.hostname)
    attempt = OpenAttempt(
        task_id,
        RunFacts(
            task=task.name,
            queue=delivery.get("routing_key"),
            key=ticket.key if ticket else None,
            parent_id=parent_of(task_id, request.parent_id),
            root_id=request.root_id,
            created=stamp.first if stamp else None,
        ),
        next_epoch(stamp.epoch if stamp else 0),
        Origin(
            worker=lease.worker,
            boot=lease.boot,
            pid=os.getpid(),
            retries=request.retries or 0,
            redelivered=bool(delivery.get("redelivered")),
            queued_at=stamp.at if stamp else None,
            eta=micros_of(request.eta),
        ),
        redactor=extension.redactor,
        keep=extension.settings.retention,
        log_lines=extension.settings.log_lines,
        payload=None if stamp else payloads.arguments(extension, task, args, kwargs or {}),
    )
    execution = Execution(extension, attempt, ticket=ticket, recorded=is_recorded(task))
    request._stackstate = execution
    if execution.recorded:
        extension.recorder.begin(attempt)


@_safely
def on_success(sender: Any = None, result: Any = None, **_: Any) -> None:
    """Record the result."""
    execution = _execution(sender)
    if execution is not None:
        shown = execution.extension.redactor.snapshot(result)
        execution.attempt.end(SUCCESS, result=shown.value, result_truncated=shown.truncated or None)
        request = sender.request
        if request.callbacks or request.chain or request.chord:
            execution.dispatched()


@_safely
def on_failure(
    sender: Any = None, task_id: str = "", exception: Any = None, traceback: Any = None, einfo: Any = None, **_: Any
) -> None:
    """Record the error: here, or on behalf of a child that can no longer say it itself."""
    if not _is_ours(sender) or sender.request.is_eager:
        return
    execution = _execution(sender)
    details = payloads.error_details(_extension(sender), exception, einfo, traceback)
    if execution is None or execution.attempt.run_id != task_id:
        close_from_parent(sender, task_id, FAILURE, details)
        return
    execution.attempt.end(FAILURE, **details)
    execution.fail()


@_safely
def on_retry(sender: Any = None, request: Any = None, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    """Record that the attempt ended and the run goes on."""
    if not _is_ours(sender):
        return
    cause = getattr(reason, "exc", None) or reason
    details = payloads.error_details(_extension(sender), cause, einfo, None)
    if isinstance(reason, Postponed):
        details.pop("traceback")  # nothing went wrong
    execution = _execution(sender)
    if execution is not None:
        execution.attempt.end(RETRY, **details)
    elif request is not None and not request.is_eager:
        close_from_parent(sender, request.id, RETRY, details, context=request)


@_safely
def on_postrun(task: Any = None, state: str | None = None, **_: Any) -> None:
    """Write what is left of the attempt. Without a state it was interrupted: whoever knows more says so later."""
    execution = _execution(task)
    if execution is None:
        return
    if state is None:
        execution.attempt.end(LOST, name="interrupted", error_type="Interrupted", error="the attempt did not end")
    elif state in STATES:
        execution.attempt.end(STATES[state])
        if state == states.IGNORED:
            execution.close_unclaimed()
    elif state in (SUCCESS, FAILURE) and not execution.attempt.ended:
        execution.attempt.end(state)  # where a hook of the task kept Celery from saying so
    if execution.recorded:
        execution.extension.recorder.finish(execution.attempt)


@_safely
def on_process_shutdown(**_: Any) -> None:
    """Write what still waits before a child of the pool ends."""
    for extension in all_extensions():
        extension.recorder.flush()


def _extension(task: Any) -> StackState:
    extension = extension_of(task.app)
    assert extension is not None  # noqa: S101 - _is_ours came first
    return extension


def _is_ours(task: Any) -> bool:
    return hasattr(task, "record_runs") and extension_of(task.app) is not None


def _execution(task: Any) -> Execution | None:
    stack = getattr(task, "request_stack", None)
    return getattr(stack.top, "_stackstate", None) if stack is not None else None


RECEIVERS = {
    signals.before_task_publish: before_publish,
    signals.after_task_publish: after_publish,
    signals.task_received: on_received,
    signals.task_revoked: on_revoked,
    signals.task_unknown: on_unknown,
    signals.task_prerun: on_prerun,
    signals.task_success: on_success,
    signals.task_failure: on_failure,
    signals.task_retry: on_retry,
    signals.task_postrun: on_postrun,
    signals.worker_process_shutdown: on_process_shutdown,
}
