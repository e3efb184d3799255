"""What the entry of a lock says: who holds it, and under which fence."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_stackstate.codec import FORMAT
from celery_stackstate.records import from_micros
from celery_stackstate.stores.base import StoredEntry

LOCK_FORMAT = 1
#: What is known of a lock whose format is not known here: it is held, by somebody else.
FOREIGN = {"owner": "a process of a newer celery-stackstate"}


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Who holds a lock. `run_id` is None for a holder outside of runs; `parked` tells a lock that waits for a retry."""

    name: str
    owner: str
    run_id: str | None
    host: str
    pid: int
    fence: int
    parked: bool
    acquired_at: datetime | None
    expires_at: datetime | None


def dump(owner: str, token: str, run_id: str | None, *, fence: int | None, parked: bool) -> bytes:
    """Return the entry of a lock. While it is taken the fence is None: it will be the version of that write."""
    holder = {"owner": owner, "run": run_id, "host": socket.gethostname(), "pid": os.getpid()}
    return json.dumps({**holder, "token": token, "fence": fence, "parked": parked, FORMAT: LOCK_FORMAT}).encode()


def describe(name: str, found: StoredEntry) -> LockInfo:
    """Return what a lock's entry says about its holder."""
    value = load(found)
    fence = int(value.get("fence") or found.version)
    return LockInfo(
        name=name,
        owner=str(value.get("owner", "")),
        run_id=value.get("run"),
        host=str(value.get("host", "")),
        pid=int(value.get("pid", 0)),
        fence=fence,
        parked=bool(value.get("parked")),
        acquired_at=from_micros(fence),
        expires_at=from_micros(found.expires),
    )


def load(stored: StoredEntry) -> dict[str, Any]:
    """Return what the entry of a lock holds. One of a format that is not known here is neither mine nor parked."""
    value: dict[str, Any] = json.loads(stored.value) if isinstance(stored.value, bytes) else {}
    return value if value.get(FORMAT, 1) <= LOCK_FORMAT else FOREIGN
