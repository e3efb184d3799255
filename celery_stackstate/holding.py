"""What one holder has of a lock: an entry of the store that only it may change.

Taking is put-if-absent, or put-if-version where an earlier attempt of the same run parked it. Renewing, parking and
releasing compare the version that the holder wrote last. The version of the taking write is the fence. A released lock
lingers in the store so that the next fence is larger even if the clock is set back.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeVar
from uuid import uuid4

from celery_stackstate import lock_record
from celery_stackstate.errors import LockBusy, LockLost, StoreUnavailable, Throttled
from celery_stackstate.keys import ttl_micros
from celery_stackstate.renewal import renewer
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, Store, StoredEntry
from celery_stackstate.surely import put_surely

logger = logging.getLogger(__name__)

LINGER = 7 * 24 * 3600 * 1_000_000
LONGEST_PARKING = 7 * 24 * 3600.0
#: Seconds after which the end of an attempt asks no further for locks that it may have been given.
LONGEST_LOOK = 5.0

T = TypeVar("T")

#: Ends the run for now: sends it again later ("retry") or drops it ("skip"), because of the error.
Postpone = Callable[[LockBusy | Throttled, str], NoReturn]


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who takes locks: an attempt of a run, or a process outside of one.

    Args:
        name: What others are told about the holder.
        token: Told apart by: each execution has its own.
        run_id: The run; what an attempt of it parked, the next one takes.
        max_hold: Seconds for which a lock is renewed at most, where the lock does not say.
        postpone: Sends the run again; None where there is no run that could be.
        held: The locks this attempt has, so that it may enter them again; None outside of runs.
    """

    name: str
    token: str
    run_id: str | None = None
    max_hold: float | None = None
    postpone: Postpone | None = None
    held: HeldLocks | None = None

    @classmethod
    def of_process(cls) -> LockOwner:
        """Return an owner for code outside of runs."""
        return cls(f"{socket.gethostname()}:{os.getpid()}", uuid4().hex)


@dataclass(frozen=True, slots=True)
class _Written:
    """What came of a write: whether it was applied, and the entry that stands there now.

    `lapses` is when that lapses at the earliest, on the local monotonic clock.
    """

    applied: bool
    entry: StoredEntry | None
    lapses: float


