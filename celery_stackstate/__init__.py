"""Durable job memory, duplicate-proof enqueue and a full run history for the Celery you already have."""

from celery_stackstate.errors import (
    ConfigurationError,
    CounterRange,
    DuplicateRun,
    IdempotencyConflict,
    InvalidExpiry,
    InvalidKey,
    LockBusy,
    LockLost,
    NotACounter,
    NotInARun,
    NotSerializable,
    StackStateError,
    StoreUnavailable,
    Throttled,
    TooManyDeliveries,
    ValueTooLarge,
    VersionConflict,
)
from celery_stackstate.extension import StackState
from celery_stackstate.records import Attempt, Entry, Event, KeyRecord, LogLine, Page, Progress, Run
from celery_stackstate.result import RunResult
from celery_stackstate.task import StateTask
from celery_stackstate.version import __version__

__all__ = [
    "Attempt",
    "ConfigurationError",
    "CounterRange",
    "DuplicateRun",
    "Entry",
    "Event",
    "IdempotencyConflict",
    "InvalidExpiry",
    "InvalidKey",
    "KeyRecord",
    "LockBusy",
    "LockLost",
    "LogLine",
    "NotACounter",
    "NotInARun",
    "NotSerializable",
    "Page",
    "Progress",
    "Run",
    "RunResult",
    "StackState",
    "StackStateError",
    "StateTask",
    "StoreUnavailable",
    "Throttled",
    "TooManyDeliveries",
    "ValueTooLarge",
    "VersionConflict",
    "__version__",
]
