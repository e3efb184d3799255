"""The lists' own ChangeLists: the order the store has, and where its answers end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList

from celery_stackstate.errors import StackStateError
from celery_stackstate_admin.runs import COUNT_CAP

if TYPE_CHECKING:
    from celery_stackstate_admin.state import StateQuerySet


class StoreChangeList(ChangeList):
    """A list that says what it does not show; the template prints `store_note` below it."""

    store_note = ""

    def get_filters(self, request: Any) -> Any:
        """Read the filters; a year that no calendar has is a bad lookup (Django lets 9999 through)."""
        try:
            return super().get_filters(request)
        except StackStateError:
            raise
        except (ValueError, OverflowError) as error:
            raise IncorrectLookupParameters(error) from error


class RunChangeList(StoreChangeList):
    """Runs, newest or oldest first: other orders have no index."""

    def get_ordering(self, request: Any, queryset: Any) -> list[Any]:
        """Return the order by time that was asked for, ties by id."""
        asked = super().get_ordering(request, queryset)
        return ["queued_at", "id"] if "queued_at" in asked else ["-queued_at", "-id"]

    def get_results(self, request: Any) -> None:
        """Read the page; say so when more runs match than are counted."""
        super().get_results(request)
        if self.result_count >= COUNT_CAP:
            self.store_note = (
                f"More than {COUNT_CAP:,} runs match. Counting and paging end there: "
                "choose a day, filter, or search for an id to see further."
            )


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
            self.store_note = (
                f"The list ends after {self.queryset.query.look_at_most:,} entries were looked at; there are more. "  # type: ignore[attr-defined]
                "Choose a scope (the links in the list do) and search for the beginning of a key."
            )
