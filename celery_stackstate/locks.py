"""Locks with a TTL and a fencing token, over store verbs alone.

A lock is an entry that only its holder may change: acquiring is put-if-absent, renewing and releasing compare the
version that the holder wrote last. The version of the acquiring write is the fence. A released lock lingers in the
store so that the next fence is larger even if the clock is set back.
"""

from __future__ import annotations

import json
import logging
import os
import random
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NoReturn
from uuid import uuid4

from celery_stackstate.errors import InvalidExpiry, LockBusy, LockLost, StoreUnavailable
from celery_stackstate.keys import ttl_micros
from celery_stackstate.records import from_micros
from celery_stackstate.renewal import renewer
from celery_stackstate.stores.base import Expect, Store, StoredEntry
from celery_stackstate.surely import put_surely

logger = logging.getLogger(__name__)

LINGER = 7 * 24 * 3600 * 1_000_000
MIN_RENEWED_TTL = 5.0
POLL_FIRST, POLL_MOST = 0.02, 0.25


@dataclass(frozen=True, slots=True)
class LockOwner:
    """Who takes a lock: a run, or a process outside of one. `busy` may turn LockBusy into what the run does then."""

    name: str
    token: str
    busy: Callable[[LockBusy, str], NoReturn] | None = None

    @classmethod
    def of_process(cls) -> LockOwner:
        """Return an owner for code outside of runs."""
        return cls(f"{socket.gethostname()}:{os.getpid()}", uuid4().hex)


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Who holds a lock."""

    name: str
    owner: str
    host: str
    pid: int
    fence: int
    acquired_at: datetime | None
    expires_at: datetime | None


class Lock:
    """One lock, seen from one would-be holder. Made by `State.lock`."""

    def __init__(
        self,
        store: Store,
        key: bytes,
        name: str,
        *,
        owner: LockOwner,
        ttl: float = 60,
        wait: float = 0,
        renew: bool = True,
        on_busy: str = "retry",
        on_lock_lost: str = "raise",
        max_hold: float | None = None,
    ) -> None:
        _check_options(name, ttl, wait, renew, on_busy, on_lock_lost, max_hold)
        self.name = name
        self.ttl = float(ttl)
        self._store, self._key, self._owner = store, key, owner
        self._wait, self._renew, self._max_hold = wait, renew, max_hold
        self._on_busy, self._on_lock_lost = on_busy, on_lock_lost
        self._token = f"{owner.token}:{uuid4().hex}"
        self._version: int | None = None
        self._fence: int | None = None
        self._deadline = 0.0
        self._hold_until: float | None = None
        self._lost = False

    # -- what the holder asks --------------------------------------------------------------------------------------

    @property
    def fence(self) -> int:
        """The fencing token: larger than that of every holder before. LockLost when it was never acquired."""
        if self._fence is None:
            raise LockLost(f"the lock {self.name!r} was not acquired", name=self.name)
        return self._fence

    @property
    def remaining(self) -> float:
        """Seconds until it would lapse if it were not renewed again; 0 when it is not held."""
        return max(0.0, self._deadline - time.monotonic()) if self._held else 0.0

    def check(self) -> None:
        """Raise LockLost unless it is still held, by asking the store."""
        if self._held:
            found = self._store.get(self._key)
            if found is not None and self._is_mine(found):
                return
            self._lost = True
        raise LockLost(f"the lock {self.name!r} is not held any more", name=self.name)

    @property
    def _held(self) -> bool:
        return self._version is not None and not self._lost

    # -- taking and giving back ------------------------------------------------------------------------------------

    def acquire(self) -> bool:
        """Take the lock, waiting up to `wait` seconds; return False when somebody else keeps it."""
        return self._acquire() is None

    def _acquire(self) -> StoredEntry | None:
        """Take the lock and return None, or return what the other holder stored."""
        if self._held:
            raise LockBusy(
                f"the lock {self.name!r} is held by this very object", name=self.name, owner=self._owner.name
            )
        give_up, pause = time.monotonic() + self._wait, POLL_FIRST
        while (holder := self._try()) is not None:
            left = give_up - time.monotonic()
            if left <= 0:
                return holder
            time.sleep(min(left, pause * random.uniform(0.5, 1.5)))  # noqa: S311
            pause = min(POLL_MOST, pause * 2)
        if self._renew:
            renewer.keep(self)
        return None

    def _try(self) -> StoredEntry | None:
        sent = time.monotonic()
        found = self._put(self._value(None), Expect.ABSENT)
        if found is None:
            raise LockLost(f"the lock {self.name!r} ended in the moment it was taken", name=self.name)
        if not self._is_mine(found):
            return found
        self._fence = self._version = found.version
        self._lost = False
        self._deadline = _deadline(sent, found)
        self._hold_until = None if self._max_hold is None else sent + self._max_hold
        return None

    def release(self) -> None:
        """Give the lock back.

        Raises:
            LockLost: It was lost before; whoever holds it now keeps it.
        """
        renewer.drop(self)  # from here on nobody else writes _version
        version, self._version = self._version, None
        if version is None:
            raise LockLost(f"the lock {self.name!r} is not held", name=self.name)
        if self._lost or not self._remove(version):
            raise LockLost(
                f"the lock {self.name!r} was lost before its end: its TTL of {self.ttl:g} s ran out or it was released "
                f"by force; give it a longer ttl, or check() it between steps",
                name=self.name,
            )

    def _remove(self, version: int) -> bool:
        try:
            if self._store.remove(self._key, expect=version) is not None:
                return True
            found = self._store.get(self._key)  # a renewal may have been written whose answer was lost
            return (
                found is not None
                and self._is_mine(found)
                and self._store.remove(self._key, expect=found.version) is not None
            )
        except StoreUnavailable as error:
            logger.warning("The lock %r could not be released, it lapses within %g s: %s", self.name, self.ttl, error)
            return True

    def renew(self) -> bool:
        """Extend the TTL from now; return False, and take note, when the lock was lost."""
        if not self._held or self._version is None:
            return False
        sent = time.monotonic()
        found = self._put(self._value(self._fence), self._version)
        if found is None or not self._is_mine(found):
            self._lost = True
            return False
        self._version, self._deadline = found.version, _deadline(sent, found)
        return True

    def _put(self, value: bytes, expect: Expect | int) -> StoredEntry | None:
        ttl = ttl_micros(self.ttl)
        return put_surely(
            self._store, self._key, value, mine=self._is_mine, expect=expect, ttl=ttl, linger=LINGER
        ).entry

    def renewable(self) -> bool:
        """Return whether the background renewal should go on with it; a lapsed one is marked as lost."""
        now = time.monotonic()
        if now >= self._deadline:
            self._lost = True
        return self._held and (self._hold_until is None or now < self._hold_until)

    def _is_mine(self, stored: StoredEntry) -> bool:
        return bool(_decode(stored)["token"] == self._token)

    def _value(self, fence: int | None) -> bytes:
        return json.dumps(
            {
                "owner": self._owner.name,
                "token": self._token,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "fence": fence,
            }
        ).encode()

    # -- the with statement ----------------------------------------------------------------------------------------

    def __enter__(self) -> Lock:
        holder = self._acquire()
        if holder is not None:
            self._busy(holder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.release()
        except LockLost:
            if error is None and self._on_lock_lost == "raise":
                raise
            logger.warning("The lock %r was lost before its block ended", self.name)

    def _busy(self, holder: StoredEntry) -> NoReturn:
        owner = str(_decode(holder).get("owner", ""))
        left = 0.0 if holder.expires is None else max(0.0, (holder.expires - holder.now) / 1_000_000)
        error = LockBusy(
            f"the lock {self.name!r} is held by {owner} for at most {left:.1f} s more unless it is renewed",
            name=self.name,
            owner=owner,
            retry_after=left,
        )
        if self._owner.busy is not None and self._on_busy != "raise":
            self._owner.busy(error, self._on_busy)
        raise error


def _deadline(sent: float, found: StoredEntry) -> float:
    """Return when, on the local monotonic clock, an entry that was asked for at `sent` lapses at the earliest."""
    return sent if found.expires is None else sent + (found.expires - found.now) / 1_000_000


def lock_info(store: Store, key: bytes, name: str) -> LockInfo | None:
    """Return who holds the lock at `key`, or None."""
    found = store.get(key)
    return None if found is None else describe(name, found)


def describe(name: str, found: StoredEntry) -> LockInfo:
    """Return what a lock's entry says about its holder."""
    value = _decode(found)
    fence = value.get("fence") or found.version
    return LockInfo(
        name=name,
        owner=str(value.get("owner", "")),
        host=str(value.get("host", "")),
        pid=int(value.get("pid", 0)),
        fence=int(fence),
        acquired_at=from_micros(int(fence)),
        expires_at=from_micros(found.expires),
    )


