"""Work that is to be done in one store, in order, and again while the store is away."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable

from celery_stackstate.errors import ConfigurationError, NewerFormat, StoreUnavailable

logger = logging.getLogger(__name__)

#: What passes by itself, or when somebody mends a password: worth trying again.
DOWN = (StoreUnavailable, ConfigurationError)
#: Seconds after which a store that was away is tried again.
PAUSE = 1.0
#: So much waits at most; beyond that the oldest is dropped.
MAX_WAITING = 10_000


class Chores:
    """What waits for one store. Another store has its own, so that none waits for the other."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._after = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, chore: Callable[[], None]) -> int:
        """Append `chore`; return how many of the oldest were dropped for it."""
        self._waiting.append(chore)
        dropped = 0
        while len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            dropped += 1
        return dropped

    def do(self) -> None:
        """Do all there are, up to one whose store is away: that one comes first again, after a pause.

        Those that are added meanwhile wait for the next time: what comes in quick succession is done together.
        """
        for _ in range(len(self._waiting)):
            if time.monotonic() < self._after:
                return
            try:
                chore = self._waiting.popleft()
            except IndexError:  # the recorder's thread and a flush at once
                return
            try:
                chore()
            except NewerFormat as error:
                logger.warning("What was to be done in the store is left to a newer release: %s", error)
            except DOWN as error:
                self._waiting.appendleft(chore)
                self._after = time.monotonic() + PAUSE
                logger.debug("What is to be done in the store waits: %s", error)
            except Exception:
                logger.exception("What was to be done in the store failed")
