"""The contract every store keeps. Its prose is the specification: `celery_stackstate.testing.StoreContract`
has a test for each sentence, and a new store is finished when that class passes over it.

A store moves entries and keeps runs. Locks, limits, idempotency and the run history are rules written once, above.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


class Expect(Enum):
    """What must be true of a key for a write to be applied, when it is not a version."""

    ANY = "any"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One live key as the store holds it. Times are microseconds since 1970 of the store's clock.

    `now` is that clock at the moment of the answer, so that a rule can compare times without a clock of its own.
    """

    key: bytes
    value: bytes | int
    version: int
    expires: int | None
    updated: int
    now: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """The outcome of `put`: the entry as stored when it was applied, else the one that stood in its way (or None)."""

    applied: bool
    entry: StoredEntry | None


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
    """The summary columns of a run that never change once they are known: the first writer of each column wins."""

    task: str | None = None
    queue: str | None = None
    key: str | None = None
    parent_id: str | None = None
    root_id: str | None = None
    created: int | None = None


@dataclass(frozen=True, slots=True)
class RunStanding:
    """The summary columns that follow the run's life: the write with the highest rank wins as a whole.

    Equal rank replaces. A column left None in a winning write becomes None. `forget` is the time after which `purge`
    may delete the run and everything of it; None keeps it.
    """

    status: str = "QUEUED"
    worker: str | None = None
    retries: int = 0
    waited: int | None = None
    started: int | None = None
    finished: int | None = None
    error: str | None = None
    forget: int | None = None


@dataclass(frozen=True, slots=True)
class RunWrite:
    """What one writer learned about one run. Ranks stay below 2**53."""

    run_id: str
    rank: int
    facts: RunFacts = field(default_factory=RunFacts)
    standing: RunStanding | None = None
    events: Sequence[StoredEvent] = ()
    logs: Sequence[StoredLog] = ()


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
    ids: tuple[str, ...] | None = None
    since: int | None = None
    until: int | None = None
    text: str | None = None
    after: tuple[int, str] | None = None
    oldest_first: bool = False
    offset: int = 0
    limit: int = 100


TEXT_SEARCH_LIMIT = 10_000


