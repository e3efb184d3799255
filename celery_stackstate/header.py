"""The one header that a message carries of this package: when it was enqueued, and which run of which key it is."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from celery_stackstate.codec import FORMAT
from celery_stackstate.facts import Stamp, next_epoch, now_micros
from celery_stackstate.key_record import Ticket
from celery_stackstate.keys import ONE_RUN

HEADER = "stackstate"
HEADER_FORMAT = 1
#: What a header says of its own message alone. Whatever else it says of its run goes on with the messages that go on
#: with the run, also what a newer release added. Here that is: `ticket`, whose run it is; `follow`, whose outcome it
#: adopts; `window`, in which window of debounced requests it waits; `refused`, why it must fail; `chain`, its place in
#: one; `rerun_of`, the run that it repeats; `recorded`, whatever the sample says; `replaces`, a run that a canvas
#: replaced.
OF_ONE_MESSAGE = frozenset({"id", "stamp", "after_epoch", "waits", "received", "error", FORMAT})


def is_newer(header: Any) -> bool:
    """Return whether a header has a format that this release does not know: nothing in it but `id` can be read."""
    return isinstance(header, Mapping) and header.get(FORMAT, 1) > HEADER_FORMAT


def is_repetition(header: Mapping[str, Any]) -> bool:
    """Return whether a header says no more than that its message, the first of its run, repeats another run."""
    return "rerun_of" in header and "stamp" not in header


def read_ticket(header: Any, part: str = "ticket") -> Ticket | None:
    """Return the ticket that our header carries, or None."""
    carried = header.get(part) if isinstance(header, Mapping) and not is_newer(header) else None
    return Ticket.load(carried) if carried else None


def read_key(header: Any) -> str | None:
    """Return the idempotency key that a message was published with, or None."""
    for part in ("window", "follow", "ticket"):
        ticket = read_ticket(header, part)
        if ticket is not None:
            return None if ticket.scope == ONE_RUN else ticket.key
    return None


def read_stamp(header: Any) -> Stamp | None:
    """Return the stamp that our header carries, or None."""
    carried = header.get("stamp") if isinstance(header, Mapping) and not is_newer(header) else None
    return Stamp(**{name: carried[name] for name in Stamp.__slots__ if name in carried}) if carried else None


def read_error(header: Any) -> str | None:
    """Return what the attempt before failed with, as our header of a retry says it, or None."""
    carried = header.get("error") if isinstance(header, Mapping) and not is_newer(header) else None
    return carried if isinstance(carried, str) else None


def stamp_headers(
    headers: dict[str, Any],
    parts: Mapping[str, Any],
    *,
    after_epoch: int,
    queue: str | None,
    origin: Callable[[], str | None],
) -> Stamp | None:
    """Put our header on a message that is about to be published, and return its stamp.

    A header of a newer format stays as it is, and has none that could be read.

    Args:
        headers: The message's headers, with that of the message before when it goes on with a run.
        parts: What else the header says.
        after_epoch: The epoch of a lost attempt that the message replaces, 0 for none.
        queue: Where the message goes.
        origin: Tells who asks for a run that is new.
    """
    found = headers.get(HEADER)
    carried = found if isinstance(found, Mapping) and found.get("id") == headers["id"] else {}
    if is_newer(carried):
        return None
    before = read_stamp(carried)
    waiting = before if carried.get("waits") else None  # a retry has stopped waiting for what was busy
    at = now_micros()
    stamp = Stamp(
        first=before.first if before else at,
        at=at,
        epoch=next_epoch(max(after_epoch, before.epoch if before else 0)),
        host=socket.gethostname(),
        pid=os.getpid(),
        program=_program(sys.argv[0] if sys.argv and sys.argv[0] else "python"),
        queue=queue,
        origin=before.origin if before else origin(),
        waits=waiting.waits if waiting else 0,
        waiting_since=waiting.waiting_since if waiting else 0,
    )
    kept = {part: said for part, said in carried.items() if part not in OF_ONE_MESSAGE}
    headers[HEADER] = {"id": headers["id"], FORMAT: HEADER_FORMAT, "stamp": stamp.dump(), **kept, **parts}
    inner = headers.get("headers")
    if isinstance(inner, Mapping):  # of a tracer, such as Sentry's: then these are all that Celery gives the task
        headers["headers"] = {**inner, HEADER: headers[HEADER]}
    return stamp


@cache
def _program(path: str) -> str:
    """Return what people call a process: `gunicorn`, `manage.py`, and of `python -m celery` the module."""
    name = os.path.basename(path)
    return os.path.basename(os.path.dirname(path)) or name if name == "__main__.py" else name
