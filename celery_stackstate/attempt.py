"""One execution of a run's body while it goes on: what it has to say, collected until it is written."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from celery_stackstate import facts
from celery_stackstate.facts import Retention, now_micros
from celery_stackstate.latest import Latest, dump_progress, progress_in
from celery_stackstate.log_tail import LogLimits, LogTail
from celery_stackstate.payload import Redactor, Snapshot, printable
from celery_stackstate.records import FAILURE, STARTED, SUCCESS
from celery_stackstate.stores.base import DroppedLogs, RunFacts, RunStanding, RunWrite, StoredEvent, StoredLog
from celery_stackstate.telling import Telling
from celery_stackstate.touches import Touches
from celery_stackstate.usage import Usage

MAX_EVENTS, MOST_NAME = 500, 200


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where an attempt runs and which delivery of its message began it. Times in microseconds.

    `waits` counts how often the message was sent again because something was busy.
    """

    worker: str
    boot: str
    pid: int
    retries: int
    redelivered: bool
    queued_at: int | None
    eta: int | None
    waits: int = 0
    received_at: int | None = None

    @property
    def is_first(self) -> bool:
        """Whether no attempt of the run can have come before."""
        return not (self.retries or self.redelivered or self.waits)

    def waited(self, at: int) -> int:
        """Return how long a start at that time had to wait, since the message was sent or was due."""
        return max(0, at - max(self.queued_at or at, self.eta or 0))

    def start(self, execution: str, *, at: int, epoch: int, payload: Mapping[str, Any]) -> StoredEvent:
        """Return the start of the execution that this delivery began."""
        return facts.event(
            f"started:{execution}",
            "started",
            execution=execution,
            at=at,
            epoch=epoch,
            worker=self.worker,
            boot=self.boot,
            pid=self.pid,
            retries=self.retries,
            redelivered=self.redelivered or None,
            queued_at=self.queued_at,
            received=self.received_at,
            wait=self.waited(at),
            **payload,
        )