class Store(ABC):
    """A place for entries and runs, shared by every process that uses the same URL and prefix.

    Keys are bytes, ordered as bytes: `b"Abc"` and `b"abc"` are two keys. A key has at least 1 and at most 2,048 bytes.
    Values are bytes or integers in the range of int64. Prefixes separate: nothing written under one prefix is seen
    under another.

    Time is the store's own clock, in microseconds since 1970: the server's where there is a server, else that of the
    host. `ttl` is in microseconds from that clock's now; `expires` is absolute. At most one of them is given, both
    must be positive. A write whose `expires` has passed leaves the key absent. An entry whose time has come is absent
    for every verb, purged or not.

    A version is a positive integer below 2**63: `max(the version before + 1, the clock)`. Each applied write gives the
    key a larger version than any it had before, also across removal, expiry and purge. Where a clock is set back this
    holds unconditionally while the store remembers the removed key: for `linger` microseconds after the end of an
    entry that was written with it.

    Every call finishes within the store's timeout, or raises `StoreUnavailable`. `maybe_applied` is True when the
    request may have reached the store and the answer did not come back; False when it certainly changed nothing.
    No call retries by itself what could then be applied twice. After an outage the next call works again, without a
    restart.

    A store may be used from several threads, and before and after a fork: a child opens connections of its own and
    never touches, not even to close, those it inherited.
    """

    #: URL schemes this class serves.
    schemes: tuple[str, ...] = ()
    #: True when every process on every host sees the same data; False when only this host, or only this process, does.
    shared_between_hosts: bool = False
    #: True when processes on one host see the same data.
    shared_between_processes: bool = True

    @classmethod
    @abstractmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Store:
        """Make a store of `url` without connecting.

        Args:
            url: Where it lies; its scheme is one of `schemes`.
            prefix: Name of the environment, 0 to 64 bytes.
            timeout: Longest time in seconds that one call may take.

        Raises:
            ConfigurationError: The URL is malformed, or a driver is not installed (names the extra).
        """

    @abstractmethod
    def check(self) -> list[str]:
        """Connect once; return warnings about promises this place may not keep.

        Raises:
            ConfigurationError: The place can never work (a folder that cannot be written, a server too old).
            StoreUnavailable: It cannot be reached now.
        """

    @abstractmethod
    def close(self) -> None:
        """Close this process's connections. A later call opens new ones."""

    # -- entries ---------------------------------------------------------------------------------------------------

    @abstractmethod
    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""

    @abstractmethod
    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`, in one round trip where the place allows it. No keys: an empty dict."""

    @abstractmethod
    def put(
        self,
        key: bytes,
        value: bytes | int,
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        expires: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Write `key` if it is as expected, atomically.

        `Expect.ABSENT` needs no live entry, a version needs a live entry of exactly that version, `Expect.ANY` needs
        nothing. The new entry has the expiry given here: without one it has none, whatever it had before.
        When it is not applied, nothing changes and the answer holds the live entry that stood in the way, if any.
        """

    @abstractmethod
    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically; None when there was none or it was not as expected.

        `Expect.ABSENT` is refused with ValueError.
        """

    @abstractmethod
    def add(
        self,
        key: bytes,
        delta: int,
        *,
        ttl: int | None = None,
        expires: int | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
    ) -> int:
        """Add `delta` to the integer at `key`, starting from 0 when it is absent; return the new integer, atomically.

        `ttl` or `expires` count only when this call creates the key; otherwise the expiry stays as it was.

        Raises:
            NotACounter: The key holds bytes. Nothing changed.
            CounterRange: The result would be below `floor`, above `ceiling` or outside int64. Nothing changed; the
                error's `value` is the integer that stands there (0 when absent).
        """

    @abstractmethod
    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key.

        Fewer than `limit` means there are no more. The cost grows with the answer, not with the store.
        """

    # -- runs ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def append(self, writes: Sequence[RunWrite]) -> None:
        """Add what `writes` say to their runs, each write atomically, all in one round trip where the place allows it.

        Facts and standing are merged as `RunFacts` and `RunStanding` say, so that the order in which writers arrive
        does not matter. A write without a standing changes no ranked column, but creates the run if need be.
        Appending the same write twice is the same as appending it once.
        """

    @abstractmethod
    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run, events by time then by order of arrival; None if unknown."""

    @abstractmethod
    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`, newest first unless `oldest_first`.

        A run whose `created` is not known yet is listed by the time of its first write, which its row then shows as
        `created`. `ids` restricts to those ids.
        """

    @abstractmethod
    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, ignoring `after`, `offset` and `limit`; counting stops at `cap`."""

    @abstractmethod
    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`: "task", "worker" or "queue". Purged values may linger."""

    @abstractmethod
    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to about `limit` ended entries and forgotten runs with everything of them; return how many.

        0 means there is nothing left to do. No live entry and no run before its `forget` is touched. Concurrent
        calls of other verbs are not held up for longer than one batch takes.
        """


def check_key(key: bytes) -> None:
    """Raise ValueError unless `key` is bytes of a length that every store takes."""
    if not isinstance(key, bytes) or not 1 <= len(key) <= 2048:
        raise ValueError(f"a store key is 1 to 2048 bytes, not {key!r:.80}")


def check_value(value: Any) -> None:
    """Raise TypeError or OverflowError unless `value` is bytes or an int64."""
    if isinstance(value, bool) or not isinstance(value, (bytes, int)):
        raise TypeError(f"a store value is bytes or an integer, not {type(value).__name__}")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise OverflowError(f"{value} is outside the range of int64")


def check_expiry(ttl: int | None, expires: int | None) -> None:
    """Raise ValueError when both are given, or one is not positive."""
    if ttl is not None and expires is not None:
        raise ValueError("give ttl or expires, not both")
    for name, number in (("ttl", ttl), ("expires", expires)):
        if number is not None and number <= 0:
            raise ValueError(f"{name} must be positive, not {number}")
