"""Daemon threads that renew every lock the process holds: as many as locks, and no more than a few.

Each takes the lock that is due and has least time left. So one whose row somebody keeps locked (a transaction that made
a guarded write, say) holds up one thread and not the others' locks. They sleep between looks instead of being woken:
what wakes a thread in the standard library is written in Python, and stays locked when a signal's exception strikes
inside.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from dataclasses import dataclass
from typing import Protocol
from weakref import ref

from celery_stackstate.stores import threads

logger = logging.getLogger(__name__)

#: Longest pause in seconds between two tries of a renewal that failed, and between two looks for what is due.
RETRY_PAUSE, LOOK_PAUSE = 1.0, 0.25
#: Most renewals under way at once, and seconds for which a thread stays that has nothing to do.
AT_ONCE, IDLE = 4, 10.0


class Renewable(Protocol):
    """What the renewal needs of a lock."""

    name: str
    ttl: float

    @property
    def remaining(self) -> float:
        """Seconds until it lapses."""

    def renew(self) -> bool:
        """Extend it; False when it was lost."""

    def renewable(self) -> bool:
        """Whether to go on renewing it."""


@dataclass(slots=True)
class _Kept:
    """What is known of a lock that is kept: when it is due, and whether a thread is at it."""

    name: str
    due: float
    under_way: bool = False


class Renewer:
    """Renews locks at a third of their TTL. A renewal that failed is tried again until the lock's own deadline.

    A lock is known weakly: when nobody has the object any more, nobody can release it, and it lapses.
    """

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._kept: dict[ref[Renewable], _Kept] = {}
        # Never held while the store is talked to. A `with` of a lock written in C is whole: nothing strikes inside.
        self._mutex = threading.Lock()
        self._threads: list[threading.Thread] = []

    def keep(self, lock: Renewable) -> None:
        """Renew `lock` until it is dropped; one that is kept already stays as it is."""
        with self._mutex:
            self._kept.setdefault(ref(lock), _Kept(lock.name, time.monotonic() + min(lock.ttl / 3, lock.remaining / 2)))
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            while len(self._threads) < min(len(self._kept), AT_ONCE):
                number = len(self._threads)
                thread = threading.Thread(target=self._loop, name=f"stackstate-locks-{number}", daemon=True)
                self._threads.append(thread)
                threads.start(thread)

    def drop(self, lock: Renewable) -> None:
        """Renew `lock` no more; a renewal that is under way may still end."""
        with self._mutex:
            self._kept.pop(ref(lock), None)

    def forget_all(self) -> None:
        """Renew nothing any more, as after the end of a test that left locks behind."""
        with self._mutex:
            self._kept.clear()

    def _loop(self) -> None:
        idle_since = time.monotonic()
        while True:
            pause = self._renew_next()
            if pause is None or self._kept:
                idle_since = time.monotonic()
            if pause is not None and not self._stays(idle_since):
                return
            time.sleep(pause or 0)

    def _stays(self, idle_since: float) -> bool:
        """Return whether this thread, which has nothing to do, is to look again."""
        with self._mutex:
            mine = threading.current_thread()
            if mine in self._threads and (self._kept or time.monotonic() - idle_since < IDLE):
                return True
            self._threads = [thread for thread in self._threads if thread is not mine]
            return False

    def _renew_next(self) -> float | None:
        """Renew what is most urgent of what is due; return None then, else how long to wait before the next look."""
        with self._mutex:
            now = time.monotonic()
            waiting = {known: kept for known, kept in self._kept.items() if not kept.under_way}
            due = [known for known, kept in waiting.items() if kept.due <= now]
            if not due:
                return min([LOOK_PAUSE, *(kept.due - now for kept in waiting.values())])
            chosen = min(due, key=_time_left)
            self._kept[chosen].under_way = True
        lock = chosen()
        pause = None if lock is None else self._renew(lock)
        self._plan(chosen, pause, forgotten=lock is None)
        return None

    def _renew(self, lock: Renewable) -> float | None:
        """Renew a lock; return after how many seconds to do it again, or None for never."""
        try:
            if lock.renewable() and lock.renew():
                return min(lock.ttl / 3, lock.remaining / 2)
        except Exception as error:  # whatever it is, the other locks need their thread
            logger.warning("The lock %r could not be renewed, trying again: %r", lock.name, error)
            return min(lock.ttl / 3, RETRY_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come at once
        return None

    def _plan(self, known: ref[Renewable], pause: float | None, *, forgotten: bool) -> None:
        with self._mutex:
            kept = self._kept.get(known)
            if kept is None:  # released meanwhile
                return
            if pause is not None:
                kept.due, kept.under_way = time.monotonic() + pause, False
                return
            del self._kept[known]
        why = "was never released and nobody has it any more" if forgotten else "was lost, or is not renewed any more"
        logger.error("The lock %r %s", kept.name, why)


def _time_left(known: ref[Renewable]) -> float:
    lock = known()
    return 0.0 if lock is None else lock.remaining


renewer = Renewer()
os.register_at_fork(after_in_child=renewer._reset)
