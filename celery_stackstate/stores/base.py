"""The contract every store keeps. Its prose is the specification: `celery_stackstate.testing.StoreContract`
has a test for each sentence, and a new store is finished when that class passes over it.

A store moves entries and keeps runs. Locks, limits, idempotency and the run history are rules written once, above.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, TypeVar

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores.batches import behind
from celery_stackstate.stores.entry_data import (
    INT64_MAX,
    INT64_MIN,
    Expect,
    Guard,
    GuardFailed,
    Put,
    PutResult,
    StoredEntry,
    check_expiry,
    check_key,
    check_value,
)
from celery_stackstate.stores.run_data import (
    FIRST_EVENTS,
    TEXT_SEARCH_LIMIT,
    DroppedLogs,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    StoredEvent,
    StoredLog,
    Tally,
    sorted_tallies,
)

__all__ = [
    "FIRST_EVENTS",
    "INT64_MAX",
    "INT64_MIN",
    "TEXT_SEARCH_LIMIT",
    "DroppedLogs",
    "Expect",
    "Guard",
    "GuardFailed",
    "Put",
    "PutResult",
    "RunFacts",
    "RunQuery",
    "RunRow",
    "RunStanding",
    "RunWrite",
    "Store",
    "StoredEntry",
    "StoredEvent",
    "StoredLog",
    "Tally",
    "check_expiry",
    "check_key",
    "check_value",
    "sorted_tallies",
]

T = TypeVar("T")


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

    def pending(self) -> list[str]:
        """Return a line for each thing that `install` would do now. Creates and changes nothing.

        Raises:
            ConfigurationError: As in `check`.
            StoreUnavailable: The place cannot be reached now.
        """
        return []

    def server(self) -> str:
        """Return the name and the version of what keeps the data, "" where there is nothing to tell."""
        return ""

    def install(self) -> list[str]:
        """Create or upgrade the tables this place needs; return one line for each thing done.

        Raises:
            ConfigurationError: The account may not, or the tables are of a newer release.
            StoreUnavailable: The place cannot be reached now.
        """
        return []

    def in_transaction(self) -> bool:
        """Return whether calls of this thread would join a transaction that its caller has open."""
        return False

    def usable_here(self) -> bool:
        """Return whether this thread may wait for the place just now; Django's connections refuse an event loop."""
        return True

    def on_commit(self, work: Callable[[], object]) -> None:
        """Do `work` when that transaction is committed, and not at all when it is rolled back; at once without one."""
        work()

    def apart(self, work: Callable[[], T]) -> T:
        """Do `work`, whose calls do not join that transaction, and return what it returns."""
        return work()

    def joining(self, session: Any) -> AbstractContextManager[None]:
        """Let the calls of this context join the transaction of a SQLAlchemy session, inside of the block.

        Raises:
            ConfigurationError: This store cannot, or that session is not one of its own database.
        """
        raise ConfigurationError(
            "this store cannot join a SQLAlchemy session; one with a postgresql://, mysql:// or mariadb:// URL can, "
            "when the session is on the same database"
        )

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
        guard: Guard | None = None,
    ) -> PutResult:
        """Write `key` if it is as expected, atomically.

        `Expect.ABSENT` needs no live entry, a version needs a live entry of exactly that version, `Expect.ANY` needs
        nothing. The new entry has the expiry given here: without one it has none, whatever it had before.
        When it is not applied, nothing changes and the answer holds the live entry that stood in the way, if any.

        Raises:
            GuardFailed: The entry that `guard` names is not live, or has another version; decided in the same atomic
                step, before `expect`. Nothing changed.
        """

    def put_and_append(
        self,
        key: bytes,
        value: bytes | int,
        writes: Sequence[RunWrite],
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Put, and where that is applied append `writes` in the same atomic step, if it takes no further round trip.

        Where the answer's `appended` is False nothing was appended.

        Raises:
            ValueError: As in `append`. Nothing changed.
        """
        return self.put(key, value, expect=expect, ttl=ttl, linger=linger)

    def put_all(self, puts: Sequence[Put]) -> None:
        """Put each that is as expected and pass over the others, in one round trip where the place allows it.

        When it fails some may have been put; doing it again then puts the others.

        Raises:
            ValueError, TypeError, OverflowError: One of them cannot be put. Nothing changed.
        """
        for put in puts:
            check_key(put.key)
            check_value(put.value)
        for done, put in enumerate(puts):
            with behind(done):
                self.put(put.key, put.value, expect=put.expect)

    @abstractmethod
    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically; None when there was none or it was not as expected.

        `Expect.ABSENT` is refused with ValueError.
        """

    def remove_all(self, keys: Sequence[bytes], *, expect: Expect | int = Expect.ANY) -> int:
        """Remove those of `keys` that are live and as expected, as `remove` does; return how many there were.

        In one round trip where the place allows it. When it fails some may have been removed.

        Raises:
            ValueError, TypeError: One of them is no key, or `expect` nothing to expect. Nothing changed.
        """
        if expect is Expect.ABSENT or not isinstance(expect, (Expect, int)):
            raise ValueError(f"what is removed has a version or any, not {expect!r}")
        for key in keys:
            check_key(key)
        removed = 0
        for key in keys:
            with behind(removed):
                removed += self.remove(key, expect=expect) is not None
        return removed

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
        guard: Guard | None = None,
        prolong: bool = False,
    ) -> int:
        """Add `delta` to the integer at `key`, starting from 0 when it is absent; return the new integer, atomically.

        `ttl` or `expires` count only when this call creates the key; otherwise the expiry stays as it was, unless
        `prolong` gives the key the expiry of this call.

        Raises:
            NotACounter: The key holds bytes. Nothing changed.
            CounterRange: The result would be below `floor`, above `ceiling` or outside int64. Nothing changed; the
                error's `value` is the integer that stands there (0 when absent).
            GuardFailed: As in `put`.
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

        Of each text in facts and standing the first 1,024 bytes of UTF-8 are kept, of `error` 4,096; filters compare
        with what is kept.

        The lines that `dropped` names are deleted. With `most_events` the run then keeps no more than that many
        events, the `FIRST_EVENTS` oldest and the newest; with `most_logs` no more log lines than that, the newest.

        Raises:
            ValueError: A run id, uid or execution has more than 255 characters, or a text has a NUL or a lone
                surrogate. Nothing of any write is applied.
        """

    @abstractmethod
    def run(self, run_id: str) -> tuple[RunRow, list[StoredEvent]] | None:
        """Return the summary and all events of one run, events by `(at, uid)`; None if unknown."""

    @abstractmethod
    def runs(self, query: RunQuery) -> list[RunRow]:
        """Return one page of runs by `(created, run_id)`, newest first unless `oldest_first`.

        A run whose `created` is not known yet is listed by the time of its first write, which its row then shows as
        `created`. `ids` restricts to those ids.
        """

    @abstractmethod
    def count_runs(self, query: RunQuery, *, cap: int = 10_000) -> int:
        """Return how many runs match, ignoring `after`, `offset` and `limit`; counting stops at `cap`."""

    def tally(self, since: int, until: int, *, cap: int = 100_000) -> list[Tally]:
        """Return how many runs with `since <= created < until` each task has in each status, by task and status.

        Looks at no more than about `cap` runs, the newest ones. In one round trip where the place allows it.
        """
        counts: Counter[tuple[str | None, str]] = Counter()
        query, left = RunQuery(since=since, until=until), cap
        while left > 0:
            query = replace(query, limit=min(left, 1000))
            rows = self.runs(query)
            counts.update((row.facts.task, row.standing.status) for row in rows)
            left -= len(rows)
            if len(rows) < query.limit:
                break
            query = replace(query, after=(rows[-1].facts.created or 0, rows[-1].run_id))
        return sorted_tallies(counts)

    @abstractmethod
    def run_names(self, column: str, *, limit: int = 500) -> list[str]:
        """Return the sorted distinct values of `column`: "task", "worker", "queue" or "host".

        Purged values may linger.
        """

    @abstractmethod
    def logs(
        self, run_id: str, *, execution: str | None = None, after: tuple[int, str, int] | None = None, limit: int = 1000
    ) -> list[StoredLog]:
        """Return log lines by `(at, execution, seq)`, of all executions or one, behind the line named by `after`."""

    # -- upkeep ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def remove_runs(self, run_ids: Sequence[str]) -> int:
        """Delete these runs with everything of them, each atomically; return how many there were."""

    @abstractmethod
    def purge(self, *, limit: int = 1000) -> int:
        """Delete up to about `limit` ended entries and forgotten runs with everything of them; return how many.

        0 means there is nothing left to do. No live entry and no run before its `forget` is touched. Concurrent
        calls of other verbs are not held up for longer than one batch takes.
        """
