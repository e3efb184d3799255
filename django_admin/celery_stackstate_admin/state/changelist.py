"""The list of state: the order the store lists it in, and where the walk ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext

from celery_stackstate_admin import present
from celery_stackstate_admin.changelist import StoreChangeList

if TYPE_CHECKING:
    from celery_stackstate_admin.state.queryset import StateQuerySet


class StateChangeList(StoreChangeList):
    """State in the order the store lists it in."""

    queryset: StateQuerySet

    def get_ordering(self, request: Any, queryset: Any) -> list[Any]:
        """Return the store's order, the only one there is."""
        return ["scope", "key"]

    def get_results(self, request: Any) -> None:
        """Read the page; say so when the walk ended before the state did."""
        super().get_results(request)
        if self.queryset.cut:
            looked_at = present.number(self.queryset.query.look_at_most)  # type: ignore[attr-defined]
            self.store_note = gettext(
                "The list ends after %(count)s entries were looked at; there are more. "
                "Choose a scope (the links in the list do) and search for the beginning of a key."
            ) % {"count": looked_at}
