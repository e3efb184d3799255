"""The task base class."""

from __future__ import annotations

from typing import Any

from celery import Celery, Task
from celery.app.task import Context

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.extension import StackState
from celery_stackstate.locks import LockOwner
from celery_stackstate.publish import take_options
from celery_stackstate.result import RunResult
from celery_stackstate.state import RunContext, State
from celery_stackstate.timeline import Timeline
from celery_stackstate.worker.guard import run_guarded
from celery_stackstate.worker.requeue import busy_hook

OURS = ("state", "timeline")


class StateTask(Task):
    """A Celery task with durable state, idempotent enqueue and a recorded history.

    Use it as the app's `task_cls`, as the `base` of a single task, or as a base class of your own. Everything else of
    Celery works unchanged.
    """

    abstract = True

    #: False leaves the runs of this task out of the history.
    record_runs: bool = True

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Attach the extension to the app that the task is bound to."""
        for name in OURS:
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner is not StateTask:
                raise ConfigurationError(
                    f"the task class {owner.__name__} defines {name!r}, which is a name of StateTask; rename yours"
                )
        StackState.of(app)
        super().on_bound(app)

    # -- inside a task ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The app-wide state; `.task`, `.run` and `.scope(name)` are narrower."""
        extension = StackState.of(self.app)
        request = self._run_request()
        if request is None:
            context = RunContext(LockOwner.of_process(), task=self.name, run_ttl=extension.settings.longest_retention)
            return extension.state_for(context)
        execution = getattr(request, "_stackstate", None)
        owner = LockOwner(
            f"{self.name}[{request.id}]",
            execution.attempt.execution if execution is not None else request.id,
            busy_hook(extension, self, request) if execution is not None else None,
        )
        run_ttl = extension.settings.longest_retention
        return extension.state_for(RunContext(owner, run_id=request.id, task=self.name, run_ttl=run_ttl))

    @property
    def timeline(self) -> Timeline:
        """What the task adds to its run's history. Outside of a run its calls do nothing."""
        execution = getattr(self._run_request(), "_stackstate", None)
        return Timeline(None if execution is None else execution.attempt)

    def _run_request(self) -> Context | None:
        request = self.request_stack.top
        return None if request is None or request.called_directly else request

    # -- calling it ------------------------------------------------------------------------------------------------

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish the task as Celery does, at most once per idempotency key.

        Args:
            args: Positional arguments of the task.
            kwargs: Keyword arguments of the task.
            **options: Celery's options, and these:
                idempotency_key (str): requests with the same key are one request. The first creates a run; the others
                    get a result with its id and `created` False, until `idempotency_ttl` after it ended.
                idempotency_ttl (float): seconds for which the key is kept after the run's end.
                idempotency_scope (str): "task" (default): keys of different tasks are different; "app": they are not.
                idempotency_on_failure (str): "release" (default): after the final failure the key may begin another
                    run; "keep": it stays with the failed one until `idempotency_ttl` has passed.
                on_duplicate (str): "return" (default) the handle of the run that has the key, or "raise" DuplicateRun.

        Returns:
            A RunResult; its `created` says whether this call created the run. (In eager mode an EagerResult.)

        Raises:
            IdempotencyConflict: The key was used with other arguments.
            InvalidKey, ConfigurationError, NotSerializable: Before anything was stored or published.
            StoreUnavailable: The key could not be reserved; nothing was published.
        """
        app = self._get_app()
        StackState.of(app)
        if not app.conf.task_always_eager:
            return super().apply_async(args, kwargs, **options)
        _, options = take_options(options)
        result = super().apply_async(args, kwargs, **options)
        result.created = True
        return result

    def AsyncResult(self, task_id: str, **kwargs: Any) -> RunResult:
        """Return the handle of the run `task_id`."""
        return RunResult(task_id, app=self._get_app(), backend=self.backend, task_name=self.name, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body: directly when called like a function, under its idempotency key when a worker runs it."""
        request = self._run_request()
        if request is None or request._protected:
            return super().__call__(*args, **kwargs)
        request._protected = 1  # Celery's own mark: from here on a call of the task is a plain call
        execution = getattr(request, "_stackstate", None)
        if execution is None:
            return self.run(*args, **kwargs)
        return run_guarded(self, execution, args, kwargs)
