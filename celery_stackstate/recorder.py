"""Writes run history without ever getting in a task's way.

A failed write costs one bounded wait; then a circuit breaker skips the store for a while, what is to be written waits
in a bounded queue, and a background thread writes it when the store is back. One thread per process also writes the
start of attempts that go on for longer than an instant, and their log lines.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from weakref import WeakSet

from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores.base import RunWrite, Store

logger = logging.getLogger(__name__)

TICK = 0.1
LIVE_PAUSE = 1.0
MAX_WAITING = 10_000
BATCH = 200
#: What passes by itself, or when somebody mends a password: worth trying again.
DOWN = (StoreUnavailable, ConfigurationError)
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0

_recorders: WeakSet[Recorder] = WeakSet()


class Recorder:
    """The one writer of run history in a process. None of its methods raises or takes longer than one store call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.unrecorded = 0
        self._reset()
        _recorders.add(self)

    def _reset(self) -> None:
        self._waiting: deque[RunWrite] = deque()
        self._chores: deque[Callable[[], None]] = deque()
        self._live: dict[str, tuple[OpenAttempt, float]] = {}
        self._mutex = threading.RLock()  # a finalizer that runs in here may log
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed_until = self._chores_after = 0.0
        self._pause = 0.0

    # -- what signal receivers call --------------------------------------------------------------------------------

    def record(self, *writes: RunWrite) -> bool:
        """Write now; what could not be written is kept for later. Return True when it was written."""
        if time.monotonic() >= self._closed_until and self._append(list(writes)):
            return True
        self._keep(writes)
        return False

    def post(self, write: RunWrite) -> None:
        """Write soon, in the background."""
        self._keep((write,))

    def later(self, chore: Callable[[], None]) -> None:
        """Do `chore` in the background, again and again while it raises StoreUnavailable or ConfigurationError."""
        with self._mutex:
            self._chores.append(chore)
            while len(self._chores) > MAX_WAITING:
                self._chores.popleft()
                self.unrecorded += 1
            self._ensure_thread()
        self._wake.set()

    def begin(self, attempt: OpenAttempt) -> None:
        """Watch an attempt: its start and its lines are written while it goes on, or with its end if that is soon."""
        with self._mutex:
            self._live[attempt.execution] = (attempt, time.monotonic() + TICK)
            self._ensure_thread()
        self._wake.set()

    def finish(self, attempt: OpenAttempt) -> None:
        """Write the rest of an attempt that has ended."""
        with self._mutex:
            self._live.pop(attempt.execution, None)
        rest = attempt.take()
        if rest is not None:
            self.record(rest)

    def flush(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most about `timeout` seconds; called at the end of a process."""
        deadline = time.monotonic() + timeout
        self._write_live(time.monotonic() + LONGEST_PAUSE)
        self._do_chores()
        while self._waiting and time.monotonic() < deadline and self._write_waiting():
            pass

    # -- the background thread -------------------------------------------------------------------------------------

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._loop, name="stackstate-recorder", daemon=True)
            self._thread.start()

    def _loop(self) -> None:
        while True:
            if not (self._waiting or self._live or self._chores):
                self._wake.wait()
            self._wake.clear()
            time.sleep(TICK)
            try:
                self._write_live(time.monotonic())
                self._write_waiting()
                self._do_chores()
            except Exception:
                logger.exception("The recorder's thread failed; it goes on")

    def _write_live(self, now: float) -> None:
        with self._mutex:
            due = [attempt for attempt, when in self._live.values() if when <= now]
            for attempt in due:
                self._live[attempt.execution] = (attempt, now + LIVE_PAUSE)
        writes = [write for attempt in due if (write := attempt.take()) is not None]
        if writes:
            self._keep(writes)

    def _write_waiting(self) -> bool:
        """Write one batch of what waits; False when the store is down."""
        if not self._waiting:
            return True
        if time.monotonic() < self._closed_until:
            return False
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if self._append(batch):
            return True
        with self._mutex:
            self._waiting.extendleft(reversed(batch))
        return False

    def _do_chores(self) -> None:
        """Do what is to be done, in order; the history's breaker is not theirs, its store may be another one."""
        while self._chores and time.monotonic() >= self._chores_after:
            try:
                chore = self._chores.popleft()
            except IndexError:  # the thread and a flush at once
                return
            try:
                chore()
            except DOWN as error:
                self._chores.appendleft(chore)
                self._chores_after = time.monotonic() + FIRST_PAUSE
                logger.debug("What is to be done in the store waits: %s", error)
            except Exception:
                logger.exception("What was to be done in the store failed")

    # -- the breaker -----------------------------------------------------------------------------------------------

    def _append(self, writes: list[RunWrite]) -> bool:
        try:
            self._store.append(writes)
        except DOWN as error:
            self._open_breaker(error)
            return False
        except Exception:  # a recorder's failure is never the task's; one bad fact does not take the others along
            if len(writes) > 1:
                return all([self._append([write]) for write in writes])
            self.unrecorded += 1
            logger.exception("A fact of the run %s was not recorded", writes[0].run_id)
            return True
        if self._pause:
            logger.warning("The run history is written again; %d facts were not recorded", self.unrecorded)
            self._pause = 0.0
        return True

    def _open_breaker(self, error: Exception) -> None:
        if not self._pause:
            logger.warning("The run history cannot be written now, tasks go on without it: %s", error)
        self._pause = min(LONGEST_PAUSE, 2 * self._pause or FIRST_PAUSE)
        self._closed_until = time.monotonic() + self._pause

    def _keep(self, writes: tuple[RunWrite, ...] | list[RunWrite]) -> None:
        with self._mutex:
            self._waiting.extend(writes)
            while len(self._waiting) > MAX_WAITING:
                self._waiting.popleft()
                self.unrecorded += 1
            self._ensure_thread()
        self._wake.set()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._reset()


os.register_at_fork(after_in_child=_after_fork)
