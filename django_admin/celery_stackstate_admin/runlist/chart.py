"""The chart above the list: how many runs were queued over time, stacked by how they came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils import dateformat
from django.utils.functional import Promise
from django.utils.translation import gettext, gettext_lazy, ngettext

from celery_stackstate.records import EPOCH, FAILURE, LOST, STATUSES, SUCCESS, Bucket, from_micros
from celery_stackstate.stores.base import RunQuery
from celery_stackstate_admin.present import line
from celery_stackstate_admin.present import number as number_text
from celery_stackstate_admin.runlist.matches import FOR_CHART, Matches
from celery_stackstate_admin.runlist.periods import DAY, LONGEST, STEPS, Period, Time, time_of
from celery_stackstate_admin.source import extension, now

if TYPE_CHECKING:
    from celery_stackstate_admin.runlist.changelist import RunChangeList

HEIGHT, HEADROOM = 96, 8
#: What is seldom but matters is never too flat to be seen.
FLATTEST = 2.0
BUCKET = 600
SHORTEST_DAY = timedelta(hours=23)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Statuses that the chart draws as one."""

    tone: str
    label: str | Promise
    statuses: tuple[str, ...]


#: Drawn over the colour, so that colour is not all that tells one from another.
HATCHES = {"failure": "url(#ss-hatch-failure)", "lost": "url(#ss-hatch-lost)"}

_NAMED = (
    Outcome("failure", gettext_lazy("failure"), (FAILURE,)),
    Outcome("lost", gettext_lazy("lost"), (LOST,)),
    Outcome("success", gettext_lazy("success"), (SUCCESS,)),
)
_OTHER = tuple(status for status in STATUSES if status not in (FAILURE, LOST, SUCCESS))
#: From the bottom of a bar to its top.
OUTCOMES = (*_NAMED[:2], Outcome("other", gettext_lazy("other"), _OTHER), _NAMED[2])


@dataclass(frozen=True, slots=True)
class Segment:
    """The part of a bar that is one outcome."""

    tone: str
    y: str
    height: str

    @property
    def hatch(self) -> str:
        """What is drawn over its colour."""
        return HATCHES.get(self.tone, "")


@dataclass(frozen=True, slots=True)
class Bar:
    """One period: what is drawn of it, and its row of the table."""

    name: str
    title: str
    url: str
    x: str
    width: str
    segments: list[Segment]
    counts: list[int]

    @property
    def cells(self) -> list[str]:
        """The counts and their sum, as the table has them; none for a period without runs."""
        return [number_text(count) for count in (*self.counts, sum(self.counts))] if any(self.counts) else []


@dataclass(frozen=True, slots=True)
class Key:
    """One outcome in the legend."""

    tone: str
    label: str
    count: str
    url: str
    title: str

    @property
    def hatch(self) -> str:
        """What is drawn over its colour."""
        return HATCHES.get(self.tone, "")


@dataclass(frozen=True, slots=True)
class Tick:
    """One label below the bars."""

    x: str
    label: str
    anchor: str
    minor: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """What the template draws. `note` says why there are no bars, or what they leave out."""

    title: str = ""
    note: str = ""
    legend: tuple[Key, ...] = ()
    bars: tuple[Bar, ...] = ()
    ticks: tuple[Tick, ...] = ()
    top: str = ""
    middle: str = ""


def chart_of(changelist: RunChangeList, matches: Matches) -> Chart | None:
    """Return the chart of what a list shows; one without bars says why. None where there is nothing to draw."""
    query = matches.query
    timed = query.since is not None or query.until is not None
    if query.ids is not None or not (changelist.result_count or timed):
        return None
    since = from_micros(query.since) if timed or matches.is_counted else _since(matches)
    time = time_of(changelist.params, since, from_micros(query.until), now())
    if time is None:
        return Chart(note=gettext("No chart: the time is too long for one. Choose a year, a month or a day."))
    buckets, note = _counted(query, time) if matches.is_counted else _sampled(matches, time)
    return _drawn(changelist, query, time, buckets, note)


def _since(matches: Matches) -> datetime | None:
    """Return when a chart of the matches themselves begins; None for the time that charts have by default."""
    times = [run.queued_at for run in matches.runs if run.queued_at is not None]
    present = now()
    if not times or (min(times) >= present - DAY and not matches.is_cut):
        return None
    first = max(min(times), present - LONGEST + DAY)
    return first - (first - EPOCH) % STEPS[0]


def _counted(query: RunQuery, time: Time) -> tuple[Iterable[Bucket], str]:
    """Return what workers have counted, and what to say of it."""
    step = 3600 if all(_on(period.start, 3600) for period in time.periods) else BUCKET
    counts = extension().runs.counts(since=time.start, until=time.end, task=query.task, step=step)
    note = "" if counts.exact else gettext("Not all of it is counted up to now: workers count every ten minutes.")
    return counts.buckets, note


def _sampled(matches: Matches, time: Time) -> tuple[Iterable[Bucket], str]:
    """Return the matches themselves as buckets, and what to say of them."""
    found = [(run.queued_at, run.status) for run in reversed(matches.runs) if run.queued_at is not None]
    buckets = [Bucket(at, {status: 1}) for at, status in found if time.start <= at < time.end]
    if matches.is_cut:
        text = gettext("Drawn from the newest %(number)s runs that match; there are no counts of older ones.")
        return buckets, text % {"number": number_text(FOR_CHART)}
    return buckets, gettext("Drawn from the runs that match, as far as they are kept.")


