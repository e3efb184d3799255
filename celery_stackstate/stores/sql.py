"""The SQL of entries and runs, once. A subclass brings connections: `_rows` to read and `_writing` to write.

The statements take `?` parameters, read all rows of an answer, and compute times in Python under the write lock, so
that they run on every SQLite since 3.24. What another database spells differently is a class attribute.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from celery_stackstate.errors import CounterRange, NotACounter
from celery_stackstate.stores import rules
from celery_stackstate.stores.base import (
    TEXT_SEARCH_LIMIT,
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

Row = tuple[Any, ...]
Execute = Callable[[str, Sequence[Any]], list[Row]]

FACTS = ("task", "queue", "key", "parent_id", "root_id", "created")
STANDING = ("status", "worker", "retries", "waited", "started", "finished", "error", "forget")
RUN_COLUMNS = ("run_id", "rank", *FACTS, *STANDING)

GET = (
    "SELECT key, value, number, version, expires, updated FROM stackstate_entry "
    "WHERE prefix = ? AND key = ? AND present = 1 AND (expires IS NULL OR expires > ?)"
)
LOAD = (
    "SELECT present, value, number, version, expires, updated, linger, keep FROM stackstate_entry "
    "WHERE prefix = ? AND key = ?"
)
SAVE = (
    "INSERT INTO stackstate_entry "
    "(prefix, key, present, value, number, version, expires, updated, linger, keep, purge_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prefix, key) DO UPDATE SET present = excluded.present, "
    "value = excluded.value, number = excluded.number, version = excluded.version, expires = excluded.expires, "
    "updated = excluded.updated, linger = excluded.linger, keep = excluded.keep, purge_at = excluded.purge_at"
)
DELETE = "DELETE FROM stackstate_entry WHERE prefix = ? AND key = ?"
PURGEABLE = "SELECT key FROM stackstate_entry WHERE prefix = ? AND purge_at <= ? LIMIT ?"
FORGOTTEN = "SELECT run_id FROM stackstate_run WHERE prefix = ? AND forget <= ? LIMIT ?"
SELECT_RUNS = (
    "SELECT run_id, rank, task, queue, key, parent_id, root_id, listed, "
    "status, worker, retries, waited, started, finished, error, forget FROM stackstate_run WHERE prefix = ?"
)
EVENTS = (
    "SELECT uid, at, name, execution, data FROM stackstate_event WHERE prefix = ? AND run_id = ? ORDER BY at, arrival"
)
ADD_EVENT = (
    "INSERT INTO stackstate_event (prefix, run_id, uid, at, name, execution, data) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (prefix, run_id, uid) DO NOTHING"
)
ADD_LOG = (
    "INSERT INTO stackstate_log (prefix, run_id, execution, seq, at, level, logger, message) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prefix, run_id, execution, seq) DO NOTHING"
)


def _upsert_run() -> str:
    """Build the statement that merges one write: facts by first wins, standing as a whole by rank."""
    columns = ("prefix", "run_id", *FACTS, *STANDING, "listed", "rank")
    wins = "excluded.rank IS NOT NULL AND (stackstate_run.rank IS NULL OR excluded.rank >= stackstate_run.rank)"
    first = [f"{name} = COALESCE(stackstate_run.{name}, excluded.{name})" for name in FACTS]
    ranked = [f"{name} = CASE WHEN {wins} THEN excluded.{name} ELSE stackstate_run.{name} END" for name in STANDING]
    listed = "listed = COALESCE(stackstate_run.created, excluded.created, stackstate_run.listed)"
    rank = f"rank = CASE WHEN {wins} THEN excluded.rank ELSE stackstate_run.rank END"
    return (
        f"INSERT INTO stackstate_run ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) "  # noqa: S608
        f"ON CONFLICT (prefix, run_id) DO UPDATE SET {', '.join((listed, *first, *ranked, rank))}"
    )


UPSERT_RUN = _upsert_run()

#: The tables, one statement each. `listed` is `created`, or the time of the first write while that is unknown.
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS stackstate_entry (prefix TEXT NOT NULL, key BLOB NOT NULL, present INTEGER NOT NULL, "
    "value BLOB, number BIGINT, version BIGINT NOT NULL, expires BIGINT, updated BIGINT NOT NULL, "
    "linger BIGINT NOT NULL, keep BIGINT NOT NULL, purge_at BIGINT, PRIMARY KEY (prefix, key))",
    "CREATE INDEX IF NOT EXISTS stackstate_entry_purge ON stackstate_entry (prefix, purge_at) "
    "WHERE purge_at IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS stackstate_run (prefix TEXT NOT NULL, run_id TEXT NOT NULL, rank BIGINT, task TEXT, "
    "queue TEXT, key TEXT, parent_id TEXT, root_id TEXT, created BIGINT, status TEXT NOT NULL, worker TEXT, "
    "retries BIGINT NOT NULL, waited BIGINT, started BIGINT, finished BIGINT, error TEXT, forget BIGINT, "
    "listed BIGINT NOT NULL, PRIMARY KEY (prefix, run_id))",
    "CREATE INDEX IF NOT EXISTS stackstate_run_listed ON stackstate_run (prefix, listed, run_id)",
    "CREATE INDEX IF NOT EXISTS stackstate_run_status ON stackstate_run (prefix, status, listed, run_id)",
    *(
        f"CREATE INDEX IF NOT EXISTS stackstate_run_{name} ON stackstate_run (prefix, {name}, listed, run_id) "
        f"WHERE {name} IS NOT NULL"
        for name in rules.EQUALS
    ),
    "CREATE INDEX IF NOT EXISTS stackstate_run_forget ON stackstate_run (prefix, forget) WHERE forget IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS stackstate_event (arrival INTEGER PRIMARY KEY AUTOINCREMENT, prefix TEXT NOT NULL, "
    "run_id TEXT NOT NULL, uid TEXT NOT NULL, at BIGINT NOT NULL, name TEXT NOT NULL, execution TEXT, "
    "data BLOB NOT NULL, UNIQUE (prefix, run_id, uid))",
    "CREATE TABLE IF NOT EXISTS stackstate_log (prefix TEXT NOT NULL, run_id TEXT NOT NULL, execution TEXT NOT NULL, "
    "seq BIGINT NOT NULL, at BIGINT NOT NULL, level BIGINT NOT NULL, logger TEXT NOT NULL, message TEXT NOT NULL, "
    "PRIMARY KEY (prefix, run_id, execution, seq))",
    "CREATE INDEX IF NOT EXISTS stackstate_log_order ON stackstate_log (prefix, run_id, at, execution, seq)",
)
SCHEMA_VERSION = 1

#: So many keys or ids go into one statement, and so many runs are purged in one transaction.
CHUNK = 100


class SQLStore(Store):
    """A store over SQL tables that its subclass connects to."""

    _prefix: str

    @abstractmethod
    def _rows(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """Run one reading statement and return all its rows."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Execute]:
        """Open a write transaction that holds the write lock from its start; commit it at the end."""

    def _now(self) -> int:
        return time.time_ns() // 1000

    # -- entries ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""
        check_key(key)
        now = self._now()
        rows = self._rows(GET, (self._prefix, key, now))
        return _entry(rows[0], now) if rows else None

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`."""
        for key in keys:
            check_key(key)
        found: dict[bytes, StoredEntry] = {}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            sql = GET.replace("key = ?", f"key IN ({', '.join('?' * len(chunk))})")
            now = self._now()
            rows = self._rows(sql, (self._prefix, *chunk, now))
            found.update((row[0], _entry(row, now)) for row in rows)
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
    ) -> PutResult:
        """Write `key` if it is as expected, atomically."""
        rules.check_put(key, value, expect, ttl, expires)
        with self._writing() as execute:
            now = self._now()
            old = execute(LOAD, (self._prefix, key))
            standing = _live(key, old, now)
            if not _as_expected(standing, expect):
                return PutResult(False, standing)
            written = self._save(execute, key, value, old, now, rules.end_of(now, ttl, expires), linger)
        return PutResult(True, written)

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        with self._writing() as execute:
            now = self._now()
            old = execute(LOAD, (self._prefix, key))
            entry = _live(key, old, now)
            if entry is None or not _as_expected(entry, expect):
                return None
            remembered = _remembered(old, now)
            if remembered <= now:
                execute(DELETE, (self._prefix, key))
            else:
                tombstone = (0, None, None, entry.version, now, now, 0, remembered, remembered)
                execute(SAVE, (self._prefix, key, *tombstone))
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
        with self._writing() as execute:
            now = self._now()
            old = execute(LOAD, (self._prefix, key))
            entry = _live(key, old, now)
            value = 0 if entry is None else entry.value
            if isinstance(value, bytes):
                raise NotACounter(f"the key {key!r:.80} holds bytes, not a counter")
            if not rules.in_range(value + delta, floor, ceiling):
                raise CounterRange(value=value)
            end, linger = (rules.end_of(now, ttl, expires), 0) if entry is None else (entry.expires, old[0][6])
            self._save(execute, key, value + delta, old, now, end, linger)
        return value + delta

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key."""
        now = self._now()
        sql = GET.replace("key = ?", "key >= ?" if after is None or after < prefix else "key > ?")
        parameters = [self._prefix, prefix if after is None or after < prefix else after, now]
        stop = rules.key_after(prefix)
        if stop is not None:
            sql += " AND key < ?"
            parameters.append(stop)
        rows = self._rows(sql + " ORDER BY key LIMIT ?", (*parameters, limit))
        return [_entry(row, now) for row in rows]

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
        version = max(old[0][3] + 1, now) if old else now
        keep = _remembered(old, now) if old else 0
        blob, number = (value, None) if isinstance(value, bytes) else (None, value)
        linger = min(linger, rules.MAX_MOMENT)
        purge_at = None if expires is None else max(expires + linger, keep, version + 1)
        row = (1, blob, number, version, expires, now, linger, keep, purge_at)
        execute(SAVE, (self._prefix, key, *row))
        return StoredEntry(key, value, version, expires, now, now)

    # -- runs ------------------------------------------------------------------------------------------------------

    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, all in one transaction."""
        if not writes:
            return
        with self._writing() as execute:
            now = self._now()
            for write in writes:
                self._append(execute, write, now)

    def _append(self, execute: Execute, write: RunWrite, now: int) -> None:
        facts = [getattr(write.facts, name) for name in FACTS]
        standing = [getattr(write.standing or RunStanding(), name) for name in STANDING]
        listed = now if write.facts.created is None else write.facts.created
        rank = None if write.standing is None else write.rank
        execute(UPSERT_RUN, (self._prefix, write.run_id, *facts, *standing, listed, rank))
        for event in write.events:
            parameters = (event.uid, event.at, event.name, event.execution, event.data)
            execute(ADD_EVENT, (self._prefix, write.run_id, *parameters))
        for log in write.logs:
            line = (log.execution, log.seq, log.at, log.level, log.logger, log.message)
            execute(ADD_LOG, (self._prefix, write.run_id, *line))

    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run; None if unknown."""
        rows = self._rows(SELECT_RUNS + " AND run_id = ?", (self._prefix, run_id))
        if not rows:
            return None
        return _run(rows[0]), [StoredEvent(*row) for row in self._rows(EVENTS, (self._prefix, run_id))]

    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`."""
        if query.ids is not None or query.text:
            return rules.page(self._matching(query), query)
        where, parameters = _where(query)
        order = "ASC" if query.oldest_first else "DESC"
        if query.after is not None:
            where += f" AND (listed, run_id) {'>' if query.oldest_first else '<'} (?, ?)"
            parameters += query.after
        sql = f"{SELECT_RUNS}{where} ORDER BY listed {order}, run_id {order} LIMIT ? OFFSET ?"
        return [_run(row) for row in self._rows(sql, (self._prefix, *parameters, query.limit, query.offset))]

    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, at most `cap`."""
        if query.ids is not None or query.text:
            return min(cap, sum(1 for _ in self._matching(query)))
        where, parameters = _where(query)
        sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM stackstate_run WHERE prefix = ?{where} LIMIT ?) AS counted"  # noqa: S608
        count: int = self._rows(sql, (self._prefix, *parameters, cap))[0][0]
        return count

    def _matching(self, query: RunQuery) -> Iterator[RunRow]:
        """Yield the runs that match a query with `ids` or `text`, in any order."""
        where, parameters = _where(query)
        if query.ids is None:
            tail = " ORDER BY listed DESC, run_id DESC LIMIT ?"
            rows = self._rows(SELECT_RUNS + where + tail, (self._prefix, *parameters, TEXT_SEARCH_LIMIT))
        else:
            rows = []
            ids = list(dict.fromkeys(query.ids))
            for start in range(0, len(ids), CHUNK):
                chunk = ids[start : start + CHUNK]
                among = f" AND run_id IN ({', '.join('?' * len(chunk))})"
                rows += self._rows(SELECT_RUNS + where + among, (self._prefix, *parameters, *chunk))
        found = [_run(row) for row in rows]
        if not query.text:
            return iter(found)
        return rules.search(sorted(found, key=rules.position, reverse=True), query.text)

    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`."""
        name = rules.check_named(column)
        least = f"SELECT MIN({name}) FROM stackstate_run WHERE prefix = ? AND {name}"  # noqa: S608
        sql = (
            f"WITH RECURSIVE names (name) AS ({least} IS NOT NULL UNION ALL SELECT ({least} > names.name) "  # noqa: S608
            "FROM names WHERE names.name IS NOT NULL) SELECT name FROM names WHERE name IS NOT NULL LIMIT ?"
        )
        return [row[0] for row in self._rows(sql, (self._prefix, self._prefix, limit))]

    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""
        sql = "SELECT execution, seq, at, level, logger, message FROM stackstate_log WHERE prefix = ? AND run_id = ?"
        parameters: list[Any] = [self._prefix, run_id]
        if execution is not None:
            sql += " AND execution = ?"
            parameters.append(execution)
        if after is not None:
            sql += " AND (at, execution, seq) > (?, ?, ?)"
            parameters += after
        rows = self._rows(sql + " ORDER BY at, execution, seq LIMIT ?", (*parameters, limit))
        return [StoredLog(*row) for row in rows]

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to `limit` ended entries and forgotten runs; return how many."""
        purged = 0
        for purge_some in (self._purge_entries, self._purge_runs):
            while purged < limit:
                done = purge_some(min(CHUNK, limit - purged))
                purged += done
                if not done:
                    break
        return purged

    def _purge_entries(self, limit: int) -> int:
        now = self._now()
        if not self._rows(PURGEABLE, (self._prefix, now, 1)):
            return 0
        with self._writing() as execute:
            keys = [row[0] for row in execute(PURGEABLE, (self._prefix, now, limit))]
            for key in keys:
                execute(DELETE, (self._prefix, key))
        return len(keys)

    def _purge_runs(self, limit: int) -> int:
        now = self._now()
        if not self._rows(FORGOTTEN, (self._prefix, now, 1)):
            return 0
        with self._writing() as execute:
            ids = [row[0] for row in execute(FORGOTTEN, (self._prefix, now, limit))]
            for run_id in ids:
                for table in ("stackstate_log", "stackstate_event", "stackstate_run"):
                    execute(f"DELETE FROM {table} WHERE prefix = ? AND run_id = ?", (self._prefix, run_id))  # noqa: S608
        return len(ids)


def _entry(row: Row, now: int) -> StoredEntry:
    key, value, number, version, expires, updated = row
    return StoredEntry(key, number if value is None else value, version, expires, updated, now)


def _live(key: bytes, old: list[Row], now: int) -> StoredEntry | None:
    if not old or not old[0][0] or (old[0][4] is not None and old[0][4] <= now):
        return None
    return _entry((key, *old[0][1:6]), now)


def _remembered(old: list[Row], now: int) -> int:
    """Return until when the version of a key that ends now, or has ended, must be remembered."""
    _, _, _, version, expires, _, linger, keep = old[0]
    end = now if expires is None else min(now, expires)
    until: int = max(end + linger, keep, version + 1)
    return until


def _as_expected(entry: StoredEntry | None, expect: Expect | int) -> bool:
    if expect is Expect.ANY:
        return True
    if expect is Expect.ABSENT:
        return entry is None
    return entry is not None and entry.version == expect


def _run(row: Row) -> RunRow:
    return RunRow(row[0], row[1] or 0, RunFacts(*row[2:8]), RunStanding(*row[8:16]))


def _where(query: RunQuery) -> tuple[str, list[Any]]:
    where, parameters = "", list[Any]()
    if query.status:
        where += f" AND status IN ({', '.join('?' * len(query.status))})"
        parameters += query.status
    for name in rules.EQUALS:
        value = getattr(query, name)
        if value is not None:
            where += f" AND {name} = ?"
            parameters.append(value)
    for operator, moment in ((">=", query.since), ("<", query.until)):
        if moment is not None:
            where += f" AND listed {operator} ?"
            parameters.append(moment)
    return where, parameters
