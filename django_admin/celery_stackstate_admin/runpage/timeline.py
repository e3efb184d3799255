"""A run's timeline as geometry: rows of bars, lanes of dots, ticks, all on one axis. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils.translation import gettext, ngettext

from celery_stackstate.records import LOST, STARTED, Attempt, Event, Run, from_micros
from celery_stackstate_admin.present import duration, line, short_time, so_far, tone
from celery_stackstate_admin.present import number as number_text
from celery_stackstate_admin.runpage.axis import Axis, Bar, Stretch, Tick, axis_of, percent
from celery_stackstate_admin.runpage.eventtext import DRAWN, label, title

#: So many events of one lane are drawn.
MOST_DOTS = 200
#: With more attempts than this, those that follow each other share a row.
MOST_ROWS = 12
LABEL_CHARACTERS = 110  # that fit beside each other on an axis of common width
#: What tells of a message, and from when on it is due.
MESSAGES = ("queued", "received", "retry")
LATEST = 2**53


@dataclass(frozen=True, slots=True)
class Row:
    """One line of bars: an attempt, a time of waiting, or attempts that follow each other."""

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
class Timeline:
    """What the page draws. `words` tells the bars as sentences, by time; `note` says what is left out."""

    rows: tuple[Row, ...]
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    summary: str
    words: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Track:
    """One attempt, or the wait for one that has not begun."""

    number: str
    status: str
    note: str
    stretches: tuple[Stretch, ...]


def build(run: Run, events: Sequence[Event], now: datetime) -> Timeline | None:
    """Return the drawing of `run` as it stands at `now`; None when there is nothing to draw."""
    span = _span(run, events, now)
    if span is None:
        return None
    axis, ticks = axis_of(*span)
    tracks = _tracks(run, events, axis, now)
    dotted = [event for event in events if event.name not in DRAWN]
    sorts = (
        (gettext("progress"), [event for event in dotted if event.name == "progress"]),
        (gettext("state"), [event for event in dotted if event.name == "state"]),
        (gettext("events"), [event for event in dotted if event.name not in ("progress", "state")]),
    )
    lanes = [Lane(name, _dots(_thinned(found), axis)) for name, found in sorts if found]
    if not tracks and not lanes:
        return None
    return Timeline(
        rows=_rows(tracks, axis),
        lanes=tuple(lanes),
        ticks=ticks,
        summary=_summary(run, duration((span[1] - span[0]).total_seconds())),
        words=tuple(part.title for track in tracks for part in track.stretches),
        note=_note_on(sum(len(lane.dots) for lane in lanes), len(dotted)),
    )


def _thinned(events: Sequence[Event]) -> list[Event]:
    """Return so many of a lane's events as can be drawn, evenly chosen, with the first and the last."""
    last = len(events) - 1
    if last < MOST_DOTS:
        return list(events)
    return [events[round(number * last / (MOST_DOTS - 1))] for number in range(MOST_DOTS)]


def _note_on(shown: int, there: int) -> str:
    if shown == there:
        return ""
    values = {"shown": number_text(shown), "number": number_text(there)}
    return gettext("%(shown)s of %(number)s events are drawn, evenly chosen.") % values


def _summary(run: Run, length: str) -> str:
    number = len(run.attempts)
    return ngettext("%(number)d attempt over %(length)s", "%(number)d attempts over %(length)s", number) % {
        "number": number,
        "length": length,
    }


def _span(run: Run, events: Sequence[Event], now: datetime) -> tuple[datetime, datetime] | None:
    moments = [event.at for event in events]
    moments += [moment for moment in (run.queued_at, run.started_at, run.finished_at) if moment]
    for attempt in run.attempts:
        moments += [moment for moment in (attempt.started_at, attempt.finished_at) if moment]
    if not moments:
        return None
    last = max(moments)
    return min(moments), max(last, now, _due(events) or now) if goes_on(run) else last


def goes_on(run: Run) -> bool:
    """Return whether something of it still runs, or waits to."""
    return not run.finished and run.status != LOST


def _due(events: Sequence[Event]) -> datetime | None:
    """Return the time before which the newest message is not to be run; None where it has none."""
    told = [event.data.get("eta") for event in events if event.name in MESSAGES]
    known = [eta for eta in told if isinstance(eta, int) and 0 < eta < LATEST]
    return from_micros(known[-1]) if known else None


def _rows(tracks: Sequence[Track], axis: Axis) -> tuple[Row, ...]:
    """Return a row for each track; of many, those that follow each other share one, and those that overlap do not."""
    if len(tracks) <= MOST_ROWS:
        return tuple(
            Row(track.number, track.status, track.note, tuple(map(axis.bar, track.stretches))) for track in tracks
        )
    shared: list[list[Track]] = []
    for track in (track for track in tracks if track.stretches):
        free = (row for row in shared if row[-1].stretches[-1].end <= track.stretches[0].begin)
        row = next(free, None)
        if row is None:
            shared.append([track])
        else:
            row.append(track)
    return tuple(
        Row("", "", _number_of(row), tuple(axis.bar(part) for track in row for part in track.stretches))
        for row in shared
    )