def _drawn(changelist: RunChangeList, query: RunQuery, time: Time, buckets: Iterable[Bucket], note: str) -> Chart:
    rows = _rows(buckets, time.periods, query.status)
    totals = [sum(row) for row in zip(*rows, strict=True)]
    title = _title(query.task, time.name)
    if not sum(totals):
        return Chart(title, gettext("No runs were queued in this time."))
    top = _round_up(max(sum(row) for row in rows))
    return Chart(
        title,
        note,
        tuple(_key(changelist, *pair, time) for pair in zip(OUTCOMES, totals, strict=True)),
        tuple(_bars(changelist, time.periods, rows, top)),
        tuple(_ticks(time.periods)),
        number_text(top),
        number_text(top // 2) if top % 2 == 0 else "",
    )


def _on(moment: datetime, seconds: int) -> bool:
    return int(moment.timestamp()) % seconds == 0


def _title(task: str | None, name: str) -> str:
    if task is None:
        return gettext("Runs by outcome, %(time)s") % {"time": name}
    return gettext("Runs of %(task)s by outcome, %(time)s") % {"task": line(task, 80), "time": name}


def _rows(buckets: Iterable[Bucket], periods: tuple[Period, ...], statuses: tuple[str, ...]) -> list[list[int]]:
    """Return how many runs of each outcome each period has, those with `statuses` only if there are any."""
    rows = [[0] * len(OUTCOMES) for _ in periods]
    number = 0
    for bucket in buckets:
        while number + 1 < len(periods) and bucket.start >= periods[number].end:
            number += 1
        for column, outcome in enumerate(OUTCOMES):
            rows[number][column] += _of(bucket.by_status, outcome, statuses)
    return rows


def _of(by_status: Mapping[str, int], outcome: Outcome, statuses: tuple[str, ...]) -> int:
    known = outcome.statuses if outcome.tone != "other" else [one for one in by_status if not _is_named(one)]
    return sum(by_status.get(status, 0) for status in known if not statuses or status in statuses)


def _is_named(status: str) -> bool:
    return any(status in outcome.statuses for outcome in _NAMED)


def _bars(changelist: RunChangeList, periods: tuple[Period, ...], rows: list[list[int]], top: int) -> Iterable[Bar]:
    share = 100 / len(periods)
    for number, (period, row) in enumerate(zip(periods, rows, strict=True)):
        yield Bar(
            name=period.name,
            title=_bar_title(period, row),
            url=changelist.get_query_string(period.params),
            x=f"{number * share:.3f}%",
            width=f"{share:.3f}%",
            segments=_segments(row, top),
            counts=row,
        )


def _bar_title(period: Period, row: list[int]) -> str:
    parts = [f"{number_text(count)} {outcome.label}" for outcome, count in zip(OUTCOMES, row, strict=True) if count]
    total = sum(row)
    runs = ngettext("%(count)s run", "%(count)s runs", total) % {"count": number_text(total)}
    return "\n".join((period.name, runs, *parts))


def _segments(row: list[int], top: int) -> list[Segment]:
    scale = (HEIGHT - HEADROOM) / top
    heights = [max(FLATTEST, count * scale) if count else 0.0 for count in row]
    excess = sum(heights) - max(sum(row) * scale, FLATTEST)
    # What the small ones are drawn too high is taken from the highest, so that the bar as a whole is true.
    highest = heights.index(max(heights))
    heights[highest] = max(FLATTEST, heights[highest] - excess) if heights[highest] else 0.0
    segments, base = list[Segment](), float(HEIGHT)
    for outcome, height in zip(OUTCOMES, heights, strict=True):
        base -= height
        if height:
            segments.append(Segment(outcome.tone, f"{base:.1f}", f"{height:.1f}"))
    return segments


def _key(changelist: RunChangeList, outcome: Outcome, count: int, time: Time) -> Key:
    params: dict[str, Any] = {"status": None, "status__in": None}
    params["status" if len(outcome.statuses) == 1 else "status__in"] = ",".join(outcome.statuses)
    if not any(name.startswith("queued_at__") for name in changelist.params):
        params["queued_at__gte"] = time.start.isoformat()
    return Key(
        outcome.tone,
        str(outcome.label),
        number_text(count),
        changelist.get_query_string(params),
        ", ".join(outcome.statuses),
    )


def _ticks(periods: tuple[Period, ...]) -> Iterable[Tick]:
    """Yield a label for each sixth of the periods or so, at their left edge."""
    every = max(1, round(len(periods) / 6))
    days = periods[0].end - periods[0].start >= SHORTEST_DAY
    form = "M" if len(periods) <= 12 and days else "j M" if days else "H:i"
    for number in range(0, len(periods), every):
        label = dateformat.format(periods[number].start, form)
        anchor = "start" if number == 0 else "middle"
        yield Tick(f"{100 * number / len(periods):.3f}%", label, anchor, minor=number // every % 2 == 1)


def _round_up(most: int) -> int:
    """Return the next number that is easy to read on an axis."""
    size: int = 10 ** max(0, len(str(most)) - 2)
    steps = (1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 30, 40, 50, 60, 80, 100)
    return next(step * size for step in steps if step * size >= most)
