"""The least that writing a run down costs on each kind of store, when one waits for it: one round trip, one commit."""

from __future__ import annotations

import json
import time
from typing import Any, Protocol

#: What a run is about, as JSON of about a kilobyte.
FACTS = json.dumps({"args": [1], "host": "host", "traceback": "x" * 900})

RESERVE = """
if not redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('GET', KEYS[1]) end
redis.call('HSET', KEYS[2], 'status', 'QUEUED', 'queued', ARGV[3], 'facts', ARGV[4])
redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
return false
"""
RECORD = """
redis.call('HSET', KEYS[1], 'status', 'SUCCESS', 'finished', ARGV[2], 'facts', ARGV[3])
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
return 1
"""
TABLES = (
    "CREATE TABLE IF NOT EXISTS floor_key (key TEXT PRIMARY KEY, run_id TEXT)",
    "CREATE TABLE IF NOT EXISTS floor_run (id TEXT PRIMARY KEY, status TEXT, at DOUBLE PRECISION, facts TEXT)",
    "CREATE INDEX IF NOT EXISTS floor_run_at ON floor_run (at)",
)
INSERT_KEY = "INSERT INTO floor_key VALUES ({0}, {0}) ON CONFLICT DO NOTHING RETURNING run_id"
INSERT_RUN = (
    "INSERT INTO floor_run VALUES ({0}, {0}, {0}, {0})"
    " ON CONFLICT (id) DO UPDATE SET status = excluded.status, at = excluded.at, facts = excluded.facts"
)
INSERT_BOTH = (
    f"WITH reserved AS ({INSERT_KEY})"  # noqa: S608 - of constants
    " INSERT INTO floor_run SELECT run_id, {0}, {0}, {0} FROM reserved ON CONFLICT DO NOTHING RETURNING id"
)


class Ledger(Protocol):
    """Where runs are written down."""

    def reserve(self, key: str, run_id: str) -> bool:
        """Take a key for a run and record that it is queued; False when another has the key."""

    def record(self, run_id: str) -> None:
        """Record the end of a run."""


def ledger(url: str) -> Ledger:
    """Return the ledger in the store of a URL."""
    if url.startswith("redis"):
        return _Redis(url)
    return _SQLite(url.partition("///")[2]) if url.startswith("sqlite") else _PostgreSQL(url)


class _Redis:
    def __init__(self, url: str) -> None:
        import redis

        client = redis.Redis.from_url(url)
        self._reserve: Any = client.register_script(RESERVE)
        self._record: Any = client.register_script(RECORD)

    def reserve(self, key: str, run_id: str) -> bool:
        keys = (f"floor:k:{key}", f"floor:r:{run_id}", "floor:runs")
        return self._reserve(keys=keys, args=(run_id, 86_400_000, time.time(), FACTS)) is None

    def record(self, run_id: str) -> None:
        self._record(keys=(f"floor:r:{run_id}", "floor:runs"), args=(run_id, time.time(), FACTS))


class _SQLite:
    def __init__(self, path: str) -> None:
        import sqlite3

        file, _, option = path.partition("?synchronous=")
        self._connection = sqlite3.connect(f"{file}-floor", isolation_level=None, timeout=10, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL").fetchall()
        self._connection.execute(f"PRAGMA synchronous = {option or 'full'}")
        for table in TABLES:
            self._connection.execute(table)

    def reserve(self, key: str, run_id: str) -> bool:
        self._connection.execute("BEGIN IMMEDIATE")
        created = self._connection.execute(INSERT_KEY.format("?"), (key, run_id)).fetchone() is not None
        if created:
            self._connection.execute(INSERT_RUN.format("?"), (run_id, "QUEUED", time.time(), FACTS))
        self._connection.execute("COMMIT")
        return created

    def record(self, run_id: str) -> None:
        self._connection.execute(INSERT_RUN.format("?"), (run_id, "SUCCESS", time.time(), FACTS))


class _PostgreSQL:
    def __init__(self, url: str) -> None:
        import psycopg

        self._connection: Any = psycopg.connect(url, autocommit=True)
        self._connection.execute("SELECT pg_advisory_lock(1)")
        for table in TABLES:
            self._connection.execute(table)
        self._connection.execute("SELECT pg_advisory_unlock(1)")

    def reserve(self, key: str, run_id: str) -> bool:
        parameters = (key, run_id, "QUEUED", time.time(), FACTS)
        return self._connection.execute(INSERT_BOTH.format("%s"), parameters).fetchone() is not None

    def record(self, run_id: str) -> None:
        self._connection.execute(INSERT_RUN.format("%s"), (run_id, "SUCCESS", time.time(), FACTS))
