"""What a run's page shows, as plain values for its template."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext, ngettext

from celery_stackstate.records import LOST, STARTED, SUCCESS, Event, Run
from celery_stackstate_admin import present
from celery_stackstate_admin.facts import Fact, default_facts
from celery_stackstate_admin.runpage.attempts import MOST_LISTED, AttemptView, LogView, attempts_of, loose_log, offset
from celery_stackstate_admin.runpage.eventtext import details
from celery_stackstate_admin.runpage.frames import Part, parts_of
from celery_stackstate_admin.runpage.logs import Log, LogFilter
from celery_stackstate_admin.runpage.timeline import Timeline, build

__all__ = ["Fact", "RunPage", "build_page", "default_facts"]

#: So many events are listed, the newest.
MOST_EVENTS = 500
LIVE_MS, CALM_MS = 2_000, 15_000
CALM_AFTER = 3_600  # seconds without an end after which nobody watches every other second


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
    status: str
    badge: Any
    error: str
    facts: tuple[Fact, ...]
    progress: ProgressView | None
    timeline: Timeline | None
    attempts: tuple[AttemptView, ...]
    loose: LogView
    log: LogSummary
    payload: str | None
    payload_note: str
    result: str | None
    result_note: str
    no_result: str
    meta: str | None
    traceback: tuple[Part, ...]
    events: tuple[EventRow, ...]
    events_number: str
    events_note: str
    refresh_ms: int

    @property
    def earlier(self) -> tuple[AttemptView, ...]:
        """The attempts that are folded when there are many."""
        return self.attempts[:-MOST_LISTED]

    @property
    def latest(self) -> tuple[AttemptView, ...]:
        """The last attempts."""
        return self.attempts[-MOST_LISTED:]


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What is said above all logs. `whole` is True when all lines are on the page."""

    wanted: LogFilter
    lines: int
    note: str
    whole: bool
    url: str


def build_page(
    run: Run,
    events: Sequence[Event],
    log: Log,
    wanted: LogFilter,
    *,
    facts: Iterable[Fact],
    log_url: Callable[[str | None], str],
    now: datetime,
) -> RunPage:
    """Return the page of `run` as it stands at `now`. `log_url` returns where an execution's, or all, lines are."""
    attempts = attempts_of(run, log, wanted, log_url)
    has_payload = run.args is not None or run.kwargs is not None
    shown_above = any(attempt.traceback for attempt in attempts)
    return RunPage(
        id=present.visible(run.id),
        status=present.line(run.status, 20),
        badge=present.badge(run.status),
        error=present.line(run.error, 500) if run.error and run.status != SUCCESS else "",
        facts=tuple(facts),
        progress=progress_view(run),
        timeline=build(run, events, now),
        attempts=attempts,
        loose=loose_log(run, log, log_url(None)),
        log=_log_summary(log, wanted, log_url(None)),
        payload=present.pretty({"args": run.args, "kwargs": run.kwargs}) if has_payload else None,
        payload_note=_cut_note() if run.payload_truncated else "",
        result=present.pretty(run.result) if run.status == SUCCESS else None,
        result_note=_cut_note() if run.result_truncated else "",
        no_result=_no_result(run),
        meta=None if run.meta is None else present.pretty(run.meta),
        traceback=() if shown_above else parts_of(run.traceback or ""),
        events=_events(run, events),
        events_number=present.number(len(events)),
        events_note=_events_note(len(events)),
        refresh_ms=_refresh(run, now),
    )


def _no_result(run: Run) -> str:
    """Return why there is no result, for runs without one."""
    if run.status == LOST:
        return gettext("Lost: it did not come to its end.")
    return gettext("None: the run did not succeed.") if run.finished else gettext("None yet.")


def _cut_note() -> str:
    return gettext("cut: larger than stackstate_max_payload_bytes")


def _log_summary(log: Log, wanted: LogFilter, url: str) -> LogSummary:
    lines, passed = sum(log.read.values()), sum(log.passed.values())
    shown = sum(map(len, log.lines.values()))
    values = {"passed": present.number(passed), "number": present.number(lines), "shown": present.number(shown)}
    whole = log.end is not None and shown == lines
    if log.end is None:
        note = gettext(
            "The log is too long to be read for this page: %(shown)s lines of its first %(number)s are shown."
        )
    elif wanted:
        note = ngettext("%(passed)s of %(number)s line matches.", "%(passed)s of %(number)s lines match.", lines)
    elif shown < lines:
        note = gettext("The newest %(shown)s of %(number)s lines are shown.")
    else:
        note = ngettext("%(number)s line", "%(number)s lines", lines)
    return LogSummary(wanted, lines, note % values, whole, url)


def _events(run: Run, events: Sequence[Event]) -> tuple[EventRow, ...]:
    numbers = {attempt.execution: str(attempt.number) for attempt in run.attempts}
    first = events[0].at if events else None
    return tuple(
        EventRow(
            at=present.clock(event.at, precise=True),
            offset=offset(event.at, first),
            name=present.line(event.name, 80),
            attempt=numbers.get(event.execution or "", ""),
            data=details(event),
        )
        for event in events[-MOST_EVENTS:]
    )


def progress_view(run: Run) -> ProgressView | None:
    """Return how far a run says it is, None when it says nothing."""
    progress = run.progress
    if progress is None:
        return None
    tone = "success" if run.status == SUCCESS else "failure" if run.finished else "running"
    message = present.line(progress.message, 120) if progress.message else ""
    if not progress.total or progress.total < 0:
        return ProgressView(present.number(progress.done), message, None, "", tone)
    share = min(1.0, max(0.0, progress.done / progress.total))
    values = {"done": present.number(progress.done), "total": present.number(progress.total)}
    text = gettext("%(done)s of %(total)s") % values
    percent = gettext("%(number)d %%") % {"number": int(share * 100)}
    return ProgressView(text, message, f"{share:.4f}", percent, tone)


def _events_note(there: int) -> str:
    if there <= MOST_EVENTS:
        return ""
    values = {"shown": present.number(MOST_EVENTS), "number": present.number(there)}
    return gettext("The newest %(shown)s of %(number)s events are listed.") % values


def _refresh(run: Run, now: datetime) -> int:
    """Return after how many milliseconds the page asks again: 0 for a finished run, seldom for one long at rest."""
    if run.finished:
        return 0
    since = run.started_at or run.queued_at
    resting = run.status != STARTED and since is not None and (now - since).total_seconds() > CALM_AFTER
    return CALM_MS if resting or run.status == LOST else LIVE_MS
