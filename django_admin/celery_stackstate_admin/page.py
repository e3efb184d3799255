"""What a run's page shows, as plain values for its template."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_stackstate.records import FAILURE, LOST, RETRY, STARTED, SUCCESS, Attempt, Event, LogLine, Run
from celery_stackstate_admin import present
from celery_stackstate_admin.timeline import DRAWN, MOST_DOTS, Timeline, build

MOST_LINES = 1000
MOST_EVENTS = 500
# Shown elsewhere on the page, whole.
ELSEWHERE = frozenset({"args", "kwargs", "result", "traceback", "payload_truncated", "result_truncated", "publisher"})
# What the library's own events carry for its own arithmetic.
ARITHMETIC = frozenset({"epoch", "boot", "queued_at", "wait", "eta", "expires"})
LIVE_MS, CALM_MS = 2_000, 15_000
CALM_AFTER = 3_600  # seconds without an end after which nobody watches every other second


@dataclass(frozen=True, slots=True)
class Fact:
    """One cell under the header."""

    label: str
    value: Any
    note: str = ""
    url: str = ""
    mono: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One log line of an attempt; `tone` is "warning" or "error" for those that stand out."""

    offset: str
    level: str
    logger: str
    message: str
    tone: str


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt, folded to a line."""

    anchor: str
    number: int
    badge: Any
    note: str
    error: str
    traceback: str
    lines: tuple[Line, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of the table of events."""

    at: Any
    offset: str
    name: str
    attempt: str
    data: str


@dataclass(frozen=True, slots=True)
class ProgressView:
    """A bar, and the words beside it. `value` is None when the whole is not known."""

    text: str
    message: str
    value: str | None
    percent: str
    tone: str


@dataclass(frozen=True, slots=True)
class RunPage:
    """All of the page below its title."""

    id: str
    badge: Any
    error: str
    facts: tuple[Fact, ...]
    progress: ProgressView | None
    timeline: Timeline | None
    attempts: tuple[AttemptView, ...]
    loose: tuple[Line, ...]
    payload: str | None
    payload_note: str
    result: str | None
    result_note: str
    traceback: str
    events: tuple[EventRow, ...]
    notes: tuple[str, ...]
    refresh_ms: int


def build_page(
    run: Run, events: Sequence[Event], logs: Sequence[LogLine], facts: Iterable[Fact], now: datetime
) -> RunPage:
    """Return the page of `run` as it stands at `now`."""
    by_execution: dict[str, list[LogLine]] = {}
    for entry in logs:
        by_execution.setdefault(entry.execution, []).append(entry)
    attempts = tuple(
        _attempt(attempt, by_execution.pop(attempt.execution, []), last=attempt is run.attempts[-1])
        for attempt in run.attempts
    )
    loose = [entry for entries in by_execution.values() for entry in entries]
    has_payload = run.args is not None or run.kwargs is not None
    shown_above = any(attempt.traceback for attempt in attempts)
    return RunPage(
        id=present.visible(run.id),
        badge=present.badge(run.status),
        error=present.line(run.error, 500) if run.error and run.status != SUCCESS else "",
        facts=tuple(facts),
        progress=_progress(run),
        timeline=build(run, events, now),
        attempts=attempts,
        loose=_lines(loose, run.queued_at),
        payload=present.pretty({"args": run.args, "kwargs": run.kwargs}) if has_payload else None,
        payload_note="cut: larger than stackstate_max_payload_bytes" if run.payload_truncated else "",
        result=present.pretty(run.result) if run.status == SUCCESS else None,
        result_note="cut: larger than stackstate_max_payload_bytes" if run.result_truncated else "",
        traceback="" if shown_above else present.visible(run.traceback or ""),
        events=_events(run, events),
        notes=_notes(events, logs),
        refresh_ms=_refresh(run, now),
    )


def _total(run: Run) -> float | None:
    times = [attempt.runtime for attempt in run.attempts if attempt.runtime is not None]
    return sum(times) if times else None


def default_facts(run: Run) -> list[Fact]:
    """Return the cells that need no link: when it was queued, how long it waited, how long it ran."""
    attempts = len(run.attempts)
    place = " · ".join(present.line(part, 80) for part in (run.queue, run.worker) if part)
    facts = [
        Fact("Queued", present.clock(run.queued_at, precise=True)),
        Fact("Waited", present.duration(run.attempts[0].wait if attempts else None)),
        Fact("Ran", present.duration(_total(run)), f"in {attempts} attempts" if attempts > 1 else ""),
        Fact("Queue · worker", place or present.NOTHING),
        Fact("Key", present.line(run.key, 200) if run.key else present.NOTHING, mono=bool(run.key)),
        Fact("Sent by", present.line(run.publisher, 80) if run.publisher else present.NOTHING),
    ]
    if run.eta is not None:
        facts.append(Fact("Not before", present.clock(run.eta)))
    if run.expires is not None:
        facts.append(Fact("Expires", present.clock(run.expires)))
    return facts


