"""The one place around a task's body: claims the run of a key before it, records the outcome under the key after.

The body is the whole of the task's `__call__`, of which nobody knows whether it calls that of its base class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any
from weakref import WeakSet

from celery.exceptions import Ignore, Reject, Retry
from kombu.utils import json as kombu_json

from celery_stackstate import details, errors
from celery_stackstate.errors import (
    ConfigurationError,
    NewerFormat,
    StackStateError,
    StoreUnavailable,
    TooManyDeliveries,
)
from celery_stackstate.key_record import FAILED, RETRYING, RUNNING, SUCCEEDED, Attempt, Claim, Ticket, Verdict
from celery_stackstate.liveness import Lease
from celery_stackstate.outcome import checkpoint, describe
from celery_stackstate.publishing import repeat, tidings
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.publishing.publication import held_key
from celery_stackstate.worker.execution import Execution
from celery_stackstate.worker.following import Outcome, come_back, is_awaited, outcome_of
from celery_stackstate.worker.heard import is_heard
from celery_stackstate.worker.requeue import Postponed, envelope_of, seconds_until
from celery_stackstate.worker.tickets import as_the_task_says, ticket_of_one

logger = logging.getLogger(__name__)

#: Seconds after which a message that only a newer release can read comes back, for a worker of that release to take it.
NEWER_PAUSE = 5.0


#: The guards: a mark on the function would go on to what decorators of a project put around it.
_guards: WeakSet[Callable[..., Any]] = WeakSet()


def guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """Return the `__call__` of a task class with the guard around it. Of several of one task the outermost counts."""

    @wraps(call)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        execution: Execution | None = getattr(request, "_stackstate", None)
        if execution is None or execution.body is not None:
            return call(self, *args, **kwargs)
        execution.body = partial(call, self)
        return run_guarded(self, execution, args, kwargs)

    _guards.add(__call__)
    return __call__


def is_guarded(call: Callable[..., Any]) -> bool:
    """Return whether `guarded` has made it."""
    return call in _guards


def run_guarded(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the task's body, under its key if the run has one."""
    try:
        if execution.is_newer:
            raise come_back(task, execution, NEWER_PAUSE, "its message is of a newer celery-stackstate", exactly=True)
        if execution.refused is not None:
            raise _refusal(execution.refused)
        if not execution.extension.enabled:
            return _run_switched_off(task, execution, args, kwargs)
        if execution.follows is not None:
            return _follow(task, execution, execution.follows, args, kwargs)
        if execution.ticket is None:
            return _run(task, execution, args, kwargs)
        return _run_keyed(task, execution, args, kwargs)
    finally:
        execution.locks.settle(None)  # also where no body was run
        execution.left = True


