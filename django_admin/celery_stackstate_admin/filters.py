"""The filters beside the lists. Their choices come from the names the store keeps, never from a scan of the runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import SimpleListFilter

from celery_stackstate.records import STATUSES
from celery_stackstate_admin.present import line
from celery_stackstate_admin.source import extension

MOST_FACETS = 25


class NamesFilter(SimpleListFilter):
    """Filters by a field that is equal to one of the names in use."""

    #: The column whose names are offered.
    column = ""

    def names(self) -> Iterable[str]:
        """Return the names in use."""
        return list(extension().runs.names(self.column))

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the names in use, and the one asked for even if it is none of them."""
        names = list(self.names())
        asked = self.value()
        if asked and asked not in names:
            names.append(asked)
        return [(name, line(name, 80)) for name in names]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the name asked for."""
        asked = self.value()
        return queryset.filter(**{self.column: asked}) if asked else queryset

    def get_facet_counts(self, pk_attname: str, filtered_qs: Any) -> dict[str, Any]:
        """Count the first choices only: each count is a question to the store."""
        every, self.lookup_choices = self.lookup_choices, self.lookup_choices[:MOST_FACETS]
        try:
            return dict(super().get_facet_counts(pk_attname, filtered_qs))
        finally:
            self.lookup_choices = every


class StatusFilter(NamesFilter):
    """Filters runs by status."""

    title, parameter_name, column = "status", "status", "status"

    def names(self) -> Iterable[str]:
        """Return all statuses there are."""
        return STATUSES


class TaskFilter(NamesFilter):
    """Filters runs by task."""

    title, parameter_name, column = "task", "task", "task"


class WorkerFilter(NamesFilter):
    """Filters runs by the worker that has, or last had them."""

    title, parameter_name, column = "worker", "worker", "worker"


class QueueFilter(NamesFilter):
    """Filters runs by queue."""

    title, parameter_name, column = "queue", "queue", "queue"


class KindFilter(NamesFilter):
    """Filters state by what it is."""

    title, parameter_name, column = "kind", "kind", "kind"

    def names(self) -> Iterable[str]:
        """Return the kinds there are."""
        return ("value", "counter", "lock")


class ScopeFilter(SimpleListFilter):
    """Filters state by sort of scope, or by one scope when a link names it (`?scope=task:shop.import`)."""

    title, parameter_name = "scope", "scope"
    SORTS = (("app", "app-wide"), ("run", "of runs"), ("task", "of tasks"), ("scope", "named"))

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the sorts of scope, and the one scope asked for."""
        asked = self.value()
        single = [(asked, line(asked, 80))] if asked and ":" in asked else []
        return [*self.SORTS, *single]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the scope or sort asked for."""
        asked = self.value()
        if not asked:
            return queryset
        if asked == "app":
            return queryset.filter(scope="")
        return queryset.filter(scope=asked) if ":" in asked else queryset.filter(scope__startswith=f"{asked}:")
