"""What a task says about its own progress."""

from __future__ import annotations

from typing import Any

from celery_stackstate.attempt import OpenAttempt


class Timeline:
    """Adds to the history of the current run. Outside of a run its calls do nothing. None waits for the store."""

    __slots__ = ("_attempt",)

    def __init__(self, attempt: OpenAttempt | None) -> None:
        self._attempt = attempt

    def event(self, name: str, /, **data: Any) -> None:
        """Add an event to the timeline.

        Args:
            name: What happened; a short text.
            **data: JSON-like details; redacted like arguments.
        """
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"an event needs a name, not {name!r:.80}")
        if self._attempt is not None:
            self._attempt.note(name[:200], data)

    def progress(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the run is; the latest call is written about once a second, so a call per item is cheap.

        Args:
            done: How much is done, 0 or more.
            total: How much there is, if that is known.
            message: A word about what is being done.
        """
        for name, number in (("done", done), ("total", total)):
            wrong = isinstance(number, bool) or not isinstance(number, (int, float))
            if number is not None and (wrong or number < 0):
                raise ValueError(f"progress needs {name} as a number of 0 or more, not {number!r:.80}")
        if self._attempt is not None:
            self._attempt.progress(done, total, message)
