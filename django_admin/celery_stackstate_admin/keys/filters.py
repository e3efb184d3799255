"""The filters beside the list of idempotency keys."""

from __future__ import annotations

from typing import Any

from django.contrib.admin import SimpleListFilter
from django.utils.translation import gettext_lazy as _

from celery_stackstate.key_record import FAILED, PUBLISHED, RESERVED, RETRYING, RUNNING, SUCCEEDED
from celery_stackstate_admin.present import line
from celery_stackstate_admin.source import extension

APP = "app"
MOST_TASKS = 100


class KeyScopeFilter(SimpleListFilter):
    """Filters keys by the task they were used for (`?for=task:shop.mail`), or those of the app."""

    title, parameter_name = _("task"), "for"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        """Offer the keys of the app, of the tasks that have some, and the one asked for."""
        names = [f"task:{name}" for name in extension().idempotency.tasks(limit=MOST_TASKS)]
        asked = self.value()
        if asked and asked != APP and asked not in names:
            names.append(asked)
        return [(APP, _("app-wide keys")), *((name, line(name.removeprefix("task:"), 80)) for name in names)]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the scope asked for."""
        asked = self.value()
        return queryset.filter(scope="" if asked == APP else asked) if asked else queryset


class KeyStateFilter(SimpleListFilter):
    """Filters keys by state."""

    title, parameter_name = _("state"), "state"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """Offer the states there are."""
        return [(state, state) for state in (RESERVED, PUBLISHED, RUNNING, RETRYING, SUCCEEDED, FAILED)]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to the state asked for."""
        asked = self.value()
        return queryset.filter(state=asked) if asked else queryset
