"""Entries and runs in this process's memory: for tests, and for trying things out."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_stackstate.errors import ConfigurationError, CounterRange, NotACounter
from celery_stackstate.stores import rules
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, PutResult, RunWrite, StoredEntry, check_key
from celery_stackstate.stores.memory_runs import MemoryRuns, Run

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(slots=True)
class _Item:
    """A key that is live, or whose version is still remembered (`value` is None)."""

    value: bytes | int | None
    version: int
    expires: int | None
    updated: int
    linger: int
    keep: int

    def forget_at(self, end: int) -> int:
        return max(end + self.linger, self.keep, self.version + 1)

    def forgettable(self, now: int) -> bool:
        return self.expires is not None and self.expires <= now and self.forget_at(self.expires) <= now


@dataclass(slots=True)
class _Space:
    """What the stores of one name and prefix share."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.RLock = field(default_factory=threading.RLock)  # type: ignore[valid-type, unused-ignore]
    items: dict[bytes, _Item] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    runs: dict[str, Run] = field(default_factory=dict)


_named: dict[tuple[str, str], _Space] = {}


class MemoryStore(MemoryRuns):
    """A store in memory, `memory://`.

    Each `memory://` is a store of its own; `memory://name` is one per name, prefix and process. Nothing is shared
    between processes: a forked child goes on with a copy.
    """

    schemes = ("memory",)
    shared_between_processes = False

    def __init__(self, space: _Space) -> None:
        self._space = space
        self._runs = space.runs

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of `memory://` or `memory://name`."""
        scheme, found, name = url.partition("://")
        if scheme != "memory" or not found:
            raise ConfigurationError(f"stackstate_url: write memory:// or memory://name, not {url!r}")
        rules.check_timeout(timeout)
        key = (name, rules.check_prefix(prefix))
        return cls(_named.setdefault(key, _Space()) if name else _Space())

    def check(self) -> list[str]:
        """Return the one warning there is to give."""
        return ["memory:// is seen by this process only and ends with it; use sqlite:// or redis:// beyond tests"]

    def close(self) -> None:
        """Do nothing: there are no connections, and what was written stays as long as the store."""

    def _locked(self) -> AbstractContextManager[Any]:
        """Return the lock itself: what a signal's exception leaves while a generator holds it stays locked."""
        space = self._space
        if space.pid != os.getpid():  # a thread of the parent may have held the lock while it forked
            space.pid, space.lock = os.getpid(), threading.RLock()
        lock: AbstractContextManager[Any] = space.lock
        return lock

    def _clock(self) -> int:
        return time.time_ns() // 1000

    # -- entries ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""
        check_key(key)
        with self._locked():
            now = self._clock()
            return self._live(key, now)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`."""
        for key in keys:
            check_key(key)
        with self._locked():
            now = self._clock()
            found = ((key, self._live(key, now)) for key in keys)
            return {key: entry for key, entry in found if entry is not None}

    def put(
        self,
        key: bytes,
        value: bytes | int,
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        expires: int | None = None,
        linger: int = 0,
        guard: Guard | None = None,
    ) -> PutResult:
        """Write `key` if it is as expected, atomically."""
        rules.check_put(key, value, expect, ttl, expires)
        with self._locked():
            now = self._clock()
            self._check_guard(guard, now)
            old = self._live(key, now)
            if not rules.as_expected(old, expect):
                return PutResult(False, old)
            return PutResult(True, self._write(key, value, now, rules.end_of(now, ttl, expires), linger))

    def put_and_append(
        self,
        key: bytes,
        value: bytes | int,
        writes: Sequence[RunWrite],
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Put, and append where that is applied, atomically."""
        kept = [rules.kept(write) for write in writes]
        with self._locked():
            result = self.put(key, value, expect=expect, ttl=ttl, linger=linger)
            if result.applied:
                self.append(kept)
        return replace(result, appended=result.applied)

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        with self._locked():
            now = self._clock()
            entry = self._live(key, now)
            if entry is None or not rules.as_expected(entry, expect):
                return None
            item = self._space.items[key]
            item.keep = item.forget_at(now)
            item.value, item.expires, item.linger = None, now, 0
            self._forget(key, now)
            return entry

    def add(
        self,
        key: bytes,
        delta: int,
        *,
        ttl: int | None = None,
        expires: int | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
        guard: Guard | None = None,
        prolong: bool = False,
    ) -> int:
        """Add `delta` to the integer at `key` and return the new integer, atomically."""
        rules.check_add(key, delta, ttl, expires)
        with self._locked():
            now = self._clock()
            self._check_guard(guard, now)
            old = self._live(key, now)
            value = 0 if old is None else old.value
            if isinstance(value, bytes):
                raise NotACounter(f"the key {key!r:.80} holds bytes, not a counter")
            if not rules.in_range(value + delta, floor, ceiling):
                raise CounterRange(value=value)
            if old is None:
                self._write(key, value + delta, now, rules.end_of(now, ttl, expires), 0)
            else:
                end = rules.end_of(now, ttl, expires) if prolong else old.expires
                self._write(key, value + delta, now, end, self._space.items[key].linger)
            return value + delta

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key."""
        found: list[StoredEntry] = []
        with self._locked():
            now = self._clock()
            keys = self._space.keys
            start = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
            for index in range(start, len(keys)):
                if len(found) >= limit or not keys[index].startswith(prefix):
                    break
                entry = self._live(keys[index], now)
                if entry is not None:
                    found.append(entry)
        return found

    def _check_guard(self, guard: Guard | None, now: int) -> None:
        if guard is not None:
            standing = self._live(guard.key, now)
            if standing is None or standing.version != guard.version:
                raise GuardFailed

    def _live(self, key: bytes, now: int) -> StoredEntry | None:
        item = self._space.items.get(key)
        if item is None or item.value is None or (item.expires is not None and item.expires <= now):
            return None
        return StoredEntry(key, item.value, item.version, item.expires, item.updated, now)

    def _write(self, key: bytes, value: bytes | int, now: int, expires: int | None, linger: int) -> StoredEntry:
        old = self._space.items.get(key)
        if old is None:
            index = bisect_left(self._space.keys, key)
            if self._space.keys[index : index + 1] != [key]:  # a time limit may have struck before it had an item
                self._space.keys.insert(index, key)
            version, keep = now, 0
        else:
            version = max(old.version + 1, now)
            keep = old.forget_at(now if old.expires is None else min(now, old.expires))
        self._space.items[key] = _Item(value, version, expires, now, linger, keep)
        return StoredEntry(key, value, version, expires, now, now)

    def _forget(self, key: bytes, now: int) -> bool:
        if not self._space.items[key].forgettable(now):
            return False
        del self._space.items[key]
        del self._space.keys[bisect_left(self._space.keys, key)]
        return True

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` ended entries and forgotten runs; return how many."""
        with self._locked():
            now = self._clock()
            ended = islice((key for key, item in self._space.items.items() if item.forgettable(now)), limit)
            purged = sum(self._forget(key, now) for key in list(ended))
            return purged + self._purge_runs(limit - purged, now)
