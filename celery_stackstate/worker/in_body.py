"""Receivers of the process that runs the body: an attempt begins, ends, and is written."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery import states
from celery.exceptions import Reject

from celery_stackstate import details, facts
from celery_stackstate.attached import all_extensions, attached_to, working_extension_of
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.facts import next_epoch
from celery_stackstate.header import HEADER, read_stamp
from celery_stackstate.publishing.receivers import facts_of, origin_of
from celery_stackstate.receiving import INTERRUPTS, safely
from celery_stackstate.recording import is_ours, is_recorded, is_sampled, recorded_soon
from celery_stackstate.records import FAILURE, IGNORED, LOST, REJECTED, RETRY, SUCCESS, micros_of
from celery_stackstate.worker import leases
from celery_stackstate.worker.closing import close_cancelled, close_from_parent
from celery_stackstate.worker.execution import Execution
from celery_stackstate.worker.handover import close_behind, fail_elsewhere, settle_elsewhere
from celery_stackstate.worker.requeue import Postponed
from celery_stackstate.worker.tickets import ticket_of

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

#: How an attempt has ended of which nothing else is known than the state that Celery gives it.
STATES = {
    states.IGNORED: IGNORED,
    states.REJECTED: REJECTED,
    states.SUCCESS: SUCCESS,
    states.FAILURE: FAILURE,
    states.RETRY: RETRY,
}

#: The run that this thread has just left: what Celery says of it from then on is about a hook, or said already.
_left = threading.local()


@safely
def on_prerun(task_id: str, task: Any = None, args: Any = (), kwargs: Any = None, **_: Any) -> None:
    """Open an attempt, and keep it on the request."""
    request = task.request
    carried = (request.headers or {}).get(HEADER)
    if not is_ours(task, carried):
        return
    extension = attached_to(task)
    if request.is_eager and not extension.settings.record_eager:
        return
    if request.is_eager or (isinstance(carried, Mapping) and carried.get("id") != task_id):
        carried = None
    attempt = _open_attempt(extension, task, task_id, carried, args, kwargs or {})
    request._stackstate_attempt = attempt
    if not request.is_eager:
        guarded = hasattr(task, "record_runs")  # with the base class, whose __call__ is the guard
        ticket = ticket_of(extension, task, carried, task_id) if guarded else None
        execution = request._stackstate = Execution(extension, attempt, carried if guarded else None, ticket=ticket)
        if execution.ticket is not None or execution.follows is not None:
            return  # its start is told when it is known that this delivery runs the body
    if attempt.recorded:
        extension.recorder.begin(attempt)


def _open_attempt(
    extension: StackState, task: Any, run_id: str, carried: Any, args: Any, kwargs: Mapping[str, Any]
) -> OpenAttempt:
    request, stamp = task.request, read_stamp(carried)
    info, lease = request.delivery_info or {}, leases.of_this_worker(request.hostname)
    headers = {"task": task.name, "id": run_id, "parent_id": request.parent_id, "root_id": request.root_id}
    known = facts_of(
        {**headers, "group": request.group, "group_index": request.group_index, HEADER: carried},
        stamp,
        queue=info.get("routing_key"),
    )
    if request.is_eager:
        known = replace(
            known, host=socket.gethostname(), origin=origin_of(extension), created=_asked_eagerly(task, run_id)
        )
    recorded = is_recorded(extension, task, carried)
    attempt = OpenAttempt(
        run_id,
        known,
        next_epoch(stamp.epoch if stamp else 0),
        Delivery(
            worker=lease.worker,
            boot=lease.boot,
            pid=os.getpid(),
            retries=request.retries or 0,
            redelivered=bool(info.get("redelivered")),
            queued_at=stamp.at if stamp else None,
            eta=micros_of(request.eta),
            waits=stamp.waits if stamp else 0,
            received_at=carried.get("received") if isinstance(carried, Mapping) else None,
        ),
        redactor=extension.redactor,
        keep=extension.settings.retention,
        limits=extension.settings.log_limits,
        payload=details.arguments(extension, task, args, kwargs) if recorded and stamp is None else None,
        interrupts=INTERRUPTS,
    )
    attempt.recorded = recorded and is_sampled(task, run_id, carried)
    return attempt


def _asked_eagerly(task: Any, run_id: str) -> int:
    """Return when an eager run was asked for: as its first attempt began, inside of which Celery runs its retries."""
    first = next((one for one in task.request_stack.stack if one.id == run_id), None)
    attempt: OpenAttempt | None = getattr(first, "_stackstate_attempt", None)
    return facts.now_micros() if attempt is None else attempt.started


@safely
def on_success(sender: Any = None, result: Any = None, **_: Any) -> None:
    """Record the result."""
    attempt, execution, request = _attempt(sender), _execution(sender), sender.request
    if attempt is not None:
        attempt.succeed(result)
    if not hasattr(sender, "record_runs"):
        settle_elsewhere(sender, result)
    elif execution is not None and (request.callbacks or request.chain or request.chord):
        execution.dispatched()


@safely
def on_failure(
    sender: Any = None,
    task_id: str = "",
    exception: Any = None,
    args: Any = (),
    kwargs: Any = None,
    einfo: Any = None,
    **signal: Any,
) -> None:
    """Record the error: here, or on behalf of a child that can no longer say it itself."""
    extension = working_extension_of(sender.app)
    if extension is not None and sender.request.id == task_id and not sender.request.is_eager:
        close_behind(extension, sender.request, exception)
    if not hasattr(sender, "record_runs") and not sender.request.is_eager:
        fail_elsewhere(sender, exception)
    attempt, execution = _attempt(sender), _execution(sender)
    if attempt is not None and attempt.run_id != task_id:
        attempt = None
    if attempt is None and not is_ours(sender):
        return
    shown = details.error_details(attached_to(sender), exception, einfo, signal.get("traceback"))
    if attempt is not None:
        _fail(sender, attempt, args, kwargs or {}, shown)
        if execution is not None:
            execution.fail(exception)
    elif not sender.request.is_eager:
        told = isinstance(exception, Reject) or getattr(_left, "run_id", None) == task_id
        close_from_parent(sender, task_id, FAILURE, shown, error=exception, told=told)


def _fail(task: Any, attempt: OpenAttempt, args: Any, kwargs: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """End an attempt with a failure; that of a run outside of the sample is recorded from here on, as a whole."""
    extension = attached_to(task)
    attempt.end(FAILURE, **shown)
    if not attempt.recorded and is_recorded(extension, task):
        attempt.recorded = True
        attempt.ask(details.arguments(extension, task, args, kwargs))


@safely
def on_retry(sender: Any = None, request: Any = None, reason: Any = None, einfo: Any = None, **_: Any) -> None:
    """Record that the attempt ended and the run goes on."""
    attempt = _attempt(sender)
    if attempt is None and not is_ours(sender):
        return
    if isinstance(reason, Postponed):
        reason.publish(sender)  # unless the guard has: one that a hook raised, or a __call__ of the task's own
    cause = getattr(reason, "exc", None) or reason
    shown = details.error_details(attached_to(sender), cause, einfo, None)
    if isinstance(reason, Postponed):
        shown.pop("traceback")  # nothing went wrong
    if attempt is not None:
        attempt.end(RETRY, **shown)
    elif request is not None and reason is None:
        close_cancelled(sender, request)
    elif request is not None and not request.is_eager:
        close_from_parent(sender, request.id, RETRY, shown, context=request)


@safely
def on_postrun(
    task: Any = None, state: str | None = None, args: Any = (), kwargs: Any = None, retval: Any = None, **_: Any
) -> None:
    """Write what is left of the attempt. Without a state it was interrupted: whoever knows more says so later."""
    attempt, execution = _attempt(task), _execution(task)
    if attempt is None:
        return
    try:
        if execution is not None:
            execution.locks.settle(None)  # what a hook took, or a __call__ of the task's own
        if state is None:
            _end_without_state(task, attempt, args, kwargs or {})
        elif state == SUCCESS and not attempt.ended:
            attempt.succeed(retval)  # where a hook of the task kept Celery from saying so
        elif state == states.IGNORED and execution is not None:
            execution.close_unclaimed()
    finally:  # whatever failed, or interrupted, above: an attempt that was left has ended
        if not attempt.ended:
            attempt.end(STATES.get(state or "", LOST))
        _left.run_id = attempt.run_id
        beside = None if execution is None else execution.end_with
        if attempt.recorded:
            attached_to(task).recorder.finish(attempt, soon=recorded_soon(task), beside=beside)


def _end_without_state(task: Any, attempt: OpenAttempt, args: Any, kwargs: Mapping[str, Any]) -> None:
    """End an attempt of which Celery does not say how it ended; what a hook raised, or an eager run, tells."""
    error = sys.exc_info()[1]
    if isinstance(error, Exception):
        text = "".join(traceback.format_exception(error))
        _fail(task, attempt, args, kwargs, details.error_details(attached_to(task), error, None, text))
    else:
        attempt.end(LOST, name="interrupted", error_type="Interrupted", error="the attempt did not end")


@safely
def on_process_shutdown(**_: Any) -> None:
    """Write what still waits, and close the connections, before a child of the pool ends."""
    for extension in all_extensions():
        extension.close()


def _execution(task: Any) -> Execution | None:
    stack = getattr(task, "request_stack", None)
    return getattr(stack.top, "_stackstate", None) if stack is not None else None


def _attempt(task: Any) -> OpenAttempt | None:
    stack = getattr(task, "request_stack", None)
    return getattr(stack.top, "_stackstate_attempt", None) if stack is not None else None
