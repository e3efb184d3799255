"""What the library hands out: plain frozen records, with aware datetimes in UTC and durations in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Generic, TypeVar

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# Celery's names, and two of ours: QUEUED, no worker has it yet (Celery's PENDING means "unknown id"), and LOST,
# nobody is left who runs it.
QUEUED = "QUEUED"
RECEIVED = "RECEIVED"
STARTED = "STARTED"
RETRY = "RETRY"
SUCCESS = "SUCCESS"
FAILURE = "FAILURE"
REVOKED = "REVOKED"
IGNORED = "IGNORED"
REJECTED = "REJECTED"
LOST = "LOST"
STATUSES = (QUEUED, RECEIVED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, IGNORED, REJECTED, LOST)
FINISHED = frozenset({SUCCESS, FAILURE, REVOKED, IGNORED, REJECTED})


def from_micros(micros: int | None) -> datetime | None:
    """Return the UTC datetime of `micros` microseconds since 1970, or None for None."""
    return None if micros is None else EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """Return the whole microseconds since 1970 of an aware datetime."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def micros_of(moment: Any) -> int | None:
    """Return an ISO time or a datetime, as messages carry them, as microseconds; None for anything else."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment.replace("Z", "+00:00"))
        except ValueError:
            return None
    if not isinstance(moment, datetime):
        return None
    return to_micros(moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc))


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of the state, as stored."""

    key: str
    value: Any
    version: int
    expires_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is known of an idempotency key.

    `state` is RESERVED, PUBLISHED, RUNNING, RETRYING, SUCCEEDED or FAILED; `deliveries` is how often its run was begun.
    """

    key: str
    task: str
    run_id: str
    state: str
    deliveries: int
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing; `next` is the `after=` of the following page, None on the last."""

    items: tuple[T, ...]
    next: str | None = None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line that a task logged."""

    at: datetime
    level: str
    logger: str
    message: str
    execution: str


@dataclass(frozen=True, slots=True)
class Event:
    """One fact on a run's timeline: `queued`, `received`, `started`, an ending, `progress`, or the task's own."""

    at: datetime
    name: str
    execution: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One execution of a run's body by one worker.

    `status` is STARTED while it runs. `wait` is the time from enqueueing (or from the ETA, if later) to the start;
    `wait` and `runtime` are in seconds.
    """

    execution: str
    number: int
    status: str
    worker: str | None = None
    pid: int | None = None
    retries: int = 0
    redelivered: bool = False
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    wait: float | None = None
    runtime: float | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run says it is."""

    done: float
    total: float | None
    message: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task, from the request to its end, over all attempts.

    A listing fills the summary; `attempts`, `args`, `kwargs`, `result`, `traceback`, `progress`, `publisher` and the
    options of the request are there when the run was read by its id (`detailed` is True). `started_at`, `finished_at`,
    `wait` and `runtime` (in seconds) are those of the latest attempt.
    """

    id: str
    task: str | None
    status: str
    queue: str | None = None
    worker: str | None = None
    key: str | None = None
    retries: int = 0
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    parent_id: str | None = None
    root_id: str | None = None
    error: str | None = None
    wait: float | None = None
    runtime: float | None = None
    detailed: bool = False
    args: Any = None
    kwargs: Any = None
    payload_truncated: bool = False
    result: Any = None
    result_truncated: bool = False
    traceback: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    publisher: str | None = None
    progress: Progress | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def finished(self) -> bool:
        """True when the run has ended for good (LOST has not: it may still be taken up again)."""
        return self.status in FINISHED
