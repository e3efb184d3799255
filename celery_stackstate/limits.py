"""Pace limits by GCRA, the generic cell rate algorithm of ATM networks: a steady rate with bursts up to a size.

What is stored is one moment, the "theoretical arrival time" at which all that was let through so far would have been
let through at the steady rate. It is compared and set by version against the store's clock, so that processes
together never exceed the rate; when it has passed, the entry ends by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from celery_stackstate.errors import Throttled
from celery_stackstate.holding import Postpone
from celery_stackstate.stores.base import Expect, Store, StoredEntry

ATTEMPTS = 500


@dataclass(frozen=True, slots=True)
class Pace:
    """The answer of `throttle`.

    `ok` says whether this call may go ahead; `retry_after` in how many seconds the next one could, 0.0 when this one
    may; `remaining` how many more of cost 1 could follow at once.
    """

    ok: bool
    retry_after: float
    remaining: int
    _name: str = field(default="", repr=False)
    _postpone: Postpone | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return self.ok

    def or_retry(self) -> None:
        """Go on if `ok`; else send the run again under its own id, later, without using up one of its retries.

        Raises:
            Throttled: Outside of a run, where nothing can be sent again; or when the run has waited for
                `stackstate_lock_wait_max`.
        """
        if self.ok:
            return
        error = Throttled(
            f"the pace limit {self._name!r} is reached; the next call may go ahead in {self.retry_after:.3f} s",
            retry_after=self.retry_after,
            name=self._name,
        )
        if self._postpone is not None:
            self._postpone(error, "retry")
        raise error


@dataclass(frozen=True, slots=True)
class Rate:
    """A pace: one unit each `interval` microseconds, up to `burst` at once."""

    interval: int
    burst: int

    @classmethod
    def of(cls, limit: Any, per: Any, burst: Any, cost: Any) -> Rate:
        """Make a rate of the arguments of `throttle`, or raise ValueError that names the wrong one."""
        _whole("limit", limit)
        _whole("cost", cost)
        burst = max(1, cost) if burst is None else _whole("burst", burst)
        if cost > burst:
            raise ValueError(
                f"throttle: cost={cost} would never pass with burst={burst}; give a burst of at least that"
            )
        seconds = per.total_seconds() if isinstance(per, timedelta) else per
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 366 * 86_400:
            raise ValueError(
                f"throttle: per must be seconds (more than 0, at most a year) or a timedelta, not {per!r:.80}"
            )
        interval = -(-round(seconds * 1_000_000) // limit)  # rounded up: never faster than asked for
        if interval < 1 or interval * burst > 2**52:
            raise ValueError(f"throttle: {limit} per {per} with burst={burst} is outside of what can be kept")
        return cls(interval, burst)

    def dump(self) -> bytes:
        """Return the bytes that `load` reads."""
        return b"%d %d" % (self.interval, self.burst)

    @classmethod
    def load(cls, stored: StoredEntry) -> Rate | None:
        """Return the rate that let the last unit through; None of what an older release has stored."""
        return cls(*map(int, stored.value.split())) if isinstance(stored.value, bytes) else None

    def furthest(self, last: Rate | None) -> int:
        """Return how far ahead, in microseconds, units can be that `last` and this rate have let through.

        None of another pace counts, so that a change of the pace counts at once; nor does the time by which a clock was
        set back.
        """
        same = last is not None and last.interval == self.interval
        return self.interval * max(self.burst, last.burst if same and last is not None else 0)


def throttle(store: Store, key: bytes, rate: Rate, cost: int) -> tuple[bool, float, int]:
    """Let `cost` units through if the pace allows it; return whether, the seconds to wait, and what remains.

    A call that finds the limit unused, or reached, takes one round trip; one in between takes two. A transaction of the
    caller's has no part in it: others would wait for its end, and its rollback would forget what was let through.
    """
    return store.apart(lambda: _let_through(store, key, rate, cost))


def _let_through(store: Store, key: bytes, rate: Rate, cost: int) -> tuple[bool, float, int]:
    standing: StoredEntry | None = None
    for _ in range(ATTEMPTS):
        if standing is None:
            # Nothing was let through of late. The clock is the store's, so ask for a time from its now.
            result = store.put(key, rate.dump(), expect=Expect.ABSENT, ttl=cost * rate.interval)
            if result.applied:
                return True, 0.0, rate.burst - cost
        else:
            ends, furthest = standing.expires or standing.now, standing.now + rate.furthest(Rate.load(standing))
            if ends > furthest:  # noted, for else it would be as far from each later call
                result = store.put(key, rate.dump(), expect=standing.version, expires=furthest)
                standing = result.entry
                continue
            next_end = max(ends, standing.now) + cost * rate.interval
            too_early = next_end - rate.burst * rate.interval - standing.now
            if too_early > 0:
                return False, too_early / 1_000_000, _remaining(rate, ends - standing.now)
            result = store.put(key, rate.dump(), expect=standing.version, expires=next_end)
            if result.applied:
                return True, 0.0, _remaining(rate, next_end - standing.now)
        standing = result.entry
    return False, rate.interval / 1_000_000, 0  # so many others were let through meanwhile


def _remaining(rate: Rate, ahead: int) -> int:
    return max(0, (rate.burst * rate.interval - ahead) // rate.interval)


def _whole(name: str, number: Any) -> int:
    if type(number) is not int or number < 1:
        raise ValueError(f"throttle: {name} must be a whole number, 1 or more, not {number!r:.80}")
    return number
