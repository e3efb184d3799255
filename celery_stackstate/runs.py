"""Reading the run history: lists from the summaries, one run from its events."""

from __future__ import annotations

import builtins
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.history import assemble, summary
from celery_stackstate.records import STATUSES, Event, LogLine, Page, Run, from_micros, to_micros
from celery_stackstate.stores.base import RunQuery, RunRow, Store

LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


class Runs:
    """The recorded runs of one environment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, run_id: str) -> Run | None:
        """Return everything recorded of the run `run_id` except its log lines, or None."""
        found = self._store.run(run_id)
        return None if found is None else assemble(*found)

    def list(
        self,
        *,
        status: str | Iterable[str] | None = None,
        task: str | None = None,
        worker: str | None = None,
        queue: str | None = None,
        key: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Run]:
        """Return one page of runs, newest first, by their summaries.

        Args:
            status: One status or several; see `celery_stackstate.records.STATUSES`.
            task: The task's name.
            worker: The worker that has, or last had it.
            queue: The queue it was sent to.
            key: Its idempotency key.
            since: Aware datetime; queued then or later.
            until: Aware datetime; queued before.
            text: Part of the id, the task's name, the key or the error, in any case, among the newest 10,000 that
                match the rest.
            limit: Most runs on the page.
            after: `next` of the page before.
        """
        query = RunQuery(
            status=_statuses(status),
            task=task,
            worker=worker,
            queue=queue,
            key=key,
            since=None if since is None else to_micros(since),
            until=None if until is None else to_micros(until),
            text=text,
            limit=limit,
            after=None if after is None else _from_cursor(after),
        )
        rows = self._store.runs(query)
        return Page(tuple(summary(row) for row in rows), _to_cursor(rows[-1]) if len(rows) == limit else None)

    def find(self, query: RunQuery) -> builtins.list[Run]:
        """Return the summaries of the runs that match a store query."""
        return [summary(row) for row in self._store.runs(query)]

    def count(self, query: RunQuery | None = None, *, cap: int = 10_000) -> int:
        """Return how many runs match, counting no further than `cap`."""
        return self._store.count_runs(query or RunQuery(), cap=cap)

    def names(self, column: str) -> builtins.list[str]:
        """Return the values that "task", "worker" or "queue" has in the history, sorted."""
        return self._store.run_names(column)

    def events(self, run_id: str) -> builtins.list[Event]:
        """Return the timeline of a run: its facts in the order of their times; empty when it is unknown."""
        found = self._store.run(run_id)
        if found is None:
            return []
        events = []
        for stored in found[1]:
            data: dict[str, Any] = json.loads(stored.data)
            data = data.get("data", {}) if data.pop("custom", False) else data
            events.append(Event(_moment(stored.at), stored.name, stored.execution, data))
        return events

    def logs(self, run_id: str, *, execution: str | None = None, limit: int = 1000) -> builtins.list[LogLine]:
        """Return the first `limit` log lines of a run, or of one execution of it, in the order of their times."""
        return [
            LogLine(
                _moment(line.at), LEVELS.get(line.level, str(line.level)), line.logger, line.message, line.execution
            )
            for line in self._store.logs(run_id, execution=execution, limit=limit)
        ]


def _statuses(status: str | Iterable[str] | None) -> tuple[str, ...]:
    if status is None:
        return ()
    statuses = (status,) if isinstance(status, str) else tuple(status)
    for name in statuses:
        if name not in STATUSES:
            raise ConfigurationError(f"{name!r} is not a status; there are {', '.join(STATUSES)}")
    return statuses


def _moment(micros: int) -> datetime:
    moment = from_micros(micros)
    assert moment is not None  # noqa: S101 - for the type checker
    return moment


def _to_cursor(row: RunRow) -> str:
    return urlsafe_b64encode(json.dumps([row.facts.created or 0, row.run_id]).encode()).decode()


def _from_cursor(cursor: str) -> tuple[int, str]:
    try:
        created, run_id = json.loads(urlsafe_b64decode(cursor.encode()))
        return int(created), str(run_id)
    except ValueError:
        raise ConfigurationError(f"after={cursor!r:.80} is not the `next` of a page of runs") from None
