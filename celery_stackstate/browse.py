"""All state of an environment as one ordered list, whatever its scope: for the admin and for tools."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from celery_stackstate import codec
from celery_stackstate.keys import LOCK, STATE, unpack
from celery_stackstate.locks import describe
from celery_stackstate.records import Page, from_micros
from celery_stackstate.stores.base import Store, StoredEntry


@dataclass(frozen=True, slots=True)
class StateRecord:
    """One key of the state with its place. `kind` is "value", "counter" or "lock"; `id` names it in a URL."""

    id: str
    scope: str
    key: str
    kind: str
    value: Any
    version: int
    expires_at: datetime | None
    updated_at: datetime | None


class Browser:
    """Reads state across scopes, locks included, ordered by scope and key."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def list(
        self,
        scope: str | None = None,
        prefix: str = "",
        *,
        locks: bool | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[StateRecord]:
        """Return one page of values and counters, followed by locks.

        Args:
            scope: "" for the app-wide keys, "task:<name>", "run:<id>" or "scope:<name>"; None for all scopes.
            prefix: What the keys start with; needs a scope, without one it is looked for in the app-wide keys.
            locks: True for locks alone, False for everything but locks.
            after: The id of the last record of the page before; each page's `next`.
            limit: Most records on the page.
        """
        if prefix and scope is None:
            scope = ""
        within = b"" if scope is None else b"%s\0%s" % (scope.encode(), prefix.encode())
        start = None if after is None else _packed(after)
        found: list[StoredEntry] = []
        for kind in (STATE, LOCK):
            if locks is not None and locks is not (kind == LOCK):
                continue
            if len(found) < limit and (start is None or start[:1] in (kind, STATE)):
                inside = start if start is not None and start[:1] == kind else None
                found += self._store.scan(kind + b"\0" + within, after=inside, limit=limit - len(found))
        records = tuple(_record(stored) for stored in found)
        return Page(records, records[-1].id if len(records) == limit else None)

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


def _packed(record_id: str) -> bytes:
    return urlsafe_b64decode(record_id.encode() + b"=" * (-len(record_id) % 4))


def _record(stored: StoredEntry) -> StateRecord:
    kind, scope, key = unpack(stored.key)
    if kind == LOCK:
        info = asdict(describe(key, stored))
        sort, value = "lock", {name: info[name] for name in ("owner", "host", "pid", "fence", "acquired_at")}
    else:
        value = codec.decode(stored.value)
        sort = "counter" if isinstance(stored.value, int) else "value"
    return StateRecord(
        id=urlsafe_b64encode(stored.key).decode().rstrip("="),
        scope=scope,
        key=key,
        kind=sort,
        value=value,
        version=stored.version,
        expires_at=from_micros(stored.expires),
        updated_at=from_micros(stored.updated),
    )
