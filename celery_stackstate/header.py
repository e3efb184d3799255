"""The one header that a message carries of this package: when it was enqueued, and which run of which key it is."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from celery_stackstate.facts import Stamp, next_epoch, now_micros
from celery_stackstate.key_record import Ticket

HEADER = "stackstate"


def read_ticket(header: Any) -> Ticket | None:
    """Return the ticket that our header carries, or None."""
    carried = header.get("ticket") if isinstance(header, Mapping) else None
    return Ticket.load(carried) if carried else None


def read_stamp(header: Any) -> Stamp | None:
    """Return the stamp that our header carries, or None."""
    carried = header.get("stamp") if isinstance(header, Mapping) else None
    return Stamp(**{name: carried[name] for name in Stamp.__slots__ if name in carried}) if carried else None


def stamp_headers(headers: dict[str, Any], ticket: Ticket | None, *, after_epoch: int) -> None:
    """Put our header on a message that is about to be published.

    Args:
        headers: The message's headers, with that of the message before when it goes on with a run.
        ticket: The run's, if it has a key.
        after_epoch: The epoch of a lost attempt that the message replaces, 0 for none.
    """
    found = headers.get(HEADER)
    carried = found if isinstance(found, Mapping) and found.get("id") == headers["id"] else {}
    before = read_stamp(carried)
    waiting = before if carried.get("waits") else None  # a retry has stopped waiting for what was busy
    at = now_micros()
    stamp = Stamp(
        first=before.first if before else at,
        at=at,
        epoch=next_epoch(max(after_epoch, before.epoch if before else 0)),
        publisher=_publisher(),
        waits=waiting.waits if waiting else 0,
        waiting_since=waiting.waiting_since if waiting else 0,
    )
    header: dict[str, Any] = {"id": headers["id"], "stamp": asdict(stamp)}
    if ticket is not None:
        header["ticket"] = asdict(ticket)
    headers[HEADER] = header


def _publisher() -> str:
    program = os.path.basename(sys.argv[0]) if sys.argv and sys.argv[0] else "python"
    return f"{program} on {socket.gethostname()} (pid {os.getpid()})"