def _number_of(tracks: Sequence[Track]) -> str:
    number = sum(bool(track.number) for track in tracks)
    return ngettext("%(number)d attempt", "%(number)d attempts", number) % {"number": number}


def _tracks(run: Run, events: Sequence[Event], axis: Axis, now: datetime) -> list[Track]:
    tracks: list[Track] = []
    free_from = run.queued_at
    for attempt, following in zip(run.attempts, [*run.attempts[1:], None], strict=False):
        live = attempt.status == STARTED and following is None and not run.finished
        end = now if live else _end(run, attempt, following)
        tracks.append(_attempt_track(attempt, axis, free_from, end, live=live))
        free_from = end or free_from
    if goes_on(run) and free_from is not None and (not run.attempts or run.attempts[-1].status != STARTED):
        tracks.append(_waiting(free_from, _due(events), now))
    return tracks


def _waiting(free_from: datetime, due: datetime | None, now: datetime) -> Track:
    """Return the time until a message is due, and that for which no worker has taken it since."""
    ready = max(free_from, due or free_from)
    if ready > now:
        until = {"time": short_time(ready, now)}
        words = gettext("Not due until %(time)s") % until
        return Track("", "", gettext("not due until %(time)s") % until, (Stretch(free_from, ready, "planned", words),))
    waited = {"duration": duration((now - ready).total_seconds())}
    planned = gettext("Was not due for %(duration)s") % {"duration": duration((ready - free_from).total_seconds())}
    stretches = (
        *([Stretch(free_from, ready, "planned", planned)] if ready > free_from else []),
        Stretch(ready, max(now, ready), "wait", gettext("Waiting for a worker, %(duration)s so far") % waited),
    )
    return Track("", "", gettext("waiting %(duration)s") % waited, stretches)


def _end(run: Run, attempt: Attempt, following: Attempt | None) -> datetime | None:
    """Return where an attempt's bar ends; one that never said so ends with the run, or where the next begins."""
    if attempt.finished_at is not None:
        return attempt.finished_at
    if following is not None:
        return following.started_at
    return run.finished_at or attempt.started_at


def _attempt_track(
    attempt: Attempt, axis: Axis, free_from: datetime | None, end: datetime | None, *, live: bool
) -> Track:
    number, start = str(attempt.number), attempt.started_at or end
    if start is None:
        return Track(number, attempt.status, "", ())
    end = max(end or start, start)
    took = duration(attempt.runtime if attempt.runtime is not None else (end - start).total_seconds())
    ran = Stretch(
        start, end, "running" if live else tone(attempt.status), _told(attempt, axis.since(start), took), number
    )
    return Track(number, attempt.status, _note(attempt, took, live=live), (*_waits(attempt, start, free_from), ran))


def _waits(attempt: Attempt, start: datetime, free_from: datetime | None) -> list[Stretch]:
    """Return the time for which an attempt was not due, and that for which no worker took it."""
    # A redelivered message was queued before the attempt that lost it: the wait is drawn from that one's end on.
    queued = max((moment for moment in (attempt.queued_at, free_from) if moment), default=start)
    ready = min(start, max(queued, start - timedelta(seconds=attempt.wait))) if attempt.wait is not None else queued
    waits = (
        (queued, ready, "planned", gettext("Attempt %(number)d was not due for %(duration)s")),
        (ready, start, "wait", gettext("Attempt %(number)d waited %(duration)s for a worker")),
    )
    return [
        Stretch(
            begin, until, name, text % {"number": attempt.number, "duration": duration((until - begin).total_seconds())}
        )
        for begin, until, name, text in waits
        if begin < until
    ]


def _told(attempt: Attempt, offset: str, took: str) -> str:
    values = {"number": attempt.number, "status": attempt.status, "offset": offset, "duration": took}
    if attempt.error_type:
        text = gettext("Attempt %(number)d: %(status)s (%(error)s) after %(duration)s, begun at +%(offset)s")
        return line(text % {**values, "error": line(attempt.error_type, 60)})
    return line(gettext("Attempt %(number)d: %(status)s after %(duration)s, begun at +%(offset)s") % values)


def _note(attempt: Attempt, took: str, *, live: bool) -> str:
    if live:
        return so_far(took)
    return gettext("end not known") if attempt.finished_at is None else took


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
        dots.append(Dot(percent(x), title(event, axis.since(event.at)), text if fits else "", before and fits))
    return tuple(dots)
