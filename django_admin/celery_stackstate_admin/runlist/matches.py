"""The newest runs that a list matches, a bounded number of them: for what nobody has counted beforehand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from celery_stackstate.stores.base import RunQuery
from celery_stackstate_admin.runs.query import run_query
from celery_stackstate_admin.runs.queryset import position
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate.records import Run
    from celery_stackstate_admin.runlist.changelist import RunChangeList

#: So many are looked at for the figures, and so many for a chart that no counts follow.
FOR_FIGURES, FOR_CHART = 250, 500


@dataclass(frozen=True, slots=True)
class Matches:
    """What a list asks for, and the newest runs of it, the newest first."""

    query: RunQuery
    runs: list[Run]

    @property
    def is_counted(self) -> bool:
        """Whether the list is narrowed to nothing but what workers count by."""
        return _is_counted(self.query)

    @property
    def is_cut(self) -> bool:
        """Whether there may be more runs than a chart is drawn from."""
        return len(self.runs) >= FOR_CHART


def matches_of(changelist: RunChangeList) -> Matches | None:
    """Return what matches, in at most one question to the store; None where nothing can."""
    plan = changelist.queryset.plan()
    if plan is None:
        return None
    query, page = run_query(plan), changelist.page
    if query.ids is not None or (page.before is None and page.after is None):  # all of it is on the page
        return Matches(query, [run.record for run in sorted(page.runs, key=position, reverse=True)])
    most = FOR_FIGURES if _is_counted(query) else FOR_CHART
    if query.text:  # all of it is at hand: the list has looked for it once
        found = changelist.queryset.order_by("-queued_at", "-id")
        return Matches(query, [run.record for run in islice(found, most)])
    return Matches(query, extension().runs.find(replace(query, oldest_first=False, offset=0, limit=most)))


def _is_counted(query: RunQuery) -> bool:
    bare = RunQuery(status=query.status, task=query.task, since=query.since, until=query.until)
    return replace(query, oldest_first=False, offset=0) == bare
