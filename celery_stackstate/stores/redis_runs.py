"""The runs of a Redis store: a hash for each summary, sets in order of time for the lists, events and logs per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from heapq import merge
from typing import Any

from celery_stackstate.stores import redis_run_data as data
from celery_stackstate.stores import rules
from celery_stackstate.stores.base import (
    TEXT_SEARCH_LIMIT,
    RunQuery,
    RunRow,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
    Tally,
    sorted_tallies,
)
from celery_stackstate.stores.redis_client import ScriptClient

#: The letter of each column that has an index, by which `walk` looks for it.
INDEXED = {
    **{"task": "t", "worker": "w", "queue": "q", "key": "k", "parent_id": "p", "root_id": "o"},
    **{"group_id": "u", "host": "h", "origin": "i", "duplicated": "y"},
}

#: So many runs one script looks at, so many rows it returns, and so many runs it deletes, before others get their turn.
BUDGET = 5000
ROWS = 500
BATCH = 50


class RedisRuns(Store):
    """The half of `RedisStore` that keeps runs."""

    _client: ScriptClient
    _base: bytes

    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, in one round trip and atomically as a whole."""
        if writes:
            writes = [rules.kept(write) for write in writes]
            self._client.run("append", [self._base + b"x:all"], [self._base, *data.flattened(writes)])

    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run; None if unknown."""
        fields, events = self._client.run("run", [self._base + b"x:all"], [self._base, run_id])
        row = data.row(run_id, fields)
        return None if row is None else (row, data.events(events))

    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`."""
        if query.limit < 1:
            return []
        if query.ids is not None or query.text:
            return rules.page(self._matching(query), query)
        deadline = self._client.deadline()
        if len(query.status) <= 1:
            return self._walk(query, query.offset, query.limit, deadline)
        enough = query.offset + query.limit
        found: dict[str, RunRow] = {}
        for part in _by_status(query):
            found.update((row.run_id, row) for row in self._walk(part, 0, enough, deadline))
        return rules.page(found.values(), query)

    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, at most `cap`."""
        if query.ids is not None or query.text:
            return min(cap, sum(1 for _ in self._matching(query)))
        deadline = self._client.deadline()
        everything = replace(query, after=None)
        return min(cap, sum(self._count(part, cap, deadline) for part in _by_status(everything)))

    def tally(self, since: int, until: int, *, cap: int = 100_000) -> list[Tally]:
        """Return how many of the newest runs each task has in each status, by task and status."""
        counts: Counter[tuple[str | None, str]] = Counter()
        deadline, left = self._client.deadline(), cap
        start: bytes | None
        start, end = _bounds(RunQuery(since=since, until=until))
        while start is not None and left > 0:
            args = (self._base, start, end, min(BUDGET, left))
            start, looked, *found = self._client.run("tally", [self._base + b"x:all"], args, deadline=deadline)
            left -= looked
            for task, status, number in zip(found[::3], found[1::3], found[2::3], strict=True):
                counts[task[1:].decode() if task else None, status.decode()] += number
        return sorted_tallies(counts)

    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`."""
        names = self._base + b"names:" + INDEXED[rules.check_named(column)].encode()
        return [name.decode() for name in self._client.command("ZRANGE", names, 0, limit - 1)] if limit > 0 else []

    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""
        start = b"-" if after is None else b"(" + data.order(*after)
        keys = [self._base + kind + run_id.encode() for kind in (b"l:", b"o:")]
        wanted = "" if execution is None else "+" + execution
        found = self._client.run("logs", keys, [start, wanted, limit])
        return [data.log(order, payload) for order, payload in zip(found[::2], found[1::2], strict=True)]

    # -- lists -----------------------------------------------------------------------------------------------------

    def _matching(self, query: RunQuery) -> Iterable[RunRow]:
        """Return the runs that match a query with `ids` or `text`, in any order."""
        if query.ids is not None:
            found = [row for row in self._by_id(query.ids) if rules.matches(row, query)]
            found.sort(key=rules.position, reverse=True)
            return rules.search(found, query.text) if query.text else found
        deadline = self._client.deadline()
        everything = replace(query, after=None, oldest_first=False)
        parts = [self._newest_first(part, deadline) for part in _by_status(everything)]
        return rules.search(merge(*parts, key=rules.position, reverse=True), query.text or "")

    def _by_id(self, ids: Sequence[str]) -> list[RunRow]:
        unique = list(dict.fromkeys(ids))
        rows: list[RunRow] = []
        deadline = self._client.deadline()
        for start in range(0, len(unique), ROWS):
            chunk = unique[start : start + ROWS]
            found = self._client.run("rows", [self._base + b"x:all"], [self._base, *chunk], deadline=deadline)
            rows += [row for run_id, fields in zip(chunk, found, strict=True) if (row := data.row(run_id, fields))]
        return rows

    def _newest_first(self, query: RunQuery, deadline: float) -> Iterator[RunRow]:
        """Yield the newest runs that match, page by page."""
        for _ in range(0, TEXT_SEARCH_LIMIT, ROWS):
            rows = self._walk(query, 0, ROWS, deadline)
            yield from rows
            if len(rows) < ROWS:
                return
            query = replace(query, after=rules.position(rows[-1]))

    def _walk(self, query: RunQuery, offset: int, limit: int, deadline: float) -> list[RunRow]:
        rows: list[RunRow] = []
        start: bytes | None
        start, end = _bounds(query)
        while start is not None and len(rows) < limit:
            count = min(ROWS, limit - len(rows))
            args = self._walk_args(query, start, end, offset, count, "rows")
            start, offset, taken, *found = self._client.run("walk", [self._base + b"x:all"], args, deadline=deadline)
            pairs = zip(found[::2], found[1::2], strict=True)
            rows += [row for run_id, fields in pairs if (row := data.row(run_id.decode(), fields))]
            if start is None and taken == count and rows:
                start = _after(rules.position(rows[-1]))
        return rows

    def _count(self, query: RunQuery, cap: int, deadline: float) -> int:
        total = 0
        start: bytes | None
        start, end = _bounds(query)
        while start is not None and total < cap:
            args = self._walk_args(query, start, end, 0, cap - total, "count")
            start, _, taken = self._client.run("walk", [self._base + b"x:all"], args, deadline=deadline)
            total += taken
        return total

    def _walk_args(self, query: RunQuery, start: bytes, end: bytes, offset: int, limit: int, want: str) -> list[Any]:
        filters: list[str] = []
        if query.status:
            filters += ("s", query.status[0])
        for name, letter in INDEXED.items():
            value = getattr(query, name)
            if value is not None:
                filters += (letter, value)
        order = "asc" if query.oldest_first else "desc"
        return [self._base, order, start, end, offset, limit, want, BUDGET, *filters]

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def remove_runs(self, run_ids: Sequence[str]) -> int:
        """Delete these runs, so many in a script; return how many there were."""
        deadline = self._client.deadline()
        return rules.removed(run_ids, BATCH, lambda ids: self._remove_some(ids, deadline))

    def _remove_some(self, run_ids: Sequence[str], deadline: float) -> int:
        args = [self._base, *run_ids]
        count: int = self._client.run("remove_runs", [self._base + b"x:all"], args, deadline=deadline)
        return count

    def _purge_runs(self, limit: int, deadline: float) -> int:
        purged = 0
        while purged < limit:
            args = (self._base, min(BATCH, limit - purged))
            done = self._client.run("purge_runs", [self._base + b"forget"], args, deadline=deadline)
            purged += done
            if not done:
                break
        return purged


def _by_status(query: RunQuery) -> list[RunQuery]:
    """Split a query by its statuses, each of which has an index of its own."""
    if len(query.status) <= 1:
        return [query]
    return [replace(query, status=(status,)) for status in dict.fromkeys(query.status)]


def _bounds(query: RunQuery) -> tuple[bytes, bytes]:
    """Return where a walk starts and where it ends, as ZRANGEBYLEX writes it."""
    low = b"-" if query.since is None else b"[" + data.place(query.since)
    high = b"+" if query.until is None else b"(" + data.place(query.until)
    start, end = (low, high) if query.oldest_first else (high, low)
    if query.after is None:
        return start, end
    after = _after(query.after)
    if start in (b"-", b"+"):
        return after, end
    # A page may start behind `since` or before `until`, never on their other side.
    later = max if query.oldest_first else min
    return later(start, after, key=lambda bound: bound[1:]), end


def _after(position: tuple[int, str]) -> bytes:
    return b"(" + data.place(position[0]) + position[1].encode()
