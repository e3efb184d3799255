"""What is said often and of which the latest counts: how far a task is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf, isfinite
from operator import index
from typing import Any

from celery_stackstate.records import Progress, from_micros

#: The recorder looks once a second, more or less.
SHORTEST_PAUSE, LONGEST_PAUSE = 900_000, 10_000_000
#: So many characters of a message go into the summary of a run.
MOST_MESSAGE = 100


class Latest:
    """Keeps what was said last until it is taken: once a second, of a long run every ten. Times in microseconds."""

    __slots__ = ("_at", "_data", "_not_before")

    def __init__(self) -> None:
        self._at, self._not_before = 0, 0
        self._data: Mapping[str, Any] | None = None

    def say(self, at: int, data: Mapping[str, Any]) -> None:
        """Replace what was said."""
        self._at, self._data = at, data

    def take(self, begun: int, now: int, *, at_once: bool) -> tuple[int, Mapping[str, Any]] | None:
        """Return when it was said and what, if that was not taken yet and its time has come, or `at_once`."""
        if self._data is None or (now < self._not_before and not at_once):
            return None
        data, self._data = self._data, None
        self._not_before = now + min(LONGEST_PAUSE, max(SHORTEST_PAUSE, (now - begun) // 50))
        return self._at, data


def amount(value: Any) -> float | None:
    """Return a number of 0 or more of whatever type as JSON has it; None for anything else."""
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        return None
    try:
        number = float(value)
        if not 0 <= number < inf:
            return None
        return index(value) if hasattr(type(value), "__index__") else number
    except (TypeError, ValueError, ArithmeticError):
        return None


def progress_in(meta: Any) -> tuple[float, float | None] | None:
    """Return done and total as what a task tells the result backend has them; None when it has none."""
    if not isinstance(meta, Mapping):
        return None
    total = meta.get("total")
    done, known = amount(meta.get("current", meta.get("done"))), amount(total)
    return None if done is None or (total is not None and known is None) else (done, known)


def dump_progress(at: int, done: Any, total: Any, message: Any) -> str:
    """Return how far a run is, in microseconds `at`, as its summary keeps it."""
    return json.dumps([done, total, None if message is None else str(message)[:MOST_MESSAGE], at])


def load_progress(text: str | None) -> Progress | None:
    """Return what `dump_progress` was given; None for nothing, and for what is no progress."""
    try:
        done, total, message, at = json.loads(text or "null")[:4]
        moment = from_micros(at)
    except (TypeError, ValueError, OverflowError):
        return None
    numbers = _is_number(done) and (total is None or _is_number(total))
    return Progress(done, total, message, moment) if numbers and moment is not None else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
