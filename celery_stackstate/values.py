"""The values of a scope: reading, writing, compare-and-set and listing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, TypeVar, overload

from celery_stackstate import codec
from celery_stackstate.errors import (
    ConfigurationError,
    NotSerializable,
    ValueTooLarge,
    VersionConflict,
)
from celery_stackstate.keys import STATE, check_key, check_key_prefix, pack, unpack
from celery_stackstate.locks import Lock
from celery_stackstate.records import Entry, Page, from_micros
from celery_stackstate.scoped import TTL, Scoped
from celery_stackstate.shapes import rebuild
from celery_stackstate.stores.base import Expect, Guard, PutResult, StoredEntry
from celery_stackstate.stores.batches import behind

UPDATE_ATTEMPTS = 200
PAGE = 500
#: The most that every store takes for a limit.
INT32_MAX = 2**31 - 1

D = TypeVar("D")
T = TypeVar("T")


class Values(Scoped):
    """The values of a scope."""

    __slots__ = ()

    # -- values ----------------------------------------------------------------------------------------------------

    @overload
    def get(self, key: str, default: None = None) -> Any: ...
    @overload
    def get(self, key: str, default: D) -> D: ...
    @overload
    def get(self, key: str, default: None = None, *, as_type: type[T]) -> T | None: ...
    @overload
    def get(self, key: str, default: D, *, as_type: type[T]) -> T | D: ...
    def get(self, key: str, default: Any = None, *, as_type: Any = None) -> Any:
        """Return the value of `key`, or `default` when there is none.

        Args:
            key: What it is stored under.
            default: What an absent key gives, as it is.
            as_type: A dataclass, TypedDict or pydantic model (or `list[...]`, `dict[str, ...]` of such) to rebuild from
                the stored data, as `dataclasses.asdict` or `model_dump(mode="json")` gave it.

        Raises:
            WrongType: The value does not fit `as_type`; names the path of what does not.
        """
        found = self._store.get(self._key(key))
        if found is None:
            return default
        value = _value(key, found)
        return value if as_type is None else rebuild(value, as_type, repr(key))

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values of those of `keys` that are present, in one round trip."""
        packed = {self._key(key): key for key in keys}
        found = self._store.get_many(list(packed))
        return {packed[key]: _value(packed[key], entry) for key, entry in found.items()}

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
        fence: Lock | None = None,
    ) -> int:
        """Store `value` under `key` and return its version.

        Args:
            key: What to store it under.
            value: JSON-like data; see `codec.encode` for the types.
            ttl: Lifetime in seconds, or a timedelta. Without one the key has no expiry, whatever it had before.
            expires_at: Aware datetime at which it ends, instead of `ttl`. One that has passed leaves the key absent.
            if_version: Store only while the key has this version, as `entry` or an earlier `set` gave it.
            fence: A lock that is held; the store refuses the write, atomically, once that lock was lost.

        Raises:
            InvalidKey, InvalidExpiry, NotSerializable, ValueTooLarge: Before anything is changed.
            VersionConflict: The key is absent or has another version than `if_version`.
            LockLost: The lock of `fence` is not held any more; nothing was stored.
            StoreUnavailable: The store did not answer in time.
        """
        expect = Expect.ANY if if_version is None else if_version
        result = self._guarded(fence, lambda guard: self._put(key, value, expect, ttl, expires_at, guard))
        if not result.applied:
            current = result.entry
            stands = "the key is absent" if current is None else f"the key has version {current.version}"
            raise VersionConflict(f"{key!r} was not set: if_version is {if_version}, but {stands}", key=key)
        return result.entry.version if result.entry is not None else 0

    def add(self, key: str, value: Any, *, ttl: TTL = None, expires_at: datetime | None = None) -> bool:
        """Store `value` if `key` is absent, and return True when it was: of many callers at once exactly one wins."""
        return self._put(key, value, Expect.ABSENT, ttl, expires_at).applied

    def update(self, key: str, fn: Callable[[Any], T], default: Any = None, *, ttl: TTL = None) -> T:
        """Replace the value of `key` by `fn(value)` and return the new value, by compare-and-set.

        `fn` may be called several times and must do nothing but compute. An absent key passes `default`.

        Args:
            key: What it is stored under.
            fn: What makes the new value of the old one.
            default: The old value of an absent key.
            ttl: Lifetime in seconds, from now; without it the key keeps the one it has (in `.run`: that of a new key).

        Raises:
            VersionConflict: Others changed the key each time, 200 times in a row.
        """
        packed = self._key(key)
        found = self._store.get(packed)
        for _ in range(UPDATE_ATTEMPTS):
            value = fn(default if found is None else _value(key, found))
            expect, expires = (Expect.ABSENT, None) if found is None else (found.version, from_micros(found.expires))
            kept = expires if ttl is None and self._ttl is None else None
            result = self._put(key, value, expect, ttl, kept)
            if result.applied:
                return value
            found = result.entry
        raise VersionConflict(f"{key!r} was changed by others {UPDATE_ATTEMPTS} times while it was updated", key=key)

    @overload
    def pop(self, key: str, default: None = None) -> Any: ...
    @overload
    def pop(self, key: str, default: D) -> D: ...
    def pop(self, key: str, default: Any = None) -> Any:
        """Remove `key` and return the value it had, or `default`: of many callers at once one gets it."""
        packed = self._key(key)
        removed = self._store.remove(packed)
        try:
            return default if removed is None else _value(key, removed)
        except ConfigurationError:
            if removed is not None:  # for a release, or a host, that can read it
                self._store.put(packed, removed.value, expect=Expect.ABSENT, expires=removed.expires)
            raise

    def delete(self, *keys: str, if_version: int | None = None) -> int:
        """Remove `keys`, with `if_version` only while they have that version; return how many were removed."""
        expect = Expect.ANY if if_version is None else if_version
        packed = [self._key(key) for key in keys]
        if len(packed) == 1:
            return int(self._store.remove(packed[0], expect=expect) is not None)
        return self._store.remove_all(packed, expect=expect)

    def touch(self, key: str, *, ttl: TTL = None, expires_at: datetime | None = None) -> bool:
        """Give `key` another expiry, or with neither argument none (in `.run`: that of a new key).

        Returns:
            False when the key is absent.

        Raises:
            VersionConflict: Others changed the key each time, 200 times in a row.
        """
        packed, times = self._key(key), self._times(ttl, expires_at)
        found = self._store.get(packed)
        for _ in range(UPDATE_ATTEMPTS):
            if found is None:
                return False
            result = self._store.put(packed, found.value, expect=found.version, **times)
            if result.applied:
                return True
            found = result.entry
        raise VersionConflict(f"{key!r} was changed by others {UPDATE_ATTEMPTS} times while it was touched", key=key)

    # -- listing ---------------------------------------------------------------------------------------------------

    def keys(self, prefix: str = "", *, limit: int = PAGE, after: str | None = None) -> Page[str]:
        """Return one page of the keys that start with `prefix`, in the order of their UTF-8 bytes.

        Args:
            prefix: What they start with.
            limit: Most keys on the page, 1 or more.
            after: The last key of the page before; each page's `next`.
        """
        keys = tuple(unpack(stored.key)[2] for stored in self._scan(prefix, limit, after))
        return Page(keys, keys[-1] if len(keys) == limit else None)

    def items(self, prefix: str = "", *, limit: int = PAGE, after: str | None = None) -> Page[Entry]:
        """Return one page of the entries whose keys start with `prefix`, as `keys` does."""
        found = self._scan(prefix, limit, after)
        entries = tuple(_entry(unpack(stored.key)[2], stored) for stored in found)
        return Page(entries, entries[-1].key if len(entries) == limit else None)

    def clear(self, prefix: str = "") -> int:
        """Remove the keys of this scope that start with `prefix`; return how many. Locks stay.

        Goes through them once, in their order: what others set meanwhile behind it stays.
        """
        removed, after = 0, None
        while found := self._scan(prefix, PAGE, after):
            with behind(removed):
                removed += self._store.remove_all([entry.key for entry in found])
            after = unpack(found[-1].key)[2]
        return removed

    def _scan(self, prefix: str, limit: int, after: str | None) -> list[StoredEntry]:
        if type(limit) is not int or limit < 1:
            raise ValueError(f"limit must be a whole number, 1 or more, not {limit!r:.80}")
        start = None if after is None else pack(STATE, self._scope, check_key(after))
        packed = pack(STATE, self._scope, check_key_prefix(prefix))
        return self._store.scan(packed, after=start, limit=min(limit, INT32_MAX))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _put(self, key: str, *rest: Any) -> PutResult:
        """Write as `_put_entry` does, for a caller who is to be told the key of a value that cannot be stored."""
        try:
            return self._put_entry(key, *rest)
        except (NotSerializable, ValueTooLarge) as error:
            raise type(error)(f"{key!r} was not set: {error}", key=key, **error.__dict__) from None

    def _put_entry(
        self,
        key: str,
        value: Any,
        expect: Expect | int,
        ttl: TTL = None,
        expires_at: datetime | None = None,
        guard: Guard | None = None,
    ) -> PutResult:
        """Write what is compared by version."""
        packed, times = self._key(key), self._times(ttl, expires_at)
        return self._store.put(packed, codec.encode(value, limit=self._limit), expect=expect, guard=guard, **times)


def _entry(key: str, stored: StoredEntry) -> Entry:
    updated = from_micros(stored.updated)
    assert updated is not None  # noqa: S101 - for the type checker
    return Entry(key, _value(key, stored), stored.version, from_micros(stored.expires), updated)


def _value(key: str, stored: StoredEntry) -> Any:
    """Return the value of an entry; what this process cannot read is named by its key."""
    try:
        return codec.decode(stored.value)
    except ConfigurationError as error:
        raise type(error)(f"{key!r}: {error}", **{**error.__dict__, "key": key}) from error
