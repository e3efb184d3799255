"""What a store keeps of runs: the writes it takes, the rows, events and lines it gives back, and what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TEXT_SEARCH_LIMIT = 10_000

#: So many of a run's oldest events are kept whatever `RunWrite.most_events` says: they tell what was asked for.
FIRST_EVENTS = 10


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One fact of a run. `uid` is unique in its run: appending the same uid again changes nothing."""

    uid: str
    at: int
    name: str
    execution: str | None
    data: bytes


@dataclass(frozen=True, slots=True)
class StoredLog:
    """One log line of a run. `(execution, seq)` is unique in its run: appending it again changes nothing."""

    execution: str
    seq: int
    at: int
    level: int
    logger: str
    message: str


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The summary columns of a run that never change once they are known: the first writer of each column wins.

    `duplicated` is "yes" for a run of which a duplicate request was suppressed.
    """

    task: str | None = None
    queue: str | None = None
    key: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    host: str | None = None
    origin: str | None = None
    created: int | None = None
    duplicated: str | None = None


@dataclass(frozen=True, slots=True)
class RunStanding:
    """The summary columns that follow the run's life: the write with the highest rank wins as a whole.

    Of two with the same rank the one with the later `forget` wins, whatever the order in which they arrive; None is the
    earliest, and of two that are equal in both the later arrival wins. A column left None in a winning write becomes
    None. `forget` is the time after which `purge` may delete the run and everything of it; None keeps it.
    """

    status: str = "QUEUED"
    worker: str | None = None
    retries: int = 0
    waited: int | None = None
    started: int | None = None
    finished: int | None = None
    error: str | None = None
    forget: int | None = None
    progress: str | None = None


@dataclass(frozen=True, slots=True)
class DroppedLogs:
    """Log lines of one execution that are to be deleted: those numbered `first` to `last`, both included."""

    execution: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class RunWrite:
    """What one writer learned about one run. Ranks stay below 2**53.

    `most_events` and `most_logs` bound what the run keeps after this write, see `Store.append`; None leaves it.
    """

    run_id: str
    rank: int
    facts: RunFacts = field(default_factory=RunFacts)
    standing: RunStanding | None = None
    events: Sequence[StoredEvent] = ()
    logs: Sequence[StoredLog] = ()
    dropped: Sequence[DroppedLogs] = ()
    most_events: int | None = None
    most_logs: int | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """The summary of one run."""

    run_id: str
    rank: int
    facts: RunFacts
    standing: RunStanding


@dataclass(frozen=True, slots=True)
class RunQuery:
    """Which runs to list; each filter that is given must hold.

    `since` is inclusive and `until` exclusive, both of `created`. `after` is the `(created, run_id)` of the last run of
    the page before. `text` is a case-insensitive substring of the id, the task name, the key or the error, looked for
    among the newest `TEXT_SEARCH_LIMIT` runs that match the other filters.
    """

    status: tuple[str, ...] = ()
    task: str | None = None
    worker: str | None = None
    queue: str | None = None
    key: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    group_id: str | None = None
    host: str | None = None
    origin: str | None = None
    duplicated: str | None = None
    ids: tuple[str, ...] | None = None
    since: int | None = None
    until: int | None = None
    text: str | None = None
    after: tuple[int, str] | None = None
    oldest_first: bool = False
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Tally:
    """How many runs of one task have one status."""

    task: str | None
    status: str
    runs: int


def sorted_tallies(counts: Mapping[tuple[str | None, str], int]) -> list[Tally]:
    """Return numbers of runs by task and status as `Store.tally` does: in that order, first those without a task."""
    ordered = sorted(counts, key=lambda key: (key[0] is not None, key))
    return [Tally(*key, counts[key]) for key in ordered]
