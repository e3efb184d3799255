"""What the library hands out: plain frozen records, with aware datetimes in UTC and durations in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, Final, Generic, Literal, TypeVar, get_args

T = TypeVar("T")

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# Celery's names, and two of ours: QUEUED, no worker has it yet (Celery's PENDING means "unknown id"), and LOST,
# nobody is left who runs it.
QUEUED: Final = "QUEUED"
RECEIVED: Final = "RECEIVED"
STARTED: Final = "STARTED"
RETRY: Final = "RETRY"
SUCCESS: Final = "SUCCESS"
FAILURE: Final = "FAILURE"
REVOKED: Final = "REVOKED"
IGNORED: Final = "IGNORED"
REJECTED: Final = "REJECTED"
LOST: Final = "LOST"
Status = Literal[
    "QUEUED", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED", "LOST"
]
STATUSES: tuple[Status, ...] = get_args(Status)
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
    Of a record that only a newer release can read, `state` is UNREADABLE, and key, scope and times are all there is.
    `scope` is "" for the app, "task:<name>", or "run:<parent's id>:<name>". `expires_at` is None until the run ended.
    `generation` grows with each run that the key had; it is the time in microseconds at which this one was asked for,
    by the clock of who asked. `free` tells that the next call begins another run.
    """

    key: str
    task: str
    run_id: str
    state: str
    deliveries: int
    fingerprint: str
    scope: str = ""
    updated_at: datetime | None = None
    expires_at: datetime | None = None
    generation: int = 0
    free: bool = False
    read_at: datetime | None = None


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
    """One line that a task logged; `seq` is its number in its execution."""

    at: datetime
    level: str
    logger: str
    message: str
    execution: str
    seq: int = 0


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
    `wait`, `runtime` and `cpu_time` are in seconds. `cpu_time` is that of the process, or of the thread where the pool
    has threads; `peak_memory` is the most bytes that were resident in its process up to its end, whoever used them.
    Both are None where they cannot be told. `omitted_lines` counts log lines that were too many to be kept, the oldest.
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
    cpu_time: float | None = None
    peak_memory: int | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    omitted_lines: int = 0


@dataclass(frozen=True, slots=True)
class Publisher:
    """Who asked for a run: a process, and whom the project's `stackstate_origin` named (a user, a request)."""

    host: str
    pid: int
    program: str
    origin: str | None = None

    def __str__(self) -> str:
        return f"{self.program} on {self.host} (pid {self.pid})" + (f", {self.origin}" if self.origin else "")


@dataclass(frozen=True, slots=True)
class Worker:
    """One start of a worker that is `live`, or that died and left no word.

    `boot` tells it from other starts under its `hostname`, `pid` is its parent process on `host`. `processes` are those
    in which its attempts ran at its last sign of life, which was at `seen_at`. `expires_at` is when it will be taken
    for dead unless it renews its lease before; None for one that is. `read_at` is the store's time of the answer.
    """

    hostname: str
    boot: str
    host: str
    pid: int
    processes: tuple[int, ...]
    started_at: datetime
    seen_at: datetime
    live: bool
    expires_at: datetime | None = None
    read_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """The place of a run in its chain: the `position`, from 1, of `total`."""

    position: int
    total: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run says it is."""

    done: float
    total: float | None
    message: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many of the runs that were asked for from `start` on, for the step of the counts, have each status."""

    start: datetime
    by_status: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many runs there are of those asked for from `since` to `until`, `step` seconds to a bucket.

    `exact` is False where a bucket with too many unfinished runs was counted a while ago.
    """

    since: datetime
    until: datetime
    step: float
    buckets: tuple[Bucket, ...]
    by_task: Mapping[str, Mapping[str, int]]
    exact: bool = True

    @property
    def by_status(self) -> dict[str, int]:
        """The counts by status."""
        found: dict[str, int] = {}
        for counts in self.by_task.values():
            for status, number in counts.items():
                found[status] = found.get(status, 0) + number
        return found

    @property
    def total(self) -> int:
        """How many there are in all."""
        return sum(self.by_status.values())


@dataclass(frozen=True, slots=True)
class RunTree:
    """A run with those that it, or what it published, published."""

    run: Run
    children: tuple[RunTree, ...] = ()


@dataclass(frozen=True, slots=True)
class Touched:
    """What a run used of the state: `kind` is "state" (a value or counter), "lock" or "pace" (a throttle).

    `scope` is "" for the app-wide keys, else "task:<name>", "run:<id>" or "scope:<name>".
    """

    scope: str
    key: str
    kind: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a task, from the request to its end, over all attempts.

    A listing fills the summary, up to `progress`; what comes behind `detailed` is there when the run was read by its id
    (`detailed` is True). `started_at`, `finished_at`, `wait` and `runtime` (in seconds) are those of the latest
    attempt. `host` and `origin` tell who asked for it, as `publisher` does in full.

    `routing_key` is that of its message, where it is not the name of the queue.
    `chord_id` is the run that waits for this one's group. `rerun_of` is the run that an operator had run again as
    this one, `reruns` are those of this one; `replaced_by` is the run that took its place before it began.
    `duplicates` counts the requests that were suppressed, `duplicated` tells that there were any. `meta` is what the
    task last gave `update_state`.
    `touched` are the first 50 keys and locks that each attempt used through `self.state`, apart from the run's own.
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
    group_id: str | None = None
    host: str | None = None
    origin: str | None = None
    error: str | None = None
    wait: float | None = None
    runtime: float | None = None
    duplicated: bool = False
    progress: Progress | None = None
    detailed: bool = False
    args: Any = None
    kwargs: Any = None
    payload_truncated: bool = False
    result: Any = None
    result_truncated: bool = False
    traceback: str | None = None
    eta: datetime | None = None
    expires: datetime | None = None
    routing_key: str | None = None
    priority: int | None = None
    publisher: Publisher | None = None
    chord_id: str | None = None
    chain: ChainPlace | None = None
    replaced_by: str | None = None
    rerun_of: str | None = None
    reruns: tuple[str, ...] = ()
    duplicates: int = 0
    meta: Any = None
    attempts: tuple[Attempt, ...] = ()
    touched: tuple[Touched, ...] = ()

    @property
    def finished(self) -> bool:
        """True when the run has ended for good (LOST has not: it may still be taken up again)."""
        return self.status in FINISHED
