"""Percentiles of what a list shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from django.utils.translation import gettext, ngettext

from celery_stackstate_admin.present import duration, number
from celery_stackstate_admin.runlist.matches import FOR_FIGURES, Matches


@dataclass(frozen=True, slots=True)
class Spread:
    """How one measure is spread, in words ready to be shown."""

    label: str
    p50: str
    p95: str
    most: str


@dataclass(frozen=True, slots=True)
class Figures:
    """The spreads of wait and duration, and what they are of."""

    title: str
    spreads: list[Spread]


def figures(matches: Matches) -> Figures | None:
    """Return the figures of the newest runs that match; None when none of them has begun."""
    runs = matches.runs[:FOR_FIGURES]
    measures = ((gettext("Wait"), [run.wait for run in runs]), (gettext("Duration"), [run.runtime for run in runs]))
    spreads = [spread for label, seconds in measures if (spread := _spread(label, seconds)) is not None]
    if not spreads:
        return None
    if len(runs) >= FOR_FIGURES:
        title = gettext("Of the newest %(count)s runs")
    else:
        title = ngettext("Of %(count)s run", "Of all %(count)s runs", len(runs))
    return Figures(title % {"count": number(len(runs))}, spreads)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest of the ordered values that at least this share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _spread(label: str, seconds: Iterable[float | None]) -> Spread | None:
    ordered = sorted(value for value in seconds if value is not None)
    if not ordered:
        return None
    p50, p95 = (duration(percentile(ordered, share)) for share in (0.5, 0.95))
    return Spread(label, p50, p95, duration(ordered[-1]))
