"""Workers as a queryset: they are few, and read all at once."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from django.core.exceptions import FieldError

from celery_stackstate_admin.plan import Condition, Plan
from celery_stackstate_admin.queryset import StoreQuerySet, sliced
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate.records import Worker as WorkerRecord
    from celery_stackstate_admin.models import Worker

FIELDS = frozenset({"id", "hostname", "host", "live"})
TESTS = frozenset({"exact", "in", "icontains"})


class WorkerQuerySet(StoreQuerySet["Worker"]):
    """Workers by name and start, living or dead."""

    def check_plan(self, plan: Plan) -> None:
        """Raise FieldError for what workers are not looked up by."""
        for condition in plan.conditions:
            if condition.field not in FIELDS or condition.lookup not in TESTS:
                raise FieldError(f"Workers cannot be looked up by {condition.field}__{condition.lookup}.")
        if plan.order not in ((), ("hostname", "id")):
            raise FieldError("Workers are listed by name and start.")

    def fetch(self, plan: Plan) -> Iterator[Worker]:
        """Yield the workers of `plan`."""
        return sliced((one for one in self._all() if _passes(plan, one)), plan)

    def total(self, plan: Plan) -> int:
        """Return how many workers match."""
        return sum(_passes(plan, one) for one in self._all())

    def _all(self) -> Iterator[Any]:
        return (self.model.of(record) for record in extension().workers())


def worker_id(record: WorkerRecord) -> str:
    """Return what names one start of a worker in a URL."""
    return urlsafe_b64encode(f"{record.hostname}\0{record.boot}".encode()).decode().rstrip("=")


def _passes(plan: Plan, worker: Any) -> bool:
    return all(_holds(condition, getattr(worker, condition.field)) for condition in plan.conditions)


def _holds(test: Condition, value: Any) -> bool:
    if test.lookup == "in":
        return value in test.value
    if test.lookup == "icontains":
        return str(test.value).casefold() in str(value).casefold()
    return bool(value == test.value)