class OpenAttempt:
    """Collects the facts of one execution. Any thread may add; `take` returns what was not taken before.

    What is said is kept as it was at the call, never as the caller's own object, which may change.
    """

    def __init__(
        self,
        run_id: str,
        run_facts: RunFacts,
        epoch: int,
        delivery: Delivery,
        *,
        redactor: Redactor,
        keep: Retention,
        limits: LogLimits,
        payload: Mapping[str, Any] | None = None,
        interrupts: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.run_id, self.facts, self.epoch, self.delivery = run_id, run_facts, epoch, delivery
        self.execution = uuid4().hex
        self.started = self._latest = now_micros()
        self.ended = self._skipped = False
        self.recorded = True
        self.waited = delivery.waited(self.started)
        self._telling, self._keep, self._limits = Telling(redactor, interrupts), keep, limits
        self._mutex = threading.RLock()  # a finalizer that runs in here may log
        self._usage = Usage()
        self._log = LogTail(self.execution, limits)
        self._noted = 0
        self._slots: dict[str, Latest] = {}
        self._progress: str | None = None
        self._touches = Touches(f"run:{run_id}")
        self._end: RunWrite | None = None
        self._events: list[StoredEvent] = [self._start_event(payload or {})]

    def _start_event(self, payload: Mapping[str, Any]) -> StoredEvent:
        return self.delivery.start(self.execution, at=self.started, epoch=self.epoch, payload=payload)

    @property
    def _start_uid(self) -> str:
        return f"started:{self.execution}"

    def log(self, *, at: int, level: int, logger: str, message: str) -> None:
        """Add a log line, redacted. What the project's own redaction logs meanwhile is left out."""
        if self._telling.is_asking:
            return
        text = self._telling.line(message)
        with self._mutex:
            if not self._skipped:
                self._log.add(at=at, level=level, logger=printable(logger), message=text)

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Add an event of the task's own to the timeline; beyond 500 of one attempt they are dropped."""
        shown, called = self._telling.snapshot(dict(data)).value, self._telling.name(name)[:MOST_NAME]
        if not isinstance(shown, dict):  # a text: there was too much of it, or the project's hook says so
            shown = {"data": shown}
        with self._mutex:
            self._noted += 1
            if self._noted <= MAX_EVENTS:
                uid, at = f"{facts.NOTE}{self.execution}:{self._noted}", self._now()
                self._events.append(facts.event(uid, called, execution=self.execution, at=at, custom=True, data=shown))

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Say how far it is. Only the latest is kept until the next write, so a call per item is cheap."""
        text = message if message is None or type(message) is str else self._telling.told(str, message)
        self._say("progress", {"done": done, "total": total, "message": text})

    def state(self, state: str | None, meta: Any) -> None:
        """Say what the task tells the result backend of itself; like `progress`, only the latest is kept.

        Numbers in it that are a progress are one.
        """
        self._say("state", {"state": self._telling.snapshot(state).value, "meta": self._telling.snapshot(meta).value})
        found = self._telling.told(progress_in, meta)
        if isinstance(found, tuple):
            self.progress(*found, None)

    def touch(self, packed: bytes) -> None:
        """Say that the task used a key of the state, packed as the store knows it."""
        with self._mutex:
            self._touches.add(packed)

    def _say(self, name: str, data: Mapping[str, Any]) -> None:
        with self._mutex:
            self._slots.setdefault(name, Latest()).say(self._now(), data)

    def _now(self) -> int:
        """Return the time, later than that of the event before: events are ordered by it."""
        self._latest = max(self._latest + 1, now_micros())
        return self._latest

    def skip(self, name: str, data: Mapping[str, Any]) -> None:
        """Say that this delivery was no attempt at all: only the event `name` is kept of it."""
        with self._mutex:
            self._skipped = True
            self._log.clear()
            self._slots.clear()
            self._end = None
            self._events = [facts.event(f"{name}:{self.execution}", name, worker=self.delivery.worker, **data)]

    def ask(self, payload: Mapping[str, Any]) -> None:
        """Say what was asked for, on behalf of a publisher that said nothing; before the start is taken."""
        with self._mutex:
            if not self._skipped:
                self._events[0] = self._start_event(payload)

    def replace_payload(self, payload: Mapping[str, Any]) -> None:
        """Say what the body gets in place of what the first of several requests asked for."""
        with self._mutex:
            uid = f"{facts.DEBOUNCED}:{self.execution}"
            self._events.append(facts.event(uid, facts.DEBOUNCED, execution=self.execution, at=self._now(), **payload))

    def opening(self) -> list[RunWrite]:
        """Return the start as it would be written by itself; nothing when it was taken."""
        with self._mutex:
            start = [event for event in self._events if event.uid == self._start_uid]
        return [self._write(facts.rank(STARTED, self.epoch), self._standing(), start)] if start else []

    def opened(self) -> None:
        """Say that what `opening` returned has been written."""
        with self._mutex:
            self._events = [event for event in self._events if event.uid != self._start_uid]

    def succeed(self, result: Any) -> None:
        """Say that it succeeded, and with what."""
        shown = self._telling.snapshot(result, "result") if self.recorded else Snapshot(None)
        self.end(SUCCESS, result=shown.value, result_truncated=shown.truncated or None)

    def end(self, status: str, *, name: str | None = None, **data: Any) -> None:
        """Say how it ended. A later call replaces an earlier one only to turn it into a failure."""
        with self._mutex:
            if self._skipped or (self._end is not None and status != FAILURE):
                return
            self.ended = True
            self._end = facts.ended(
                self.run_id,
                self.facts,
                self.epoch,
                status,
                name=name,
                execution=self.execution,
                worker=self.delivery.worker,
                retries=self.delivery.retries,
                waited=self.waited,
                started=self.started,
                at=self._now(),
                keep=self._keep,
                data={
                    **data,
                    **self._usage.since(),
                    "omitted_lines": self._log.omitted or None,
                    "touched": self._touches.untold() or None,
                },
            )

    def take(self) -> RunWrite | None:
        """Return what is to be written now, or None."""
        with self._mutex:
            ends = self._end is not None
            told = [*self._due(at_once=ends), *self._touched(in_end=ends)]  # first: nothing is taken when it fails
            events, self._events = [*self._events, *told], []
            end, self._end = self._end, None
            logs, dropped = self._log.take()
        if end is None and not (events or logs or dropped):
            return None
        if end is not None:
            standing = end.standing and replace(end.standing, progress=self._progress)
            return self._write(end.rank, standing, [*events, *end.events], logs, dropped)
        if self._skipped:
            return self._write(0, None, events, logs, dropped)
        return self._write(facts.rank(STARTED, self.epoch), self._standing(), events, logs, dropped)

    def _write(
        self,
        rank: int,
        standing: RunStanding | None,
        events: Sequence[StoredEvent],
        logs: Sequence[StoredLog] = (),
        dropped: Sequence[DroppedLogs] = (),
    ) -> RunWrite:
        first = self.delivery.is_first
        return RunWrite(
            self.run_id,
            rank,
            self.facts,
            standing,
            events,
            logs,
            dropped,
            most_events=None if first else facts.MOST_EVENTS,
            most_logs=None if first or not logs else self._limits.run_lines,
        )

    def _standing(self) -> RunStanding:
        forget = now_micros() + round(self._keep(STARTED) * 1_000_000)
        delivery = self.delivery
        return RunStanding(
            STARTED,
            delivery.worker,
            delivery.retries,
            waited=self.waited,
            started=self.started,
            forget=forget,
            progress=self._progress,
        )

    def _touched(self, *, in_end: bool) -> list[StoredEvent]:
        """Return what tells of the keys used since the last time; an end tells of them itself."""
        untold = [] if self._skipped else self._touches.untold()
        self._touches.told()
        if in_end or not untold:
            return []
        at = self._now()
        uid = f"touched:{self.execution}:{at}"
        return [facts.event(uid, "touched", execution=self.execution, at=at, touched=untold)]

    def _due(self, *, at_once: bool) -> list[StoredEvent]:
        found = []
        for name, slot in self._slots.items():
            told = slot.take(self.started, now_micros(), at_once=at_once)
            if told is not None:
                at, data = told
                if name == "progress":
                    data = {**data, "message": self._telling.snapshot(data["message"]).value}
                    self._progress = dump_progress(at, **data)
                uid = f"{name}:{self.execution}:{at}"
                found.append(facts.event(uid, name, execution=self.execution, at=at, **data))
        return found
