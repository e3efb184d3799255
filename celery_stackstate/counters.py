"""The counters of a scope."""

from __future__ import annotations

from datetime import datetime

from celery_stackstate.errors import CounterRange, NotACounter
from celery_stackstate.locks import Lock
from celery_stackstate.scoped import TTL, Scoped
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN, Expect, StoredEntry


class Counters(Scoped):
    """Atomic 64-bit counters."""

    __slots__ = ()

    def increment(
        self,
        key: str,
        by: int = 1,
        *,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
        fence: Lock | None = None,
    ) -> int:
        """Add `by` to the counter `key`, which begins at 0, and return its new value, atomically.

        Args:
            key: The counter. A key that was set to an int is one.
            by: What to add; may be negative.
            ttl: Lifetime in seconds; counts only when this call creates the counter. `expires_at` likewise. (The
                counters of a run are kept as long as its other keys after each call.)
            floor: Refuse to go below this.
            ceiling: Refuse to go above this.
            fence: A lock that is held; the store refuses to count, atomically, once that lock was lost.

        Raises:
            NotACounter: The key holds something that is not an int.
            CounterRange: The counter would leave floor, ceiling or int64; it keeps its value.
            LockLost: The lock of `fence` is not held any more; nothing was counted.
        """
        for name, number in (("by", by), ("floor", floor), ("ceiling", ceiling)):
            if type(number) is not int and not (number is None and name != "by"):
                raise CounterRange(f"{name} must be an int, not {number!r:.80}", key=key)
        if not INT64_MIN <= by <= INT64_MAX:
            raise CounterRange(f"{key!r} is a 64-bit counter; by={by} is outside of its range", key=key)
        packed, times = self._key(key), self._times(ttl, expires_at)
        times["prolong"] = self._ttl is not None and ttl is None and expires_at is None
        try:
            return self._guarded(
                fence, lambda guard: self._store.add(packed, by, floor=floor, ceiling=ceiling, guard=guard, **times)
            )
        except NotACounter:
            raise NotACounter(
                f"{key!r} holds a value that is not a 64-bit int; counters need a key of their own"
            ) from None
        except CounterRange as error:
            value = error.__dict__.get("value")
            bounds = f"floor {floor}, ceiling {ceiling}, int64"
            raise CounterRange(f"{key!r} is {value}; {by:+} would leave its range ({bounds})", value=value) from None

    def decrement(
        self,
        key: str,
        by: int = 1,
        *,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
        fence: Lock | None = None,
    ) -> int:
        """Subtract `by` from the counter `key`; everything else as `increment`."""
        if type(by) is not int:
            raise CounterRange(f"by must be an int, not {by!r:.80}", key=key)
        return self.increment(key, -by, ttl=ttl, expires_at=expires_at, floor=floor, ceiling=ceiling, fence=fence)

    def count(self, key: str) -> int:
        """Return the value of the counter `key`, 0 when it is absent."""
        return self._counter(key, self._store.get(self._key(key)))

    def reset(self, key: str) -> int:
        """Remove the counter `key` and return the value it had, atomically: no increment is lost in between."""
        packed = self._key(key)
        self._counter(key, self._store.get(packed))
        removed = self._store.remove(packed)
        if removed is not None and not isinstance(removed.value, int):  # somebody has just set it to something else
            self._store.put(packed, removed.value, expect=Expect.ABSENT, expires=removed.expires)
        return self._counter(key, removed)

    @staticmethod
    def _counter(key: str, found: StoredEntry | None) -> int:
        if found is None:
            return 0
        if not isinstance(found.value, int):
            raise NotACounter(f"{key!r} holds a value that is not a 64-bit int; counters need a key of their own")
        return found.value
