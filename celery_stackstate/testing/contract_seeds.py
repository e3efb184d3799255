"""Runs that the tests of the contract begin with, and what they look at."""

from __future__ import annotations

from typing import Any

from celery_stackstate.stores.base import (
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
)

T = 1_700_000_000_000_000

#: The columns that a query compares for equality, apart from the status.
COLUMNS = ("task", "queue", "key", "parent_id", "root_id", "group_id", "host", "origin", "duplicated", "worker")


def row_of(store: Store, run_id: str = "r") -> RunRow:
    found = store.run(run_id)
    assert found is not None
    return found[0]


def seed(store: Store, count: int, **options: Any) -> None:
    """Append runs r000, r001, ... of which each three share one `created`."""
    store.append([a_write(number, **options) for number in range(count)])


def a_write(number: int, **standing: Any) -> RunWrite:
    facts = RunFacts(task=f"task{number % 2}", queue=f"q{number % 5}", created=T + number // 3)
    status = ("SUCCESS", "FAILURE", "STARTED")[number % 3]
    return RunWrite(f"r{number:03}", 1, facts, RunStanding(status=status, worker=f"w{number % 4}", **standing))


def ids(store: Store, **query: Any) -> list[str]:
    return [row.run_id for row in store.runs(RunQuery(**query))]


def all_texts(text: str, created: int | None = None) -> RunFacts:
    """Return facts of which each column but `created` is `text`."""
    return RunFacts(text, text, text, text, text, text, text, text, created, text)


def event(uid: str, at: int = T, data: bytes = b"") -> StoredEvent:
    return StoredEvent(uid, at, "n", None, data)


def line(execution: str, seq: int, at: int, message: str = "m") -> StoredLog:
    return StoredLog(execution, seq, at, 20, "logger", message)


def events_of(store: Store, run_id: str = "r") -> list[StoredEvent]:
    found = store.run(run_id)
    assert found is not None
    return found[1]
