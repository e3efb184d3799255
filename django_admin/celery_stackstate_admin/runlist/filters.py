"""The filters beside the lists. Their choices come from the names the store keeps, never from a scan of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.contrib.admin import SimpleListFilter
from django.contrib.admin.options import IS_FACETS_VAR
from django.utils.translation import gettext_lazy as _

from celery_stackstate.records import STATUSES
from celery_stackstate_admin import present
from celery_stackstate_admin.present import line
from celery_stackstate_admin.queryset import COUNT_CAP
from celery_stackstate_admin.source import extension

#: So many names the store lists, and of so many of them the facets are counted.
MOST_NAMES, MOST_FACETS = 500, 25
#: Where a request keeps the names that it has read: each facet makes all filters once more.
NAMES = "_stackstate_names"


class NamesFilter(SimpleListFilter):
    """Filters by a field that is equal to one of the names in use."""

    #: The column whose names are offered.
    column = ""

    def __init__(self, request: Any, params: Any, model: Any, model_admin: Any) -> None:
        """Say in the title what the choices leave out."""
        super().__init__(request, params, model, model_admin)
        number = len(self.lookup_choices)
        if number >= MOST_NAMES:
            self.title = _("%(title)s: the first %(most)d") % {"title": self.title, "most": MOST_NAMES}
        if number > MOST_FACETS and IS_FACETS_VAR in request.GET:
            self.title = _("%(title)s (counts of the first %(most)d)") % {"title": self.title, "most": MOST_FACETS}

    def names(self, request: Any) -> Iterable[str]:
        """Return the names in use."""
        known = request.__dict__.setdefault(NAMES, {})
        if self.column not in known:
            known[self.column] = extension().runs.names(self.column)
        return list(known[self.column])

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the names in use, and the one asked for even if it is none of them."""
        names = list(self.names(request))
        asked = self.value()
        if asked and asked not in names:
            names.append(asked)
        return [(name, line(name, 80)) for name in names]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the name asked for."""
        asked = self.value()
        return queryset.filter(**{self.column: asked}) if asked else queryset

    def get_facet_queryset(self, changelist: Any) -> dict[str, Any]:
        """Count the first choices only, where each count is a question to the store; it counts up to a bound."""
        every, self.lookup_choices = self.lookup_choices, self.lookup_choices[:MOST_FACETS]
        try:
            counts = self._counts_found(changelist) or super().get_facet_queryset(changelist)
        finally:
            self.lookup_choices = every
        return {name: count if count < COUNT_CAP else f"{present.number(COUNT_CAP)}+" for name, count in counts.items()}

    def _counts_found(self, changelist: Any) -> dict[str, int]:
        """Return the counts within what a search found, which is at hand as a whole; nothing without one."""
        found = changelist.get_queryset(self.request, exclude_parameters=self.expected_parameters())
        if not found.query.text:
            return {}
        counts = Counter(getattr(item, self.column) for item in found)
        return {f"{number}__c": counts[name] for number, (name, _shown) in enumerate(self.lookup_choices)}


class StatusFilter(NamesFilter):
    """Filters runs by status."""

    title, parameter_name, column = _("status"), "status", "status"

    def names(self, request: Any) -> Iterable[str]:
        """Return all statuses there are."""
        return STATUSES


class TaskFilter(NamesFilter):
    """Filters runs by task."""

    title, parameter_name, column = _("task"), "task", "task"


class WorkerFilter(NamesFilter):
    """Filters runs by the worker that has, or last had them."""

    title, parameter_name, column = _("worker"), "worker", "worker"


class QueueFilter(NamesFilter):
    """Filters runs by queue."""

    title, parameter_name, column = _("queue"), "queue", "queue"


class HostFilter(NamesFilter):
    """Filters runs by the host that asked for them."""

    title, parameter_name, column = _("host"), "host", "host"


class DuplicatedFilter(NamesFilter):
    """Filters runs of which duplicate requests were suppressed."""

    title, parameter_name, column = _("duplicates"), "duplicated", "duplicated"

    def names(self, request: Any) -> Iterable[str]:
        """Return the one answer that has an index."""
        return ("yes",)

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        """Offer the runs that had some."""
        return [
            (name, _("suppressed some") if name == "yes" else name)
            for name, _shown in super().lookups(request, model_admin)
        ]
