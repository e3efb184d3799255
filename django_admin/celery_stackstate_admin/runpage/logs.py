"""The log of a run: read in bounded pages, filtered, and as a text to take away."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timezone
from typing import Any

from django.utils.translation import gettext, gettext_lazy, ngettext

from celery_stackstate.records import Attempt, Run, from_micros
from celery_stackstate.runs import LEVELS
from celery_stackstate.stores.base import StoredLog
from celery_stackstate.visible import inert
from celery_stackstate_admin import present
from celery_stackstate_admin.source import extension

Place = tuple[int, str, int]

STEP = 1_000
#: What one page of the admin reads at most: as many lines as a run keeps by default, and some.
MOST_READ, MOST_BYTES = 12_000, 16_000_000
#: What it shows at most of one attempt, and in all: the newest lines, those of the last attempts first.
MOST_LINES, MOST_ROWS = 1_000, 2_000

LEVEL_CHOICES = (
    (0, gettext_lazy("All levels")),
    (20, gettext_lazy("Info and above")),
    (30, gettext_lazy("Warnings and above")),
    (40, gettext_lazy("Errors and above")),
)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which lines are asked for: those of a level and above that contain a text, in any case."""

    level: int = 0
    text: str = ""

    @classmethod
    def of(cls, query: Any) -> LogFilter:
        """Return what the parameters `level` and `q` of a page ask for; what is no level asks for all."""
        level = query.get("level", "")
        known = {str(number) for number, _ in LEVEL_CHOICES}
        return cls(int(level) if level in known else 0, query.get("q", "").strip()[:200])

    def __bool__(self) -> bool:
        return bool(self.level or self.text)

    def passes(self, entry: StoredLog) -> bool:
        """Return whether a line is asked for."""
        if entry.level < self.level:
            return False
        wanted = self.text.casefold()
        return not wanted or wanted in entry.message.casefold() or wanted in entry.logger.casefold()


@dataclass(slots=True)
class Log:
    """What was read: by execution the newest lines that pass, and how many those are of how many.

    `end` is the place of the last line of the run, None where reading ended before it.
    """

    lines: dict[str, deque[StoredLog]] = field(default_factory=dict)
    passed: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    end: Place | None = (0, "", 0)

    def add(self, entry: StoredLog, wanted: LogFilter) -> None:
        """Take a line in, if it passes."""
        self.read[entry.execution] += 1
        if wanted.passes(entry):
            self.passed[entry.execution] += 1
            self.lines.setdefault(entry.execution, deque(maxlen=MOST_LINES)).append(entry)

    def keep(self, executions: Iterable[str]) -> None:
        """Drop the oldest lines beyond what a page shows; `executions` come in the order of what matters most."""
        left = MOST_ROWS
        first = [name for name in executions if name in self.lines]
        for name in [*first, *(name for name in self.lines if name not in first)]:
            lines = self.lines[name]
            while len(lines) > left:
                lines.popleft()
            left -= len(lines)


def read_log(run: Run, wanted: LogFilter) -> Log:
    """Return the log of `run` as its page shows it; the last attempt's is read however long the others' are."""
    log, size = Log(), 0
    for number, entry in enumerate(each_line(run.id), 1):
        log.add(entry, wanted)
        log.end = place_of(entry)
        size += len(entry.message)
        if number >= MOST_READ or size > MOST_BYTES:
            log.end = None
            break
    last = run.attempts[-1].execution if run.attempts else None
    if log.end is None and last is not None:
        for kept in (log.lines, log.passed, log.read):
            kept.pop(last, None)
        for number, entry in enumerate(each_line(run.id, last), 1):
            log.add(entry, wanted)
            if number >= MOST_READ:
                break
    log.keep(attempt.execution for attempt in reversed(run.attempts))
    return log


def each_line(run_id: str, execution: str | None = None) -> Iterator[StoredLog]:
    """Yield the lines of a run, or of one execution of it, by time, a page of the store at a time."""
    store, after = extension().runs_store, None
    while True:
        page: list[StoredLog] = store.logs(run_id, execution=execution, after=after, limit=STEP)
        yield from page
        if len(page) < STEP:
            return
        after = place_of(page[-1])


def has_more(run_id: str, after: Place) -> bool:
    """Return whether a run has log lines behind a place."""
    return bool(extension().runs_store.logs(run_id, after=after, limit=1))


def place_of(entry: StoredLog) -> Place:
    """Return the place of a line among those of its run."""
    return entry.at, entry.execution, entry.seq


def level_name(level: int) -> str:
    """Return a level's name."""
    return LEVELS.get(level, str(level))


# -- as a text ---------------------------------------------------------------------------------------------------------


def text_of(run: Run, execution: str | None) -> Iterator[str]:
    """Yield the log of `run`, or of one execution, as lines of text, and each attempt's traceback at its end.

    A line that begins with a time begins an entry: whatever else a task logged is indented.
    """
    attempts = {attempt.execution: attempt for attempt in run.attempts if execution in (None, attempt.execution)}
    for attempt in attempts.values():
        if attempt.omitted_lines:
            yield f"# {omitted(attempt)}\n"
    empty = True
    for entry in each_line(run.id, execution):
        yield _entry(entry, attempts.get(entry.execution))
        empty = False
    if empty:
        yield "# " + gettext("Nothing was logged.") + "\n"
    for attempt in attempts.values():
        if attempt.traceback:
            heading = gettext("Traceback of attempt %(number)d") % {"number": attempt.number}
            yield f"# {heading}\n{_indented(attempt.traceback)}\n"


def omitted(attempt: Attempt) -> str:
    """Return a sentence about the lines of `attempt` that were too many."""
    return ngettext(
        "The first log line of attempt %(attempt)d was not kept.",
        "The first %(number)s log lines of attempt %(attempt)d were not kept.",
        attempt.omitted_lines,
    ) % {"number": present.number(attempt.omitted_lines), "attempt": attempt.number}


def _entry(entry: StoredLog, attempt: Attempt | None) -> str:
    moment = from_micros(entry.at)
    assert moment is not None  # noqa: S101 - for the type checker
    when = moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")
    number = f"[{attempt.number}] " if attempt else ""
    logger = " ".join(inert(entry.logger).split())
    return f"{when} {level_name(entry.level):<8} {number}{logger}: {_indented(entry.message).lstrip()}\n"


def _indented(text: str) -> str:
    return "\n".join(f"    {part}" for part in inert(text).split("\n"))
