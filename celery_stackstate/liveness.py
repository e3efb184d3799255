"""Who is alive: one lease per worker process, renewed while it lives, listing the processes its attempts run in.

An attempt is live while its worker's lease is, and its process is not missing from a list that was made after the
attempt began. A list is made between two renewals, so it tells about attempts that began before the earlier of them.
A killed worker is thus noticed when its lease lapses, and a killed pool child after at most two renewals, without any
clock but the store's. Whoever knows a start by the clock of the worker's host compares it with the time at which that
host, by the same clock, made the list: clocks of two hosts are never compared.

Beside its lease each start of a worker has an entry on the roll, which does not lapse: who is on the roll and has no
lease is dead, and may have left runs that nobody has begun to tell of.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from celery_stackstate.keys import ROLL, WORKER, pack, unpack
from celery_stackstate.records import EPOCH, Worker, from_micros
from celery_stackstate.stores.base import Store, StoredEntry

PAGE = 1000
#: Microseconds by which a host may set back its clock without that a process which it forks just then seems to be gone.
SLACK = 2_000_000


@dataclass(frozen=True, slots=True, order=True)
class Lease:
    """The name under which one worker process proves that it lives: its hostname, and a mark of this start of it."""

    worker: str
    boot: str

    @property
    def key(self) -> bytes:
        """Return where it is stored."""
        return pack(WORKER, self.worker, self.boot)

    @property
    def roll_key(self) -> bytes:
        """Return where its entry on the roll is stored."""
        return pack(ROLL, self.worker, self.boot)


@dataclass(frozen=True, slots=True)
class Living:
    """What a lease says: the processes of its worker, and when they were listed by the clock of their host.

    `until` is when it lapses, in microseconds of the store.
    """

    pids: frozenset[int]
    listed: int
    until: int | None = None

    def is_new(self, started: int) -> bool:
        """Return whether the list may have been made before an attempt that began then by the clock of that host."""
        return started >= self.listed - SLACK

    def has(self, pid: int, started: int) -> bool:
        """Return whether an attempt that began in process `pid` at that time may run."""
        return self.is_new(started) or pid in self.pids


@dataclass(frozen=True, slots=True)
class Enrolled:
    """An entry of the roll. `seen` and `now` are the last renewal and the present, in microseconds of the store."""

    lease: Lease
    host: str
    pid: int
    pids: tuple[int, ...]
    started: int
    seen: int
    now: int
    version: int


def renew(store: Store, lease: Lease, *, seconds: float, pids: Iterable[int], before: int, listed: int = 0) -> int:
    """Say that the worker lives, for `seconds` from now, with attempts running in the processes `pids`.

    Args:
        store: Where to.
        lease: Whose.
        seconds: For how long.
        pids: The processes, listed after the renewal before was written.
        before: What that renewal returned, 0 for the first.
        listed: The host's time in microseconds right before they were listed; 0 when it is not known.

    Returns:
        The store's time of this renewal.
    """
    said = {"host": socket.gethostname(), "pids": sorted(pids), "known_until": before, "listed": listed}
    written = store.put(lease.key, json.dumps(said).encode(), ttl=round(seconds * 1_000_000)).entry
    return 0 if written is None else written.updated


def enrol(store: Store, lease: Lease, *, pid: int, pids: Iterable[int], started: int) -> None:
    """Put a worker on the roll, or say that it was seen again. `started` is in microseconds of its host's clock."""
    said = {"host": socket.gethostname(), "pid": pid, "pids": sorted(pids), "started": started}
    store.put(lease.roll_key, json.dumps(said).encode())


def give_up(store: Store, lease: Lease) -> None:
    """Say that the worker is gone, and that it has left nothing behind."""
    store.remove(lease.key)
    store.remove(lease.roll_key)


def strike_off(store: Store, enrolled: Enrolled) -> None:
    """Take a dead worker off the roll, unless it came back just now."""
    store.remove(enrolled.lease.roll_key, expect=enrolled.version)


def is_live(store: Store, lease: Lease, *, pid: int, since: int) -> bool:
    """Return whether an attempt that began in process `pid` of the worker at `since` (store microseconds) may run."""
    if not lease.boot:
        return True  # a worker that held no lease: nothing can tell that it is gone
    found = store.get(lease.key)
    if found is None or not isinstance(found.value, bytes):
        return False
    value = json.loads(found.value)
    return since >= value["known_until"] or pid in value["pids"]


def living(store: Store) -> dict[Lease, Living]:
    """Return all leases."""
    return {_lease(entry): _living(entry) for entry in _all(store, WORKER)}


def living_one(store: Store, lease: Lease) -> Living | None:
    """Return what one lease says, None for one that has lapsed."""
    found = store.get(lease.key)
    return None if found is None else _living(found)


def roll(store: Store) -> list[Enrolled]:
    """Return all who are on the roll."""
    return [_enrolled(entry) for entry in _all(store, ROLL)]


def workers(store: Store) -> tuple[Worker, ...]:
    """Return the workers, living or dead, that are on the roll, by hostname and start."""
    alive = living(store)
    found = [
        Worker(
            hostname=one.lease.worker,
            boot=one.lease.boot,
            host=one.host,
            pid=one.pid,
            processes=one.pids,
            started_at=EPOCH + timedelta(microseconds=one.started),
            seen_at=EPOCH + timedelta(microseconds=one.seen),
            live=one.lease in alive,
            expires_at=from_micros(alive[one.lease].until) if one.lease in alive else None,
            read_at=from_micros(one.now),
        )
        for one in roll(store)
    ]
    return tuple(sorted(found, key=lambda worker: (worker.hostname, worker.started_at, worker.boot)))


def _all(store: Store, kind: bytes) -> Iterator[StoredEntry]:
    after: bytes | None = None
    while True:
        entries = store.scan(kind + b"\0", after=after, limit=PAGE)
        yield from entries
        if len(entries) < PAGE:
            return
        after = entries[-1].key


def _lease(entry: StoredEntry) -> Lease:
    return Lease(*unpack(entry.key)[1:])


def _living(entry: StoredEntry) -> Living:
    value = _said(entry)
    return Living(frozenset(value.get("pids", ())), value.get("listed", 0), entry.expires)


def _enrolled(entry: StoredEntry) -> Enrolled:
    value, lease = _said(entry), _lease(entry)
    pids = tuple(value.get("pids", ()))
    return Enrolled(
        lease,
        value.get("host", ""),
        value.get("pid", 0),
        pids,
        value.get("started", entry.updated),
        entry.updated,
        entry.now,
        entry.version,
    )


def _said(entry: StoredEntry) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(entry.value) if isinstance(entry.value, bytes) else {}
    return said
