"""Where `self.state` is used from: inside a run, with its locks and its way to be sent again, or outside of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_stackstate.attached import attached_to
from celery_stackstate.holding import HeldLocks, LockOwner
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.worker.requeue import postpone_hook

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState
    from celery_stackstate.worker.execution import Execution


def state_outside(task: Any) -> State:
    """Return the state as code sees it that calls a method of `task` outside of its runs."""
    extension = attached_to(task)
    return extension.state_for(RunContext(task=task.name, run_ttl=extension.settings.longest_retention))


def state_inside(task: Any, request: Any) -> State:
    """Return the state as the execution of `request` sees it."""
    extension, execution = attached_to(task), getattr(request, "_stackstate", None)
    run_ttl = extension.settings.longest_retention
    owner = _eager_owner(task, request) if execution is None else _owner(extension, task, request, execution)
    attempt = getattr(request, "_stackstate_attempt", None)
    touch = None if attempt is None else attempt.touch
    return extension.state_for(RunContext(owner, run_id=request.id, task=task.name, run_ttl=run_ttl, touch=touch))


def _owner(extension: StackState, task: Any, request: Any, execution: Execution) -> LockOwner:
    return LockOwner(
        f"{task.name}[{request.id}]",
        execution.attempt.execution,
        run_id=request.id,
        max_hold=_hard_limit(task, request),
        postpone=postpone_hook(extension, request, execution.locks),
        held=execution.locks,
    )


def _eager_owner(task: Any, request: Any) -> LockOwner:
    """Return the owner for an eager run. Its retries run inside of what they retry, and hold the locks of that."""
    for outer in task.request_stack.stack:
        owner: LockOwner | None = getattr(outer, "_stackstate_owner", None)
        if owner is not None and outer.id == request.id:
            return owner
    request._stackstate_owner = LockOwner(f"{task.name}[{request.id}]", request.id, run_id=request.id, held=HeldLocks())
    made: LockOwner = request._stackstate_owner
    return made


def _hard_limit(task: Any, request: Any) -> float | None:
    """Return the seconds after which Celery kills the execution, if it does."""
    limits = request.timelimit or (None, None)
    seconds = limits[0] or task.time_limit or task.app.conf.task_time_limit
    return None if seconds is None else float(seconds)