class Holding:
    """One acquisition of a lock, which the thread that made it may enter again.

    `ttl` is in seconds, and so is `max_hold`, after which it is renewed no more.
    """

    def __init__(
        self, store: Store, key: bytes, name: str, owner: LockOwner, *, ttl: float, max_hold: float | None
    ) -> None:
        self.name, self.ttl = name, ttl
        self.fence: int | None = None
        self.entered = 0
        self.keep_on_retry = False
        self._store, self._key, self._owner, self._max_hold = store, key, owner, max_hold
        self._token = f"{owner.token}:{uuid4().hex}"
        self._asked = 0.0  # when the request went out whose answer came last
        self._version: int | None = None
        self._deadline = 0.0
        self._hold_until: float | None = None
        self._lost = self._ended = False
        self._mutex = threading.RLock()  # held while this lock's entry is written, by whatever thread
        self._pid, self._thread = os.getpid(), threading.get_ident()

    @property
    def owner(self) -> str:
        """The name of its holder."""
        return self._owner.name

    # -- how it stands ---------------------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether it was taken, and not released or noticed to be lost since."""
        return self._version is not None and not self._lost and not self._ended

    @property
    def remaining(self) -> float:
        """Seconds until it lapses unless it is renewed, by the local monotonic clock."""
        return max(0.0, self._deadline - time.monotonic()) if self.held else 0.0

    def is_mine_to_enter(self) -> bool:
        """Return whether the calling thread may enter it again."""
        mine = self._thread == threading.get_ident() and not self._is_inherited
        return mine and self.held and time.monotonic() < self._deadline

    def is_of_this_thread(self) -> bool:
        """Return whether the calling thread took it."""
        return self._thread == threading.get_ident()

    @property
    def _is_inherited(self) -> bool:
        """Whether this is a forked child, whose parent holds the lock: its mutex may have been copied while locked."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Raise LockLost unless the store says that it is still held."""
        if self._is_inherited:
            raise self._gone()
        with self._mutex:
            if not self.held or not self._refresh():
                raise self._gone()

    def guarded(self, write: Callable[[Guard], T]) -> T:
        """Do a write that the store refuses once the lock is lost, atomically; LockLost then."""
        if self._is_inherited:
            raise self._gone()
        with self._mutex:
            while self.held and self._version is not None:
                version = self._version
                try:
                    return write(Guard(self._key, version))
                except GuardFailed:
                    if not self._refresh() or self._version == version:
                        break
            self._lost = True
            raise self._gone()

    def _refresh(self) -> bool:
        """Read it; a renewal may have been written whose answer was lost."""
        found = self._read()
        if found is None:
            self._lost = True
            return False
        self._version = found.version
        return True

    def _read(self) -> StoredEntry | None:
        """Return the entry as it stands now, whatever a transaction of the caller's shows, if it is this holder's."""
        found = self._store.apart(lambda: self._store.get(self._key))
        return found if found is not None and self._is_mine(found) else None

    def _gone(self) -> LockLost:
        text = "its TTL ran out, or it was released by force; nothing was written, and what it guards may have changed"
        return LockLost(f"the lock {self.name!r} is not held any more: {text}", name=self.name)

    # -- taking, prolonging, giving back ---------------------------------------------------------------------------

    def take(self) -> StoredEntry | None:
        """Try once to take it; return None, or what the other holder stored."""
        written = self._compete()
        found = written.entry
        if found is None or not self._is_mine(found):
            return found
        self.fence = self._version = found.version
        self._deadline = written.lapses
        self._hold_until = None if self._max_hold is None else self._asked + self._max_hold
        return None

    def _compete(self) -> _Written:
        """Write it if it is free, or waits for this run; return what stands there then."""
        while True:
            written = self._put(Expect.ABSENT)
            if written.entry is not None and self._waits_for_me(written.entry):
                written = self._put(written.entry.version)
            if written.entry is not None:
                return written

    def renew(self) -> bool:
        """Extend the TTL from now; return False, and take note, when it was lost.

        The store is not waited for with the mutex held: the holder's own calls go on meanwhile.
        """
        version = self._version
        while version is not None and self.held:
            found = self._put(version)
            with self._mutex:
                if not self.held or self._version is None:
                    return False  # it was given back meanwhile
                if found.entry is None or not self._is_mine(found.entry):
                    self._lost = True
                    return False
                version = self._version = max(self._version, found.entry.version)
                if found.applied:
                    self._deadline = found.lapses
                    return True
        return False

    def enter_again(self, ttl: float) -> bool:
        """Enter it once more, for `ttl` seconds or what renewals keep of them; return False when it was lost."""
        if ttl > self.ttl or self.remaining < ttl / 2:
            self.ttl = max(ttl, self.ttl)
            return self.renew()
        return True

    def renewable(self) -> bool:
        """Return whether to go on renewing it; one that has lapsed is marked as lost."""
        now = time.monotonic()
        if now >= self._deadline:
            self._lost = True
        return self.held and (self._hold_until is None or now < self._hold_until)

    def release(self) -> bool:
        """Give it back; return False when it was lost before. Unreachable, it lapses by itself."""
        if self._is_inherited:
            return True  # a forked child leaves its parent's lock alone
        renewer.drop(self)
        with self._mutex:
            self._ended = True
            released = False
            if self._version is not None and not self._lost:
                try:
                    released = self._remove(self._version)
                except StoreUnavailable as error:
                    logger.warning("The lock %r is not released, it lapses within %g s: %s", self.name, self.ttl, error)
                    released = time.monotonic() < self._deadline
            self._version = None  # not before: what a time limit interrupts here is done at the end of the attempt
            return released

    def abandon(self) -> None:
        """Give up what was asked for, whatever came of it: nobody saw the answer."""
        renewer.drop(self)
        with self._mutex:
            self._ended = True
            try:
                found = self._read() if self._asked else None
                if found is not None:
                    self._remove(found.version)
            except StoreUnavailable as error:
                logger.warning("The lock %r may be held by nobody for %g s: %s", self.name, self.ttl, error)

    def park(self, seconds: float) -> None:
        """Keep it for the run's next attempt, which begins in about `seconds`; nobody renews it until then."""
        if self._is_inherited:
            return
        renewer.drop(self)
        with self._mutex:
            version = self._version if self.held else None
            while version is not None:
                found = self._put(version, ttl=min(seconds, LONGEST_PARKING) + self.ttl, parked=True).entry
                overtaken = found is not None and self._is_mine(found) and not lock_record.load(found)["parked"]
                version = found.version if found is not None and overtaken else None  # by a renewal under way
            self._version = None

    def _remove(self, version: int) -> bool:
        if self._remove_version(version):
            return True
        found = self._read()  # a renewal may have been written whose answer was lost
        return found is not None and self._remove_version(found.version)

    def _remove_version(self, version: int) -> bool:
        """Remove it at once, not with a transaction of the caller's, whose rollback would bring it back."""
        return self._store.apart(lambda: self._store.remove(self._key, expect=version)) is not None

    # -- the entry -------------------------------------------------------------------------------------------------

    def _put(self, expect: Expect | int, *, ttl: float | None = None, parked: bool = False) -> _Written:
        owner, asked = self._owner, [0.0]

        def ask() -> None:
            self._asked = asked[0] = time.monotonic()

        value = lock_record.dump(owner.name, self._token, owner.run_id, fence=self.fence, parked=parked)
        micros = ttl_micros(self.ttl if ttl is None else ttl)
        result = self._store.apart(
            lambda: put_surely(
                self._store,
                self._key,
                value,
                mine=self._is_mine,
                expect=expect,
                ttl=micros,
                linger=LINGER,
                before_each=ask,
            )
        )
        found = result.entry
        left = 0 if found is None or found.expires is None else found.expires - found.now
        return _Written(result.applied, found, asked[0] + left / 1_000_000)

    def _is_mine(self, stored: StoredEntry) -> bool:
        return bool(lock_record.load(stored).get("token") == self._token)

    def _waits_for_me(self, stored: StoredEntry) -> bool:
        """Return whether an attempt of this run parked it. What a live attempt holds, even of this run, is busy."""
        value = lock_record.load(stored)
        return self._owner.run_id is not None and value.get("run") == self._owner.run_id and bool(value["parked"])


