"""Runs as a queryset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, cast

from django.core.exceptions import FieldError
from django.utils import timezone

from celery_stackstate.records import to_micros
from celery_stackstate.stores.base import RunQuery
from celery_stackstate_admin.plan import Plan
from celery_stackstate_admin.queryset import StoreQuerySet
from celery_stackstate_admin.runquery import run_query
from celery_stackstate_admin.source import extension, from_django, to_django

if TYPE_CHECKING:
    from celery_stackstate_admin.models import Run

COUNT_CAP = 10_000
STEP = 250


class RunQuerySet(StoreQuerySet["Run"]):
    """Runs by the time they were queued. `count()` stops at 10,000; iteration goes through them all."""

    def search(self, text: str) -> RunQuerySet:
        """Keep the runs whose id, task, key or error contains `text`, among the newest that match so far."""
        found: Any = self.all()
        found.query.text = text
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
        return int(extension().runs.count(run_query(plan), cap=COUNT_CAP))

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
        found: list[datetime] = []
        oldest_first = self.order_by("queued_at")
        run = oldest_first.first()
        while run is not None and run.queued_at is not None:
            start = _floor(timezone.localtime(from_django(run.queued_at), zone), kind)
            found.append(start if timezone.is_aware(run.queued_at) else timezone.make_naive(start, zone))
            end = to_django(_next(start, kind))
            run = oldest_first.filter(queued_at__gte=end).first()
        return found if order == "ASC" else found[::-1]


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
