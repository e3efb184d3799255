"""The one place around a task's body: claims the run of a key before it, records the outcome under the key after."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery.exceptions import Ignore, Reject, Retry
from kombu.utils import json as kombu_json

from celery_stackstate import publish
from celery_stackstate.errors import ConfigurationError, StoreUnavailable, TooManyDeliveries
from celery_stackstate.key_record import RETRYING, RUNNING, Attempt, Claim, Verdict
from celery_stackstate.liveness import Lease
from celery_stackstate.worker.execution import Execution
from celery_stackstate.worker.requeue import Postponed, postponement, publish_again

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = 1_048_576


def run_guarded(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the task's body, under its key if the run has one."""
    if execution.ticket is None:
        return _run(task, args, kwargs)
    claim = _claim(task, execution)
    if claim is None:
        return _run_unguarded(task, execution, args, kwargs)
    if claim.lost is not None:
        publish.record_lost(execution.extension, claim.lost)
    if claim.verdict is not Verdict.RUN:
        return _instead(task, execution, claim)
    execution.claim = claim
    return _run_claimed(task, execution, args, kwargs)


def _run(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return task.run(*args, **kwargs)
    except Postponed as again:
        publish_again(task, task.request, again.when)
        raise


def _claim(task: Any, execution: Execution) -> Claim | None:
    """Claim the run; None means that it is to be run without the promise, since the store is down."""
    keys, attempt = execution.extension.idempotency, _attempt_of(execution)
    try:
        return keys.claim(execution.ticket, attempt)
    except (StoreUnavailable, ConfigurationError) as error:
        execution.extension.recorder.later(lambda: keys.disclaim(execution.ticket, attempt))
        if execution.extension.settings.claim_outage == "run":
            logger.warning("%s[%s] runs without its key's promise: %s", task.name, task.request.id, error)
            execution.attempt.note("unguarded", {"reason": str(error)})
            return None
        raise _come_back(task, execution, 10.0, f"the key could not be claimed: {error}") from error


def _attempt_of(execution: Execution) -> Attempt:
    attempt = execution.attempt
    lease = Lease(attempt.origin.worker, attempt.origin.boot)
    return Attempt(attempt.execution, lease, attempt.origin.pid, attempt.epoch)


def _run_unguarded(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run the body without a claim, and record the outcome under the key when the store is back."""
    keys, attempt = execution.extension.idempotency, _attempt_of(execution)

    def settle(state: Callable[[Claim], Claim | None]) -> Callable[[], None]:
        def later() -> None:
            claim = keys.claim(execution.ticket, attempt)
            if claim.verdict is Verdict.RUN:
                state(claim)

        return later

    try:
        result = _run(task, args, kwargs)
    except Retry:
        raise
    except Exception:
        execution.settled = True
        execution.extension.recorder.later(settle(keys.fail))
        raise
    execution.settled = True
    kept = _checkpoint(task, result)
    execution.extension.recorder.later(settle(lambda claim: keys.succeed(claim, kept)))
    return result


def _instead(task: Any, execution: Execution, claim: Claim) -> Any:
    """Do what a delivery calls for whose body must not be run."""
    if claim.verdict is Verdict.REPLAY:
        execution.skip("replayed", reason="the run had succeeded; this delivery got its stored result")
        execution.claim = claim
        return kombu_json.loads(claim.record.result)
    if claim.verdict is Verdict.BUSY:
        raise _come_back(task, execution, execution.extension.settings.worker_lease, "another attempt is running it")
    if claim.verdict is Verdict.POISON:
        execution.claim = claim
        execution.fail()
        raise TooManyDeliveries(
            f"{task.name}[{execution.ticket.task_id}] was begun {claim.record.deliveries} times and each time its "
            f"worker died (stackstate_max_deliveries); it is not begun again",
            task_id=execution.ticket.task_id,
        )
    execution.skip("dropped", reason=claim.verdict.value)
    raise Ignore(claim.verdict.value)


def _come_back(task: Any, execution: Execution, retry_after: float, reason: str) -> Ignore:
    publish_again(task, task.request, postponement(task.request, retry_after))
    execution.skip("postponed", reason=reason)
    return Ignore(reason)


def _run_claimed(task: Any, execution: Execution, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    token = publish.held_key.set(execution)
    try:
        result = _run(task, args, kwargs)
    except Retry:
        if execution.claim is not None and execution.claim.record.state == RUNNING:
            execution.interrupted()  # raised by hand: no message was published
        raise
    except Reject as rejection:
        (execution.interrupted if rejection.requeue else execution.fail)()
        raise
    except Ignore:
        if execution.claim is not None and execution.claim.record.state != RETRYING:  # replace() passes the key on
            execution.fail()
        raise
    except Exception:
        execution.fail()
        raise
    except BaseException:
        execution.interrupted()
        raise
    else:
        execution.succeed(_checkpoint(task, result))
        return result
    finally:
        publish.held_key.reset(token)


def _checkpoint(task: Any, result: Any) -> str | None:
    """Return the result as JSON as the result backend would give it, or None when it cannot be kept."""
    try:
        text = str(kombu_json.dumps(result))
    except Exception as error:
        logger.warning("The result of %s[%s] cannot be kept for its key: %s", task.name, task.request.id, error)
        return None
    if len(text) > MAX_RESULT_BYTES:
        logger.warning("The result of %s[%s] is too large to be kept for its key", task.name, task.request.id)
        return None
    return text