def _run_switched_off(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the body where nothing is promised of the run; one of which something is waits for another worker.

    Its key would stay taken, so that a day later the next call with it would publish the run once more.
    """
    if execution.ticket is None and execution.follows is None:
        return _run(task, execution, args, kwargs)
    if execution.extension.settings.claim_outage == "run":
        logger.warning(
            "%s[%s] runs without the promise of its key: stackstate_enabled is False", task.name, task.request.id
        )
        return _run(task, execution, args, kwargs)
    logger.error(
        "%s[%s] is sent again, for a worker to take it that may keep the promise of its key: stackstate_enabled is "
        "False here. Start workers with it, or let such runs go without the promise: stackstate_claim_outage='run'",
        task.name,
        task.request.id,
    )
    raise come_back(task, execution, 10.0, "its worker is switched off")


def _follow(task: Any, execution: Execution, leader: Ticket, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Adopt the outcome of the run that has the key; run the body where the key is free."""
    found = outcome_of(task, execution, leader)
    if found is not None:
        return _adopt(task, execution, found)
    execution.ticket = replace(leader, task_id=execution.attempt.run_id, unreserved=True, expires=None)
    return _run_keyed(task, execution, args, kwargs)


def _adopt(task: Any, execution: Execution, found: Outcome) -> Any:
    """End as the run ended that was followed. A record of its own keeps copies of the message from doing it again."""
    ticket = ticket_of_one(execution.extension, task, execution.attempt.run_id)
    if ticket is None:
        return found.get()
    execution.ticket = ticket
    claim = _claim(task, execution)
    if claim is not None and claim.verdict is not Verdict.RUN:
        return _instead(task, execution, claim)
    execution.claim = claim
    if found.error is not None:
        execution.fail(found.error)
        raise found.error
    execution.succeed(checkpoint(task, found.value))
    return found.value


def _run_keyed(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    window = execution.window if not task.request.retries else None
    if window is not None:
        _wait_for(task, execution, window)
    claim = _claim(task, execution)
    if claim is None:
        return _run_unguarded(task, execution, args, kwargs)
    tidings.lost(execution.extension, claim.lost)
    if claim.verdict is not Verdict.RUN:
        return _instead(task, execution, claim)
    execution.claim = claim
    if window is not None:
        args, kwargs = _last_payload(task, execution, window, args, kwargs)
    return _run_claimed(task, execution, args, kwargs)


def _refusal(refused: Mapping[str, str]) -> StackStateError:
    """Return the error for a run that Celery had to publish although its key was refused."""
    found = getattr(errors, refused.get("error", ""), errors.IdempotencyConflict)
    made: StackStateError = found(refused.get("message"))
    return made


def _wait_for(task: Any, execution: Execution, window: Ticket) -> None:
    """Come back later while a debounced run may still be replaced."""
    keys = execution.extension.key_protocol
    try:
        seconds = keys.seconds_to_wait(window)
        if seconds is None and keys.record(execution.ticket.store_key) is None:
            execution.skip("dropped", reason=Verdict.STALE.value)
            raise Ignore(Verdict.STALE.value)
    except (StoreUnavailable, ConfigurationError) as error:
        raise come_back(task, execution, 10.0, f"the key could not be read: {error}") from error
    if seconds:
        raise come_back(task, execution, seconds, "a later request put it off", exactly=True)


def _last_payload(
    task: Any, execution: Execution, window: Ticket, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any]]:
    """End the window of a debounced run, and return the arguments of its last request."""
    store, keys, held = execution.extension.store, execution.extension.key_protocol, execution.claim
    assert held is not None  # noqa: S101 - it was claimed just now
    try:
        claim = store.apart(lambda: keys.close_window(window, held))
    except (StoreUnavailable, ConfigurationError) as error:
        execution.interrupted()
        raise come_back(task, execution, 10.0, f"the key could not be read: {error}") from error
    if claim is None:
        raise come_back(task, execution, 10.0, "another attempt is running it", is_copy=True)
    execution.claim = claim
    if claim.record.envelope is not None:
        last = Envelope.load(claim.record.envelope)
        args, kwargs = list(last.args), dict(last.kwargs)
        task.request.args, task.request.kwargs = args, kwargs
        execution.attempt.replace_payload(details.arguments(execution.extension, task, args, kwargs))
        if task.keep_payload is True:
            repeat.keep_text(execution.extension, claim.record.envelope, execution.attempt.run_id)
    return args, kwargs


def _run(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    retry_in = None
    assert execution.body is not None  # noqa: S101 - it is what the guard is around
    if execution.ticket is not None:
        execution.begin()
    try:
        return execution.body(*args, **kwargs)
    except Retry as again:
        if isinstance(again, Postponed):
            again.publish(task)
        retry_in = seconds_until(again.when)
        raise
    finally:
        execution.locks.settle(retry_in)


def _claim(task: Any, execution: Execution) -> Claim | None:
    """Claim the run; None means that it is to be run without the promise, since the store is down."""
    keys, attempt, ticket = execution.extension.key_protocol, _attempt_of(task, execution), execution.ticket
    if execution.follows is None:
        ticket = as_the_task_says(ticket, task)
    again = partial(envelope_of, task, task.request)
    try:
        claim = execution.extension.store.apart(
            lambda: keys.claim(ticket, attempt, execution.opening(), envelope=again)
        )
        if claim.told:
            execution.attempt.opened()
        return claim
    except (StoreUnavailable, ConfigurationError) as error:
        execution.extension.recorder.later(lambda: keys.disclaim(execution.ticket, attempt))
        if isinstance(error, NewerFormat):
            raise come_back(task, execution, NEWER_PAUSE, str(error), exactly=True) from error
        if execution.extension.settings.claim_outage == "run":
            logger.warning("%s[%s] runs without its key's promise: %s", task.name, task.request.id, error)
            execution.attempt.note("unguarded", {"reason": str(error)})
            return None
        raise come_back(task, execution, 10.0, f"the key could not be claimed: {error}") from error
    except BaseException:  # a time limit that strikes in here leaves open whether the claim was written
        execution.extension.recorder.later(lambda: keys.disclaim(execution.ticket, attempt))
        raise


def _attempt_of(task: Any, execution: Execution) -> Attempt:
    attempt, request = execution.attempt, task.request
    lease = Lease(attempt.delivery.worker, attempt.delivery.boot)
    callbacks = bool(request.callbacks or request.chain or request.chord)
    return Attempt(attempt.execution, lease, attempt.delivery.pid, attempt.epoch, callbacks)


def _run_unguarded(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the body without a claim, and record the outcome under the key when the store is back."""
    keys, attempt = execution.extension.key_protocol, _attempt_of(task, execution)

    def settle(state: Callable[[Claim], Claim | None]) -> Callable[[], None]:
        def later() -> None:
            claim = keys.claim(execution.ticket, attempt)
            if claim.verdict is Verdict.RUN:
                state(claim)

        return later

    try:
        result = _run(task, execution, args, kwargs)
    except Retry:
        raise
    except Exception as error:
        execution.settled = True
        described = describe(error)
        execution.extension.recorder.later(settle(lambda claim: keys.fail(claim, described)))
        raise
    execution.settled = True
    kept = checkpoint(task, result)
    execution.extension.recorder.later(settle(lambda claim: keys.succeed(claim, kept)))
    return result


def _instead(task: Any, execution: Execution, claim: Claim) -> Any:
    """Do what a delivery calls for whose body must not be run."""
    if claim.verdict is Verdict.REPLAY:
        execution.skip("replayed", reason="the run had succeeded; this delivery got its stored result")
        execution.claim = claim
        return kombu_json.loads(claim.record.result)
    if claim.verdict is Verdict.FOLLOW or (_has_lost_key(claim) and is_awaited(task)):
        found = outcome_of(task, execution, execution.ticket)
        if found is not None:
            return found.get()
        if claim.verdict is Verdict.FOLLOW:
            raise come_back(task, execution, 1.0, "the run it followed is gone")
    if claim.verdict is Verdict.BUSY:
        lease = execution.extension.settings.worker_lease
        raise come_back(task, execution, lease, "another attempt is running it", is_copy=True)
    if claim.verdict is Verdict.POISON:
        execution.claim = claim
        poisoned = TooManyDeliveries(tidings.begun_too_often(claim.record), task_id=execution.ticket.task_id)
        execution.fail(poisoned)
        raise poisoned
    if claim.verdict is Verdict.DONE and claim.record.state == SUCCEEDED and not claim.record.dispatched:
        logger.warning(
            "%s[%s] has succeeded, but its result could not be kept: this copy of it runs neither body nor callbacks",
            task.name,
            task.request.id,
        )
    execution.skip("dropped", reason=claim.verdict.value)
    raise Ignore(claim.verdict.value)


def _has_lost_key(claim: Claim) -> bool:
    """Return whether the run has failed, or its key went to another, before all who wait for it may have been told."""
    return claim.verdict is Verdict.STALE or (claim.verdict is Verdict.DONE and claim.record.state == FAILED)


def _run_claimed(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    token = held_key.set(execution)
    try:
        result = _run(task, execution, args, kwargs)
    except Retry:
        execution.settle_passed_on()
        if execution.state == RUNNING:
            execution.interrupted()  # raised by hand: no message was published
        raise
    except Reject as rejection:
        # Of a message that was acknowledged early nothing is left that could go back.
        execution.requeued() if rejection.requeue and task.acks_late else execution.fail(rejection)
        raise
    except Ignore as ignored:
        execution.settle_passed_on()
        if execution.state != RETRYING:  # replace() passes the key on
            execution.fail(ignored)
        raise
    except Exception as error:
        execution.fail(error)
        raise
    except BaseException:
        execution.interrupted()
        raise
    else:
        execution.settle_passed_on()
        if execution.state != RETRYING:  # retry(throw=False) has published the message with which the run goes on
            execution.succeed(checkpoint(task, result), heard=is_heard(task))
        return result
    finally:
        held_key.reset(token)
