"""Durable job memory: small values, counters, locks and pace limits under readable keys, shared by all workers."""

from __future__ import annotations

from datetime import timedelta

from celery_stackstate.counters import Counters
from celery_stackstate.holding import LockOwner
from celery_stackstate.keys import LOCK, PACE, check_key, pack
from celery_stackstate.limits import Pace, Rate, throttle
from celery_stackstate.lock_record import LockInfo
from celery_stackstate.locks import Lock, OnBusy, OnLockLost, force_release, lock_info
from celery_stackstate.values import Values


class State(Values, Counters):
    """Small durable values by key, in one scope.

    Keys are str of at most 1,024 UTF-8 bytes without control characters. Each call is atomic, and seen by every process
    at once. The scope of `self.state` is the whole app; `.task`, `.run` and `.scope(name)` are the same object over
    other keys.
    """

    __slots__ = ()

    def lock(
        self,
        name: str,
        *,
        ttl: float | timedelta = 60,
        wait: float = 0,
        renew: bool = True,
        keep_on_retry: bool = False,
        on_busy: OnBusy = "retry",
        on_lock_lost: OnLockLost = "raise",
        max_hold: float | None = None,
    ) -> Lock:
        """Return the lock `name`, to be used in a `with` statement or by acquire() and release().

        At most one holder has it at a time while the store is healthy. Its `fence` is a number that grows with each
        acquisition (M. Kleppmann's fencing token): give it to what you write to, to refuse a holder that stalled.
        The thread that holds it may enter it again. The next attempt of the run takes over what was kept for it;
        nobody takes over what is held, a second delivery of the same message neither. Outside of runs it is renewed
        as long as anybody has this object.

        Args:
            name: What is locked, in this scope.
            ttl: Seconds until a holder that died is passed over, at least 5 with `renew`.
            wait: Seconds to wait for a busy lock, in this process.
            renew: Extend the TTL in the background while the process lives.
            keep_on_retry: When the block is left by an error and the run is then retried, keep the lock until the next
                attempt, whatever the countdown; any other end of the attempt gives it back.
            on_busy: "retry" sends the run again under its own id, later, without using up one of its retries; "skip"
                ends the run as ignored; "raise" raises LockBusy. Outside of a run it always raises.
            on_lock_lost: "raise" raises LockLost at the end of the block if the lock was lost on the way; "warn" logs.
            max_hold: Seconds after which it is renewed no more; the hard time limit of the task if that is not given.
        """
        return Lock(
            self._store,
            self._lock_key(name),
            name,
            owner=self._context.owner or LockOwner.of_process(),
            ttl=ttl,
            wait=wait,
            renew=renew,
            keep_on_retry=keep_on_retry,
            on_busy=on_busy,
            on_lock_lost=on_lock_lost,
            max_hold=max_hold,
        )

    def lock_info(self, name: str) -> LockInfo | None:
        """Return who holds the lock `name`, since when and until when, or None when it is free."""
        return lock_info(self._store, self._lock_key(name), name)

    def force_release(self, name: str) -> bool:
        """Free the lock `name` whoever holds it; return False when it was free. Its holder has then lost it.

        At once, whatever becomes of a transaction of the caller's.
        """
        return force_release(self._store, self._lock_key(name))

    def _lock_key(self, name: str) -> bytes:
        return self._touched(pack(LOCK, self._scope, check_key(name, "lock name")))

    def throttle(
        self, key: str, limit: int, per: float | timedelta, *, burst: int | None = None, cost: int = 1
    ) -> Pace:
        """Ask whether one more call may go ahead at a pace of `limit` in `per` seconds, over all processes together.

        The pace is even: after a call that went ahead, the next may do so `per / limit` seconds later, and up to
        `burst` at once after a quiet time (GCRA, the generic cell rate algorithm). A call that may not is not counted.
        It counts apart from a transaction of the caller's.

        Args:
            key: What is paced; apart from the keys of values, counters and locks.
            limit: How many.
            per: In how many seconds, or a timedelta.
            burst: How many at once after a quiet time; 1 if not given (or `cost`, when that is more).
            cost: How many this call counts for.

        Returns:
            A Pace: true when the call may go ahead, with `retry_after` seconds when it may not. `.or_retry()` sends the
            run again later instead.
        """
        packed, rate = pack(PACE, self._scope, check_key(key, "throttle key")), Rate.of(limit, per, burst, cost)
        self._touched(packed)
        ok, retry_after, remaining = throttle(self._store, packed, rate, cost)
        owner = self._context.owner
        return Pace(ok, retry_after, remaining, key, None if owner is None else owner.postpone)
