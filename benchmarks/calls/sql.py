"""SQL by hand: the statements one would write, on the driver's own connection."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from typing import Any

from benchmarks.calls.common import TTL, Calls, key, value
from benchmarks.servers import Servers

TABLE = (
    "CREATE TABLE IF NOT EXISTS benchmarks_entry"
    " (key TEXT PRIMARY KEY, value TEXT, number BIGINT, expires DOUBLE PRECISION)"
)
SET = (
    "INSERT INTO benchmarks_entry (key, value) VALUES ({0}, {0}) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
)
GET = "SELECT value FROM benchmarks_entry WHERE key = {0} AND (expires IS NULL OR expires > {0})"
INCREMENT = (
    "INSERT INTO benchmarks_entry (key, number) VALUES ({0}, 1)"
    " ON CONFLICT (key) DO UPDATE SET number = benchmarks_entry.number + 1 RETURNING number"
)
ADD = (
    "INSERT INTO benchmarks_entry (key, value, expires) VALUES ({0}, {0}, {0}) ON CONFLICT (key) DO UPDATE"
    " SET value = excluded.value, expires = excluded.expires WHERE benchmarks_entry.expires < {0} RETURNING key"
)
REMOVE = "DELETE FROM benchmarks_entry WHERE key = {0} AND value = {0}"


def in_sqlite(servers: Servers, *, synchronous: str) -> Calls:
    """Return the calls of the standard library's sqlite3, with a write-ahead log."""
    connection = sqlite3.connect(f"{servers.folder}/stdlib-{synchronous}.sqlite3", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute(f"PRAGMA synchronous = {synchronous}")

    def ask(sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        return connection.execute(sql, parameters).fetchone()

    return _calls(ask, mark="?")


def in_postgresql(servers: Servers) -> Calls:
    """Return the calls of psycopg, in autocommit."""
    import psycopg

    connection = psycopg.connect(servers.postgresql.replace("postgresql+psycopg:", "postgresql:"), autocommit=True)
    cursor: Any = connection.cursor()

    def ask(sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        cursor.execute(sql, parameters)
        return cursor.fetchone() if cursor.description else None

    return _calls(ask, mark="%s")


def _calls(ask: Callable[..., Any], *, mark: str) -> Calls:
    ask(TABLE)
    set_, get, increment, add, remove = (one.format(mark) for one in (SET, GET, INCREMENT, ADD, REMOVE))

    def added(name: str, held: str) -> None:
        now = time.time()
        ask(add, (name, held, now + TTL, now))

    def lock(n: int) -> None:
        added("benchmarks:lock", str(n))
        ask(remove, ("benchmarks:lock", str(n)))

    return {
        "set": lambda n: ask(set_, (key(n), value(n))),
        "get": lambda n: ask(get, (key(n), time.time())),
        "increment": lambda n: ask(increment, ("benchmarks:counter",)),
        "add": lambda n: added(f"benchmarks:added:{n}", value(n)),
        "lock + unlock": lock,
    }