class HeldLocks:
    """The locks of one attempt. `over` says that it has ended: what is taken from then on nobody settles."""

    def __init__(self) -> None:
        self.over = False
        self._by_key: dict[bytes, Holding] = {}
        self._abandoned: list[Holding] = []

    def find(self, key: bytes) -> Holding | None:
        """Return what the calling thread holds at `key` and may enter again, or None."""
        holding = self._by_key.get(key)
        return holding if holding is not None and holding.is_mine_to_enter() else None

    def add(self, key: bytes, holding: Holding) -> None:
        """Remember a lock that was taken."""
        self._by_key[key] = holding

    def discard(self, key: bytes, holding: Holding) -> None:
        """Forget a lock that was released."""
        if self._by_key.get(key) is holding:
            del self._by_key[key]

    def abandon(self, holding: Holding) -> None:
        """Give up a lock that was asked for when a time limit struck; its answer may be still to come."""
        self.look_again_at(holding)
        holding.abandon()

    def look_again_at(self, holding: Holding) -> None:
        """Give back at the attempt's end what the store may have given although nobody was told."""
        self._abandoned.append(holding)

    def settle(self, retry_in: float | None) -> None:
        """Give back what is left at the attempt's end.

        Args:
            retry_in: Seconds until the run's next attempt, which gets the locks that are kept; None when there is none.
        """
        self.over = True
        self._look_again()
        while self._by_key:
            _, holding = self._by_key.popitem()
            try:
                if retry_in is not None and holding.keep_on_retry:
                    holding.park(retry_in)
                    continue
                if holding.entered:
                    logger.warning("The lock %r was not released by %s", holding.name, holding.owner)
                holding.release()
            except Exception as error:  # the attempt's outcome stands; the lock lapses by itself
                logger.warning("The lock %r lapses by itself: %r", holding.name, error)

    def _look_again(self) -> None:
        deadline = time.monotonic() + LONGEST_LOOK
        while self._abandoned and time.monotonic() < deadline:
            try:
                self._abandoned.pop().abandon()
            except Exception as error:
                logger.warning("A lock that was asked for may lapse by itself: %r", error)
