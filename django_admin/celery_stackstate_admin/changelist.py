"""What the lists' own ChangeLists share."""

from __future__ import annotations

from typing import Any

from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ChangeList

from celery_stackstate.errors import StackStateError


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