def _attempt(attempt: Attempt, logs: list[LogLine], *, last: bool) -> AttemptView:
    error = ": ".join(part for part in (attempt.error_type, attempt.error) if part)
    ended_badly = attempt.status in (FAILURE, RETRY, LOST) or bool(attempt.traceback)
    return AttemptView(
        anchor=f"ss-attempt-{attempt.number}",
        number=attempt.number,
        badge=present.badge(attempt.status),
        note=_where(attempt),
        error=present.line(error, 300) if ended_badly or error else "",
        traceback=present.visible(attempt.traceback or ""),
        lines=_lines(logs, attempt.started_at),
        open=last and bool(logs or attempt.traceback),
    )


def _where(attempt: Attempt) -> str:
    parts = [present.line(attempt.worker, 80) if attempt.worker else "", f"pid {attempt.pid}" if attempt.pid else ""]
    if attempt.runtime is not None:
        parts.append(present.duration(attempt.runtime))
    if attempt.wait is not None:
        parts.append(f"waited {present.duration(attempt.wait)}")
    if attempt.redelivered:
        parts.append("redelivered")
    return ", ".join(part for part in parts if part)


def _lines(logs: list[LogLine], start: datetime | None) -> tuple[Line, ...]:
    tones = {"WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}
    return tuple(
        Line(
            offset=_offset(entry.at, start),
            level=present.line(entry.level, 12),
            logger=present.line(entry.logger, 60),
            message=present.visible(entry.message),
            tone=tones.get(entry.level, ""),
        )
        for entry in logs
    )


def _offset(at: datetime, start: datetime | None) -> str:
    if start is None:
        return ""
    seconds = (at - start).total_seconds()
    return f"{seconds:+.2f}" if abs(seconds) < 60 else ("+" if seconds > 0 else "−") + present.duration(abs(seconds))  # noqa: RUF001


def _events(run: Run, events: Sequence[Event]) -> tuple[EventRow, ...]:
    numbers = {attempt.execution: str(attempt.number) for attempt in run.attempts}
    first = events[0].at if events else None
    return tuple(
        EventRow(
            at=present.clock(event.at, precise=True),
            offset=_offset(event.at, first),
            name=present.line(event.name, 80),
            attempt=numbers.get(event.execution or "", ""),
            data=_data(event),
        )
        for event in events[:MOST_EVENTS]
    )


def _data(event: Event) -> str:
    hidden = ELSEWHERE | ARITHMETIC if event.name in DRAWN else frozenset()
    shown = {name: value for name, value in event.data.items() if name not in hidden}
    return ", ".join(f"{present.line(name, 40)}: {_plain(value)}" for name, value in shown.items())


def _plain(value: Any) -> str:
    return present.line(value, 120) if isinstance(value, str) else present.preview(value, 120)


def _progress(run: Run) -> ProgressView | None:
    progress = run.progress
    if progress is None:
        return None
    tone = "success" if run.status == SUCCESS else "failure" if run.finished else "running"
    message = present.line(progress.message, 120) if progress.message else ""
    if not progress.total or progress.total < 0:
        return ProgressView(present.number(progress.done), message, None, "", tone)
    share = min(1.0, max(0.0, progress.done / progress.total))
    text = f"{present.number(progress.done)} of {present.number(progress.total)}"
    return ProgressView(text, message, f"{share:.4f}", f"{int(share * 100)} %", tone)


def _notes(events: Sequence[Event], logs: Sequence[LogLine]) -> tuple[str, ...]:
    notes = []
    if len(events) > MOST_EVENTS:
        notes.append(f"The table shows the first {MOST_EVENTS:,} of {len(events):,} events.")
    if sum(event.name not in DRAWN for event in events) > MOST_DOTS:
        notes.append(f"The timeline shows the newest {MOST_DOTS:,} events.")
    if len(logs) > MOST_LINES:
        notes.append(f"Only {len(logs):,} log lines are shown: the first of the run, and those of its last attempt.")
    return tuple(notes)


def _refresh(run: Run, now: datetime) -> int:
    """Return after how many milliseconds the page asks again: 0 for a finished run, seldom for one long at rest."""
    if run.finished:
        return 0
    since = run.started_at or run.queued_at
    resting = run.status != STARTED and since is not None and (now - since).total_seconds() > CALM_AFTER
    return CALM_MS if resting or run.status == LOST else LIVE_MS
