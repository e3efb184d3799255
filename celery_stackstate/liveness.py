"""Who is alive: one lease per worker process, renewed while it lives, listing the processes its attempts run in.

An attempt is live while its worker's lease is, and its process is not missing from a list that was made after the
attempt began. A list is made between two renewals, so it tells about attempts that began before the earlier of them.
A killed worker is thus noticed when its lease lapses, and a killed pool child after at most two renewals, without any
clock but the store's.
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


def renew(store: Store, lease: Lease, *, seconds: float, pids: Iterable[int], before: int) -> int:
    """Say that the worker lives, for `seconds` from now, with attempts running in the processes `pids`.

    Args:
        store: Where to.
        lease: Whose.
        seconds: For how long.
        pids: The processes, listed after the renewal before was written.
        before: What that renewal returned, 0 for the first.

    Returns:
        The store's time of this renewal.
    """
    value = json.dumps({"host": socket.gethostname(), "pids": sorted(pids), "known_until": before}).encode()
    written = store.put(lease.key, value, ttl=round(seconds * 1_000_000)).entry
    return 0 if written is None else written.updated


def give_up(store: Store, lease: Lease) -> None:
    """Say that the worker is gone."""
    store.remove(lease.key)


def is_live(store: Store, lease: Lease, *, pid: int, since: int) -> bool:
    """Return whether an attempt that began in process `pid` of the worker at `since` (store microseconds) may run."""
    if not lease.boot:
        return True  # a worker that held no lease: nothing can tell that it is gone
    found = store.get(lease.key)
    if found is None or not isinstance(found.value, bytes):
        return False
    value = json.loads(found.value)
    return since >= value["known_until"] or pid in value["pids"]
