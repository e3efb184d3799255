"""What a test asks: whether a task was enqueued, and what became of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from celery.canvas import Signature

from celery_stackstate.records import Event, LogLine, Run
from celery_stackstate.testing.enqueued import Enqueued, Outbox, Wanted
from celery_stackstate.testing.sense import check_arguments, check_task, name_of, unknown_task

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

PAUSE = 0.02
MOST_LINES = 100_000


@dataclass(frozen=True, slots=True)
class RunHistory(Run):
    """A run with all that is recorded of it: beside its `attempts`, the `events` of its timeline and its `logs`."""

    events: tuple[Event, ...] = ()
    logs: tuple[LogLine, ...] = ()


class AssertEnqueued:
    """Looks for a request among those of a test."""

    def __init__(self, extension: StackState, outbox: Outbox) -> None:
        self._extension, self._outbox = extension, outbox

    def __call__(
        self,
        task: Any,
        *,
        key: str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        count: int | None = None,
    ) -> list[Enqueued]:
        """Assert that `task` was enqueued in this test, and return the requests that match, the oldest first.

        A request that was suppressed as a duplicate does not count, nor does a run that goes on by a retry.

        Args:
            task: The task, its name, or a signature of it (which may be one that only other processes have).
            key: Its idempotency key.
            args: Its positional arguments. With it (and `kwargs`) the arguments are compared as a whole, by name,
                however the call spelled them.
            kwargs: Arguments by name. Without `args` only these are compared.
            queue: The queue it went to.
            count: How many requests match, exactly; None for one or more.

        Raises:
            AssertionError: It was not; the message tells what was enqueued instead.
            TypeError, ValueError: Nothing could match: there is no such task, or it takes no such arguments.
        """
        __tracebackhide__ = True
        wanted = Wanted(name_of(task), key, args, kwargs, queue)
        found = _find(self._extension, self._outbox, wanted, task)
        if not found and count is None:
            raise AssertionError(f"{wanted} was not enqueued.\n{self._outbox}")
        if count not in (None, len(found)):
            raise AssertionError(f"{wanted} was enqueued {_times(len(found))}, not {_times(count)}.\n{self._outbox}")
        return found


class RefuteEnqueued:
    """Makes sure that a request is not among those of a test."""

    def __init__(self, extension: StackState, outbox: Outbox) -> None:
        self._extension, self._outbox = extension, outbox

    def __call__(
        self,
        task: Any,
        *,
        key: str | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
    ) -> None:
        """Assert that `task` was not enqueued in this test; the arguments are those of `assert_enqueued`.

        Raises:
            AssertionError: It was; the message tells all that was enqueued.
            TypeError, ValueError: Nothing could match: there is no such task, or it takes no such arguments.
        """
        __tracebackhide__ = True
        wanted = Wanted(name_of(task), key, args, kwargs, queue)
        found = _find(self._extension, self._outbox, wanted, task)
        if found:
            raise AssertionError(f"{wanted} was enqueued {_times(len(found))}.\n{self._outbox}")


class ReadHistory:
    """Reads what is recorded of a run, when it is all there."""

    def __init__(self, extension: StackState, *, has_worker: bool) -> None:
        self._extension, self._has_worker = extension, has_worker

    def __call__(self, result: Any, *, timeout: float = 10.0) -> RunHistory:
        """Return the history of a run; where the test has a worker, when it has ended and all of it was written.

        Args:
            result: What `apply_async` returned, or the run's id.
            timeout: Most seconds to wait for its end.

        Raises:
            AssertionError: Nothing is recorded of it, or it has not ended.
        """
        __tracebackhide__ = True
        run_id, deadline = str(getattr(result, "id", result)), time.monotonic() + timeout
        while True:
            found = self._extension.runs.get(run_id)
            if found is not None and (found.finished or not self._has_worker):
                return self._whole(found)
            if not self._has_worker or time.monotonic() >= deadline:
                break
            time.sleep(PAUSE)
        if found is None:
            raise AssertionError(f"nothing is recorded of the run {run_id}: is its task a StateTask with record_runs?")
        raise AssertionError(f"the run {run_id} of {found.task} has not ended in {timeout:g} s, it is {found.status}")

    def _whole(self, run: Run) -> RunHistory:
        runs = self._extension.runs
        known = {item.name: getattr(run, item.name) for item in fields(run)}
        return RunHistory(**known, events=tuple(runs.events(run.id)), logs=tuple(runs.logs(run.id, limit=MOST_LINES)))


def _find(extension: StackState, outbox: Outbox, wanted: Wanted, task: Any) -> list[Enqueued]:
    """Return what matches. Where nothing does, it must be something that could have matched."""
    __tracebackhide__ = True
    check_task(wanted.task, task)
    known = extension.app.tasks.get(wanted.task)
    found = outbox.find(wanted, None if known is None else known.run)
    if not found and known is not None:
        check_arguments(wanted, known.run)
    elif not found and not isinstance(task, Signature):
        raise unknown_task(wanted.task, extension.app.tasks)
    return found


def _times(count: int | None) -> str:
    return "once" if count == 1 else f"{count} times"
