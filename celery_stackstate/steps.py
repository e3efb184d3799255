"""Steps of a run that are done once: what a step returned is kept, and later attempts of the run get it.

A step is known by its name within the run. Its record is made before the function is called, and completed with what
it returned. So a later attempt can tell three cases apart: it never began, it ended, or it began and nobody knows.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from celery_stackstate import codec
from celery_stackstate.errors import InTransaction, NotSerializable, StepConflict, StoreUnavailable, ValueTooLarge
from celery_stackstate.keys import MAX_KEY_BYTES, check_key
from celery_stackstate.state import State
from celery_stackstate.stores.base import Expect, StoredEntry
from celery_stackstate.timeline import Timeline

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Under this prefix the records lie in the run's own state.
PREFIX = "step:"
MAX_NAME_BYTES = MAX_KEY_BYTES - len(PREFIX)
#: Pauses in seconds between the tries to record what a step returned; a restart of the store fits in.
PAUSES = (0.2, 1.0)


class Steps:
    """The steps of one run, as one attempt of it sees them."""

    def __init__(self, state: State, timeline: Timeline) -> None:
        self._state, self._timeline = state, timeline
        self._seen: dict[str, Any] = {}

    def step(self, name: str, fn: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
        """Return what `fn(*args, **kwargs)` returned in this run, calling it if it was not called yet.

        Raises:
            StepConflict: The name was used in this run for another function, or in this attempt with other arguments.
            NotSerializable, ValueTooLarge: What `fn` returned cannot be stored. It has run; it is not run again.
            InTransaction: A transaction is open that the store's writes would join; `fn` was not called.
            StoreUnavailable: Before `fn` was called: nothing happened. After it: a later attempt calls it again.
        """
        self._refuse_in_transaction(name)
        key = PREFIX + check_key(name, "step name", most=MAX_NAME_BYTES)
        function = _identity(name, fn)
        self._check_arguments(name, fn, args, kwargs)
        begun = self._state._put_entry(key, {"function": function}, Expect.ABSENT)
        call = _Call(name, key, function, partial(fn, *args, **kwargs), begun.entry.version if begun.entry else 0)
        if begun.applied or begun.entry is None:
            return self._run(call)
        record = _record_of(name, function, begun.entry)
        if "result" in record:
            self._timeline.event("step", step=name, again="its stored result was used")
            return record["result"]  # type: ignore[no-any-return]
        if "unstorable" in record:
            raise (ValueTooLarge if record.get("too_large") else NotSerializable)(
                f"the step {name!r} ran in an earlier attempt, and what it returned could not be stored "
                f"({record['unstorable']}); it is not run again. Let it return plain data"
            )
        logger.warning("The step %r began before and nobody said how it ended; it runs again", name)
        return self._run(call, again="nobody said how it ended")

    def _refuse_in_transaction(self, name: str) -> None:
        """Refuse where no record could be right: one that joins is gone after a rollback though mails are out.

        And one that does not join tells of rows that are gone.
        """
        if self._state._store.in_transaction():
            raise InTransaction(
                f"the step {name!r} cannot be taken inside a database transaction: after a rollback its record would "
                f"not tell what was done; take it outside of transaction.atomic() or joining(), or begin the "
                f"transaction in its function"
            )

    def _check_arguments(self, name: str, fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuse a name that is used twice in one attempt with other arguments: a loop that forgot to number it."""
        called = (_carried(fn), args, kwargs)
        try:
            seen = self._seen.setdefault(name, _as_now(called))
        except RecursionError:  # a list that holds itself: nothing can be said against it
            return
        if not _alike(seen, called):
            raise StepConflict(
                f"the step {name!r} was called before in this attempt, on another object or with other arguments; "
                f"give each step its own name, for example f'{name}:{{number}}'",
                name=name,
            )

    def _run(self, call: _Call[T], **note: str) -> T:
        started = time.monotonic()
        try:
            result = call.fn()
        except Exception:
            self._forget(call)  # it said how it ended
            raise
        seconds = round(time.monotonic() - started, 6)
        try:
            first = self._record(call, {"result": result})
        except (NotSerializable, ValueTooLarge) as error:
            reason = str(error).replace("value['result']", "value")
            too_large = isinstance(error, ValueTooLarge)
            self._record(call, {"unstorable": reason[:500], "too_large": too_large})
            raise type(error)(
                f"the step {call.name!r} has run, but what it returned cannot be stored: {reason}", **error.__dict__
            ) from None
        self._timeline.event("step", step=call.name, seconds=seconds, **note)
        return result if first is None else first["result"]

    def _record(self, call: _Call[Any], outcome: dict[str, Any]) -> dict[str, Any] | None:
        """Complete the record; return the one of another copy of this run that was faster, if there is one."""
        for pause in (*PAUSES, None):
            try:
                return self._complete(call, {"function": call.function, **outcome})
            except StoreUnavailable as error:
                if pause is None:
                    raise StoreUnavailable(
                        f"the step {call.name!r} has run, but that could not be recorded, so a later attempt of this "
                        f"run runs it again: {error}",
                        maybe_applied=error.maybe_applied,
                    ) from error
                time.sleep(pause)
        return None

    def _complete(self, call: _Call[Any], record: dict[str, Any]) -> dict[str, Any] | None:
        done = self._state._put_entry(call.key, record, call.version)
        if done.applied:
            return None
        if done.entry is not None:
            standing = _record_of(call.name, call.function, done.entry)
            if "result" in standing:
                if standing != record:  # not our own, written by a try whose answer was lost
                    logger.warning("The step %r was run by another copy of this run too; its result counts", call.name)
                return standing
        self._state._put_entry(call.key, record, Expect.ANY)
        return None

    def _forget(self, call: _Call[Any]) -> None:
        try:
            self._state.delete(call.key, if_version=call.version)
        except StoreUnavailable as error:
            logger.warning("The step %r failed, and the store is away: %s", call.name, error)


