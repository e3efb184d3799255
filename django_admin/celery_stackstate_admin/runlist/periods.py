"""The times that a chart is divided into: months of a year, days of a month, or even steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from django.utils import dateformat, formats, timezone
from django.utils.text import capfirst
from django.utils.translation import gettext

from celery_stackstate.records import EPOCH
from celery_stackstate_admin.source import from_django

DAY = timedelta(days=1)
STEPS = tuple(timedelta(minutes=minutes) for minutes in (10, 30, 60, 180, 360, 720, 1440, 2880, 10_080, 40_320))
MOST_BARS = 60
LONGEST = 400 * DAY


@dataclass(frozen=True, slots=True)
class Period:
    """One part of the time, aware and in the viewer's zone. `params` narrow a list to it; `name` is for a title."""

    start: datetime
    end: datetime
    name: str
    params: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Time:
    """What a chart shows: its parts in order, and its name."""

    name: str
    periods: tuple[Period, ...]

    @property
    def start(self) -> datetime:
        """When it begins."""
        return self.periods[0].start

    @property
    def end(self) -> datetime:
        """When it ends."""
        return self.periods[-1].end


def time_of(params: dict[str, Any], since: datetime | None, until: datetime | None, now: datetime) -> Time | None:
    """Return what the chart of a list shows: the list's own time, by default the last 24 hours.

    Args:
        params: The list's parameters, of which the date hierarchy's are read.
        since: Aware; queued then or later.
        until: Aware; queued before.
        now: Aware.

    Returns:
        None for a time that is too long for a chart.
    """
    if since is not None and until is not None and params.get("queued_at__year"):
        if not params.get("queued_at__month"):
            return _year(since, until)
        if not params.get("queued_at__day"):
            return _month(since, until)
        return _even(since, until, formats.date_format(timezone.localtime(since), "DATE_FORMAT"))
    if since is None and until is None:
        end = EPOCH + -((EPOCH - now) // STEPS[1]) * STEPS[1]
        return _even(end - DAY, end, gettext("last 24 hours"))
    until = max(now, since or now) if until is None else until
    since = until - DAY if since is None else since
    if until - since > LONGEST:
        return None
    return _even(since, until, _between(timezone.localtime(since), timezone.localtime(until)))


def _year(since: datetime, until: datetime) -> Time:
    months = tuple(
        Period(
            start,
            end,
            capfirst(formats.date_format(start, "YEAR_MONTH_FORMAT")),
            {"queued_at__year": str(start.year), "queued_at__month": str(start.month), "queued_at__day": None},
        )
        for start, end in _calendar(since, until, 32)
    )
    return Time(str(months[0].start.year), months)


def _month(since: datetime, until: datetime) -> Time:
    days = tuple(
        Period(
            start,
            end,
            capfirst(formats.date_format(start, "MONTH_DAY_FORMAT")),
            {
                "queued_at__year": str(start.year),
                "queued_at__month": str(start.month),
                "queued_at__day": str(start.day),
            },
        )
        for start, end in _calendar(since, until, 1)
    )
    return Time(capfirst(formats.date_format(days[0].start, "YEAR_MONTH_FORMAT")), days)


def _calendar(since: datetime, until: datetime, days: int) -> Iterator[tuple[datetime, datetime]]:
    """Yield days (1) or months (32) by the calendar, so that changes of the clock do not shift them."""
    start = timezone.localtime(since)
    zone = start.tzinfo
    naive = start.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    while start < until:
        naive += timedelta(days=days)
        naive = naive if days == 1 else naive.replace(day=1)
        end = min(naive.replace(tzinfo=zone), timezone.localtime(until))
        yield start, end
        start = end


def _even(since: datetime, until: datetime, name: str) -> Time:
    fits = (step for step in STEPS if (until - since) / step <= MOST_BARS)
    step = next(fits, STEPS[-1])
    edges = [since]
    while edges[-1] < until:
        edges.append(min(until, edges[-1] + step))
    local = [timezone.localtime(from_django(edge)) for edge in edges]
    return Time(name, tuple(_step(start, end) for start, end in pairwise(local)))


def _step(start: datetime, end: datetime) -> Period:
    params: dict[str, str | None] = {"queued_at__gte": start.isoformat(), "queued_at__lt": end.isoformat()}
    hidden = dict.fromkeys(("queued_at__year", "queued_at__month", "queued_at__day"))
    return Period(start, end, _between(start, end), {**hidden, **params})


def _between(start: datetime, end: datetime) -> str:
    same_day = start.date() == end.date()
    return gettext("%(start)s to %(end)s") % {
        "start": dateformat.format(start, "j M H:i"),
        "end": dateformat.format(end, "H:i" if same_day else "j M H:i"),
    }
