"""The SQL that answers about runs, once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_stackstate.stores import rules
from celery_stackstate.stores.base import (
    TEXT_SEARCH_LIMIT,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    StoredEvent,
    StoredLog,
    Tally,
    sorted_tallies,
)
from celery_stackstate.stores.sql_base import Row
from celery_stackstate.stores.sql_run_writes import CHUNK, FACTS, STANDING, SQLRunWrites

#: The columns of a row, behind its id and rank.
COLUMNS = tuple("listed" if name == "created" else name for name in FACTS) + STANDING
QUOTED = ", ".join(f'"{name}"' for name in COLUMNS)
SELECT_RUNS = f'SELECT run_id, "rank", {QUOTED} FROM stackstate_run WHERE prefix = ?'  # noqa: S608
EVENTS = "SELECT uid, at, name, execution, data FROM stackstate_event WHERE prefix = ? AND run_id = ? ORDER BY at, uid"
LOGS = "SELECT execution, seq, at, level, logger, message FROM stackstate_log WHERE prefix = ? AND run_id = ?"
TALLY = (
    "SELECT task, status, COUNT(*) FROM (SELECT task, status FROM stackstate_run WHERE prefix = ? AND listed >= ? "
    "AND listed < ? ORDER BY listed DESC, run_id DESC LIMIT ?) AS newest GROUP BY task, status"
)

#: So many names one recursion finds; MySQL stops at 1,000.
NAMES = 500


class SQLRuns(SQLRunWrites):
    """The part of `SQLStore` that answers about runs, over the part that writes them."""

    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run; None if unknown."""
        deadline = self._deadline()
        rows = self._read(SELECT_RUNS + " AND run_id = ?", (self._prefix, run_id), deadline)
        if not rows:
            return None
        events = self._read(EVENTS, (self._prefix, run_id), deadline)
        return _run(rows[0]), [_event(*row) for row in events]

    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`."""
        if query.ids is not None or query.text:
            return rules.page(self._matching(query), query)
        where, parameters = _where(query)
        order, behind = ("ASC", ">") if query.oldest_first else ("DESC", "<")
        if query.after is not None:
            # MySQL finds no range in (listed, run_id) > (?, ?).
            where += f" AND listed {behind}= ? AND (listed {behind} ? OR run_id {behind} ?)"
            parameters += (query.after[0], *query.after)
        sql = f"{SELECT_RUNS}{where} ORDER BY listed {order}, run_id {order} LIMIT ? OFFSET ?"
        return [_run(row) for row in self._read(sql, (self._prefix, *parameters, query.limit, query.offset))]

    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, at most `cap`."""
        if query.ids is not None or query.text:
            return min(cap, sum(1 for _ in self._matching(query)))
        where, parameters = _where(query)
        sql = f"SELECT COUNT(*) FROM (SELECT 1 FROM stackstate_run WHERE prefix = ?{where} LIMIT ?) AS counted"  # noqa: S608
        count: int = self._read(sql, (self._prefix, *parameters, cap))[0][0]
        return count

    def _matching(self, query: RunQuery) -> Iterator[RunRow]:
        """Yield the runs that match a query with `ids` or `text`, in any order."""
        where, parameters = _where(query)
        deadline = self._deadline()
        if query.ids is None:
            tail = " ORDER BY listed DESC, run_id DESC LIMIT ?"
            rows = self._read(SELECT_RUNS + where + tail, (self._prefix, *parameters, TEXT_SEARCH_LIMIT), deadline)
        else:
            rows = []
            ids = list(dict.fromkeys(query.ids))
            for start in range(0, len(ids), CHUNK):
                chunk = ids[start : start + CHUNK]
                among = f" AND run_id IN ({', '.join('?' * len(chunk))})"
                rows += self._read(SELECT_RUNS + where + among, (self._prefix, *parameters, *chunk), deadline)
        found = [_run(row) for row in rows]
        if not query.text:
            return iter(found)
        return rules.search(sorted(found, key=rules.position, reverse=True), query.text)

    def tally(self, since: int, until: int, *, cap: int = 100_000) -> list[Tally]:
        """Return how many of the newest runs each task has in each status, by task and status."""
        rows = self._read(TALLY, (self._prefix, since, until, cap))
        return sorted_tallies({(_maybe_text(task), _text(status)): count for task, status, count in rows})

    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`."""
        name = rules.check_named(column)
        least = f"SELECT MIN({name}) FROM stackstate_run WHERE prefix = ? AND {name}"  # noqa: S608
        found: list[str] = []
        deadline = self._deadline()
        while len(found) < limit:
            count = min(NAMES, limit - len(found))
            sql = (
                f"WITH RECURSIVE names (name, place) AS (SELECT ({least} {'>' if found else '>='} ?), 1 "  # noqa: S608
                f"UNION ALL SELECT ({least} > names.name), place + 1 FROM names "
                "WHERE names.name IS NOT NULL AND place < ?) SELECT name FROM names WHERE name IS NOT NULL"
            )
            start = found[-1] if found else ""
            more = self._read(sql, (self._prefix, start, self._prefix, count), deadline)
            found += [_text(row[0]) for row in more]
            if len(more) < count:
                break
        return found

    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""
        sql = LOGS
        parameters: list[Any] = [self._prefix, run_id]
        if execution is not None:
            sql += " AND execution = ?"
            parameters.append(execution)
        if after is not None:
            sql += " AND at >= ? AND (at > ? OR execution > ? OR (execution = ? AND seq > ?))"
            parameters += (after[0], after[0], after[1], *after[1:])
        rows = self._read(sql + " ORDER BY at, execution, seq LIMIT ?", (*parameters, limit))
        return [_log(*row) for row in rows]


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else bytes(value).decode()


def _maybe_text(value: str | bytes | None) -> str | None:
    return None if value is None else _text(value)


def _column(value: Any) -> Any:
    """Return a number or a text of a summary, or None."""
    return value if value is None or isinstance(value, int) else _text(value)


def _event(uid: str | bytes, at: int, name: str | bytes, execution: str | bytes | None, data: bytes) -> StoredEvent:
    return StoredEvent(_text(uid), at, _text(name), _maybe_text(execution), bytes(data))


def _log(execution: str | bytes, seq: int, at: int, level: int, logger: str | bytes, message: str | bytes) -> StoredLog:
    return StoredLog(_text(execution), seq, at, level, _text(logger), _text(message))


def _run(row: Row) -> RunRow:
    run_id, rank, *columns = map(_column, row)
    return RunRow(run_id, rank or 0, RunFacts(*columns[: len(FACTS)]), RunStanding(*columns[len(FACTS) :]))


def _where(query: RunQuery) -> tuple[str, list[Any]]:
    where, parameters = "", list[Any]()
    if query.status:
        where += f" AND status IN ({', '.join('?' * len(query.status))})"
        parameters += query.status
    for name in rules.EQUALS:
        value = getattr(query, name)
        if value is not None:
            where += f' AND "{name}" = ?'
            parameters.append(value)
    for operator, moment in ((">=", query.since), ("<", query.until)):
        if moment is not None:
            where += f" AND listed {operator} ?"
            parameters.append(moment)
    return where, parameters
