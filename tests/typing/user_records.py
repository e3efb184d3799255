"""What a project reads of records and errors, as type checkers see it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from typing_extensions import assert_type

from celery_stackstate import (
    Attempt,
    Bucket,
    ChainPlace,
    ConfigurationError,
    CounterRange,
    Counts,
    DuplicateRun,
    Entry,
    Event,
    IdempotencyConflict,
    InTransaction,
    InvalidExpiry,
    InvalidKey,
    KeyRecord,
    LeaderFailed,
    LockBusy,
    LockInfo,
    LockLost,
    LogLine,
    NewerFormat,
    NotACounter,
    NotInARun,
    NotRepeatable,
    NotSerializable,
    Progress,
    Publisher,
    Run,
    RunTree,
    StackStateError,
    StepConflict,
    StoreUnavailable,
    Throttled,
    TooManyDeliveries,
    Touched,
    ValueTooLarge,
    VersionConflict,
    Worker,
    WrongType,
    __version__,
)


def of_a_run(run: Run) -> None:
    assert_type(run.id, str)
    assert_type(run.task, str | None)
    assert_type(run.wait, float | None)
    assert_type(run.chain, ChainPlace | None)
    assert_type(run.publisher, Publisher | None)
    assert_type(run.touched, tuple[Touched, ...])
    assert_type(run.finished, bool)
    assert_type(run.args, Any)
    for attempt in run.attempts:
        assert_type(attempt, Attempt)
        assert_type(attempt.started_at, datetime | None)
        assert_type(attempt.peak_memory, int | None)


def of_the_others(
    entry: Entry,
    event: Event,
    line: LogLine,
    tree: RunTree,
    counts: Counts,
    worker: Worker,
    key: KeyRecord,
    lock: LockInfo,
    progress: Progress,
) -> None:
    assert_type(entry.version, int)
    assert_type(event.data, Mapping[str, Any])
    assert_type(line.level, str)
    assert_type(tree.children, tuple[RunTree, ...])
    assert_type(counts.buckets, tuple[Bucket, ...])
    assert_type(counts.by_status, dict[str, int])
    assert_type(worker.live, bool)
    assert_type(key.run_id, str)
    assert_type(lock.run_id, str | None)
    assert_type(progress.total, float | None)
    assert_type(len(__version__), int)


def of_errors(error: Exception) -> str:
    if isinstance(error, LockBusy):
        assert_type(error.retry_after, float)
        return error.owner
    if isinstance(error, Throttled):
        assert_type(error.retry_after, float)
    if isinstance(error, (IdempotencyConflict, DuplicateRun, LeaderFailed)):
        assert_type(error.task_id, str)
        return error.key
    if isinstance(error, StoreUnavailable):
        assert_type(error.maybe_applied, bool)
    if isinstance(error, ValueTooLarge):
        assert_type(error.limit, int)
    if isinstance(error, (WrongType, NotSerializable)):
        return error.path
    return of_more_errors(error)


def of_more_errors(error: Exception) -> str:
    if isinstance(error, (StepConflict, LockLost)):
        return error.name
    if isinstance(error, TooManyDeliveries):
        return error.task_id
    if isinstance(error, (ConfigurationError, NewerFormat, InvalidKey, InvalidExpiry)):
        as_value: ValueError = error
        return str(as_value)
    if isinstance(error, (NotInARun, InTransaction)):
        as_runtime: RuntimeError = error
        return str(as_runtime)
    if isinstance(error, (CounterRange, NotACounter, NotRepeatable, VersionConflict)):
        ours: StackStateError = error
        return str(ours)
    return ""
