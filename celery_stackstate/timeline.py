"""What a task says about its own progress."""

from __future__ import annotations

from typing import Any, SupportsFloat

from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.latest import amount


class Timeline:
    """Adds to the history of the current run. Outside of a run its calls do nothing. None waits for the store.

    What is given is recorded as it is at the call. No failure of the history is raised, only what is wrong with the
    call itself.
    """

    __slots__ = ("_attempt",)

    def __init__(self, attempt: OpenAttempt | None) -> None:
        self._attempt = attempt

    def event(self, name: str, /, **data: Any) -> None:
        """Add an event to the timeline.

        Args:
            name: What happened; a short text.
            **data: JSON-like details; redacted like arguments.

        Raises:
            ValueError: `name` is no text, or blank.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"an event needs a name, not {name!r:.80}")
        if self._attempt is not None:
            self._attempt.note(name, data)

    def progress(self, done: SupportsFloat, total: SupportsFloat | None = None, message: str | None = None) -> None:
        """Say how far the run is; the latest call is written about once a second, so a call per item is cheap.

        Args:
            done: How much is done: a number of 0 or more, of any type that has a `float()`.
            total: How much there is, if that is known.
            message: A word about what is being done.

        Raises:
            ValueError: `done` or `total` is no such number.
        """
        known = None if total is None else _amount("total", total)
        done = _amount("done", done)
        if self._attempt is not None:
            self._attempt.progress(done, known, message)

    def state(self, state: str | None, meta: Any) -> None:
        """Say what the task has told the result backend of itself; numbers in it that are a progress are one."""
        if self._attempt is not None:
            self._attempt.state(state, meta)


def _amount(name: str, number: Any) -> float:
    found = amount(number)
    if found is None:
        raise ValueError(f"progress needs {name} as a number of 0 or more, not {_told(number)}")
    return found


def _told(number: Any) -> str:
    try:
        return f"{number!r:.80}"
    except ValueError:  # of more digits than Python writes out
        return "one of thousands of digits"
