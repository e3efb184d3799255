"""A store in memory whose clock a test can put forward."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from celery_stackstate.stores.memory import MemoryStore


class StoreClock:
    """The clock of a test's store: that of this host, put forward as often as the test wants.

    Whatever ends by the store's time sees it: TTLs, locks, paces, the retention of keys and of runs, leases. Only
    that: `time.time()`, timeouts and the times in the run history go on as they were. To the locks that are held it is
    as if their holder had been asleep for so long; workers of this process renew their lease when they wake up.
    """

    def __init__(self, wake: Callable[[], None] = lambda: None) -> None:
        """Start at the host's time; `wake` is called after each move."""
        self._ahead, self._wake = 0, wake

    @property
    def ahead(self) -> int:
        """By how many microseconds it was put forward in all."""
        return self._ahead

    @property
    def now(self) -> datetime:
        """The store's time, in UTC."""
        return datetime.now(timezone.utc) + timedelta(microseconds=self._ahead)

    def advance(
        self,
        by: timedelta | float = 0.0,
        *,
        days: float = 0.0,
        hours: float = 0.0,
        minutes: float = 0.0,
        seconds: float = 0.0,
    ) -> datetime:
        """Put the clock forward: `advance(90)`, `advance(hours=24, seconds=1)` or `advance(timedelta(days=8))`.

        Args:
            by: Seconds, or a timedelta.
            days: Added to it.
            hours: Added to it.
            minutes: Added to it.
            seconds: Added to it.

        Returns:
            The store's time from now on.

        Raises:
            ValueError: That would set it back.
        """
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        step += timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        if step < timedelta(0):
            raise ValueError(f"the clock of a store only goes forward, not by {step.total_seconds():g} seconds")
        self._ahead += step // timedelta(microseconds=1)
        self._wake()
        return self.now


class ClockedStore(MemoryStore):
    """A store in memory that goes by a clock of the test's."""

    clock: StoreClock

    @classmethod
    def of(cls, clock: StoreClock) -> ClockedStore:
        """Return an empty store of `clock`."""
        store = cls.from_url("memory://", prefix="", timeout=5)
        store.clock = clock
        return store

    def _clock(self) -> int:
        return super()._clock() + self.clock.ahead
