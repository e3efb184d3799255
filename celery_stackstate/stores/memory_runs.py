"""The runs of a store in memory."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from typing import Any

from celery_stackstate.stores import rules
from celery_stackstate.stores.base import (
    FIRST_EVENTS,
    DroppedLogs,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
    Tally,
    sorted_tallies,
)


@dataclass(slots=True)
class Run:
    """A run with everything of it."""

    seen: int
    rank: int | None = None
    facts: RunFacts = field(default_factory=RunFacts)
    standing: RunStanding = field(default_factory=RunStanding)
    events: dict[str, StoredEvent] = field(default_factory=dict)
    logs: dict[tuple[str, int], StoredLog] = field(default_factory=dict)
    #: The log lines by their place, None where they changed since somebody read them.
    read: list[StoredLog] | None = None

    def row(self, run_id: str) -> RunRow:
        """Return the summary."""
        created = self.seen if self.facts.created is None else self.facts.created
        return RunRow(run_id, self.rank or 0, replace(self.facts, created=created), self.standing)

    def in_order(self) -> list[StoredEvent]:
        """Return the events by `(at, uid)`."""
        return sorted(self.events.values(), key=lambda event: (event.at, event.uid))

    def lines(self) -> list[StoredLog]:
        """Return the log lines by their place."""
        if self.read is None:
            self.read = sorted(self.logs.values(), key=_place)
        return self.read

    def merge(self, write: RunWrite) -> None:
        """Add what `write` says."""
        self.read = None
        self.facts = _first_wins(self.facts, write.facts)
        if write.standing is not None and self._yields_to(write.rank, write.standing):
            self.rank, self.standing = write.rank, write.standing
        for event in write.events:
            self.events.setdefault(event.uid, event)
        for log in write.logs:
            self.logs.setdefault((log.execution, log.seq), log)
        for dropped in write.dropped:
            self._drop(dropped)
        if write.most_events is not None:
            self._keep_events(write.most_events)
        if write.most_logs is not None:
            self._keep_logs(write.most_logs)

    def _yields_to(self, rank: int, standing: RunStanding) -> bool:
        if self.rank is None or rank != self.rank:
            return self.rank is None or rank > self.rank
        old = self.standing.forget
        return old is None or (standing.forget is not None and standing.forget >= old)

    def _drop(self, dropped: DroppedLogs) -> None:
        gone = [
            place for place in self.logs if place[0] == dropped.execution and dropped.first <= place[1] <= dropped.last
        ]
        for place in gone:
            del self.logs[place]

    def _keep_events(self, most: int) -> None:
        oldest, ordered = min(FIRST_EVENTS, most), self.in_order()
        for event in ordered[oldest : max(oldest, len(ordered) - (most - oldest))]:
            del self.events[event.uid]

    def _keep_logs(self, most: int) -> None:
        ordered = sorted(self.logs.values(), key=_place)
        for line in ordered[: max(0, len(ordered) - most)]:
            del self.logs[line.execution, line.seq]


class MemoryRuns(Store):
    """The half of `MemoryStore` that keeps runs."""

    _runs: dict[str, Run]

    @abstractmethod
    def _locked(self) -> AbstractContextManager[Any]:
        """Return the lock that holds others up."""

    @abstractmethod
    def _clock(self) -> int:
        """Return the time."""

    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, each write atomically."""
        for write in [rules.kept(write) for write in writes]:
            with self._locked():
                now = self._clock()
                self._runs.setdefault(write.run_id, Run(now)).merge(write)

    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run; None if unknown."""
        with self._locked():
            run = self._runs.get(run_id)
            return None if run is None else (run.row(run_id), run.in_order())

    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`."""
        return rules.page(self._matching(query), query)

    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, at most `cap`."""
        return min(cap, len(self._matching(query)))

    def tally(self, since: int, until: int, *, cap: int = 100_000) -> list[Tally]:
        """Return how many of the newest runs each task has in each status, by task and status."""
        newest = self.runs(RunQuery(since=since, until=until, limit=cap))
        return sorted_tallies(Counter((row.facts.task, row.standing.status) for row in newest))

    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`."""
        rules.check_named(column)
        return sorted({name for row in self._rows() if (name := rules.column(row, column)) is not None})[:limit]

    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""
        with self._locked():
            run = self._runs.get(run_id)
            lines = [] if run is None else run.lines()
        first = 0 if after is None else bisect_right(lines, after, key=_place)
        wanted = (line for line in islice(lines, first, None) if execution in (None, line.execution))
        return list(islice(wanted, limit))

    def remove_runs(self, run_ids: Sequence[str]) -> int:
        """Delete these runs; return how many there were."""
        with self._locked():
            return sum(self._runs.pop(run_id, None) is not None for run_id in run_ids)

    def _purge_runs(self, limit: int, now: int) -> int:
        """Delete up to `limit` forgotten runs; return how many."""
        forget = ((run_id, run.standing.forget) for run_id, run in self._runs.items())
        return self.remove_runs([run_id for run_id, moment in forget if moment is not None and moment <= now][:limit])

    def _rows(self) -> list[RunRow]:
        with self._locked():
            return [run.row(run_id) for run_id, run in self._runs.items()]

    def _matching(self, query: RunQuery) -> list[RunRow]:
        found = [row for row in self._rows() if rules.matches(row, query)]
        if query.text:
            found.sort(key=rules.position, reverse=True)
            return list(rules.search(found, query.text))
        return found


def _place(line: StoredLog) -> tuple[int, str, int]:
    return line.at, line.execution, line.seq


def _first_wins(old: RunFacts, new: RunFacts) -> RunFacts:
    known = {item.name: getattr(old, item.name) for item in fields(old)}
    return RunFacts(**{name: getattr(new, name) if value is None else value for name, value in known.items()})