@dataclass(frozen=True, slots=True)
class _Call(Generic[T]):
    """A step that is to be run, and the version of its record."""

    name: str
    key: str
    function: str
    fn: Callable[[], T]
    version: int


def _record_of(name: str, function: str, stored: StoredEntry) -> dict[str, Any]:
    """Return the record of a step, if it is one of this function."""
    value = codec.decode(stored.value)
    record = value if isinstance(value, dict) else {}
    if record.get("function") != function:
        raise StepConflict(
            f"the step {name!r} of this run is {record.get('function', 'a value that the task set')}, "
            f"not {function}; give each step its own name",
            name=name,
        )
    return record


def _identity(name: str, fn: Any) -> str:
    """Return what tells the function of a step from others, the same in each process that runs the task."""
    if not callable(fn):
        raise TypeError(f"the step {name!r} needs a function, not {fn!r:.80}")
    target = inspect.unwrap(getattr(fn, "func", fn))  # of a partial, what it calls
    if inspect.iscoroutinefunction(target) or inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise TypeError(
            f"the step {name!r} needs a plain function; call {target.__qualname__} in one that waits for it"
        )
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _carried(fn: Any) -> tuple[Any, ...]:
    """Return what a function brings along: the object that it is a method of, the arguments of a partial."""
    if isinstance(fn, partial):
        return (*_carried(fn.func), fn.args, fn.keywords)
    return (getattr(fn, "__self__", None) if hasattr(fn, "__qualname__") else fn,)


def _as_now(value: Any) -> Any:
    """Return a copy of what lists, dicts and sets hold now: the caller may go on filling them."""
    if type(value) is dict:
        return {key: _as_now(item) for key, item in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(map(_as_now, value))
    return value


def _alike(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arguments whose comparison fails, such as arrays: nothing can be said against them
        return True
