"""All state of an environment as one ordered list, whatever its scope: for the admin and for tools."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from celery_stackstate import codec
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.folders import Folder, folders
from celery_stackstate.keys import LOCK, STATE, pack, unpack
from celery_stackstate.lock_record import describe
from celery_stackstate.records import Page, from_micros
from celery_stackstate.stores.base import Store, StoredEntry

#: What the value of a lock shows.
HOLDER = ("owner", "run_id", "host", "pid", "fence", "parked", "acquired_at")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that this process cannot read, as of a release behind this one: `reason` says why not."""

    reason: str
    size: int


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One key of the state with its place. `kind` is "value", "counter" or "lock"; `id` names it in a URL.

    `value` is an `Unreadable` where it cannot be read here. `read_at` is the store's time of the answer.
    """

    id: str
    scope: str
    key: str
    kind: str
    value: Any
    version: int
    expires_at: datetime | None
    updated_at: datetime | None
    read_at: datetime | None = None


class Browser:
    """Reads state across scopes, locks included, ordered by scope and key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(
        self,
        scope: str | None = None,
        prefix: str = "",
        *,
        scopes: str = "",
        locks: bool | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[StateRecord]:
        """Return one page of values and counters, followed by locks.

        Args:
            scope: "" for the app-wide keys, "task:<name>", "run:<id>" or "scope:<name>"; None for all scopes.
            prefix: What the keys start with; needs a scope, without one it is looked for in the app-wide keys.
            scopes: What the scopes start with, as "task:", where neither a scope nor a prefix is given.
            locks: True for locks alone, False for everything but locks.
            after: The id of the last record of the page before; each page's `next`.
            limit: Most records on the page.

        Raises:
            ConfigurationError: `after` is no `next`.
            ValueError: `limit` is no whole number of 1 or more.
        """
        if type(limit) is not int or limit < 1:
            raise ValueError(f"limit must be a whole number, 1 or more, not {limit!r:.80}")
        if prefix and scope is None:
            scope = ""
        within = scopes.encode() if scope is None else b"%s\0%s" % (scope.encode(), prefix.encode())
        start = None if after is None else _from_cursor(after)
        found: list[StoredEntry] = []
        for kind in _kinds(locks):
            if len(found) < limit and (start is None or start[:1] in (kind, STATE)):
                inside = start if start is not None and start[:1] == kind else None
                found += self._store.scan(kind + b"\0" + within, after=inside, limit=limit - len(found))
        records = tuple(_record(stored) for stored in found)
        return Page(records, records[-1].id if len(records) == limit else None)

    def folders(
        self,
        scope: str | None = None,
        prefix: str = "",
        *,
        locks: bool | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Folder]:
        """Return one page of what the keys of a scope begin with, up to the next ":" or "/" behind `prefix`.

        A folder that holds many costs no more than one that holds some. A page may hold fewer than `limit` and still
        have a `next`: it takes a bounded number of steps through keys that are in no folder.

        Args:
            scope: As in `list`; None for the scopes themselves, as folders.
            prefix: What the keys start with; without a scope what the scopes start with, as "task:".
            locks: As in `list`.
            after: `next` of the page before.
            limit: Most folders on the page.

        Raises:
            ConfigurationError: `after` is no `next`.
        """
        within = prefix.encode() if scope is None else b"%s\0%s" % (scope.encode(), prefix.encode())
        return folders(self._store, _kinds(locks), within, after=after, limit=limit)

    def get(self, record_id: str) -> StateRecord | None:
        """Return the record `record_id`, or None when it is gone or was never one."""
        try:
            packed = _packed(record_id)
        except ValueError:
            return None
        if packed[:2] not in (STATE + b"\0", LOCK + b"\0") or packed.count(b"\0") != 2:
            return None
        stored = self._store.get(packed)
        return None if stored is None else _record(stored)

    def get_many(self, record_ids: Iterable[str]) -> dict[str, StateRecord]:
        """Return those of the records that there are, by id, in one read. Ids as `record_id` makes them."""
        found = self._store.get_many([_packed(one) for one in record_ids])
        records = [_record(stored) for stored in found.values()]
        return {record.id: record for record in records}


def record_id(scope: str, key: str, *, lock: bool = False) -> str:
    """Return the id of the record of a key, or of a lock's name, in a scope, whether there is one or not."""
    return _id(pack(LOCK if lock else STATE, scope, key))


def _id(packed: bytes) -> str:
    return urlsafe_b64encode(packed).decode().rstrip("=")


def _packed(record_id: str) -> bytes:
    return urlsafe_b64decode(record_id.encode() + b"=" * (-len(record_id) % 4))


def _from_cursor(cursor: str) -> bytes:
    try:
        packed = _packed(cursor)
    except ValueError:
        packed = b""
    if packed[:2] not in (STATE + b"\0", LOCK + b"\0"):
        raise ConfigurationError(f"after={cursor!r:.80} is not the `next` of a page of state")
    return packed


def _kinds(locks: bool | None) -> tuple[bytes, ...]:
    return (STATE, LOCK) if locks is None else (LOCK,) if locks else (STATE,)


def _record(stored: StoredEntry) -> StateRecord:
    kind, scope, key = unpack(stored.key)
    if kind == LOCK:
        sort, value = "lock", _readable(stored, lambda: _holder(key, stored))
    else:
        sort = "counter" if isinstance(stored.value, int) else "value"
        value = _readable(stored, lambda: codec.decode(stored.value))
    return StateRecord(
        id=_id(stored.key),
        scope=scope,
        key=key,
        kind=sort,
        value=value,
        version=stored.version,
        expires_at=from_micros(stored.expires),
        updated_at=from_micros(stored.updated),
        read_at=from_micros(stored.now),
    )


def _holder(name: str, stored: StoredEntry) -> dict[str, Any]:
    info = asdict(describe(name, stored))
    return {field: info[field] for field in HOLDER}


def _readable(stored: StoredEntry, read: Callable[[], Any]) -> Any:
    """Return what `read` gives. One entry of another release, or a zone that is unknown here, hides no other entry."""
    try:
        return read()
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        size = len(stored.value) if isinstance(stored.value, bytes) else 8
        return Unreadable(f"{type(error).__name__}: {error}", size)
