"""What stands above the list of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_stackstate_admin.runlist import narrowing
from celery_stackstate_admin.runlist.chart import Chart, chart_of
from celery_stackstate_admin.runlist.figures import Figures, figures
from celery_stackstate_admin.runlist.matches import matches_of

if TYPE_CHECKING:
    from celery_stackstate_admin.runlist.changelist import RunChangeList


@dataclass(frozen=True, slots=True)
class Overview:
    """Links that narrow the list, what it is narrowed to, the chart and the figures."""

    quick: list[narrowing.Choice]
    exact_fields: list[narrowing.Exact]
    kept_params: list[tuple[str, str]]
    narrowed: list[narrowing.Narrowed]
    without: str
    chart: Chart | None
    figures: Figures | None

    @property
    def has_exact(self) -> bool:
        """Whether a field of the form for whole values is filled in."""
        return any(field.value for field in self.exact_fields)


def overview_of(changelist: RunChangeList) -> Overview:
    """Return what stands above this list."""
    matches = matches_of(changelist)
    return Overview(
        quick=narrowing.quick(changelist),
        exact_fields=narrowing.exact_fields(changelist),
        kept_params=narrowing.kept_params(changelist),
        narrowed=narrowing.narrowed(changelist),
        without=narrowing.without(changelist),
        chart=None if matches is None else chart_of(changelist, matches),
        figures=None if matches is None else figures(matches),
    )
