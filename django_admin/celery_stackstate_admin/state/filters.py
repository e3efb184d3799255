"""The filters beside the list of state."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import SimpleListFilter
from django.utils.translation import gettext_lazy as _

from celery_stackstate_admin.present import line

KINDS = ("value", "counter", "lock")


class KindFilter(SimpleListFilter):
    """Filters state by what it is."""

    title, parameter_name = _("kind"), "kind"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the kinds there are, and the one asked for even if it is none of them."""
        asked = self.value()
        unknown = [asked] if asked and asked not in KINDS else []
        return [(kind, line(kind, 80)) for kind in (*KINDS, *unknown)]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the kind asked for."""
        asked = self.value()
        return queryset.filter(kind=asked) if asked else queryset


class ScopeFilter(SimpleListFilter):
    """Filters state by sort of scope, or by one scope when a link names it (`?scope=task:shop.import`)."""

    title, parameter_name = _("scope"), "scope"
    SORTS = (("app", _("app-wide")), ("run", _("of runs")), ("task", _("of tasks")), ("scope", _("named")))

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
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
