"""The attempts of a run, each with its log and its traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.utils.translation import gettext, ngettext

from celery_stackstate.records import STARTED, Attempt, Run, from_micros
from celery_stackstate.stores.base import StoredLog
from celery_stackstate_admin import present
from celery_stackstate_admin.runpage.frames import Part, parts_of
from celery_stackstate_admin.runpage.logs import Log, LogFilter, level_name, omitted

#: So many of the last attempts are listed, those before them are folded.
MOST_LISTED = 10


@dataclass(frozen=True, slots=True)
class Line:
    """One log line; `tone` is "warning" or "error" for those that stand out, `level` a number."""

    offset: str
    level: int
    name: str
    logger: str
    message: str
    tone: str


@dataclass(frozen=True, slots=True)
class LogView:
    """The lines of one execution. `note` says what is missing, `url` leads to all of them as a text.

    `grows` is True while more lines may come, so that the newest ones are to be seen.
    """

    lines: tuple[Line, ...]
    note: str
    url: str
    label: str
    grows: bool = False


@dataclass(frozen=True, slots=True)
class AttemptView:
    """One attempt, folded to a line."""

    anchor: str
    number: int
    badge: Any
    note: str
    error: str
    traceback: tuple[Part, ...]
    log: LogView
    omitted: str
    matches: str
    open: bool

    @property
    def lines(self) -> tuple[Line, ...]:
        """The log lines that are shown."""
        return self.log.lines


def attempts_of(run: Run, log: Log, wanted: LogFilter, url: Callable[[str], str]) -> tuple[AttemptView, ...]:
    """Return the attempts of `run`, the first one first. `url` returns where an execution's log is as a text."""
    return tuple(
        _attempt(attempt, log, wanted, url(attempt.execution), last=attempt is run.attempts[-1])
        for attempt in run.attempts
    )


def loose_log(run: Run, log: Log, url: str) -> LogView:
    """Return the lines of executions that are no known attempts."""
    known = {attempt.execution for attempt in run.attempts}
    entries = [entry for name, lines in log.lines.items() if name not in known for entry in lines]
    return LogView(lines_of(entries, run.queued_at), "", url, gettext("Log"))


def lines_of(entries: Iterable[StoredLog], start: datetime | None) -> tuple[Line, ...]:
    """Return log lines with their times since `start`."""
    return tuple(
        Line(
            offset=offset(from_micros(entry.at), start),
            level=entry.level,
            name=present.line(level_name(entry.level), 12),
            logger=present.line(entry.logger, 60),
            message=present.visible(entry.message),
            tone="error" if entry.level >= 40 else "warning" if entry.level >= 30 else "",
        )
        for entry in entries
    )


def offset(at: datetime | None, start: datetime | None) -> str:
    """Return the time from `start` to `at` with its sign, "" where one of them is not known."""
    if start is None or at is None:
        return ""
    seconds = (at - start).total_seconds()
    return f"{seconds:+.2f}" if abs(seconds) < 60 else ("+" if seconds > 0 else "−") + present.duration(abs(seconds))  # noqa: RUF001


def _attempt(attempt: Attempt, log: Log, wanted: LogFilter, url: str, *, last: bool) -> AttemptView:
    error = ": ".join(part for part in (attempt.error_type, attempt.error) if part)
    entries = log.lines.get(attempt.execution, ())
    matches = log.passed[attempt.execution]
    label = gettext("Log of attempt %(number)d") % {"number": attempt.number}
    return AttemptView(
        anchor=f"ss-attempt-{attempt.number}",
        number=attempt.number,
        badge=present.badge(attempt.status),
        note=_where(attempt),
        error=present.line(error, 200),
        traceback=parts_of(attempt.traceback or ""),
        log=LogView(
            lines_of(entries, attempt.started_at), _cut(len(entries), matches), url, label, attempt.status == STARTED
        ),
        omitted=omitted(attempt) if attempt.omitted_lines else "",
        matches=_matches(matches) if wanted else "",
        open=bool(entries) if wanted else last and bool(entries or attempt.traceback),
    )


def _cut(shown: int, there: int) -> str:
    if shown >= there:
        return ""
    return gettext("The newest %(shown)s of %(number)s lines are shown.") % {
        "shown": present.number(shown),
        "number": present.number(there),
    }


def _matches(number: int) -> str:
    return ngettext("%(number)s matching line", "%(number)s matching lines", number) % {
        "number": present.number(number)
    }


def _where(attempt: Attempt) -> str:
    parts = [present.line(attempt.worker, 80) if attempt.worker else ""]
    if attempt.pid:
        parts.append(gettext("pid %(pid)d") % {"pid": attempt.pid})
    if attempt.runtime is not None:
        parts.append(present.duration(attempt.runtime))
    if attempt.wait is not None:
        parts.append(gettext("waited %(duration)s") % {"duration": present.duration(attempt.wait)})
    if attempt.cpu_time is not None:
        parts.append(gettext("processor %(duration)s") % {"duration": present.duration(attempt.cpu_time)})
    if attempt.peak_memory is not None:
        parts.append(gettext("memory %(size)s MiB") % {"size": present.number(attempt.peak_memory / 1_048_576, 0)})
    if attempt.redelivered:
        parts.append(gettext("redelivered"))
    return ", ".join(part for part in parts if part)
