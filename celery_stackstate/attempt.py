"""One execution of a run's body while it goes on: what it has to say, collected until it is written."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from celery_stackstate import facts
from celery_stackstate.facts import Retention, now_micros
from celery_stackstate.payload import Redactor, printable
from celery_stackstate.records import FAILURE, STARTED
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, StoredEvent, StoredLog

MAX_EVENTS = 500
PROGRESS_PAUSE = 1_000_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an attempt runs and which delivery it came from. Times in microseconds."""

    worker: str
    boot: str
    pid: int
    retries: int
    redelivered: bool
    queued_at: int | None
    eta: int | None


class OpenAttempt:
    """Collects the facts of one execution. Any thread may add; `take` returns what was not taken before."""

    def __init__(
        self,
        run_id: str,
        run_facts: RunFacts,
        epoch: int,
        origin: Origin,
        *,
        redactor: Redactor,
        keep: Retention,
        log_lines: int,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        self.run_id, self.facts, self.epoch, self.origin = run_id, run_facts, epoch, origin
        self.execution = uuid4().hex
        self.started = now_micros()
        self.ended = self._skipped = False
        self.waited = max(0, self.started - max(origin.queued_at or self.started, origin.eta or 0))
        self._redactor, self._keep, self._log_lines = redactor, keep, log_lines
        self._mutex = threading.RLock()  # a finalizer that runs in here may log
        self._logged = self._noted = self._unlogged = 0
        self._logs: list[StoredLog] = []
        self._progress: StoredEvent | None = None
        self._progress_after = 0
        self._end: RunWrite | None = None
        self._events: list[StoredEvent] = [self._start_event(payload or {})]

    def _start_event(self, payload: Mapping[str, Any]) -> StoredEvent:
        origin = self.origin
        return facts.event(
            f"started:{self.execution}",
            "started",
            execution=self.execution,
            at=self.started,
            epoch=self.epoch,
            worker=origin.worker,
            boot=origin.boot,
            pid=origin.pid,
            retries=origin.retries,
            redelivered=origin.redelivered or None,
            queued_at=origin.queued_at,
            wait=self.waited,
            **payload,
        )

    def log(self, *, at: int, level: int, logger: str, message: str) -> None:
        """Add a log line, redacted; beyond the limit lines are only counted."""
        text = self._redactor.text(message) if self._logged < self._log_lines else ""
        with self._mutex:
            if self._skipped:
                return
            if self._logged >= self._log_lines:
                self._unlogged += 1
                return
            self._logged += 1
            self._logs.append(StoredLog(self.execution, self._logged, at, level, printable(logger), text))

    def note(self, name: str, data: Mapping[str, Any]) -> None:
        """Add an event of the task's own to the timeline; beyond 500 of one attempt they are dropped."""
        shown = self._redactor.snapshot(dict(data)).value
        with self._mutex:
            self._noted += 1
            if self._noted <= MAX_EVENTS:
                uid = f"note:{self.execution}:{self._noted}"
                self._events.append(
                    facts.event(uid, printable(name), execution=self.execution, custom=True, data=shown)
                )

    def progress(self, done: float, total: float | None, message: str | None) -> None:
        """Say how far it is. Only the latest is kept until the next write, so a call per item is cheap."""
        at = now_micros()
        text = None if message is None else self._redactor.text(message)
        uid = f"progress:{self.execution}:{at}"
        latest = facts.event(uid, "progress", execution=self.execution, at=at, done=done, total=total, message=text)
        with self._mutex:
            self._progress = latest

    def skip(self, name: str, data: Mapping[str, Any]) -> None:
        """Say that this delivery was no attempt at all: only the event `name` is kept of it."""
        with self._mutex:
            self._skipped = True
            self._logs, self._progress, self._end = [], None, None
            self._events = [facts.event(f"{name}:{self.execution}", name, worker=self.origin.worker, **data)]

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
                worker=self.origin.worker,
                retries=self.origin.retries,
                waited=self.waited,
                started=self.started,
                keep=self._keep,
                data=data,
            )

    def take(self) -> RunWrite | None:
        """Return what is to be written now, or None."""
        with self._mutex:
            events, self._events = self._events, []
            logs, self._logs = self._logs, []
            events += self._due_progress()
            end, self._end = self._end, None
            if end is not None and self._unlogged:
                logs.append(self._omission())
        if end is not None:
            return RunWrite(self.run_id, end.rank, self.facts, end.standing, [*events, *end.events], logs)
        if not events and not logs:
            return None
        if self._skipped:
            return RunWrite(self.run_id, 0, self.facts, None, events)
        forget = now_micros() + round(self._keep(STARTED) * 1_000_000)
        origin = self.origin
        standing = RunStanding(
            STARTED, origin.worker, origin.retries, waited=self.waited, started=self.started, forget=forget
        )
        return RunWrite(self.run_id, facts.rank(STARTED, self.epoch), self.facts, standing, events, logs)

    def _due_progress(self) -> list[StoredEvent]:
        latest = self._progress
        if latest is None or (latest.at < self._progress_after and self._end is None):
            return []
        self._progress = None
        elapsed = latest.at - self.started
        self._progress_after = latest.at + min(10 * PROGRESS_PAUSE, max(PROGRESS_PAUSE, elapsed // 50))
        return [latest]

    def _omission(self) -> StoredLog:
        text = f"{self._unlogged:,} more lines were not recorded (stackstate_log_lines is {self._log_lines:,})"
        return StoredLog(self.execution, self._logged + 1, now_micros(), 30, "celery_stackstate", text)
