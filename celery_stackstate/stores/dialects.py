"""What SQLite, PostgreSQL and MySQL (with MariaDB) spell differently in the SQL that `sql.py` holds once.

That SQL writes `?` for a parameter, double quotes around the names that are words of a database, and `{now}` for the
clock. It holds no other question mark, quote or brace, so that the translation is plain replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, eq=False)
class Dialect:
    """How one database is spoken to."""

    name: str
    placeholder: str
    #: The clock in microseconds, one value for a whole statement; `?` where the store binds a clock of its own.
    clock: str
    #: Text columns hold UTF-8 bytes, because each text type there has a collation that folds.
    text_is_bytes: bool
    #: The statements of `sql_at_once` are understood.
    writes_at_once: bool
    #: The end of the INSERT that makes the row of a key or locks it. Empty: a write transaction locks everything.
    claim: str
    #: The end of a SELECT that locks the row it finds.
    lock: str
    #: The end of a SELECT that locks rows and leaves out those that others hold.
    lock_free: str
    #: `ON DUPLICATE KEY UPDATE` in place of `ON CONFLICT`.
    duplicate_key: bool
    #: Column types.
    prefix: str
    key: str
    ident: str
    text: str
    error: str
    long_text: str
    blob: str
    flag: str
    #: Indexes stand inside CREATE TABLE, and each covers the rows without a value too.
    inline_indexes: bool
    table_options: str

    def native(self, sql: str) -> str:
        """Return a statement as this database takes it."""
        return _native(self, sql)

    def bound(self, parameters: Sequence[Any]) -> Sequence[Any]:
        """Return parameters as this database takes them."""
        if not self.text_is_bytes:
            return parameters
        return [value.encode() if isinstance(value, str) else value for value in parameters]

    def given(self, column: str) -> str:
        """Return the value that an INSERT brings, as its update of a row that exists calls it."""
        return f"VALUES({column})" if self.duplicate_key else f"excluded.{column}"

    def otherwise_update(self, unique: str, assignments: Sequence[str]) -> str:
        """Return the end of an INSERT that updates the row that is there. MySQL assigns from left to right."""
        if self.duplicate_key:
            return f"ON DUPLICATE KEY UPDATE {', '.join(assignments)}"
        return f"ON CONFLICT ({unique}) DO UPDATE SET {', '.join(assignments)}"

    def otherwise_nothing(self, unique: str) -> str:
        """Return the end of an INSERT that leaves a row that is there as it is. (IGNORE would hide other errors.)"""
        if self.duplicate_key:
            return "ON DUPLICATE KEY UPDATE run_id = run_id"
        return f"ON CONFLICT ({unique}) DO NOTHING"


@lru_cache(maxsize=1024)
def _native(dialect: Dialect, sql: str) -> str:
    sql = sql.replace("{now}", dialect.clock).replace("?", dialect.placeholder)
    return sql.replace('"', "`") if dialect.duplicate_key else sql


SQLITE = Dialect(
    name="SQLite",
    placeholder="?",
    clock="?",
    text_is_bytes=False,
    writes_at_once=False,
    claim="",
    lock="",
    lock_free="",
    duplicate_key=False,
    prefix="TEXT",
    key="BLOB",
    ident="TEXT",
    text="TEXT",
    error="TEXT",
    long_text="TEXT",
    blob="BLOB",
    flag="INTEGER",
    inline_indexes=False,
    table_options="",
)

POSTGRESQL = Dialect(
    name="PostgreSQL",
    placeholder="%s",
    clock="CAST(EXTRACT(EPOCH FROM statement_timestamp()) * 1000000 AS BIGINT)",
    text_is_bytes=False,
    writes_at_once=True,
    # The condition is looked at when the row is locked already.
    claim='ON CONFLICT (prefix, "key") DO UPDATE SET version = stackstate_entry.version WHERE FALSE',
    lock=" FOR UPDATE",
    lock_free=" FOR UPDATE SKIP LOCKED",
    duplicate_key=False,
    prefix='TEXT COLLATE "C"',
    key="BYTEA",
    ident='TEXT COLLATE "C"',
    text='TEXT COLLATE "C"',
    error='TEXT COLLATE "C"',
    long_text='TEXT COLLATE "C"',
    blob="BYTEA",
    flag="SMALLINT",
    inline_indexes=False,
    table_options=" WITH (fillfactor = 80)",
)

MYSQL = Dialect(
    name="MySQL",
    placeholder="%s",
    # Independent of the session's time zone, unlike NOW, SYSDATE and UNIX_TIMESTAMP.
    clock="TIMESTAMPDIFF(MICROSECOND, DATE'1970-01-01', UTC_TIMESTAMP(6))",
    text_is_bytes=True,
    writes_at_once=False,
    # Unlike INSERT IGNORE this locks a row that is there for writing at once, so that two do not wait for each other.
    claim="ON DUPLICATE KEY UPDATE version = version",
    lock=" FOR UPDATE",
    lock_free=" FOR UPDATE",
    duplicate_key=True,
    prefix="VARBINARY(64)",
    key="VARBINARY(2048)",
    ident="VARBINARY(1020)",
    text="VARBINARY(1024)",
    error="VARBINARY(4096)",
    long_text="LONGBLOB",
    blob="LONGBLOB",
    flag="SMALLINT",
    inline_indexes=True,
    table_options=" ENGINE = InnoDB ROW_FORMAT = DYNAMIC",
)
