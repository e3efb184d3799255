"""What is stored of an idempotency key, what a message carries of it, and what producer and worker learn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from celery_stackstate.keys import IDEMPOTENCY, pack
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import StoredEntry

RESERVED = "RESERVED"
PUBLISHED = "PUBLISHED"
RUNNING = "RUNNING"
RETRYING = "RETRYING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a message carries of its key: enough to find the record, and to make it anew where the store lost it."""

    scope: str
    key: str
    generation: int
    task_id: str
    task: str
    fingerprint: str
    on_failure: str
    ttl: float
    expires: int | None = None

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Ticket:
        """Return the ticket that `data` holds; what a newer version added is left out."""
        return cls(**{name: data[name] for name in cls.__slots__ if name in data})

    @property
    def store_key(self) -> bytes:
        """Return where the record is stored."""
        return pack(IDEMPOTENCY, self.scope, self.key)


@dataclass(frozen=True, slots=True)
class Record:
    """The record of one key. `token` names its last writer; `worker`, `boot` and `pid` say where it is RUNNING.

    `abandoned`: nobody knows whether the message is out. `dispatched`: the callbacks of the success are out as well.
    """

    state: str
    ticket: Ticket
    token: str
    worker: str = ""
    boot: str = ""
    pid: int = 0
    epoch: int = 0
    deliveries: int = 0
    abandoned: bool = False
    dispatched: bool = False
    result: str | None = None

    def dump(self) -> bytes:
        """Return the bytes that `load` reads."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, stored: StoredEntry) -> Record:
        """Return the record that an entry holds."""
        data = json.loads(stored.value) if isinstance(stored.value, bytes) else {}
        known = {name: data[name] for name in cls.__slots__ if name in data}
        return cls(**{**known, "ticket": Ticket.load(data["ticket"])})


@dataclass(frozen=True, slots=True)
class Reservation:
    """The producer's side of a key: to be published when `created`, else the handle of the run that has the key.

    `lost` is the record of the dead attempt that this publish brings back, if it does.
    """

    created: bool
    ticket: Ticket
    version: int
    record: Record
    lost: Record | None = None


class Verdict(Enum):
    """What a worker does with a message whose run has a key."""

    RUN = "run the body"
    REPLAY = "return the stored result"
    BUSY = "another attempt is live: come back later"
    DONE = "the run has ended: do nothing"
    STALE = "the key belongs to another run now: do nothing"
    POISON = "it was begun too often: fail"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who claims: one execution in one process of one worker. `epoch` orders it in the run's history."""

    execution: str
    lease: Lease
    pid: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The worker's side of a key. `lost` is the record of the dead attempt that was passed over, if there was one."""

    verdict: Verdict
    record: Record
    version: int
    lost: Record | None = None
