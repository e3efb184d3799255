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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakSet

from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.chores import DOWN, Chores
from celery_stackstate.stores import threads
from celery_stackstate.stores.base import RunWrite, Store

logger = logging.getLogger(__name__)

#: Seconds after which an attempt is one that goes on, and that what waits may wait for its batch.
INSTANT, TICK = 0.1, 0.05
LIVE_PAUSE = 1.0
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 32 * 1_048_576
BATCH = 200
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0

_recorders: WeakSet[Recorder] = WeakSet()


class Recorder:
    """The one writer of run history in a process. None of its methods takes longer than one store call.

    None raises, but for what interrupts the thread that calls.
    """

    def __init__(
        self,
        store: Store,
        told: Callable[[RunWrite], None] | None = None,
        *,
        interrupts: tuple[type[BaseException], ...] = (),
    ) -> None:
        """Write to a store.

        Args:
            store: Where to.
            told: Gets each fact that was recorded or put aside.
            interrupts: What is thrown into whatever a thread does just then, such as a time limit. It passes, and what
                was to be written meanwhile is kept for later.
        """
        self._store, self._told, self._interrupts = store, told, interrupts
        self.unrecorded = 0
        self._reset()
        _recorders.add(self)

    def _reset(self) -> None:
        self._waiting: deque[RunWrite] = deque()
        self._waiting_bytes = 0
        self._chores, self._history_chores = Chores(), Chores()
        self._gathered: dict[Callable[..., None], list[Any]] = {}
        self._live: dict[str, tuple[OpenAttempt, float]] = {}
        self._pending: deque[tuple[float, Callable[[], RunWrite | None]]] = deque()
        self._mutex = threading.RLock()  # a finalizer that runs in here may log
        self._writing = threading.RLock()
        # The thread waits for it. To release it is one step; an Event may stay locked where a time limit strikes.
        self._idle = threading.Lock()
        self._idle.acquire()
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._closed_until = 0.0
        self._pause = 0.0

    # -- what signal receivers call --------------------------------------------------------------------------------

    def record(self, *writes: RunWrite) -> bool:
        """Write now; what could not be written is kept for later. Return True when it was written."""
        written = False
        try:
            written = self._may_write_here() and self._append(list(writes))
        finally:  # also when it is interrupted
            if not written:
                self._keep(writes)
            self._tell(writes)
        return written

    def post(self, write: RunWrite) -> None:
        """Write soon, in the background."""
        self._keep((write,))
        self._tell((write,))

    def write_unless_over(self, tell: Callable[[], RunWrite | None]) -> None:
        """Write in the background what `tell` returns an instant from now, if that is anything."""
        with self._mutex:
            self._pending.append((time.monotonic() + INSTANT, tell))
            self._ensure_thread()
        self._wake()

    def later(self, chore: Callable[[], None], *, history: bool = False) -> None:
        """Do `chore` in the background, again and again while it raises StoreUnavailable or ConfigurationError.

        Those that need the `history` do not keep the others waiting: its store may be another one.
        """
        with self._mutex:
            self.unrecorded += (self._history_chores if history else self._chores).add(chore)
            self._ensure_thread()
        self._wake()

    def together(self, chore: Callable[..., None], item: Any) -> None:
        """Do `chore` in the background, like `later`, for all items that there are by then, as its arguments."""
        with self._mutex:
            items = self._gathered.get(chore)
            if items is not None:
                items.append(item)
                del items[:-MAX_WAITING]
                return
            self._gathered[chore] = [item]
        self.later(partial(self._do_together, chore))

    def _do_together(self, chore: Callable[..., None]) -> None:
        with self._mutex:
            items = self._gathered.pop(chore, [])
        try:
            chore(*items)
        except DOWN:
            with self._mutex:
                self._gathered[chore] = items + self._gathered.get(chore, [])
            raise

    def begin(self, attempt: OpenAttempt) -> None:
        """Watch an attempt: its start and its lines are written while it goes on, or with its end if that is soon."""
        with self._mutex:
            self._live[attempt.execution] = (attempt, time.monotonic() + INSTANT)
            self._ensure_thread()
        self._wake()

    def finish(
        self, attempt: OpenAttempt, *, soon: bool = False, beside: Callable[[list[RunWrite]], bool] | None = None
    ) -> None:
        """Write the rest of an attempt that has ended; `soon` in the background.

        `beside` has something to write along with it, and returns whether it wrote the rest as well.
        """
        with self._mutex:
            self._live.pop(attempt.execution, None)
        rest = attempt.take()
        writes = [] if rest is None else [rest]
        if beside is not None and beside(writes):
            self._tell(writes)
        elif rest is not None:
            (self.post if soon else self.record)(rest)

    def settle(self) -> None:
        """Write what waits, so that who reads in this process finds it; nothing while the store is away."""
        if not self._may_write_here():
            return
        with self._writing:  # what the thread has taken is written, too
            while self._waiting and self._write_batch():
                pass

    def flush(self, timeout: float = 2.0) -> None:
        """Write what waits, for at most about `timeout` seconds; called at the end of a process."""
        deadline = time.monotonic() + timeout
        self._write_live(time.monotonic() + LONGEST_PAUSE)
        self._write_pending(time.monotonic() + LONGEST_PAUSE)
        for _ in range(2):  # one may leave another
            self._do_chores()
        while self._waiting and time.monotonic() < deadline and self._write_waiting():
            pass

    def stop(self) -> None:
        """Write what waits, and end the thread, which comes back when there is more to write."""
        self.flush()
        with self._mutex:
            self._stopped, self._thread = True, None
        self._wake()

    def _may_write_here(self) -> bool:
        """Return whether the store seems to be up, and no transaction of the caller's would undo what is written."""
        up = time.monotonic() >= self._closed_until
        return up and self._store.usable_here() and not self._store.in_transaction()

    # -- the background thread -------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with suppress(RuntimeError, ValueError):  # it was woken before
            self._idle.release()

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._stopped = False
            self._thread = threading.Thread(target=self._loop, name="stackstate-recorder", daemon=True)
            threads.start(self._thread)

    def _loop(self) -> None:
        while not self._stopped:
            if not (self._waiting or self._live or self._pending or self._chores or self._history_chores):
                self._idle.acquire()
            time.sleep(TICK)
            try:
                self._write_live(time.monotonic())
                self._write_pending(time.monotonic())
                while self._write_waiting() and len(self._waiting) >= BATCH:
                    pass
                self._do_chores()
            except Exception:
                logger.exception("The recorder's thread failed; it goes on")

    def _write_live(self, now: float) -> None:
        with self._mutex:
            due = [attempt for attempt, when in self._live.values() if when <= now]
            for attempt in due:
                self._live[attempt.execution] = (attempt, now + LIVE_PAUSE)
        writes = []
        for attempt in due:
            try:
                writes.append(attempt.take())
            except Exception:  # the others have something to say as well
                logger.exception("What the run %s says of itself is written later", attempt.run_id)
        said = [write for write in writes if write is not None]
        if said:
            self._keep(said)

    def _write_pending(self, now: float) -> None:
        with self._mutex:
            due = [tell for when, tell in self._pending if when <= now]
            for _ in due:
                self._pending.popleft()
        for tell in due:
            try:
                write = tell()
            except Exception:  # the others have something to say as well
                logger.exception("A receipt was not recorded")
                continue
            if write is not None:
                self._keep((write,))

    def _write_waiting(self) -> bool:
        """Write one batch of what waits; False when the store is down."""
        with self._writing:
            return self._write_batch()

    def _write_batch(self) -> bool:
        if not self._waiting:
            return True
        if time.monotonic() < self._closed_until:
            return False
        with self._mutex:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        written = False
        try:
            written = self._append(batch)
        finally:
            with self._mutex:  # until then its bytes count as waiting
                if written:
                    self._waiting_bytes -= sum(map(_size, batch))
                else:
                    self._waiting.extendleft(reversed(batch))
                    self._drop_oldest()
        return written

    def _do_chores(self) -> None:
        """Do what is to be done; the breaker of the history's writes is not theirs."""
        self._chores.do()
        self._history_chores.do()

    # -- the breaker -----------------------------------------------------------------------------------------------

    def _append(self, writes: list[RunWrite]) -> bool:
        try:
            self._store.append(writes)
        except DOWN as error:
            self._open_breaker(error)
            return False
        except self._interrupts:
            raise
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
            self._waiting_bytes += sum(map(_size, writes))
            self._drop_oldest()
            self._ensure_thread()
        self._wake()

    def _drop_oldest(self) -> None:
        while self._waiting and (len(self._waiting) > MAX_WAITING or self._waiting_bytes > MAX_WAITING_BYTES):
            self._waiting_bytes -= _size(self._waiting.popleft())
            self.unrecorded += 1

    def _tell(self, writes: Sequence[RunWrite]) -> None:
        if self._told is None:
            return
        for write in writes:
            try:
                self._told(write)
            except self._interrupts:
                raise
            except Exception:
                logger.exception("What was recorded of the run %s was not told", write.run_id)


def _size(write: RunWrite) -> int:
    """Return about how many bytes a fact takes in memory."""
    return (
        500 + sum(100 + len(event.data) for event in write.events) + sum(100 + len(log.message) for log in write.logs)
    )


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._reset()


os.register_at_fork(after_in_child=_after_fork)
