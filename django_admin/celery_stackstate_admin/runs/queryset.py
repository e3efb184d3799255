"""Runs as a queryset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from itertools import groupby
from typing import TYPE_CHECKING, Any, cast

from django.conf import settings
from django.core.exceptions import FieldError
from django.utils import timezone

from celery_stackstate.records import to_micros
from celery_stackstate.stores.base import TEXT_SEARCH_LIMIT, RunQuery
from celery_stackstate_admin.plan import Plan
from celery_stackstate_admin.queryset import COUNT_CAP, StoreQuerySet, sliced
from celery_stackstate_admin.runs.query import run_query
from celery_stackstate_admin.source import extension, from_django

if TYPE_CHECKING:
    from celery_stackstate_admin.models import Run

STEP = 250


class RunQuerySet(StoreQuerySet["Run"]):
    """Runs by the time they were queued. `count()` stops at 10,000; iteration goes through them all."""

    def search(self, text: str) -> RunQuerySet:
        """Keep the runs whose id, task, key or error contains `text`, among the newest that match so far.

        They are asked for once, however often they are counted, sliced and grouped.
        """
        found: Any = self.all()
        found.query.text, found.query.found = text, {}
        return cast(RunQuerySet, found)

    def behind(self, at: int, run_id: str) -> RunQuerySet:
        """Begin behind the run that was queued `at` these microseconds, in the order of the queryset.

        What is behind a place is listed, not counted.
        """
        found: Any = self.all()
        found.query.behind = (at, run_id)
        return cast(RunQuerySet, found)

    def check_plan(self, plan: Plan) -> None:
        """Raise FieldError when the history cannot answer `plan`."""
        run_query(plan)

    def fetch(self, plan: Plan) -> Iterator[Run]:
        """Yield the runs of `plan`; one asked for by its id alone comes with all details."""
        query, runs = run_query(plan), extension().runs
        if query == RunQuery(ids=query.ids) and len(query.ids or ()) == 1:
            found = runs.get(query.ids[0])  # type: ignore[index]
            yield from [] if found is None else [self.model.of(found)]
            return
        if query.text:
            yield from sliced(self._searched(query), plan)
            return
        left = plan.limit
        while left is None or left > 0:
            most = STEP if left is None else min(STEP, left)
            page = runs.find(replace(query, limit=most))
            yield from map(self.model.of, page)
            if len(page) < most:
                return
            left = None if left is None else left - most
            query = _behind(query, page)

    def total(self, plan: Plan) -> int:
        """Return how many runs match, at most 10,000."""
        query = run_query(plan)
        if query.after is not None:
            raise FieldError("Runs behind a place are listed, not counted.")
        if query.text:
            return min(COUNT_CAP, sum(1 for _ in self._searched(query)))
        return int(extension().runs.count(query, cap=COUNT_CAP))

    def extreme(self, field: str, *, last: bool) -> Any:
        """Return when the first or last run was queued."""
        if field != "queued_at":
            return super().extreme(field, last=last)
        run = self.order_by("-queued_at" if last else "queued_at").first()
        return None if run is None else run.queued_at

    def datetimes(self, field_name: str, kind: str, order: str = "ASC", tzinfo: tzinfo | None = None) -> Any:
        """Return the years, months or days in which runs were queued: one small question for each that has any."""
        if field_name != "queued_at" or kind not in ("year", "month", "day"):
            raise FieldError(f"Runs are not listed by the {kind} of {field_name}.")
        zone = tzinfo or timezone.get_current_timezone()
        starts = self._starts_found(kind, zone) if self.query.text else self._starts(kind, zone)  # type: ignore[attr-defined]
        found = list(starts) if settings.USE_TZ else [timezone.make_naive(start, zone) for start in starts]
        return found if order == "ASC" else found[::-1]

    def _starts(self, kind: str, zone: tzinfo) -> Iterator[datetime]:
        plan, runs = self.plan(), extension().runs
        query = None if plan is None else replace(run_query(plan), oldest_first=True, after=None, offset=0, limit=1)
        while query is not None and (found := runs.find(query)) and found[0].queued_at is not None:
            start = _floor(timezone.localtime(found[0].queued_at, zone), kind)
            yield start
            query = replace(query, since=max(query.since or 0, to_micros(_next(start, kind))))

    def _starts_found(self, kind: str, zone: tzinfo) -> Iterator[datetime]:
        moments = (from_django(run.queued_at) for run in self.order_by("queued_at") if run.queued_at is not None)
        return (start for start, _ in groupby(_floor(timezone.localtime(one, zone), kind) for one in moments))

    def _searched(self, query: RunQuery) -> Iterator[Run]:
        """Yield what the text of `query` is found in, in its order and behind its place."""
        whole = replace(query, after=None, oldest_first=False, offset=0, limit=TEXT_SEARCH_LIMIT)
        known: dict[RunQuery, list[Run]] = self.query.found  # type: ignore[attr-defined]
        if whole not in known:
            known[whole] = [self.model.of(record) for record in extension().runs.find(whole)]
        for run in reversed(known[whole]) if query.oldest_first else known[whole]:
            if query.after is None or _is_behind(position(run), query):
                yield run


def position(run: Run) -> tuple[int, str]:
    """Return where a run stands in the lists."""
    moment = run.record.queued_at
    return (0 if moment is None else to_micros(moment)), run.pk


def _is_behind(place: tuple[int, str], query: RunQuery) -> bool:
    return query.after is not None and (place > query.after if query.oldest_first else place < query.after)


def _behind(query: RunQuery, page: list[Any]) -> RunQuery:
    """Return the question for what follows `page`: by place rather than by number where the last run has a time."""
    last = page[-1]
    if last.queued_at is None:
        return replace(query, offset=query.offset + len(page))
    return replace(query, offset=0, after=(to_micros(last.queued_at), last.id))


def _floor(moment: datetime, kind: str) -> datetime:
    zeros: dict[str, Any] = {"hour": 0, "minute": 0, "second": 0, "microsecond": 0, "fold": 0}
    if kind != "day":
        zeros["day"] = 1
    if kind == "year":
        zeros["month"] = 1
    return moment.replace(**zeros)


def _next(start: datetime, kind: str) -> datetime:
    """Return the start of the following period by the calendar, so that changes of the clock do not shift it."""
    days = {"day": 1, "month": 32, "year": 367}[kind]
    naive = start.replace(tzinfo=None) + timedelta(days=days)
    return _floor(naive, kind).replace(tzinfo=start.tzinfo)
