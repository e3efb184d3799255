"""So many at a time: what bounds the connections of a process, and the openings of a file.

Celery's soft time limit is an exception that a signal handler raises between any two lines of the main thread, those of
the standard library included. Its semaphores and conditions are written in Python: struck inside, they stay locked for
ever. Here nothing is locked. A slot is an object in a deque, and comes back even from a frame that was left in haste.
"""

from __future__ import annotations

import time
from collections import deque
from weakref import ref

#: Seconds between two looks for a free slot, the first and the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.0005, 0.005


class Slot:
    """The right to be one of so many. When nobody refers to it any more, another one takes its place."""

    __slots__ = ("_home",)

    def __init__(self, home: ref[deque[Slot]]) -> None:
        self._home = home

    def __del__(self) -> None:
        home = self._home()
        if home is not None:
            home.append(type(self)(self._home))


class Slots:
    """So many slots. Give one back by `free.append(slot)`: that is one step, which nothing can interrupt."""

    def __init__(self, count: int) -> None:
        self.free: deque[Slot] = deque()
        self.free.extend(Slot(ref(self.free)) for _ in range(count))

    def take(self, seconds: float) -> Slot | None:
        """Return a slot, or None when none became free in so many seconds."""
        deadline, pause = time.monotonic() + seconds, FIRST_PAUSE
        while True:
            try:
                return self.free.pop()
            except IndexError:
                left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(2 * pause, LONGEST_PAUSE)
