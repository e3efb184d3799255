"""Durable job memory, duplicate-proof enqueue and a full run history for the Celery you already have."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_stackstate.errors import (
        ConfigurationError,
        CounterRange,
        DuplicateRun,
        IdempotencyConflict,
        InTransaction,
        InvalidExpiry,
        InvalidKey,
        LeaderFailed,
        LockBusy,
        LockLost,
        NewerFormat,
        NotACounter,
        NotInARun,
        NotRepeatable,
        NotSerializable,
        StackStateError,
        StepConflict,
        StoreUnavailable,
        Throttled,
        TooManyDeliveries,
        ValueTooLarge,
        VersionConflict,
        WrongType,
    )
    from celery_stackstate.extension import StackState
    from celery_stackstate.limits import Pace
    from celery_stackstate.lock_record import LockInfo
    from celery_stackstate.locks import Lock
    from celery_stackstate.records import (
        Attempt,
        Bucket,
        ChainPlace,
        Counts,
        Entry,
        Event,
        KeyRecord,
        LogLine,
        Page,
        Progress,
        Publisher,
        Run,
        RunTree,
        Touched,
        Worker,
    )
    from celery_stackstate.result import RunResult
    from celery_stackstate.state import State
    from celery_stackstate.task import StateTask
    from celery_stackstate.version import __version__

__all__ = [
    "Attempt",
    "Bucket",
    "ChainPlace",
    "ConfigurationError",
    "CounterRange",
    "Counts",
    "DuplicateRun",
    "Entry",
    "Event",
    "IdempotencyConflict",
    "InTransaction",
    "InvalidExpiry",
    "InvalidKey",
    "KeyRecord",
    "LeaderFailed",
    "Lock",
    "LockBusy",
    "LockInfo",
    "LockLost",
    "LogLine",
    "NewerFormat",
    "NotACounter",
    "NotInARun",
    "NotRepeatable",
    "NotSerializable",
    "Pace",
    "Page",
    "Progress",
    "Publisher",
    "Run",
    "RunResult",
    "RunTree",
    "StackState",
    "StackStateError",
    "State",
    "StateTask",
    "StepConflict",
    "StoreUnavailable",
    "Throttled",
    "TooManyDeliveries",
    "Touched",
    "ValueTooLarge",
    "VersionConflict",
    "Worker",
    "WrongType",
    "__version__",
]

#: Where names are defined that are no errors. A name is imported when it is used first: `celery` loads this package
#: for each of its commands, for the sake of ours.
_MODULES = {
    **{
        "StackState": "extension",
        "StateTask": "task",
        "RunResult": "result",
        "Pace": "limits",
        "State": "state",
        "Lock": "locks",
        "LockInfo": "lock_record",
        "__version__": "version",
    },
    **dict.fromkeys(("Attempt", "Bucket", "ChainPlace", "Counts", "Entry", "Event", "KeyRecord", "LogLine"), "records"),
    **dict.fromkeys(("Page", "Progress", "Publisher", "Run", "RunTree", "Touched", "Worker"), "records"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
