"""One key, one run: reserve, publish, confirm; claim before the body; finish by compare-and-set.

Every key has one record, changed only by compare-and-set on its version. The task id is derived from the key and a
generation, so that a request that is published again after a crash carries the same id, and its copies meet at the
claim. There is no TTL while a run is alive; retention starts at its end. Leases are counted from the record's last
change by the store's clock, so the clocks of workers and producers do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from celery_stackstate.claiming import Claiming
from celery_stackstate.errors import NewerFormat
from celery_stackstate.key_record import FAILED, RESERVED, Record
from celery_stackstate.key_store import ROUNDS, kept_for, too_busy
from celery_stackstate.reserving import Reserving
from celery_stackstate.stores.base import Store, StoredEntry


class KeyProtocol(Reserving, Claiming):
    """What producers, workers and the reaper do with the keys of one environment."""

    @property
    def store(self) -> Store:
        """Where the records are."""
        return self._store

    def reset(self, store_key: bytes) -> bool:
        """Free a key whatever its run does, for the next call; return False when it was free."""
        stored = self._store.get(store_key)
        for _ in range(ROUNDS):
            if stored is None:
                return False
            record = Record.load(stored)
            if record.state == FAILED and record.ticket.on_failure == "release":
                return False
            ticket, until = replace(record.ticket, on_failure="release"), self._until(record, stored)
            freed = replace(record, state=FAILED, ticket=ticket, result=None, envelope=None, window=None, until=until)
            result = self._write(freed, stored.version, ttl=kept_for(freed, stored.now))
            if result.applied:
                return True
            stored = result.entry
        raise too_busy(record.ticket.key)

    def free(self, store_keys: Sequence[bytes]) -> list[bytes]:
        """Return those of the keys that the reaper need not look after."""
        found = self._store.get_many(store_keys)
        return [key for key in store_keys if key not in found or not _is_looked_after(found[key])]


def _is_looked_after(stored: StoredEntry) -> bool:
    """Return whether the reaper brings the run back: one to be rerun, or one that a duplicate found unpublished."""
    try:
        record = Record.load(stored)
    except NewerFormat:
        return True  # by a worker that can read it
    return not record.ended and (record.ticket.rerun or (record.state == RESERVED and not record.deliveries))
