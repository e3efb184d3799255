"""The SQL of entries, once. A subclass brings a dialect and connections: `_rows` to read and `_writing` to write.

A write locks the row of its key (or makes it, to have something to lock), then reads it together with the clock,
decides in Python, and writes. So it runs on every database alike, and times are those behind the lock.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from celery_stackstate.errors import CounterRange, NotACounter, StoreUnavailable
from celery_stackstate.stores import rules, sql_at_once
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, Put, PutResult, StoredEntry, check_key
from celery_stackstate.stores.batches import in_batches
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql_base import Row, Statement
from celery_stackstate.stores.sql_run_writes import CHUNK
from celery_stackstate.stores.sql_runs import SQLRuns

GET = (
    'SELECT "key", value, number, version, expires, updated, {now} FROM stackstate_entry '
    'WHERE present = 1 AND (expires IS NULL OR expires > {now}) AND prefix = ? AND "key" = ?'
)
LOAD = (
    "SELECT {now}, present, value, number, version, expires, updated, linger, keep FROM stackstate_entry "
    'WHERE prefix = ? AND "key" = ?'
)
LOCK = 'SELECT 1 FROM stackstate_entry WHERE prefix = ? AND "key" = ?'
#: Version 0 stands for a row that was made to be locked and has never held anything.
CLAIM = (
    'INSERT INTO stackstate_entry (prefix, "key", present, version, updated, linger, keep, purge_at) '
    "VALUES (?, ?, 0, 0, 0, 0, 0, 0) "
)
INSERT = (
    "INSERT INTO stackstate_entry (present, value, number, version, expires, updated, linger, keep, purge_at, "
    'prefix, "key") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)'
)
UPDATE = (
    "UPDATE stackstate_entry SET present = ?, value = ?, number = ?, version = ?, expires = ?, updated = ?, "
    'linger = ?, keep = ?, purge_at = ? WHERE prefix = ? AND "key" = ?'
)
DELETE = 'DELETE FROM stackstate_entry WHERE prefix = ? AND "key" = ?'
PURGEABLE = 'SELECT "key" FROM stackstate_entry WHERE prefix = ? AND purge_at <= {now} LIMIT ?'


class SQLStore(SQLRuns):
    """A store over SQL tables that its subclass connects to."""

    #: So many a transaction of a purge deletes; fewer after one that took too long, for a run may have a million rows.
    _purge_chunk = CHUNK

    # -- entries ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""
        check_key(key)
        return self._get(key, self._deadline())

    def _get(self, key: bytes, deadline: float) -> StoredEntry | None:
        rows = self._read(*self._question(key), deadline)
        return _entry(rows[0]) if rows else None

    def _question(self, key: bytes) -> Statement:
        now = self._clock()
        return GET, (*now, *now, self._prefix, key)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`."""
        for key in keys:
            check_key(key)
        found: dict[bytes, StoredEntry] = {}
        deadline = self._deadline()
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            sql = GET.replace('"key" = ?', f'"key" IN ({", ".join("?" * len(chunk))})')
            now = self._clock()
            for row in self._read(sql, (*now, *now, self._prefix, *chunk), deadline):
                entry = _entry(row)
                found[entry.key] = entry
        return found

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
        deadline = self._deadline()
        if guard is None and self._dialect.writes_at_once and sql_at_once.fits(expect):
            statement = sql_at_once.put((self._prefix, key), value, expect, ttl, expires, linger)
            creates = isinstance(expect, Expect)
            statements = sql_at_once.on_row((self._prefix, key), statement, create=creates, expect=expect)
            # Who expects nothing, such as a duplicate request, is told what there is in the same round trip.
            asked = [self._question(key)] if expect is Expect.ABSENT else []
            answers = self._batch([*statements, *asked], deadline)
            done = sql_at_once.first(answers[statements.index(statement)])
            if done is not None:
                version, end, now = done
                return PutResult(True, StoredEntry(key, value, version, end, now, now))
            found = sql_at_once.first(answers[-1]) if asked else None
            in_the_way = _entry(found) if found else self._get(key, deadline)
            if not rules.as_expected(in_the_way, expect):
                return PutResult(False, in_the_way)

        def work(execute: Execute) -> PutResult:
            return self._put(execute, key, value, expect, (ttl, expires), linger, guard)

        return self._write(work, deadline)

    def _put(
        self,
        execute: Execute,
        key: bytes,
        value: bytes | int,
        expect: Expect | int,
        ends: tuple[int | None, int | None],
        linger: int,
        guard: Guard | None = None,
    ) -> PutResult:
        """Put inside of a write transaction; `ends` are the ttl and the absolute expiry."""
        old, now = self._held(execute, key, create=isinstance(expect, Expect), guard=guard)
        standing = _live(key, old, now)
        if not rules.as_expected(standing, expect):
            self._let_go(execute, key, old)
            return PutResult(False, standing)
        end = rules.end_of(now, *ends)
        return PutResult(True, self._save(execute, key, value, old, now, end, linger))

    def put_all(self, puts: Sequence[Put]) -> None:
        """Put each that is as expected, in one transaction for each hundred."""
        for put in puts:
            rules.check_put(put.key, put.value, put.expect, None, None)
        deadline = self._deadline()
        # In one order, so that no two of these wait for each other.
        ordered = sorted(puts, key=lambda put: put.key)
        in_batches(ordered, CHUNK, lambda some: self._put_some(some, deadline))

    def _put_some(self, puts: Sequence[Put], deadline: float) -> int:
        # A row that is to be made may be deleted before it is locked; one of a version is then as good as another's.
        has_versions = all(not isinstance(put.expect, Expect) and sql_at_once.fits(put.expect) for put in puts)
        if self._dialect.writes_at_once and has_versions:
            statements: list[Statement] = []
            for put in puts:
                place = (self._prefix, put.key)
                statement = sql_at_once.put(place, put.value, put.expect, None, None, 0)
                statements += sql_at_once.on_row(place, statement, create=False, expect=put.expect)
            self._batch(statements, deadline)
            return len(puts)

        def work(execute: Execute) -> None:
            for put in puts:
                self._put(execute, put.key, put.value, put.expect, (None, None), 0)

        self._write(work, deadline)
        return len(puts)

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        deadline = self._deadline()
        if self._dialect.writes_at_once and sql_at_once.fits(expect):
            place = (self._prefix, key)
            lock, deleting = sql_at_once.on_row(place, sql_at_once.remove(place, expect), create=False)
            burying = sql_at_once.bury(place, expect)
            answers = self._batch([lock, self._question(key), deleting, burying], deadline)
            found, deleted, buried = map(sql_at_once.first, answers[1:])
            removed = deleted or buried
            if removed is not None:
                return _entry(removed)
            if found is None or not rules.as_expected(_entry(found), expect):
                return None

        return self._write(lambda execute: self._remove(execute, key, expect), deadline)

    def _remove(self, execute: Execute, key: bytes, expect: Expect | int) -> StoredEntry | None:
        """Remove inside of a write transaction."""
        old, now = self._held(execute, key, create=False)
        entry = _live(key, old, now)
        if entry is None or not rules.as_expected(entry, expect):
            return None
        remembered = _remembered(old, now)
        if remembered <= now:
            execute(DELETE, (self._prefix, key))
        else:
            tombstone = (0, None, None, entry.version, now, now, 0, remembered, remembered)
            execute(UPDATE, (*tombstone, self._prefix, key))
        return entry

    def remove_all(self, keys: Sequence[bytes], *, expect: Expect | int = Expect.ANY) -> int:
        """Remove those of `keys` that are live and as expected, in one transaction for each hundred."""
        for key in keys:
            rules.check_remove(key, expect)
        deadline = self._deadline()
        ordered = sorted(set(keys))  # in one order, so that no two of these wait for each other
        return in_batches(ordered, CHUNK, lambda chunk: self._remove_chunk(chunk, expect, deadline))

    def _remove_chunk(self, keys: Sequence[bytes], expect: Expect | int, deadline: float) -> int:
        if self._dialect.writes_at_once and sql_at_once.fits(expect):
            statements: list[Statement] = []
            for place in ((self._prefix, key) for key in keys):
                removing = sql_at_once.on_row(place, sql_at_once.remove(place, expect), create=False)
                statements += [*removing, sql_at_once.bury(place, expect)]
            answers = self._batch(statements, deadline)
            return sum(bool(deleted or buried) for deleted, buried in zip(answers[1::3], answers[2::3], strict=True))

        def work(execute: Execute) -> int:
            return sum(self._remove(execute, key, expect) is not None for key in keys)

        return self._write(work, deadline)

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
        deadline = self._deadline()
        if guard is None and self._dialect.writes_at_once:
            statement = sql_at_once.add((self._prefix, key), delta, ttl, expires, floor, ceiling, prolong=prolong)
            done = statement and self._one(key, statement, deadline, create=True)
            if done:
                return int(done[0])
            _counted(key, self._get(key, deadline), delta, floor, ceiling)

        def work(execute: Execute) -> int:
            old, now = self._held(execute, key, create=True, guard=guard)
            entry = _live(key, old, now)
            number = _counted(key, entry, delta, floor, ceiling)
            end = rules.end_of(now, ttl, expires) if entry is None or prolong else entry.expires
            linger = 0 if entry is None else old[0][6]
            self._save(execute, key, number, old, now, end, linger)
            return number

        return self._write(work, deadline)

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key."""
        now = self._clock()
        inside = after is not None and after >= prefix
        sql = GET.replace('"key" = ?', '"key" > ?' if inside else '"key" >= ?')
        parameters = [*now, *now, self._prefix, after if inside else prefix]
        stop = rules.key_after(prefix)
        if stop is not None:
            sql += ' AND "key" < ?'
            parameters.append(stop)
        return [_entry(row) for row in self._read(sql + ' ORDER BY "key" LIMIT ?', (*parameters, limit))]

    def _one(
        self,
        key: bytes,
        statement: Statement,
        deadline: float,
        *,
        create: bool = False,
    ) -> Row | None:
        """Run a statement of `sql_at_once` on the row of `key`, made before where it is missing and `create`."""
        statements = sql_at_once.on_row((self._prefix, key), statement, create=create)
        return sql_at_once.first(self._batch(statements, deadline)[statements.index(statement)])

    # -- the row of a key ------------------------------------------------------------------------------------------

    def _held(self, execute: Execute, key: bytes, *, create: bool, guard: Guard | None = None) -> tuple[list[Row], int]:
        """Lock the row of `key`, made where it is missing and `create`; return it as it is now, and the time."""
        if guard is not None:
            self._lock(execute, guard.key)
        if create and self._dialect.claim:
            execute(CLAIM + self._dialect.claim, (self._prefix, key))
        else:
            self._lock(execute, key)
        if guard is not None:
            self._check_guard(execute, guard)
        return self._load(execute, key)

    def _lock(self, execute: Execute, key: bytes) -> None:
        if self._dialect.lock:
            execute(LOCK + self._dialect.lock, (self._prefix, key))

    def _load(self, execute: Execute, key: bytes) -> tuple[list[Row], int]:
        # In a caller's REPEATABLE READ MySQL shows to a plain SELECT what was before it waited for the lock, and where
        # there was no row to lock there may be one by now.
        rows = execute(LOAD + self._dialect.lock, (*self._clock(), self._prefix, key))
        if not rows:
            return [], self._now()
        now, present, value, *rest = rows[0]
        return [(present, _bytes(value), *rest)], now

    def _check_guard(self, execute: Execute, guard: Guard) -> None:
        standing = _live(guard.key, *self._load(execute, guard.key))
        if standing is None or standing.version != guard.version:
            raise GuardFailed

    def _let_go(self, execute: Execute, key: bytes, old: list[Row]) -> None:
        """Delete a row that was only made to be locked."""
        if _is_new(old) and self._dialect.claim:
            execute(DELETE, (self._prefix, key))

    def _save(
        self,
        execute: Execute,
        key: bytes,
        value: bytes | int,
        old: list[Row],
        now: int,
        expires: int | None,
        linger: int,
    ) -> StoredEntry:
        new = _is_new(old)
        version = now if new else max(old[0][3] + 1, now)
        keep = 0 if new else _remembered(old, now)
        blob, number = (value, None) if isinstance(value, bytes) else (None, value)
        linger = min(linger, rules.MAX_MOMENT)
        purge_at = None if expires is None else max(expires + linger, keep, version + 1)
        row = (1, blob, number, version, expires, now, linger, keep, purge_at)
        execute(UPDATE if old else INSERT, (*row, self._prefix, key))
        return StoredEntry(key, value, version, expires, now, now)

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` ended entries and forgotten runs, as far as the timeout lets it; return how many."""
        purged, stop = 0, time.monotonic() + self._timeout / 2
        failed: StoreUnavailable | None = None
        for purge_some in (self._purge_runs, self._purge_entries):  # a caller's transaction may hold an entry, no run
            while purged < limit and time.monotonic() < stop:
                try:
                    done = purge_some(min(self._purge_chunk, limit - purged))
                except StoreUnavailable as error:  # somebody holds a row; or it was more than the time is enough for
                    failed, self._purge_chunk = error, max(1, self._purge_chunk // 4)
                    break
                self._purge_chunk = min(CHUNK, 2 * self._purge_chunk)
                purged += done
                if not done:
                    break
        if failed is not None and not purged:
            raise failed
        return purged

    def _purge_entries(self, limit: int) -> int:
        if not self._read(PURGEABLE, (self._prefix, *self._clock(), 1)):
            return 0

        def work(execute: Execute) -> int:
            keys = execute(PURGEABLE + self._dialect.lock_free, (self._prefix, *self._clock(), limit))
            for (key,) in keys:
                execute(DELETE, (self._prefix, key))
            return len(keys)

        return self._write(work)


def _bytes(value: bytes | memoryview | None) -> bytes | None:
    return value if value is None or isinstance(value, bytes) else bytes(value)


def _entry(row: Row) -> StoredEntry:
    key, value, number, version, expires, updated, now = row
    return StoredEntry(bytes(key), number if value is None else bytes(value), version, expires, updated, now)


def _live(key: bytes, old: list[Row], now: int) -> StoredEntry | None:
    if not old or not old[0][0] or (old[0][4] is not None and old[0][4] <= now):
        return None
    return _entry((key, *old[0][1:6], now))


def _counted(key: bytes, entry: StoredEntry | None, delta: int, floor: int | None, ceiling: int | None) -> int:
    """Return the number that `delta` makes of a counter."""
    value = 0 if entry is None else entry.value
    if isinstance(value, bytes):
        raise NotACounter(f"the key {key!r:.80} holds bytes, not a counter")
    if not rules.in_range(value + delta, floor, ceiling):
        raise CounterRange(value=value)
    return value + delta


def _is_new(old: list[Row]) -> bool:
    return not old or old[0][3] == 0


def _remembered(old: list[Row], now: int) -> int:
    """Return until when the version of a key that ends now, or has ended, must be remembered."""
    _, _, _, version, expires, _, linger, keep = old[0]
    end = now if expires is None else min(now, expires)
    until: int = max(end + linger, keep, version + 1)
    return until
