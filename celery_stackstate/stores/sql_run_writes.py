"""The SQL that writes and deletes runs, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from celery_stackstate.stores import rules
from celery_stackstate.stores.base import FIRST_EVENTS, RunFacts, RunStanding, RunWrite
from celery_stackstate.stores.dialects import Dialect
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql_base import SQLBase, Statement

FACTS = tuple(item.name for item in fields(RunFacts))
STANDING = tuple(item.name for item in fields(RunStanding))

ADD_EVENT = (
    "INSERT INTO stackstate_event (prefix, run_id, uid, at, name, execution, data) VALUES (?, ?, ?, ?, ?, ?, ?) "
)
ADD_LOG = (
    "INSERT INTO stackstate_log (prefix, run_id, execution, seq, at, level, logger, message) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
)
DROP_LOGS = "DELETE FROM stackstate_log WHERE prefix = ? AND run_id = ? AND execution = ? AND seq BETWEEN ? AND ?"
# MySQL lets a statement read the table that it deletes from only through a table of its own, which the innermost
# SELECT makes. Where there is no such row the comparison is with NULL, and nothing is deleted.
KEEP_LOGS = (
    "DELETE FROM stackstate_log WHERE prefix = ? AND run_id = ? AND (at, execution, seq) <= ("
    "SELECT at, execution, seq FROM (SELECT at, execution, seq FROM stackstate_log WHERE prefix = ? AND run_id = ? "
    "ORDER BY at DESC, execution DESC, seq DESC LIMIT 1 OFFSET ?) AS newest_that_goes)"
)
KEEP_EVENTS = (
    "DELETE FROM stackstate_event WHERE prefix = ? AND run_id = ? AND (at, uid) >= ("
    "SELECT at, uid FROM (SELECT at, uid FROM stackstate_event WHERE prefix = ? AND run_id = ? "
    "ORDER BY at, uid LIMIT 1 OFFSET ?) AS oldest_that_goes) AND (at, uid) <= ("
    "SELECT at, uid FROM (SELECT at, uid FROM stackstate_event WHERE prefix = ? AND run_id = ? "
    "ORDER BY at DESC, uid DESC LIMIT 1 OFFSET ?) AS newest_that_goes)"
)
LOCK_RUN = "SELECT 1 FROM stackstate_run WHERE prefix = ? AND run_id = ?"
FORGOTTEN = "SELECT run_id FROM stackstate_run WHERE prefix = ? AND forget <= {now} LIMIT ?"

#: So many keys or ids go into one statement, and so many runs are deleted in one transaction.
CHUNK = 100


def upsert_run(dialect: Dialect) -> str:
    """Return the statement that merges one write: facts by first wins, standing as a whole by rank."""
    facts, standing = ([f'"{name}"' for name in names] for names in (FACTS, STANDING))
    columns = ("prefix", "run_id", *facts, *standing)
    given, old = dialect.given, "stackstate_run.{}".format
    rank, old_rank, forget, old_forget = given('"rank"'), old('"rank"'), given("forget"), old("forget")
    wins = (
        f"{rank} IS NOT NULL AND ({old_rank} IS NULL OR {rank} > {old_rank} OR "
        f"({rank} = {old_rank} AND ({old_forget} IS NULL OR {forget} >= {old_forget})))"
    )
    # MySQL assigns from left to right. So what looks at created comes before it, and what looks at forget and rank
    # before these; once forget is assigned, only equal ranks could be compared otherwise, and they are equal.
    assignments = (
        f"listed = COALESCE({old('created')}, {given('created')}, {old('listed')})",
        *(f"{name} = COALESCE({old(name)}, {given(name)})" for name in facts),
        *(f"{name} = CASE WHEN {wins} THEN {given(name)} ELSE {old(name)} END" for name in standing),
        f'"rank" = CASE WHEN {wins} THEN {rank} ELSE {old_rank} END',
    )
    return (
        f'INSERT INTO stackstate_run ({", ".join(columns)}, listed, "rank") '  # noqa: S608
        f"VALUES ({'?, ' * len(columns)}COALESCE(?, {{now}}), ?) "
        f"{dialect.otherwise_update('prefix, run_id', assignments)}"
    )


class SQLRunWrites(SQLBase):
    """The part of `SQLStore` that writes and deletes runs."""

    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, all in one transaction."""
        # In one order everywhere, so that two writers never wait for each other.
        kept = sorted((rules.kept(write) for write in writes), key=lambda write: write.run_id)
        if kept:
            self._batch(list(self._appending(kept)))

    def _appending(self, writes: Sequence[RunWrite]) -> Iterator[Statement]:
        merge = upsert_run(self._dialect)
        add_event = ADD_EVENT + self._dialect.otherwise_nothing("prefix, run_id, uid")
        add_log = ADD_LOG + self._dialect.otherwise_nothing("prefix, run_id, execution, seq")
        for write in writes:
            run = (self._prefix, write.run_id)
            yield merge, self._summary(write)
            for event in write.events:
                yield add_event, (*run, event.uid, event.at, event.name, event.execution, event.data)
            for log in write.logs:
                yield add_log, (*run, log.execution, log.seq, log.at, log.level, log.logger, log.message)
            yield from _trimming(run, write)

    def _summary(self, write: RunWrite) -> tuple[Any, ...]:
        facts = [getattr(write.facts, name) for name in FACTS]
        standing = [getattr(write.standing or RunStanding(), name) for name in STANDING]
        rank = None if write.standing is None else write.rank
        return (self._prefix, write.run_id, *facts, *standing, write.facts.created, *self._clock(), rank)

    def remove_runs(self, run_ids: Sequence[str]) -> int:
        """Delete these runs, so many in a transaction; return how many there were."""
        deadline = self._deadline()
        return rules.removed(run_ids, CHUNK, lambda ids: self._remove_some(ids, deadline))

    def _remove_some(self, run_ids: Sequence[str], deadline: float) -> int:
        def work(execute: Execute) -> int:
            lock = LOCK_RUN + self._dialect.lock
            found = [run_id for run_id in sorted(run_ids) if execute(lock, (self._prefix, run_id))]
            self._delete_runs(execute, found)
            return len(found)

        return self._write(work, deadline)

    def _purge_runs(self, limit: int) -> int:
        if not self._read(FORGOTTEN, (self._prefix, *self._clock(), 1)):
            return 0

        def work(execute: Execute) -> int:
            found = execute(FORGOTTEN + self._dialect.lock_free, (self._prefix, *self._clock(), limit))
            self._delete_runs(execute, [run_id for (run_id,) in found])
            return len(found)

        return self._write(work)

    def _delete_runs(self, execute: Execute, run_ids: Sequence[Any]) -> None:
        """Delete runs, whose rows this transaction has locked, with everything of them.

        One by one: for a list of ids a database may read, and wait for, all rows between them.
        """
        for run_id in run_ids:
            for table in ("stackstate_log", "stackstate_event", "stackstate_run"):
                execute(f"DELETE FROM {table} WHERE prefix = ? AND run_id = ?", (self._prefix, run_id))  # noqa: S608


def _trimming(run: tuple[str, str], write: RunWrite) -> Iterator[Statement]:
    """Yield what deletes of a run the lines that were dropped, and what has become too many."""
    for dropped in write.dropped:
        yield DROP_LOGS, (*run, dropped.execution, dropped.first, dropped.last)
    if write.most_events is not None:
        oldest = min(FIRST_EVENTS, write.most_events)
        yield KEEP_EVENTS, (*run, *run, oldest, *run, write.most_events - oldest)
    if write.most_logs is not None:
        yield KEEP_LOGS, (*run, *run, write.most_logs)
