"""What is written about a run, and which fact decides its status, whatever the order in which the facts arrive.

A run's status is that of its fact with the highest rank. A success outranks all. Otherwise the later epoch does: the
time of the attempt, or of the message, that the fact is about. An epoch travels in the message's header and each step
takes a larger one than the step before (Lamport), so clocks of different hosts cannot turn the order around. Within one
epoch a later phase outranks an earlier one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from celery_stackstate.records import (
    FAILURE,
    IGNORED,
    LOST,
    QUEUED,
    RECEIVED,
    REJECTED,
    RETRY,
    REVOKED,
    STARTED,
    SUCCESS,
)
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, StoredEvent

#: Most events that a run keeps over all its attempts, the first ones and the newest.
MOST_EVENTS = 1_000

#: How the uids of events begin that tasks have named, and of those that tell an end.
NOTE, END = "note:", "end:"
#: The event that says what the body of a debounced run gets, which is what the last of its requests asked for.
DEBOUNCED = "debounced"

PHASES = (QUEUED, RECEIVED, STARTED, LOST, RETRY, IGNORED, REJECTED, REVOKED, FAILURE, SUCCESS)
SUCCESS_RANK = 2**50

Retention = Callable[[str], float]


def now_micros() -> int:
    """Return this host's time in microseconds since 1970."""
    return time.time_ns() // 1000


def next_epoch(before: int = 0) -> int:
    """Return an epoch (milliseconds) later than `before`, and now unless that clock is behind."""
    return max(before + 1, time.time_ns() // 1_000_000)


def rank(status: str, epoch: int) -> int:
    """Return the rank of a fact about `epoch` that says `status`."""
    return epoch * 16 + PHASES.index(status) + (SUCCESS_RANK if status == SUCCESS else 0)


def epoch_of(rank: int) -> int:
    """Return the epoch that the fact with a rank is about."""
    return rank % SUCCESS_RANK // 16


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a message's header says about its publishing. Times are microseconds of the publisher's clock.

    `host`, `pid` and `program` are those of the process that published this message; `origin` is whom the project named
    as asking for the run. `waits` counts how often it was sent again because something was busy, since `waiting_since`.
    """

    first: int
    at: int
    epoch: int
    host: str = ""
    pid: int = 0
    program: str = ""
    queue: str | None = None
    origin: str | None = None
    waits: int = 0
    waiting_since: int = 0

    def dump(self) -> dict[str, Any]:
        """Return what a header carries of it."""
        return {name: getattr(self, name) for name in self.__slots__}


def event(uid: str, name: str, *, execution: str | None = None, at: int | None = None, **data: Any) -> StoredEvent:
    """Return one fact with `data` as JSON; what is None is left out."""
    kept = {key: value for key, value in data.items() if value is not None}
    return StoredEvent(uid, now_micros() if at is None else at, name, execution, json.dumps(kept).encode())


def queued(
    run_id: str,
    facts: RunFacts,
    stamp: Stamp,
    *,
    retries: int,
    eta: int | None,
    error: str | None = None,
    data: Mapping[str, Any],
    keep: Retention,
) -> RunWrite:
    """Return what the publisher of a message knows. One that goes on with a run that was begun says RETRY, and why."""
    status = RETRY if retries or stamp.waits else QUEUED
    return RunWrite(
        run_id,
        rank(QUEUED, stamp.epoch),
        facts,
        RunStanding(status=status, retries=retries, error=error, forget=_forget(status, keep, eta)),
        [event(f"queued:{stamp.epoch}", "queued", at=stamp.at, retries=retries, eta=eta, **data)],
    )


def received(
    run_id: str,
    facts: RunFacts,
    epoch: int,
    *,
    worker: str,
    boot: str | None = None,
    retries: int,
    eta: int | None,
    error: str | None = None,
    at: int | None = None,
    keep: Retention,
) -> RunWrite:
    """Return what a worker knows that was delivered a message; `boot` names which of its starts."""
    status = RETRY if retries else RECEIVED
    at = now_micros() if at is None else at
    return RunWrite(
        run_id,
        rank(RECEIVED, epoch),
        facts,
        RunStanding(status=status, worker=worker, retries=retries, error=error, forget=_forget(status, keep, eta)),
        [event(f"received:{epoch}:{worker}:{at}", "received", at=at, worker=worker, boot=boot)],
    )


def ended(
    run_id: str,
    facts: RunFacts,
    epoch: int,
    status: str,
    *,
    name: str | None = None,
    execution: str | None = None,
    worker: str | None = None,
    retries: int = 0,
    waited: int | None = None,
    started: int | None = None,
    at: int | None = None,
    keep: Retention,
    data: Mapping[str, Any],
) -> RunWrite:
    """Return what ended an attempt, or (without an execution) a run that no body was begun for."""
    at = now_micros() if at is None else at
    name = name or status.lower()
    return RunWrite(
        run_id,
        rank(status, epoch),
        facts,
        RunStanding(
            status=status,
            worker=worker,
            retries=retries,
            waited=waited,
            started=started,
            finished=at,
            error=error_line(data),
            forget=_forget(status, keep),
        ),
        [event(f"{END}{name}:{execution or epoch}:{at}", name, execution=execution, at=at, **data)],
    )


def error_line(data: Mapping[str, Any]) -> str | None:
    """Return what a list says of an error; None of none."""
    return f"{data['error_type']}: {data.get('error')}"[:500] if data.get("error_type") else None


def _forget(status: str, keep: Retention, eta: int | None = None) -> int:
    return max(now_micros(), eta or 0) + round(keep(status) * 1_000_000)
