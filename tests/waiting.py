"""Waiting for what another process does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

import pytest

T = TypeVar("T")
POLL_SECONDS = 0.02


class HasLogs(Protocol):
    """Whatever can show its log: a node or its container."""

    def logs(self) -> str: ...


def log_tail(node: HasLogs, lines: int = 20) -> str:
    """Return the last lines of a node's log."""
    return "\n".join(node.logs().splitlines()[-lines:])


def wait_for(predicate: Callable[[], T], *, timeout: float = 10.0, message: str = "", node: HasLogs | None = None) -> T:
    """Poll until the predicate is true, and return what it returned.

    Args:
        predicate: called every 20 ms; what it raises is not caught.
        timeout: seconds in which the machine ran us; then the test fails.
        message: what was waited for, for the reader of the failure.
        node: its last log lines become part of the failure.
    """
    __tracebackhide__ = True
    watch = Stopwatch()
    while not (value := predicate()):
        if watch.seconds > timeout:
            waited = f"waited {timeout:g} s in vain for {message or predicate}; last seen: {value!r}"
            pytest.fail(f"{waited}\n{log_tail(node)}" if node else waited)
        time.sleep(POLL_SECONDS)
    return value


class Stopwatch:
    """Times what must be over soon, on a machine that may be slow, or stand still for a while.

    A sleeper beside it notes how late it is woken: so long nobody here could have been quicker, and so long is not
    counted. Made where the time begins.
    """

    _late: ClassVar[deque[tuple[float, float]]] = deque(maxlen=5_000)
    _sleeper: ClassVar[threading.Thread | None] = None

    def __init__(self) -> None:
        self._begun = time.monotonic()
        if Stopwatch._sleeper is None or not Stopwatch._sleeper.is_alive():
            Stopwatch._sleeper = threading.Thread(target=self._note_how_late, name="tests-stopwatch", daemon=True)
            Stopwatch._sleeper.start()

    @staticmethod
    def _note_how_late() -> None:
        while True:
            before = time.monotonic()
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            Stopwatch._late.append((now, now - before - POLL_SECONDS))

    @property
    def late(self) -> float:
        """For how many seconds the machine did not run what was ready to run, so far as the sleeper has noticed."""
        return sum(min(late, at - self._begun) for at, late in list(Stopwatch._late) if at > self._begun)

    @property
    def seconds(self) -> float:
        """How many seconds have passed in which the machine ran us."""
        return time.monotonic() - self._begun - self.late
