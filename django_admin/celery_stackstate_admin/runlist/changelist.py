"""The list of runs: the order the store has, its pages, and where its answers end."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ALL_VAR
from django.utils.functional import cached_property
from django.utils.translation import gettext, ngettext

from celery_stackstate_admin import present
from celery_stackstate_admin.changelist import StoreChangeList
from celery_stackstate_admin.queryset import COUNT_CAP
from celery_stackstate_admin.runlist.narrowing import ALIASES, DATES, EXACT
from celery_stackstate_admin.runlist.overview import Overview, overview_of
from celery_stackstate_admin.runlist.paging import AFTER, BEFORE, Place, RunPage, read_page


class RunChangeList(StoreChangeList):
    """Runs, newest or oldest first: other orders have no index."""

    page: RunPage

    def get_queryset(self, request: Any, exclude_parameters: Any = None) -> Any:
        """Return what the address asks for; the place where its page begins is no part of that."""
        for name in (AFTER, BEFORE):
            self.params.pop(name, None)
            self.filter_params.pop(name, None)
        for name in EXACT:
            if not self.params.get(name, "-"):  # a field of the form that was left empty
                del self.params[name], self.filter_params[name]
        for alias, name in ALIASES.items():
            for params in (self.params, self.filter_params):
                if alias in params:
                    params[name] = params.pop(alias)
        return super().get_queryset(request, exclude_parameters)

    def get_ordering(self, request: Any, queryset: Any) -> list[Any]:
        """Return the order by time that was asked for, ties by id."""
        asked = super().get_ordering(request, queryset)
        return ["queued_at", "id"] if "queued_at" in asked else ["-queued_at", "-id"]

    def get_results(self, request: Any) -> None:
        """Count what matches and read the page: all, by its number, or from the place that the address names."""
        after, before = _place(request, AFTER), _place(request, BEFORE)
        if after or before:
            self.page_num = 1
        super().get_results(request)
        size = self.list_per_page
        if self.show_all and self.can_show_all:
            self.page = RunPage(list(self.result_list))
        else:
            start = (self.page_num - 1) * size if self.multi_page else 0
            self.page = read_page(self.queryset, size, start=start, after=after, before=before)
        self.result_list = self.page.runs
        self.show_admin_actions = bool(self.page.runs)

    @cached_property
    def overview(self) -> Overview:
        """What stands above the list."""
        return overview_of(self)

    @property
    def is_oldest_first(self) -> bool:
        """Whether the list begins with the oldest run."""
        return bool(self.queryset.query.order_by[0] == "queued_at")

    @property
    def counted(self) -> str:
        """How many runs match, in words."""
        count = self.result_count
        if not count:
            narrowed = self.query or self.get_filters_params()
            return gettext("No runs match.") if narrowed else gettext("No runs are recorded yet.")
        if count >= COUNT_CAP:
            return gettext("More than %(count)s runs match.") % {"count": present.number(COUNT_CAP)}
        return ngettext("%(count)s run", "%(count)s runs", count) % {"count": present.number(count)}

    @property
    def has_dates(self) -> bool:
        """Whether there are dates to choose from, or to go back from."""
        return bool(self.result_count) or any(name in self.params for name in DATES)

    @property
    def top_url(self) -> str:
        """The address of the page that the list begins with."""
        return self.get_query_string()

    @property
    def before_url(self) -> str | None:
        """The address of the page before this one."""
        return self.get_query_string({BEFORE: str(self.page.before)}) if self.page.before else None

    @property
    def after_url(self) -> str | None:
        """The address of the page behind this one."""
        return self.get_query_string({AFTER: str(self.page.after)}) if self.page.after else None

    @property
    def all_url(self) -> str | None:
        """The address of the list on one page, where that is short enough."""
        wanted = self.can_show_all and not self.show_all and self.multi_page
        return self.get_query_string({ALL_VAR: ""}) if wanted else None


def _place(request: Any, name: str) -> Place | None:
    text = request.GET.get(name)
    try:
        return Place.read(text) if text is not None else None
    except ValueError as error:
        raise IncorrectLookupParameters(error) from error
