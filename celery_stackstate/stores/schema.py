"""The tables, once for all databases, and the steps that bring old tables up to date.

Each step may run again after it stopped half-way: MySQL commits every statement that changes a table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores import rules
from celery_stackstate.stores.dialects import Dialect

Migration = Callable[[Dialect], list[str]]
Execute = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


@dataclass(frozen=True)
class Table:
    """A table with its indexes, which are (name, columns, the column that must not be null, if any)."""

    name: str
    columns: str
    indexes: tuple[tuple[str, str, str], ...] = ()

    def create(self, dialect: Dialect, *, options: str = "") -> list[str]:
        """Return the statements that make the table where it is missing."""
        columns = self.columns
        if dialect.inline_indexes:
            columns += "".join(f", INDEX {self.name}_{name} ({columns})" for name, columns, _ in self.indexes)
        table = f"CREATE TABLE IF NOT EXISTS {self.name} ({columns}){options}"
        if dialect.inline_indexes:
            return [table]
        return [table, *(self._index(*index) for index in self.indexes)]

    def _index(self, name: str, columns: str, not_null: str) -> str:
        where = f" WHERE {not_null} IS NOT NULL" if not_null else ""
        return f"CREATE INDEX IF NOT EXISTS {self.name}_{name} ON {self.name} ({columns}){where}"


def entries(dialect: Dialect) -> Table:
    """Return the table of entries. `present` is 0 where only the version is remembered."""
    return Table(
        "stackstate_entry",
        f'prefix {dialect.prefix} NOT NULL, "key" {dialect.key} NOT NULL, present {dialect.flag} NOT NULL, '
        f"value {dialect.blob}, number BIGINT, version BIGINT NOT NULL, expires BIGINT, updated BIGINT NOT NULL, "
        'linger BIGINT NOT NULL, keep BIGINT NOT NULL, purge_at BIGINT, PRIMARY KEY (prefix, "key")',
        (("purge", "prefix, purge_at", "purge_at"),),
    )


def runs(dialect: Dialect) -> Table:
    """Return the table of runs. `listed` is `created`, or the time of the first write while that is unknown."""
    text = dialect.text
    return Table(
        "stackstate_run",
        f'prefix {dialect.prefix} NOT NULL, run_id {dialect.ident} NOT NULL, "rank" BIGINT, task {text}, '
        f'queue {text}, "key" {text}, parent_id {text}, root_id {text}, group_id {text}, host {text}, '
        f"origin {text}, created BIGINT, duplicated {text}, status {text} NOT NULL, worker {text}, "
        "retries BIGINT NOT NULL, waited BIGINT, started BIGINT, finished BIGINT, "
        f"error {dialect.error}, forget BIGINT, progress {text}, listed BIGINT NOT NULL, PRIMARY KEY (prefix, run_id)",
        (
            ("listed", "prefix, listed, run_id", ""),
            ("status", "prefix, status, listed, run_id", ""),
            *((name, f'prefix, "{name}", listed, run_id', f'"{name}"') for name in rules.EQUALS),
            ("forget", "prefix, forget", "forget"),
        ),
    )


def events(dialect: Dialect) -> Table:
    """Return the table of events."""
    return Table(
        "stackstate_event",
        f"prefix {dialect.prefix} NOT NULL, run_id {dialect.ident} NOT NULL, uid {dialect.ident} NOT NULL, "
        f"at BIGINT NOT NULL, name {dialect.long_text} NOT NULL, execution {dialect.ident}, "
        f"data {dialect.blob} NOT NULL, PRIMARY KEY (prefix, run_id, uid)",
    )


def logs(dialect: Dialect) -> Table:
    """Return the table of log lines."""
    return Table(
        "stackstate_log",
        f"prefix {dialect.prefix} NOT NULL, run_id {dialect.ident} NOT NULL, execution {dialect.ident} NOT NULL, "
        f"seq BIGINT NOT NULL, at BIGINT NOT NULL, level BIGINT NOT NULL, logger {dialect.long_text} NOT NULL, "
        f"message {dialect.long_text} NOT NULL, PRIMARY KEY (prefix, run_id, execution, seq)",
        (("order", "prefix, run_id, at, execution, seq", ""),),
    )


def first_tables(dialect: Dialect) -> list[str]:
    """Return the statements of version 1."""
    return [
        statement
        for table in (entries, runs, events, logs)
        for statement in table(dialect).create(
            dialect, options=dialect.table_options if table is entries or dialect.inline_indexes else ""
        )
    ]


#: Step n brings version n to n + 1. Steps are only added, never changed.
MIGRATIONS: tuple[Migration, ...] = (first_tables,)

#: Where a server keeps the version: one row for each step that was done.
VERSIONS = "CREATE TABLE IF NOT EXISTS stackstate_schema (version BIGINT NOT NULL PRIMARY KEY)"
READ_VERSION = "SELECT MAX(version) FROM stackstate_schema"
ADD_VERSION = "INSERT INTO stackstate_schema (version) VALUES (?)"


def is_current(version: int, where: str) -> bool:
    """Return whether tables of `version` need no step; raise ConfigurationError when they are of a newer release."""
    if version > len(MIGRATIONS):
        raise ConfigurationError(
            f"stackstate_url: {where} was written by a newer celery-stackstate (schema {version}): upgrade"
        )
    return version == len(MIGRATIONS)


def upgrade(execute: Execute, dialect: Dialect, version: int) -> None:
    """Do the steps that tables of `version` lack."""
    for step in MIGRATIONS[version:]:
        for statement in step(dialect):
            execute(dialect.native(statement), ())


def to_do(before: int, where: str) -> list[str]:
    """Return what tables of `where` that have the version `before` lack, in lines for people."""
    if is_current(before, where):
        return []
    if before:
        return [f"its tables are of version {before}, this release has {len(MIGRATIONS)}"]
    return ["it has no tables yet"]


def told(before: int) -> str:
    """Return what was done to tables that had the version `before`, in a line for people."""
    if before:
        return f"upgraded the tables from version {before} to {len(MIGRATIONS)}"
    return f"created the tables stackstate_* (version {len(MIGRATIONS)})"