def force_release(store: Store, key: bytes) -> bool:
    """Free the lock at `key`; return False when it was free."""
    return store.remove(key) is not None


def _decode(stored: StoredEntry) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(stored.value) if isinstance(stored.value, bytes) else {"token": None}
    return value


def _check_options(name: str, ttl: Any, wait: Any, renew: Any, on_busy: Any, on_lock_lost: Any, max_hold: Any) -> None:
    try:
        micros = ttl_micros(ttl)
    except InvalidExpiry as error:
        raise InvalidExpiry(f"the lock {name!r}: {error}") from None
    if micros is None:
        raise InvalidExpiry(f"the lock {name!r} needs a ttl in seconds")
    if renew and float(ttl) < MIN_RENEWED_TTL:
        raise InvalidExpiry(
            f"the lock {name!r} has ttl={ttl}; a lock that is renewed needs at least {MIN_RENEWED_TTL:g} s "
            f"(or renew=False)"
        )
    for option, number in (("wait", wait), ("max_hold", max_hold)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, (int, float)) or number < 0):
            raise InvalidExpiry(f"the lock {name!r} has {option}={number!r}; it must be seconds, 0 or more")
    if on_busy not in ("retry", "skip", "raise"):
        raise ValueError(f"the lock {name!r} has on_busy={on_busy!r}; it must be 'retry', 'skip' or 'raise'")
    if on_lock_lost not in ("raise", "warn"):
        raise ValueError(f"the lock {name!r} has on_lock_lost={on_lock_lost!r}; it must be 'raise' or 'warn'")
