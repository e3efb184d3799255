"""What a test has enqueued, and how it is looked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery_stackstate.fingerprint import bind_arguments

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Enqueued:
    """A request that went out: a message, or in eager mode a call that ran at once.

    `args` and `kwargs` are as they were then, whatever became of the objects; those of a debounced task are the last
    ones. `created` is False for a message that adopts the outcome of the run that has its idempotency key.
    """

    task: str
    id: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    key: str | None = None
    queue: str | None = None
    eta: datetime | None = None
    created: bool = True

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        parts = {"key": self.key, "queue": self.queue, "eta": self.eta and self.eta.isoformat()}
        told = "".join(f"  {name}={value!r}" for name, value in parts.items() if value is not None)
        return f"{self.task}({', '.join(given)}){told}" + ("" if self.created else "  (follows the run with that key)")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a test looks for; what is None is not compared.

    With `args` the arguments are compared as a whole; with `kwargs` alone, those that are named.
    """

    task: str
    key: str | None = None
    args: Sequence[Any] | None = None
    kwargs: Mapping[str, Any] | None = None
    queue: str | None = None

    def __str__(self) -> str:
        compared = {name: getattr(self, name) for name in ("key", "args", "kwargs", "queue")}
        told = ", ".join(f"{name}={value!r}" for name, value in compared.items() if value is not None)
        return f"{self.task} with {told}" if told else self.task

    def matches(self, sent: Enqueued, body: Callable[..., Any] | None) -> bool:
        """Return whether `sent` is what is looked for; `body` is the task's function, if it is known."""
        if not sent.created or sent.task != self.task:
            return False
        if self.key not in (None, sent.key) or self.queue not in (None, sent.queue):
            return False
        bound = bind_arguments(body, sent.args, sent.kwargs)
        if self.args is not None:
            return bound == bind_arguments(body, self.args, self.kwargs or {})
        named = {**bound, **sent.kwargs}
        return all(named.get(name, _ABSENT) == value for name, value in (self.kwargs or {}).items())


def as_sent(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return arguments that stay as they are, whatever the caller or the body does to the objects later."""
    return tuple(map(_copied, args)), {name: _copied(value) for name, value in kwargs.items()}


def _copied(value: Any) -> Any:
    """Return a copy of `value`; itself where it has none that is equal, as a test compares them."""
    try:
        copy = deepcopy(value)
        return copy if copy == value else value
    except Exception:  # an eager call may hand anything on: a lock, a file, a class of the project's own
        return value


class Outbox:
    """The requests of one test, in their order. A run that goes on, by a retry for example, is one request."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._sent: list[Enqueued] = []
        self._suppressed: list[str] = []
        self._replaced: list[Enqueued] = []

    def add(self, sent: Enqueued) -> None:
        """Note a request; a run that has a key is known by its id, and requested once."""
        with self._mutex:
            if sent.key is None or self._place_of(sent.id) is None:
                self._sent.append(sent)

    def suppress(self, task: str, key: str, run_id: str) -> None:
        """Note a request that was a duplicate."""
        with self._mutex:
            self._suppressed.append(f"{task}  key={key!r}  (the run {run_id} has it)")

    def change(self, run_id: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Note that a run which has not begun was given other arguments."""
        with self._mutex:
            place = self._place_of(run_id)
            if place is not None:
                self._sent[place] = replace(self._sent[place], args=tuple(args), kwargs=dict(kwargs))

    def drop(self, run_id: str) -> None:
        """Note that a request has given its place to a later one before its run began."""
        with self._mutex:
            place = self._place_of(run_id)
            if place is not None:
                self._replaced.append(self._sent.pop(place))

    def _place_of(self, run_id: str) -> int | None:
        return next((place for place, sent in enumerate(self._sent) if sent.id == run_id), None)

    def find(self, wanted: Wanted, body: Callable[..., Any] | None) -> list[Enqueued]:
        """Return what matches, the oldest first."""
        with self._mutex:
            return [sent for sent in self._sent if wanted.matches(sent, body)]

    def __str__(self) -> str:
        """Tell all of it, for the message of a test that fails."""
        with self._mutex:
            sent, replaced = ([str(one) for one in some] for some in (self._sent, self._replaced))
            suppressed = list(self._suppressed)
        parts = [_listed("Enqueued in this test:", sent) if sent else "Nothing was enqueued in this test."]
        if suppressed:
            parts.append(_listed("Suppressed as duplicates:", suppressed))
        if replaced:
            parts.append(_listed("Replaced by a later request before they began:", replaced))
        return "\n".join(parts)


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])
