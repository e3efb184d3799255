"""What is stored of an idempotency key, what a message carries of it, and what producer and worker learn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from celery_stackstate.codec import FORMAT, check_format
from celery_stackstate.keys import EXECUTION, IDEMPOTENCY, ONE_RUN, pack, unpack
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import StoredEntry

RESERVED = "RESERVED"
PUBLISHED = "PUBLISHED"
RUNNING = "RUNNING"
RETRYING = "RETRYING"
SUCCEEDED = "SUCCEEDED"
FAILED = "FAILED"
#: Shown of a record that only a newer release can read.
UNREADABLE = "UNREADABLE"

#: The format of records, and of the tickets and windows in them.
RECORD_FORMAT = 1


def store_key(scope: str, key: str) -> bytes:
    """Return where the record of a key is stored; those of single runs lie apart from the keys that people chose."""
    return pack(EXECUTION if scope == ONE_RUN else IDEMPOTENCY, scope, key)


def _known(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that make a `kind` of stored data, with the fields that it does not have as `more`."""
    names = _NAMES[kind]
    more = data.keys() - names
    known = {name: data[name] for name in names if name in data}
    return {**known, "more": {name: data[name] for name in more}} if more else known


def _plain(record: Ticket | Window | Record) -> dict[str, Any]:
    """Return what is stored of the fields of `record`."""
    return {**record.more, **{name: getattr(record, name) for name in _NAMES[type(record)]}}


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a message carries of its key: enough to find the record, and to make it anew where the store lost it.

    `deliveries`: how often the body may be begun. `rerun`: nobody needs to ask for a run that was lost to come back.
    `unreserved`: the store was away when it was published, so another run may have the key. `more` is what a newer
    release added: it goes wherever the ticket goes.
    """

    scope: str
    key: str
    generation: int
    task_id: str
    task: str
    fingerprint: str
    on_failure: str
    ttl: float
    expires: int | None = None
    deliveries: int | None = None
    rerun: bool = False
    unreserved: bool = False
    more: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Ticket:
        """Return the ticket that `data` holds."""
        return cls(**_known(cls, data))

    def dump(self) -> dict[str, Any]:
        """Return the data that `load` reads."""
        return _plain(self)

    @property
    def store_key(self) -> bytes:
        """Return where the record is stored."""
        return store_key(self.scope, self.key)


@dataclass(frozen=True, slots=True)
class Window:
    """The time in which a debounced request may still be replaced, in microseconds of the store's clock.

    `opened` and `touched` are 0 in the write that opens or touches it: then they are the time of that write.
    """

    delay: int
    longest: int
    opened: int = 0
    touched: int = 0
    more: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def due(self, stored: StoredEntry) -> int:
        """Return when the run may begin."""
        return min((self.touched or stored.updated) + self.delay, (self.opened or stored.updated) + self.longest)

    def at(self, written: int) -> Window:
        """Return the window with the time of the write that holds it filled in."""
        return replace(self, opened=self.opened or written, touched=self.touched or written)


@dataclass(frozen=True, slots=True)
class Record:
    """The record of one key. `token` names its last writer; `worker`, `boot` and `pid` say where it is RUNNING.

    `abandoned`: nobody knows whether the message is out. `dispatched`: the callbacks of the success are out as well.
    `envelope` is what publishes the message again; it goes at the run's end. `not_before`: the ETA in microseconds.
    `until`: to then, by the store's clock, messages of runs that had the key before may come, which it is to stop.
    `more` is what a newer release added: it is kept when the record is changed here.
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
    error: str | None = None
    envelope: str | None = None
    not_before: int = 0
    window: Window | None = None
    until: int = 0
    more: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def ended(self) -> bool:
        """Whether the run has ended for good."""
        return self.state in (SUCCEEDED, FAILED)

    def dump(self) -> bytes:
        """Return the bytes that `load` reads."""
        window = None if self.window is None else _plain(self.window)
        return json.dumps(
            {**_plain(self), "ticket": _plain(self.ticket), "window": window, FORMAT: RECORD_FORMAT}
        ).encode()

    @classmethod
    def load(cls, stored: StoredEntry) -> Record:
        """Return the record that an entry holds.

        Raises:
            NewerFormat: It has a format that this release does not know.
        """
        data = json.loads(stored.value) if isinstance(stored.value, bytes) else {}
        check_format(data, RECORD_FORMAT, f"the record of the key {unpack(stored.key)[2]!r}")
        data.pop(FORMAT, None)
        data["ticket"] = Ticket.load(data["ticket"])
        if data.get("window"):
            data["window"] = Window(**_known(Window, data["window"]))
        return cls(**_known(cls, data))


#: The fields that are stored of each kind, as they are here.
_NAMES: dict[Any, tuple[str, ...]] = {
    kind: tuple(one.name for one in fields(kind) if one.name != "more") for kind in (Ticket, Window, Record)
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a producer asks for: the key, whose run it is to begin, and how to publish that run once more.

    Args:
        scope: Where keys are told apart: "" for the app, "task:<name>", "run:<parent's id>:<name>", or `ONE_RUN`.
        key: The idempotency key.
        task: The task's name.
        fingerprint: Digest of the arguments; another one under the same key is a conflict.
        on_failure: "release" or "keep".
        ttl: Seconds for which the key is kept after the end.
        expires: When the message expires, in microseconds.
        deliveries: How often the body may be begun; None for the setting.
        rerun: Whether the reaper brings the run back when it is lost.
        task_id: The run's id; None to derive it from the key and its generation.
        envelope: How to publish it again, as text; None keeps nothing.
        not_before: Its ETA in microseconds.
        replaces: Whether it takes the place of a run that has not begun.
        window: For how long it may itself be replaced by the next request.
        anew: Whether it is another run than one that has ended, however that ended.
    """

    scope: str
    key: str
    task: str
    fingerprint: str
    on_failure: str
    ttl: float
    expires: int | None = None
    deliveries: int | None = None
    rerun: bool = False
    task_id: str | None = None
    envelope: str | None = None
    not_before: int = 0
    replaces: bool = False
    window: Window | None = None
    anew: bool = False

    @property
    def store_key(self) -> bytes:
        """Return where the record is stored."""
        return store_key(self.scope, self.key)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The producer's side of a key: to be published when `created`, else the handle of the run that has the key.

    `revived`: the run was there before, and is published again under its id. `lost` is then the record of its dead
    attempt, if it had begun. `replaced` is the record of the run whose place it takes. `written` is the store's time.
    `poisoned`: the run that has the key was begun too often and is dead, which nobody has recorded yet.
    """

    created: bool
    ticket: Ticket
    version: int
    record: Record
    revived: bool = False
    lost: Record | None = None
    replaced: Record | None = None
    written: int = 0
    poisoned: bool = False


class Verdict(Enum):
    """What a worker does with a message whose run has a key."""

    RUN = "run the body"
    REPLAY = "return the stored result"
    BUSY = "another attempt is live: come back later"
    DONE = "the run has ended: do nothing"
    STALE = "the key belongs to another run now: do nothing"
    POISON = "it was begun too often: fail"
    FOLLOW = "another run has the key: adopt its outcome"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who claims: one execution in one process of one worker. `epoch` orders it in the run's history.

    `callbacks`: its message has some, which only one process at a time shall publish.
    """

    execution: str
    lease: Lease
    pid: int
    epoch: int
    callbacks: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """The worker's side of a key.

    `lost` is the record of the dead attempt that was passed over, if there was one; `told` says whether the history
    was told of the attempt in the same step.
    """

    verdict: Verdict
    record: Record
    version: int
    lost: Record | None = None
    told: bool = False
