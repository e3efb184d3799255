"""Locks with a TTL and a fencing token: what a task sees of them."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Literal, NoReturn, TypeVar, get_args

from celery_stackstate.errors import InTransaction, InvalidExpiry, LockBusy, LockLost, StoreUnavailable
from celery_stackstate.holding import Holding, LockOwner
from celery_stackstate.keys import ttl_micros
from celery_stackstate.lock_record import LockInfo, describe
from celery_stackstate.renewal import renewer
from celery_stackstate.stores.base import Guard, Store, StoredEntry

logger = logging.getLogger(__name__)

T = TypeVar("T")

OnBusy = Literal["retry", "skip", "raise"]
OnLockLost = Literal["raise", "warn"]

MIN_RENEWED_TTL = 5.0
POLL_FIRST, POLL_MOST = 0.02, 0.25


class Lock:
    """One lock, seen from one would-be holder. Made by `State.lock`, which explains the options."""

    def __init__(
        self,
        store: Store,
        key: bytes,
        name: str,
        *,
        owner: LockOwner,
        ttl: float | timedelta = 60,
        wait: float = 0,
        renew: bool = True,
        keep_on_retry: bool = False,
        on_busy: OnBusy = "retry",
        on_lock_lost: OnLockLost = "raise",
        max_hold: float | None = None,
    ) -> None:
        _check_options(name, wait, on_busy, on_lock_lost, max_hold)
        self.name = name
        self.ttl = _seconds(name, ttl, renew)
        self.keep_on_retry = keep_on_retry
        self._store, self._key, self._owner = store, key, owner
        self._wait, self._renew = wait, renew
        self._max_hold = owner.max_hold if max_hold is None else max_hold
        self._on_busy, self._on_lock_lost = on_busy, on_lock_lost
        self._fence: int | None = None  # of whoever acquired it last
        self._mine = threading.local()  # `fence`: of the calling thread
        self._entered: list[Holding] = []  # one for each time it was acquired, and not released since

    # -- what the holder asks --------------------------------------------------------------------------------------

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of every holder before. LockLost when it was never acquired.

        Of threads that share this object each has its own; one that never acquired it gets that of who did last.
        """
        fence: int | None = getattr(self._mine, "fence", self._fence)
        if fence is None:
            raise LockLost(f"the lock {self.name!r} was not acquired", name=self.name)
        return fence

    @property
    def remaining(self) -> float:
        """Seconds until it would lapse if it were not renewed again; 0 when it is not held."""
        return self.holding.remaining if self._entered else 0.0

    def check(self) -> None:
        """Raise LockLost unless it is still held, by asking the store."""
        self.holding.check()

    def guarded(self, store: Store, write: Callable[[Guard], T]) -> T:
        """Do a write to `store` that it refuses, atomically, once the lock is lost; LockLost then."""
        if store is not self._store:
            raise ValueError(f"the lock {self.name!r} lies in another store than what it is to guard")
        return self.holding.guarded(write)

    @property
    def holding(self) -> Holding:
        """What the calling thread holds, else what another thread does by this object; LockLost when nothing is."""
        mine = [holding for holding in self._entered if holding.is_of_this_thread()]
        if not self._entered:
            raise LockLost(f"the lock {self.name!r} is not held", name=self.name)
        return (mine or self._entered)[-1]

    # -- taking and giving back ------------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Take the lock, waiting up to `wait` seconds; return False when somebody else keeps it.

        What this thread of the same attempt holds already is entered once more, without asking the store; each
        acquisition needs its release.

        Raises:
            InTransaction: The caller's database transaction, which the store's writes would join, is open.
            StoreUnavailable: The store did not answer in time. It may have given the lock all the same: then it is
                given back when the attempt ends, if the store answers by then, else it lapses with its TTL.
        """
        return self._acquire() is None

    def _acquire(self) -> StoredEntry | None:
        """Take the lock and return None, or return what the other holder stored."""
        self._refuse_in_transaction()
        holding = self._enterable()
        if holding is None or not holding.enter_again(self.ttl):
            return self._acquire_anew()
        self._enter(holding)
        return None

    def _acquire_anew(self) -> StoredEntry | None:
        holding = Holding(self._store, self._key, self.name, self._owner, ttl=self.ttl, max_hold=self._max_hold)
        try:
            holder = self._take(holding)
            if holder is None:
                self._enter(holding)
            return holder
        except StoreUnavailable as error:
            if error.maybe_applied and self._owner.held is not None:
                self._owner.held.look_again_at(holding)
            raise
        except BaseException:  # a time limit struck: the store may have given a lock that nobody would release
            self._abandon(holding)
            raise

    def _enter(self, holding: Holding) -> None:
        if self._owner.held is not None:
            self._owner.held.add(self._key, holding)
        if self._renew:
            renewer.keep(holding)
        holding.entered += 1
        holding.keep_on_retry = holding.keep_on_retry or self.keep_on_retry
        self._entered.append(holding)
        self._fence = self._mine.fence = holding.fence

    def _abandon(self, holding: Holding) -> None:
        if holding in self._entered:
            self._entered.remove(holding)
        if self._owner.held is None:
            holding.abandon()
        else:
            self._owner.held.discard(self._key, holding)
            self._owner.held.abandon(holding)

    def _unregister(self, holding: Holding) -> None:
        if self._owner.held is not None:
            self._owner.held.discard(self._key, holding)

    def _enterable(self) -> Holding | None:
        """Return what the calling thread holds of this lock: by any object of its attempt, or by this one."""
        if self._owner.held is not None:
            return self._owner.held.find(self._key)
        return next((holding for holding in reversed(self._entered) if holding.is_mine_to_enter()), None)

    def _take(self, holding: Holding) -> StoredEntry | None:
        give_up, pause = time.monotonic() + self._wait, POLL_FIRST
        while (holder := holding.take()) is not None:
            left = give_up - time.monotonic()
            if left <= 0:
                return holder
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311
            pause = min(POLL_MOST, pause * 2)
        return None

    def release(self) -> None:
        """Give the lock back, once for each time it was acquired.

        Raises:
            LockLost: It was lost before; whoever holds it now keeps it.
        """
        holding = self._leave()
        if not holding.entered:
            self._give_back(holding)

    def _leave(self) -> Holding:
        holding = self.holding
        self._entered.remove(holding)
        holding.entered -= 1
        return holding

    def _give_back(self, holding: Holding) -> None:
        released = holding.release()
        self._unregister(holding)  # not before: what was interrupted is released at the end of the attempt
        if not released:
            raise LockLost(
                f"the lock {self.name!r} was lost before its end: its TTL of {holding.ttl:g} s ran out or it was "
                f"released by force; give it a longer ttl, or check() it between steps",
                name=self.name,
            )

    def _refuse_in_transaction(self) -> None:
        if self._store.in_transaction():
            raise InTransaction(
                f"the lock {self.name!r} cannot be taken inside a database transaction: nobody else would see it "
                f"before the commit; take it around transaction.atomic() or joining(), not inside"
            )

    # -- the with statement ----------------------------------------------------------------------------------------

    def __enter__(self) -> Lock:
        holder = self._acquire()
        if holder is not None:
            self._busy(holder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if not self._entered and (error is not None or self._on_lock_lost == "warn"):
            logger.warning("The lock %r was released inside of its block", self.name)
            return
        holding = self._leave()
        if holding.entered or (error is not None and self._is_kept(holding)):
            return
        try:
            self._give_back(holding)
        except LockLost:
            if error is None and self._on_lock_lost == "raise":
                raise
            logger.warning("The lock %r was lost before its block ended", self.name)

    def _is_kept(self, holding: Holding) -> bool:
        """Return whether the end of the attempt settles it: a retry keeps it, any other end gives it back."""
        held = self._owner.held
        return holding.keep_on_retry and self._owner.postpone is not None and held is not None and not held.over

    def _busy(self, holder: StoredEntry) -> NoReturn:
        owner = describe(self.name, holder).owner
        left = 0.0 if holder.expires is None else max(0.0, (holder.expires - holder.now) / 1_000_000)
        error = LockBusy(
            f"the lock {self.name!r} is held by {owner} for at most {left:.1f} s more unless it is renewed",
            name=self.name,
            owner=owner,
            retry_after=left,
        )
        if self._owner.postpone is not None and self._on_busy != "raise":
            self._owner.postpone(error, self._on_busy)
        raise error


def lock_info(store: Store, key: bytes, name: str) -> LockInfo | None:
    """Return who holds the lock at `key`, or None."""
    found = store.get(key)
    return None if found is None else describe(name, found)


def force_release(store: Store, key: bytes) -> bool:
    """Free the lock at `key` at once, whatever becomes of the caller's transaction; return False when it was free."""
    return store.apart(lambda: store.remove(key)) is not None


