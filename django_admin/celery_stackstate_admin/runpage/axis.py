"""The axis of a timeline: places in per cent, ticks, bars. Pure functions.

Percentages are texts, so that no template localizes them, and the drawing follows the width of the page without
scaling its letters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from celery_stackstate_admin.present import amount, duration, number

THINNEST = 0.35
STEPS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000, 7_776_000, 31_536_000),
)
MOST_TICKS = 8
# From which step on a unit is used, its length in seconds, its name.
UNITS = ((86_400, 86_400, "d"), (3_600, 3_600, "h"), (60, 60, "min"), (0.1, 1, "s"), (0, 0.001, "ms"))


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time of waiting or running, before it is drawn."""

    begin: datetime
    end: datetime
    tone: str
    title: str
    attempt: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A stretch of the axis. `tone` names its colour; `title` says in words what it is.

    `attempt` is the number of the attempt whose execution it shows, "" for waiting.
    """

    x: str
    width: str
    tone: str
    title: str
    attempt: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """A line across all rows. `edge` is "start", "end" or "" for those between; `minor` may be hidden when narrow."""

    x: str
    label: str
    edge: str = ""
    minor: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From a moment on, for a number of seconds."""

    start: datetime
    length: float

    def at(self, moment: datetime) -> float:
        """Return the place of `moment` in per cent, within 0 to 100."""
        return min(100.0, max(0.0, (moment - self.start).total_seconds() / self.length * 100))

    def bar(self, part: Stretch) -> Bar:
        """Return a bar, never too thin to be seen."""
        x = min(self.at(part.begin), 100 - THINNEST)
        return Bar(percent(x), percent(max(THINNEST, self.at(part.end) - x)), part.tone, part.title, part.attempt)

    def since(self, moment: datetime) -> str:
        """Return how long after the start of the axis `moment` is."""
        return duration((moment - self.start).total_seconds())


def percent(value: float) -> str:
    """Return `value` as SVG wants it."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "%"


def axis_of(first: datetime, last: datetime) -> tuple[Axis, tuple[Tick, ...]]:
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
    text = f"{round(seconds / size, 3):g}"
    return f"+{amount(number(float(text), len(text.partition('.')[2])), unit)}"
