"""A run's timeline as geometry: rows of bars, lanes of dots, ticks, all in per cent of one axis. Pure functions.

Percentages are texts, so that no template localizes them, and the drawing follows the width of the page without
scaling its letters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from celery_stackstate.records import STARTED, Attempt, Event, Run
from celery_stackstate_admin.present import duration, line, number, preview, tone

# What bars show already, or marks the edges of them.
DRAWN = frozenset(
    {"queued", "received", "started", "retry", "success", "failure", "revoked", "ignored", "rejected"}
) | {
    "lost",
    "interrupted",
}
MOST_DOTS = 200
LABEL_CHARACTERS = 110  # that fit beside each other on an axis of common width
THINNEST = 0.35
STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000, 7_776_000, 31_536_000),
)
MOST_TICKS = 8
# From which step on a unit is used, its length in seconds, its name.
UNITS = ((86_400, 86_400, "d"), (3_600, 3_600, "h"), (60, 60, "min"), (0.1, 1, "s"), (0, 0.001, "ms"))


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of the axis. `tone` names its colour; `title` says in words what it is."""

    x: str
    width: str
    tone: str
    title: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of bars: an attempt, or a time of waiting."""

    number: str
    status: str
    note: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Dot:
    """An event. `label` is empty where there is no room for one; `before` puts it left of the dot."""

    x: str
    title: str
    label: str = ""
    before: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """A line of dots."""

    name: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across all rows. `edge` is "start", "end" or "" for those between; `minor` may be hidden when narrow."""

    x: str
    label: str
    edge: str = ""
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Timeline:
    """What the page draws."""

    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    summary: str


@dataclass(frozen=True, slots=True)
class Axis:
    """From a moment on, for a number of seconds."""

    start: datetime
    length: float

    def at(self, moment: datetime) -> float:
        """Return the place of `moment` in per cent, within 0 to 100."""
        return min(100.0, max(0.0, (moment - self.start).total_seconds() / self.length * 100))

    def bar(self, begin: datetime, end: datetime, tone: str, title: str) -> Bar:
        """Return a bar, never too thin to be seen."""
        x = min(self.at(begin), 100 - THINNEST)
        return Bar(percent(x), percent(max(THINNEST, self.at(end) - x)), tone, title)


def percent(value: float) -> str:
    """Return `value` as SVG wants it."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"


def build(run: Run, events: Sequence[Event], now: datetime) -> Timeline | None:
    """Return the drawing of `run` as it stands at `now`; None when no time of it is known."""
    span = _span(run, events, now)
    if span is None:
        return None
    axis, ticks = _axis(*span)
    rows = tuple(_rows(run, axis, now))
    shown = [event for event in events if event.name not in DRAWN][-MOST_DOTS:]
    lanes = [
        Lane("progress", _dots([event for event in shown if event.name == "progress"], axis)),
        Lane("events", _dots([event for event in shown if event.name != "progress"], axis)),
    ]
    summary = f"{len(rows)} rows over {duration((span[1] - span[0]).total_seconds())}"
    return Timeline(rows, tuple(lane for lane in lanes if lane.dots), ticks, summary)


def _span(run: Run, events: Sequence[Event], now: datetime) -> tuple[datetime, datetime] | None:
    moments = [event.at for event in events]
    moments += [moment for moment in (run.queued_at, run.started_at, run.finished_at) if moment]
    for attempt in run.attempts:
        moments += [moment for moment in (attempt.started_at, attempt.finished_at) if moment]
    if not moments:
        return None
    last = max(moments)
    return min(moments), last if run.finished else max(last, now)


def _axis(first: datetime, last: datetime) -> tuple[Axis, tuple[Tick, ...]]:
    """Return an axis that ends on a tick, so that the last label has its place."""
    seconds = max((last - first).total_seconds(), 0.001)
    step = next((step for step in STEPS if seconds / step <= MOST_TICKS), seconds)
    count = max(1, -int(-seconds // step))
    edges = {0: "start", count: "end"}
    ticks = tuple(
        Tick(
            percent(100 * index / count),
            "0" if index == 0 else _offset(step * index, step),
            edges.get(index, ""),
            bool(index % 2),
        )
        for index in range(count + 1)
    )
    return Axis(first, step * count), ticks


def _offset(seconds: float, step: float) -> str:
    """Return a tick's time in the one unit that suits the step, so that neighbours stay short and alike."""
    size, unit = next((size, unit) for least, size, unit in UNITS if step >= least)
    return f"+{round(seconds / size, 3):g} {unit}"


