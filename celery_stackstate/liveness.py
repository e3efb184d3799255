"""Who is alive: one lease per worker process, renewed while it lives, listing the processes its attempts run in.

An attempt is live while its worker's lease is, and while its process has not been missing from a renewal that was
written after the attempt began. So a killed worker is noticed when its lease lapses, and a killed pool child at the
worker's next renewal, without any clock but the store's.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import dataclass

from celery_stackstate.keys import WORKER, pack
from celery_stackstate.stores.base import Store


@dataclass(frozen=True, slots=True)
class Lease:
    """The name under which one worker process proves that it lives: its hostname, and a mark of this start of it."""

    worker: str
    boot: str

    @property
    def key(self) -> bytes:
        """Return where it is stored."""
        return pack(WORKER, self.worker, self.boot)


def renew(store: Store, lease: Lease, *, seconds: float, pids: Iterable[int]) -> None:
    """Say that the worker lives, for `seconds` from now, with attempts running in the processes `pids`."""
    value = json.dumps({"host": socket.gethostname(), "pids": sorted(pids)}).encode()
    store.put(lease.key, value, ttl=round(seconds * 1_000_000))


def give_up(store: Store, lease: Lease) -> None:
    """Say that the worker is gone."""
    store.remove(lease.key)


def is_live(store: Store, lease: Lease, *, pid: int, since: int) -> bool:
    """Return whether an attempt that began in process `pid` of the worker at `since` (store microseconds) may run."""
    found = store.get(lease.key)
    if found is None:
        return False
    if found.updated <= since or not isinstance(found.value, bytes):
        return True
    return pid in json.loads(found.value)["pids"]