def _seconds(name: str, ttl: Any, renew: bool) -> float:
    try:
        micros = ttl_micros(ttl)
    except InvalidExpiry as error:
        raise InvalidExpiry(f"the lock {name!r}: {error}") from None
    if micros is None:
        raise InvalidExpiry(f"the lock {name!r} needs a ttl in seconds")
    seconds = micros / 1_000_000
    if renew and seconds < MIN_RENEWED_TTL:
        raise InvalidExpiry(
            f"the lock {name!r} has ttl={ttl}; a lock that is renewed needs at least {MIN_RENEWED_TTL:g} s "
            f"(or renew=False)"
        )
    return seconds


def _check_options(name: str, wait: Any, on_busy: Any, on_lock_lost: Any, max_hold: Any) -> None:
    for option, number in (("wait", wait), ("max_hold", max_hold)):
        wrong = isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < float("inf")
        if wrong and not (option == "max_hold" and number is None):
            raise InvalidExpiry(f"the lock {name!r} has {option}={number!r}; it must be seconds, 0 or more")
    if on_busy not in get_args(OnBusy):
        raise ValueError(f"the lock {name!r} has on_busy={on_busy!r}; it must be 'retry', 'skip' or 'raise'")
    if on_lock_lost not in get_args(OnLockLost):
        raise ValueError(f"the lock {name!r} has on_lock_lost={on_lock_lost!r}; it must be 'raise' or 'warn'")
