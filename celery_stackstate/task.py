"""The task base class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from celery import Celery, Task
from celery.app.task import Context

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.extension import StackState
from celery_stackstate.positional import also_by_place
from celery_stackstate.publishing import first_send
from celery_stackstate.publishing.options import (
    LostPolicy,
    OnDuplicate,
    OnFailure,
    Scope,
    check_attributes,
    complete,
    take_options,
)
from celery_stackstate.receiving import interruptible
from celery_stackstate.result import RunResult
from celery_stackstate.state import State
from celery_stackstate.steps import Steps
from celery_stackstate.timeline import Timeline
from celery_stackstate.worker.context import state_inside, state_outside
from celery_stackstate.worker.guard import guarded, is_guarded
from celery_stackstate.worker.handover import hand_over

OURS = ("state", "timeline", "step")

T = TypeVar("T")


class StateTask(Task):
    """A Celery task with durable state, idempotent enqueue and a recorded history.

    Use it as the app's `task_cls`, as the `base` of a single task, or as a base class of your own. Everything else of
    Celery works unchanged.
    """

    abstract = True

    #: False leaves the runs of this task out of the history.
    record_runs: bool = True
    #: The share of the runs that is recorded, from 0 to 1, for very hot tasks; of the others, those that fail.
    record_sample: float = 1.0
    #: True lets the process go on before the history is written, up to 50 ms later, in batches. See the docs for what a
    #: process that is killed meanwhile leaves out.
    record_in_background: bool = False
    #: Defaults of the options of `apply_async` of the same names. Here `idempotency_key` is a format string over the
    #: arguments, such as "stripe:{event_id}", or a function that gets the arguments and returns the key or None.
    idempotency_key: Any = None
    idempotency_ttl: Any = None
    idempotency_scope: Scope | None = None
    idempotency_on_failure: OnFailure | None = None
    idempotency_fingerprint: Any = None
    on_duplicate: OnDuplicate | None = None
    debounce: float | None = None
    debounce_max_wait: float | None = None
    #: True lets one delivery at a time run the body, and none after a success, also of a run without a key.
    single_execution: bool = False
    #: What becomes of a run that nobody is left to run: "mark" it LOST, or "rerun" it under the same id.
    lost_policy: LostPolicy = "mark"
    #: How often deliveries may begin the body of one run; None for `stackstate_max_deliveries`.
    max_deliveries: int | None = None
    #: False forbids keeping what a keyed run was asked for until it ends, so that nobody else can publish it again.
    keep_payload: bool | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Put the guard around the `__call__` of each subclass, whatever that calls: it may be one of a mixin, too."""
        super().__init_subclass__(**kwargs)
        call: Any = cls.__call__
        if not is_guarded(call):
            cls.__call__ = guarded(call)  # type: ignore[method-assign]

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Attach the extension to the app that the task is bound to."""
        for name in OURS:
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner is not StateTask:
                raise ConfigurationError(
                    f"the task class {owner.__name__} defines {name!r}, which is a name of StateTask; rename yours"
                )
        check_attributes(cls)
        StackState.of(app)
        super().on_bound(app)

    # -- inside a task ---------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """The app-wide state; `.task`, `.run` and `.scope(name)` are narrower."""
        request = self._run_request()
        if request is None:
            return state_outside(self)
        made: State | None = request.__dict__.get("_stackstate_state")
        if made is None:
            made = request._stackstate_state = state_inside(self, request)
        return made

    @property
    def timeline(self) -> Timeline:
        """What the task adds to its run's history. Outside of a run its calls do nothing."""
        return Timeline(getattr(self._run_request(), "_stackstate_attempt", None))

    def step(self, name: str, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Run `fn(*args, **kwargs)` once in this run, and return what it returned, now and in each later attempt.

        A retry, a redelivery or a takeover after a crash gets the stored value in place of another call. The record is
        made after the function: a worker that is killed in between leaves a step that runs again, so hand an
        idempotency key on to whom it calls (the run's id and the step's name make one).

        Args:
            name: What the step is called; unique in the run.
            fn: A plain function.
            *args: Its arguments.
            **kwargs: Its keyword arguments.

        Returns:
            What `fn` returned: data as `state.set` takes it.

        Raises:
            NotInARun: Outside of a run.
            StepConflict: The name was used in this run for another function, or in this attempt with other arguments.
            NotSerializable, ValueTooLarge: What `fn` returned cannot be stored. It has run, and is not run again.
            StoreUnavailable: The store was away. Before `fn` was called nothing happened; after it, the message says
                that a later attempt runs it again.
        """
        run = self.state.run
        request = self.request_stack.top
        steps: Steps | None = request.__dict__.get("_stackstate_steps")
        if steps is None:
            steps = request._stackstate_steps = Steps(run, self.timeline)
        return steps.step(name, fn, args, kwargs)

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Update the state of the run in the result backend, as Celery does; its history tells the latest as well.

        Where `meta` has numbers as `current` (or `done`) and `total`, they are its progress.

        Args:
            task_id: Another run than this one, of which the history tells nothing.
            state: A state of your own.
            meta: What AsyncResult.info is to show.
            **kwargs: Those of Celery.
        """
        super().update_state(task_id=task_id, state=state, meta=meta, **kwargs)
        request = self._run_request()
        if request is not None and task_id in (None, request.id):
            self.timeline.state(state, meta)

    def _run_request(self) -> Context | None:
        request = self.request_stack.top
        return None if request is None or request.called_directly else request

    def on_replace(self, sig: Any) -> Any:
        """Let what replaces the run go on under its key. Call it when you override it."""
        if not self.request.is_eager:
            hand_over(self, sig)
        return super().on_replace(sig)

    # -- calling it ------------------------------------------------------------------------------------------------

    def delay(self, *args: Any, **kwargs: Any) -> RunResult:
        """Publish the task with these arguments and no options but those of its attributes."""
        return self.apply_async(args, kwargs)

    @also_by_place(Task.apply_async, "kwargs", 2)
    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        *,
        idempotency_scope: Scope | None = None,
        idempotency_on_failure: OnFailure | None = None,
        on_duplicate: OnDuplicate | None = None,
        **options: Any,
    ) -> RunResult:
        """Publish the task as Celery does, at most once per idempotency key.

        Args:
            args: Positional arguments of the task.
            kwargs: Keyword arguments of the task.
            idempotency_scope: "task" (default): keys of different tasks are different; "app": they are not; "run": each
                parent run has its own, so that its retry does not start its children again.
            idempotency_on_failure: "release" (default): after the final failure the key may begin another run; "keep":
                it stays with the failed one until `idempotency_ttl` has passed.
            on_duplicate: "return" (default) the handle of the run that has the key, "raise" DuplicateRun, or "replace"
                the run by this request, if it has not begun; else DuplicateRun is raised.
            **options: Celery's options, and these:
                idempotency_key (str): requests with the same key are one request. The first creates a run; the others
                    get a result with its id and `created` False, until `idempotency_ttl` after it ended.
                    None for a call without one, whatever the task's attribute says.
                idempotency_ttl (float): seconds for which the key is kept after the run's end.
                idempotency_fingerprint (callable): gets the arguments, returns what of them must be equal.
                debounce (float): seconds without another request after which the run begins, with the arguments of the
                    last one. A request after its begin begins another run.
                debounce_max_wait (float): seconds after the first request at which it begins at the latest.

        Returns:
            A RunResult; its `created` says whether this call created the run. (In eager mode an EagerResult.)

        Raises:
            IdempotencyConflict: The key was used with other arguments.
            InvalidKey, ConfigurationError, NotSerializable: Before anything was stored or published.
            StoreUnavailable: The key could not be reserved; nothing was published.
        """
        app = self._get_app()
        StackState.of(app)
        for name, choice in (
            ("idempotency_scope", idempotency_scope),
            ("idempotency_on_failure", idempotency_on_failure),
            ("on_duplicate", on_duplicate),
        ):
            if choice is not None:
                options[name] = choice
        if not app.conf.task_always_eager:
            published: RunResult = super().apply_async(args, kwargs, **options)
            return published
        mine, options = take_options(options)
        complete(self, mine, args or (), kwargs or {})
        result: RunResult = super().apply_async(args, kwargs, **options)
        result.created = True
        return result

    def apply(self, *args: Any, **options: Any) -> Any:
        """Run the task here and now, as Celery does; a time limit of the body that calls it reaches that body."""
        with interruptible():
            return super().apply(*args, **options)

    def AsyncResult(self, task_id: str, **kwargs: Any) -> RunResult:
        """Return the handle of the run `task_id`."""
        return RunResult(task_id, app=self._get_app(), backend=self.backend, task_name=self.name, **kwargs)

    @guarded
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body: directly when called like a function, under its idempotency key when a worker runs it."""
        request = self._run_request()
        if request is None or request._protected:
            return super().__call__(*args, **kwargs)
        request._protected = 1  # Celery's own mark: from here on a call of the task is a plain call
        return self.run(*args, **kwargs)


first_send.attach(StateTask, StackState.of)
