"""Reading the run history: lists from the summaries, one run from its events."""

from __future__ import annotations

import builtins
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from celery_stackstate.asking import (
    checked_column,
    checked_cursor,
    checked_limit,
    checked_moment,
    checked_statuses,
    checked_text,
    cursor_behind,
    may_be_known,
)
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.facts import now_micros
from celery_stackstate.history import assemble, summary, told_once, tree_of
from celery_stackstate.records import Bucket, Counts, Event, LogLine, Page, Run, RunTree, Status, from_micros, to_micros
from celery_stackstate.retention import purge
from celery_stackstate.stores.base import RunQuery, RunRow, Store, StoredEvent
from celery_stackstate.tallies import DAY, SECOND, WIDTH, Counted, Tallies, added, statuses

LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR", 50: "CRITICAL"}


class Runs:
    """The recorded runs of one environment."""

    def __init__(
        self, store: Store, *, most: Mapping[str, int] | None = None, settle: Callable[[], None] | None = None
    ) -> None:
        """Read from `store`.

        Args:
            store: Where the history is.
            most: How many runs `purge` leaves of each status that it names.
            settle: Called before the store is asked: writes what this process has still to say.
        """
        self._place, self._most, self._settle = store, most or {}, settle

    @property
    def _store(self) -> Store:
        if self._settle is not None:
            self._settle()
        return self._place

    def get(self, run_id: str) -> Run | None:
        """Return everything recorded of the run `run_id` except its log lines, or None."""
        found = self._found(run_id)
        return None if found is None else assemble(*found)

    def _found(self, run_id: str) -> tuple[RunRow, builtins.list[StoredEvent]] | None:
        return self._store.run(run_id) if may_be_known(run_id) else None

    def list(
        self,
        *,
        status: Status | Iterable[Status] | None = None,
        task: str | None = None,
        worker: str | None = None,
        queue: str | None = None,
        key: str | None = None,
        group: str | None = None,
        host: str | None = None,
        origin: str | None = None,
        duplicated: bool = False,
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
            group: The id of the group it is part of.
            host: The host that asked for it.
            origin: Whom the project named as asking for it (`stackstate_origin`).
            duplicated: Only runs of which a duplicate request was suppressed.
            since: Aware datetime; queued then or later.
            until: Aware datetime; queued before.
            text: Part of the id, the task's name, the key or the error, in any case, among the newest 10,000 that
                match the rest.
            limit: Most runs on the page.
            after: `next` of the page before.

        Raises:
            ConfigurationError: An argument is none of these; says which one, and what to give.
        """
        query = RunQuery(
            status=checked_statuses(status),
            task=checked_text("task", task),
            worker=checked_text("worker", worker),
            queue=checked_text("queue", queue),
            key=checked_text("key", key),
            group_id=checked_text("group", group),
            host=checked_text("host", host),
            origin=checked_text("origin", origin),
            duplicated="yes" if duplicated else None,
            since=checked_moment("since", since),
            until=checked_moment("until", until),
            text=checked_text("text", text),
            limit=checked_limit(limit),
            after=checked_cursor(after),
        )
        return self._page(query)

    def find(self, query: RunQuery) -> builtins.list[Run]:
        """Return the summaries of the runs that match a store query."""
        return [summary(row) for row in self._store.runs(query)]

    def count(self, query: RunQuery | None = None, *, cap: int = 10_000) -> int:
        """Return how many runs match, counting no further than `cap`."""
        return self._store.count_runs(query or RunQuery(), cap=checked_limit(cap, "cap"))

    def names(self, column: str) -> builtins.list[str]:
        """Return the values that "task", "worker", "queue" or "host" has in the history, sorted."""
        return self._store.run_names(checked_column(column))

    def counts(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        task: str | None = None,
        step: float = 3600.0,
    ) -> Counts:
        """Return how many runs were asked for in a time, by task, by status, and in steps for a chart.

        The numbers add up what workers count every ten minutes, the newest are counted now. They go on to tell of runs
        that were purged.

        Args:
            since: Aware datetime, moved back to whole ten minutes; a day before `until` by default.
            until: Aware datetime; now by default.
            task: Only of this task.
            step: Seconds to a step, a multiple of 600.
        """
        ends, begins = checked_moment("until", until), checked_moment("since", since)
        ends = now_micros() if ends is None else ends
        begins = ends - DAY if begins is None else begins
        width = round(step * SECOND) if isinstance(step, (int, float)) and math.isfinite(step) else 0
        if width <= 0 or width % WIDTH:
            raise ConfigurationError(f"counts() needs a step of 600 seconds or a multiple, not {step!r}")
        begins -= begins % WIDTH
        if ends <= begins:
            raise ConfigurationError("counts() needs `since` before `until`")
        counted, exact = Tallies(self._store).read(begins, ends)
        wanted = [bucket.of(checked_text("task", task)) for bucket in counted]
        by_step: dict[int, list[Counted]] = {start: [] for start in range(begins, ends, width)}
        for bucket in wanted:
            by_step[bucket.start - (bucket.start - begins) % width].append(bucket)
        steps = [Bucket(_moment(start), statuses(buckets)) for start, buckets in by_step.items()]
        return Counts(_moment(begins), _moment(ends), step, tuple(steps), added(wanted), exact)

    def children(self, run_id: str, *, limit: int = 100, after: str | None = None) -> Page[Run]:
        """Return one page of the runs that the run `run_id` published, itself or by what follows it, newest first."""
        query = RunQuery(parent_id=run_id, limit=checked_limit(limit), after=checked_cursor(after))
        return self._page(query) if may_be_known(run_id) else Page(())

    def tree(self, run_id: str, *, limit: int = 1000) -> RunTree | None:
        """Return the run `run_id` with all that it brought about, each with its own, oldest first; None if unknown.

        Of a root with more than `limit` descendants the oldest ones are looked at.
        """
        below = RunQuery(oldest_first=True, limit=checked_limit(limit))
        found = self._store.runs(RunQuery(ids=(run_id,), limit=1)) if may_be_known(run_id) else []
        if not found:
            return None
        rows = self._store.runs(replace(below, root_id=found[0].facts.root_id or run_id))
        return tree_of(summary(found[0]), [summary(row) for row in rows if row.run_id != run_id])

    def delete(self, *run_ids: str) -> int:
        """Delete runs with their events and log lines; return how many there were.

        What is still to happen to a run that has not ended is recorded again.
        """
        return self._store.remove_runs([run_id for run_id in run_ids if may_be_known(run_id)])

    def purge(self, *, limit: int = 10_000) -> int:
        """Delete up to about `limit` runs beyond their retention, by age and by number; return how many.

        Workers do it by themselves. 0 means that nothing is left to do. Ended entries of the same store go as well.
        """
        return purge(self._store, self._most, limit=checked_limit(limit))

    def events(self, run_id: str) -> builtins.list[Event]:
        """Return the timeline of a run: its facts in the order of their times; empty when it is unknown."""
        found = self._found(run_id)
        if found is None:
            return []
        events = []
        for stored in told_once(found[1]):
            data: dict[str, Any] = json.loads(stored.data)
            custom = data.pop("custom", False)
            if not custom and data.pop("touched", None) and stored.name == "touched":
                continue  # `Run.touched` tells of it
            data = data.get("data", {}) if custom else data
            if not isinstance(data, dict):
                data = {"data": data}
            events.append(Event(_moment(stored.at), stored.name, stored.execution, data))
        return events

    def logs(
        self, run_id: str, *, execution: str | None = None, after: LogLine | None = None, limit: int = 1000
    ) -> builtins.list[LogLine]:
        """Return the first `limit` log lines of a run, or of one execution, behind `after`, by their times."""
        start = None if after is None else (to_micros(after.at), after.execution, after.seq)
        checked_limit(limit)
        if not may_be_known(run_id):
            return []
        return [
            LogLine(
                _moment(line.at),
                LEVELS.get(line.level, str(line.level)),
                line.logger,
                line.message,
                line.execution,
                line.seq,
            )
            for line in self._store.logs(
                run_id, execution=checked_text("execution", execution), after=start, limit=limit
            )
        ]

    def _page(self, query: RunQuery) -> Page[Run]:
        rows = self._store.runs(query)
        return Page(tuple(summary(row) for row in rows), cursor_behind(rows[-1]) if len(rows) == query.limit else None)


def _moment(micros: int) -> datetime:
    moment = from_micros(micros)
    assert moment is not None  # noqa: S101 - for the type checker
    return moment
