"""The idempotency keys of one environment, for people: what is known of them, and freeing one."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

from celery_stackstate.errors import ConfigurationError, NewerFormat
from celery_stackstate.folders import folders
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import FAILED, UNREADABLE, Record, store_key
from celery_stackstate.key_store import has_expired
from celery_stackstate.keys import APP_SCOPE, IDEMPOTENCY, check_key, pack, scope_of, unpack
from celery_stackstate.records import KeyRecord, Page, from_micros
from celery_stackstate.stores.base import StoredEntry


class Idempotency:
    """The idempotency keys of one environment."""

    def __init__(self, protocol: KeyProtocol) -> None:
        self._protocol = protocol
        self._store = protocol.store

    def get(self, key: str, *, task: str | None = None, run: str | None = None) -> KeyRecord | None:
        """Return what is known of a key, or None when nothing is. One that is known may be free all the same.

        Args:
            key: The idempotency key.
            task: The name of the task it was used for; None for a key of scope "app".
            run: For a key of scope "run", the id of the parent run.
        """
        stored = self._store.get(store_key(_scope(task, run), check_key(key)))
        return None if stored is None else _shown(stored)

    def list(
        self, prefix: str = "", *, task: str | None = None, limit: int = 100, after: str | None = None
    ) -> Page[KeyRecord]:
        """Return one page of the keys that are in use or kept, ordered by scope and key.

        Args:
            prefix: What the keys begin with; needs a task.
            task: The name of the task they were used for; "" for keys of scope "app", None for all.
            limit: Most keys on the page.
            after: `next` of the page before.

        Raises:
            ConfigurationError: `prefix` without a task, or an `after` that is no `next`.
        """
        if prefix and task is None:
            raise ConfigurationError(
                "a prefix of keys needs the task they were used for: task=..., or --task; '' for keys of scope 'app'"
            )
        within = pack(IDEMPOTENCY, _scope(task or None, None), prefix) if task is not None else IDEMPOTENCY + b"\0"
        found = self._store.scan(within, after=_from_cursor(after), limit=limit)
        last = urlsafe_b64encode(found[-1].key).decode() if len(found) == limit else None
        return Page(tuple(map(_shown, found)), last)

    def tasks(self, *, limit: int = 100) -> tuple[str, ...]:
        """Return the names of up to `limit` tasks that have keys, in order."""
        page = folders(self._store, (IDEMPOTENCY,), b"task:", after=None, limit=limit)
        return tuple(folder.name.removeprefix("task:") for folder in page.items)

    def reset(self, key: str, *, task: str | None = None, run: str | None = None) -> bool:
        """Free a key whatever its run does, for the next call; return False when it was free.

        A message of its run that is still with the broker then does nothing, and an attempt that is in the body goes on
        but is not recorded under the key. For a run whose message is known to be gone, as after a purge of its queue.
        """
        return self._protocol.reset(store_key(_scope(task, run), check_key(key)))


def _scope(task: str | None, run: str | None) -> str:
    if run is not None:
        return scope_of("run", run if task is None else f"{run}:{task}")
    return APP_SCOPE if task is None else scope_of("task", task)


def _shown(stored: StoredEntry) -> KeyRecord:
    try:
        record = Record.load(stored)
    except NewerFormat:
        _, scope, key = unpack(stored.key)
        updated, expires = from_micros(stored.updated), from_micros(stored.expires)
        return KeyRecord(key, "", "", UNREADABLE, 0, "", scope, updated_at=updated, expires_at=expires)
    ticket = record.ticket
    return KeyRecord(
        key=ticket.key,
        task=ticket.task,
        run_id=ticket.task_id,
        state=record.state,
        deliveries=record.deliveries,
        fingerprint=ticket.fingerprint,
        scope=ticket.scope,
        updated_at=from_micros(stored.updated),
        expires_at=from_micros(stored.expires),
        generation=ticket.generation,
        free=has_expired(record, stored) or (record.state == FAILED and ticket.on_failure == "release"),
        read_at=from_micros(stored.now),
    )


def _from_cursor(cursor: str | None) -> bytes | None:
    if cursor is None:
        return None
    try:
        decoded = urlsafe_b64decode(cursor.encode())
    except ValueError:
        decoded = b""
    if not decoded.startswith(IDEMPOTENCY + b"\0"):
        raise ConfigurationError(f"after={cursor!r:.80} is not the `next` of a page of keys")
    return decoded
