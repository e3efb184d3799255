"""Durable job memory: small values, counters and locks under readable keys, shared by all workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from celery_stackstate import codec
from celery_stackstate.errors import CounterRange, NotACounter, NotInARun, VersionConflict
from celery_stackstate.keys import APP_SCOPE, LOCK, STATE, check_key, expiry, pack, scope_of, unpack
from celery_stackstate.locks import Lock, LockInfo, LockOwner, force_release, lock_info
from celery_stackstate.records import Entry, Page, from_micros
from celery_stackstate.stores.base import Expect, PutResult, Store, StoredEntry

UPDATE_ATTEMPTS = 200
PAGE = 500

TTL = float | timedelta | None


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where a State is used from: the run and the task whose scopes `.run` and `.task` are, and who takes its locks."""

    owner: LockOwner
    run_id: str | None = None
    task: str | None = None
    run_ttl: float | None = None


class State:
    """Small durable values by key, in one scope.

    Keys are str of at most 1,024 UTF-8 bytes without control characters. Each call is one round trip to the store,
    atomic, and seen by every process at once. The scope of `self.state` is the whole app; `.task`, `.run` and
    `.scope(name)` are the same object over other keys.
    """

    __slots__ = ("_context", "_limit", "_scope", "_store", "_ttl")

    def __init__(
        self, store: Store, context: RunContext, *, scope: str = APP_SCOPE, limit: int, ttl: float | None = None
    ) -> None:
        self._store = store
        self._context = context
        self._scope = scope
        self._limit = limit
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<State {self._scope or 'app'}>"

    # -- scopes ----------------------------------------------------------------------------------------------------

    @property
    def task(self) -> State:
        """The keys of this task, by its name."""
        if self._context.task is None:
            raise NotInARun("state.task needs a task; outside of one use .scope(name)")
        return self._scoped(scope_of("task", self._context.task))

    @property
    def run(self) -> State:
        """The keys of this run alone, kept as long as the longest run retention after the last write."""
        if self._context.run_id is None:
            raise NotInARun("state.run needs a running task; outside of one use .for_run(task_id)")
        return self.for_run(self._context.run_id)

    def for_run(self, run_id: str) -> State:
        """Return the keys of the run `run_id`, as `.run` gives them inside it."""
        return self._scoped(scope_of("run", run_id), ttl=self._context.run_ttl)

    def scope(self, name: str) -> State:
        """Return the keys of the scope `name`, apart from all others."""
        return self._scoped(scope_of("scope", name))

    def _scoped(self, scope: str, ttl: float | None = None) -> State:
        return State(self._store, self._context, scope=scope, limit=self._limit, ttl=ttl)

    # -- values ----------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of `key`, or `default` when there is none."""
        found = self._store.get(self._key(key))
        return default if found is None else codec.decode(found.value)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are present, in one round trip."""
        packed = {self._key(key): key for key in keys}
        found = self._store.get_many(list(packed))
        return {packed[key]: codec.decode(entry.value) for key, entry in found.items()}

    def entry(self, key: str) -> Entry | None:
        """Return the value of `key` with its version and times, or None."""
        found = self._store.get(self._key(key))
        return None if found is None else _entry(key, found)

    def set(
        self,
        key: str,
        value: Any,
        *,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        if_version: int | None = None,
    ) -> int:
        """Store `value` under `key` and return its version.

        Args:
            key: What to store it under.
            value: JSON-like data; see `codec.encode` for the types.
            ttl: Lifetime in seconds, or a timedelta. Without one the key has no expiry, whatever it had before.
            expires_at: Aware datetime at which it ends, instead of `ttl`. One that has passed leaves the key absent.
            if_version: Store only while the key has this version, as `entry` or an earlier `set` gave it.

        Raises:
            InvalidKey, InvalidExpiry, NotSerializable, ValueTooLarge: Before anything is changed.
            VersionConflict: The key is absent or has another version than `if_version`.
            StoreUnavailable: The store did not answer in time.
        """
        expect = Expect.ANY if if_version is None else if_version
        result = self._put(key, value, expect, ttl, expires_at)
        if not result.applied:
            current = result.entry
            stands = "the key is absent" if current is None else f"the key has version {current.version}"
            raise VersionConflict(f"{key!r} was not set: if_version is {if_version}, but {stands}", key=key)
        return result.entry.version if result.entry is not None else 0

    def add(self, key: str, value: Any, *, ttl: TTL = None, expires_at: datetime | None = None) -> bool:
        """Store `value` if `key` is absent, and return True when it was: of many callers at once exactly one wins."""
        return self._put(key, value, Expect.ABSENT, ttl, expires_at).applied

    def update(self, key: str, fn: Callable[[Any], Any], default: Any = None, *, ttl: TTL = None) -> Any:
        """Replace the value of `key` by `fn(value)` and return the new value, by compare-and-set.

        `fn` may be called several times and must do nothing but compute. An absent key passes `default`.

        Raises:
            VersionConflict: Others changed the key each time, 200 times in a row.
        """
        packed = self._key(key)
        found = self._store.get(packed)
        for _ in range(UPDATE_ATTEMPTS):
            value = fn(default if found is None else codec.decode(found.value))
            result = self._put(key, value, Expect.ABSENT if found is None else found.version, ttl, None)
            if result.applied:
                return value
            found = result.entry
        raise VersionConflict(f"{key!r} was changed by others {UPDATE_ATTEMPTS} times while it was updated", key=key)

    def pop(self, key: str, default: Any = None) -> Any:
        """Remove `key` and return the value it had, or `default`: of many callers at once one gets it."""
        removed = self._store.remove(self._key(key))
        return default if removed is None else codec.decode(removed.value)

    def delete(self, *keys: str, if_version: int | None = None) -> int:
        """Remove `keys`, with `if_version` only while they have that version; return how many were removed."""
        expect = Expect.ANY if if_version is None else if_version
        packed = [self._key(key) for key in keys]
        return sum(self._store.remove(key, expect=expect) is not None for key in packed)

    def touch(self, key: str, *, ttl: TTL = None, expires_at: datetime | None = None) -> bool:
        """Give `key` another expiry, or with neither argument none; return False when it is absent."""
        packed, times = self._key(key), expiry(ttl, expires_at)
        found = self._store.get(packed)
        while found is not None:
            result = self._store.put(packed, found.value, expect=found.version, **times)
            if result.applied:
                return True
            found = result.entry
        return False

    # -- listing ---------------------------------------------------------------------------------------------------

    def keys(self, prefix: str = "", *, limit: int = PAGE, after: str | None = None) -> Page[str]:
        """Return one page of the keys that start with `prefix`, in the order of their UTF-8 bytes.

        Args:
            prefix: What they start with.
            limit: Most keys on the page.
            after: The last key of the page before; each page's `next`.
        """
        page = self.items(prefix, limit=limit, after=after)
        return Page(tuple(entry.key for entry in page), page.next)

    def items(self, prefix: str = "", *, limit: int = PAGE, after: str | None = None) -> Page[Entry]:
        """Return one page of the entries whose keys start with `prefix`, as `keys` does."""
        start = None if after is None else self._key(after)
        found = self._store.scan(pack(STATE, self._scope, prefix), after=start, limit=limit)
        entries = tuple(_entry(unpack(stored.key)[2], stored) for stored in found)
        return Page(entries, entries[-1].key if len(entries) == limit else None)

    def clear(self, prefix: str = "") -> int:
        """Remove the keys of this scope that start with `prefix`; return how many. Locks stay."""
        removed = 0
        while found := self._store.scan(pack(STATE, self._scope, prefix), limit=PAGE):
            removed += sum(self._store.remove(entry.key) is not None for entry in found)
        return removed

    # -- counters --------------------------------------------------------------------------------------------------

    def increment(
        self,
        key: str,
        by: int = 1,
        *,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
    ) -> int:
        """Add `by` to the counter `key`, which begins at 0, and return its new value, atomically.

        Args:
            key: The counter. A key that was set to an int is one.
            by: What to add; may be negative.
            ttl: Lifetime in seconds; counts only when this call creates the counter. `expires_at` likewise.
            floor: Refuse to go below this.
            ceiling: Refuse to go above this.

        Raises:
            NotACounter: The key holds something that is not an int.
            CounterRange: The counter would leave floor, ceiling or int64; it keeps its value.
        """
        for name, number in (("by", by), ("floor", floor), ("ceiling", ceiling)):
            if number is not None and type(number) is not int:
                raise CounterRange(f"{name} must be an int, not {number!r:.80}", key=key)
        times = expiry(self._ttl if ttl is None and expires_at is None else ttl, expires_at)
        packed = self._key(key)
        try:
            return self._store.add(packed, by, floor=floor, ceiling=ceiling, **times)
        except NotACounter:
            raise NotACounter(f"{key!r} holds a value that is not an int; counters need a key of their own") from None
        except CounterRange as error:
            value = error.__dict__.get("value")
            bounds = f"floor {floor}, ceiling {ceiling}, int64"
            raise CounterRange(f"{key!r} is {value}; {by:+} would leave its range ({bounds})", value=value) from None

    def decrement(
        self,
        key: str,
        by: int = 1,
        *,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
    ) -> int:
        """Subtract `by` from the counter `key`; everything else as `increment`."""
        if type(by) is not int:
            raise CounterRange(f"by must be an int, not {by!r:.80}", key=key)
        return self.increment(key, -by, ttl=ttl, expires_at=expires_at, floor=floor, ceiling=ceiling)

    def count(self, key: str) -> int:
        """Return the value of the counter `key`, 0 when it is absent."""
        return self._counter(key, self._store.get(self._key(key)))

    def reset(self, key: str) -> int:
        """Remove the counter `key` and return the value it had, atomically: no increment is lost in between."""
        packed = self._key(key)
        found = self._store.get(packed)
        while found is not None:
            value = self._counter(key, found)
            if self._store.remove(packed, expect=found.version) is not None:
                return value
            found = self._store.get(packed)
        return 0

    @staticmethod
    def _counter(key: str, found: StoredEntry | None) -> int:
        if found is None:
            return 0
        if not isinstance(found.value, int):
            raise NotACounter(f"{key!r} holds a value that is not an int; counters need a key of their own")
        return found.value

    # -- locks -----------------------------------------------------------------------------------------------------

    def lock(
        self,
        name: str,
        *,
        ttl: float = 60,
        wait: float = 0,
        renew: bool = True,
        on_busy: str = "retry",
        on_lock_lost: str = "raise",
        max_hold: float | None = None,
    ) -> Lock:
        """Return the lock `name`, to be used in a `with` statement or by acquire() and release().

        At most one holder has it at a time while the store is healthy. Its `fence` is a number that grows with each
        acquisition (M. Kleppmann's fencing token): give it to what you write to, to refuse a holder that stalled.

        Args:
            name: What is locked, in this scope.
            ttl: Seconds until a holder that died is passed over, at least 5 with `renew`.
            wait: Seconds to wait for a busy lock, in this process.
            renew: Extend the TTL in the background while the process lives.
            on_busy: "retry" sends the run again under its own id, later, without using up one of its retries; "skip"
                ends the run as ignored; "raise" raises LockBusy. Outside of a run it always raises.
            on_lock_lost: "raise" raises LockLost at the end of the block if the lock was lost on the way; "warn" logs.
            max_hold: Seconds after which it is renewed no more.
        """
        check_key(name, "lock name")
        return Lock(
            self._store,
            pack(LOCK, self._scope, name),
            name,
            owner=self._context.owner,
            ttl=ttl,
            wait=wait,
            renew=renew,
            on_busy=on_busy,
            on_lock_lost=on_lock_lost,
            max_hold=max_hold,
        )

    def lock_info(self, name: str) -> LockInfo | None:
        """Return who holds the lock `name`, since when and until when, or None when it is free."""
        return lock_info(self._store, pack(LOCK, self._scope, check_key(name, "lock name")), name)

    def force_release(self, name: str) -> bool:
        """Free the lock `name` whoever holds it; return False when it was free. Its holder has then lost it."""
        return force_release(self._store, pack(LOCK, self._scope, check_key(name, "lock name")))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _key(self, key: str) -> bytes:
        return pack(STATE, self._scope, check_key(key))

    def _put(self, key: str, value: Any, expect: Expect | int, ttl: TTL, expires_at: datetime | None) -> PutResult:
        packed = self._key(key)
        times = expiry(self._ttl if ttl is None and expires_at is None else ttl, expires_at)
        return self._store.put(packed, codec.encode(value, limit=self._limit), expect=expect, **times)


def _entry(key: str, stored: StoredEntry) -> Entry:
    updated = from_micros(stored.updated)
    assert updated is not None  # noqa: S101 - for the type checker
    return Entry(key, codec.decode(stored.value), stored.version, from_micros(stored.expires), updated)
