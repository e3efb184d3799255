"""Entries and runs in this process's memory: for tests, and for trying things out."""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import TYPE_CHECKING

from celery_stackstate.errors import ConfigurationError, CounterRange, NotACounter
from celery_stackstate.stores import rules
from celery_stackstate.stores.base import (
    Expect,
    PutResult,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    Store,
    StoredEntry,
    StoredEvent,
    StoredLog,
    check_key,
)

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
class _Run:
    seen: int
    rank: int | None = None
    facts: RunFacts = field(default_factory=RunFacts)
    standing: RunStanding = field(default_factory=RunStanding)
    events: dict[str, StoredEvent] = field(default_factory=dict)
    logs: dict[tuple[str, int], StoredLog] = field(default_factory=dict)

    def row(self, run_id: str) -> RunRow:
        created = self.seen if self.facts.created is None else self.facts.created
        return RunRow(run_id, self.rank or 0, replace(self.facts, created=created), self.standing)


@dataclass(slots=True)
class _Space:
    """What the stores of one name and prefix share."""

    pid: int = field(default_factory=os.getpid)
    lock: threading.RLock = field(default_factory=threading.RLock)  # type: ignore[valid-type, unused-ignore]
    items: dict[bytes, _Item] = field(default_factory=dict)
    keys: list[bytes] = field(default_factory=list)
    runs: dict[str, _Run] = field(default_factory=dict)


_named: dict[tuple[str, str], _Space] = {}


class MemoryStore(Store):
    """A store in memory, `memory://`.

    Each `memory://` is a store of its own; `memory://name` is one per name, prefix and process. Nothing is shared
    between processes: a forked child goes on with a copy.
    """

    schemes = ("memory",)
    shared_between_processes = False

    def __init__(self, space: _Space) -> None:
        self._space = space

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

    @contextmanager
    def _locked(self) -> Iterator[int]:
        space = self._space
        if space.pid != os.getpid():  # a thread of the parent may have held the lock while it forked
            space.pid, space.lock = os.getpid(), threading.RLock()
        with space.lock:
            yield self._now()

    def _now(self) -> int:
        return time.time_ns() // 1000

    # -- entries ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""
        check_key(key)
        with self._locked() as now:
            return self._live(key, now)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`."""
        for key in keys:
            check_key(key)
        with self._locked() as now:
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
    ) -> PutResult:
        """Write `key` if it is as expected, atomically."""
        rules.check_put(key, value, expect, ttl, expires)
        with self._locked() as now:
            old = self._live(key, now)
            if not _as_expected(old, expect):
                return PutResult(False, old)
            return PutResult(True, self._write(key, value, now, rules.end_of(now, ttl, expires), linger))

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        with self._locked() as now:
            entry = self._live(key, now)
            if entry is None or not _as_expected(entry, expect):
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
    ) -> int:
        """Add `delta` to the integer at `key` and return the new integer, atomically."""
        rules.check_add(key, delta, ttl, expires)
        with self._locked() as now:
            old = self._live(key, now)
            value = 0 if old is None else old.value
            if isinstance(value, bytes):
                raise NotACounter(f"the key {key!r:.80} holds bytes, not a counter")
            if not rules.in_range(value + delta, floor, ceiling):
                raise CounterRange(value=value)
            if old is None:
                self._write(key, value + delta, now, rules.end_of(now, ttl, expires), 0)
            else:
                self._write(key, value + delta, now, old.expires, self._space.items[key].linger)
            return value + delta

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key."""
        found: list[StoredEntry] = []
        with self._locked() as now:
            keys = self._space.keys
            start = bisect_left(keys, prefix) if after is None or after < prefix else bisect_right(keys, after)
            for index in range(start, len(keys)):
                if len(found) >= limit or not keys[index].startswith(prefix):
                    break
                entry = self._live(keys[index], now)
                if entry is not None:
                    found.append(entry)
        return found

    def _live(self, key: bytes, now: int) -> StoredEntry | None:
        item = self._space.items.get(key)
        if item is None or item.value is None or (item.expires is not None and item.expires <= now):
            return None
        return StoredEntry(key, item.value, item.version, item.expires, item.updated, now)

    def _write(self, key: bytes, value: bytes | int, now: int, expires: int | None, linger: int) -> StoredEntry:
        old = self._space.items.get(key)
        if old is None:
            insort(self._space.keys, key)
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

    # -- runs ------------------------------------------------------------------------------------------------------

    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, each write atomically."""
        for write in writes:
            with self._locked() as now:
                run = self._space.runs.setdefault(write.run_id, _Run(now))
                run.facts = _first_wins(run.facts, write.facts)
                if write.standing is not None and (run.rank is None or write.rank >= run.rank):
                    run.rank, run.standing = write.rank, write.standing
                for event in write.events:
                    run.events.setdefault(event.uid, event)
                for log in write.logs:
                    run.logs.setdefault((log.execution, log.seq), log)

    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run; None if unknown."""
        with self._locked():
            run = self._space.runs.get(run_id)
            if run is None:
                return None
            return run.row(run_id), sorted(run.events.values(), key=lambda event: event.at)

    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`."""
        return rules.page(self._matching(query), query)

    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, at most `cap`."""
        return min(cap, len(self._matching(query)))

    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`."""
        rules.check_named(column)
        with self._locked():
            rows = [run.row(run_id) for run_id, run in self._space.runs.items()]
        return sorted({name for row in rows if (name := rules.column(row, column)) is not None})[:limit]

    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""
        with self._locked():
            run = self._space.runs.get(run_id)
            lines = [] if run is None else list(run.logs.values())
        place = {id(line): (line.at, line.execution, line.seq) for line in lines}
        wanted = (line for line in lines if execution in (None, line.execution))
        behind = (line for line in wanted if after is None or place[id(line)] > after)
        return sorted(behind, key=lambda line: place[id(line)])[:limit]

    def _matching(self, query: RunQuery) -> list[RunRow]:
        with self._locked():
            rows = [run.row(run_id) for run_id, run in self._space.runs.items()]
        found = [row for row in rows if rules.matches(row, query)]
        if query.text:
            found.sort(key=rules.position, reverse=True)
            return list(rules.search(found, query.text))
        return found

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` ended entries and forgotten runs; return how many."""
        with self._locked() as now:
            ended = islice((key for key, item in self._space.items.items() if item.forgettable(now)), limit)
            purged = sum(self._forget(key, now) for key in list(ended))
            runs = self._space.runs
            forgotten = [
                run_id for run_id, run in runs.items() if run.standing.forget is not None and run.standing.forget <= now
            ][: limit - purged]
            for run_id in forgotten:
                del runs[run_id]
            return purged + len(forgotten)


def _as_expected(entry: StoredEntry | None, expect: Expect | int) -> bool:
    if expect is Expect.ANY:
        return True
    if expect is Expect.ABSENT:
        return entry is None
    return entry is not None and entry.version == expect


def _first_wins(old: RunFacts, new: RunFacts) -> RunFacts:
    known = {item.name: getattr(old, item.name) for item in fields(old)}
    return RunFacts(**{name: getattr(new, name) if value is None else value for name, value in known.items()})