def _rows(run: Run, axis: Axis, now: datetime) -> list[Row]:
    rows: list[Row] = []
    free_from = run.queued_at
    for attempt, following in zip(run.attempts, [*run.attempts[1:], None], strict=False):
        live = attempt.status == STARTED and following is None and not run.finished
        end = now if live else _end(run, attempt, following)
        rows.append(_attempt_row(attempt, axis, free_from, end, live=live))
        free_from = end or free_from
    if not run.finished and free_from is not None and (not run.attempts or run.attempts[-1].status != STARTED):
        waited = duration((now - free_from).total_seconds())
        bar = axis.bar(free_from, now, "wait", f"waiting for a worker, {waited} so far")
        rows.append(Row("", "", f"waiting {waited}", (bar,)))
    return rows


def _end(run: Run, attempt: Attempt, following: Attempt | None) -> datetime | None:
    """Return where an attempt's bar ends; one that never said so ends with the run, or where the next begins."""
    if attempt.finished_at is not None:
        return attempt.finished_at
    if following is not None:
        return following.started_at
    return run.finished_at or attempt.started_at


def _attempt_row(attempt: Attempt, axis: Axis, free_from: datetime | None, end: datetime | None, *, live: bool) -> Row:
    start = attempt.started_at or end
    if start is None:
        return Row(str(attempt.number), attempt.status, "", ())
    bars: list[Bar] = []
    # A redelivered message was queued before the attempt that lost it: the wait is drawn from that one's end on.
    queued = max((moment for moment in (attempt.queued_at, free_from) if moment), default=start)
    ready = min(start, max(queued, start - timedelta(seconds=attempt.wait))) if attempt.wait is not None else queued
    for begin, until, name, words in ((queued, ready, "planned", "not due for"), (ready, start, "wait", "waited")):
        if begin < until:
            bars.append(axis.bar(begin, until, name, f"{words} {duration((until - begin).total_seconds())}"))
    end = max(end or start, start)
    took = duration(attempt.runtime if attempt.runtime is not None else (end - start).total_seconds())
    title = line(f"attempt {attempt.number}: {attempt.status} after {took} {attempt.error_type or ''}")
    bars.append(axis.bar(start, end, "running" if live else tone(attempt.status), title))
    unknown = attempt.finished_at is None and not live
    note = "end not known" if unknown else f"{took} so far" if live else took
    return Row(str(attempt.number), attempt.status, note, tuple(bars))


def _dots(events: Sequence[Event], axis: Axis) -> tuple[Dot, ...]:
    """Return the dots, with labels where the next dot leaves room, or left of the last one."""
    places = [axis.at(event.at) for event in events]
    dots: list[Dot] = []
    taken = 0.0
    for index, event in enumerate(events):
        x, text = places[index], label(event)
        room = (places[index + 1] if index + 1 < len(places) else 100.0) - x
        width = (len(text) + 3) * 100 / LABEL_CHARACTERS
        before = room < width and x - taken > width
        fits = room >= width or before
        taken = x + width if fits and not before else x + 1
        dots.append(Dot(percent(x), line(f"{text} {preview(dict(event.data))}"), text if fits else "", before and fits))
    return tuple(dots)


def label(event: Event) -> str:
    """Return a few words for an event: its name, and for progress how far."""
    if event.name == "progress":
        done, total = event.data.get("done"), event.data.get("total")
        if isinstance(done, (int, float)):
            return number(done) + (f"/{number(total)}" if isinstance(total, (int, float)) else "")
    return line(event.name, 32)
