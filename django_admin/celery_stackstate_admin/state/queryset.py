"""State entries as a queryset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from celery_stackstate_admin.plan import Plan
from celery_stackstate_admin.queryset import StoreQuerySet, sliced
from celery_stackstate_admin.source import extension
from celery_stackstate_admin.walk import Walk, ids_of, passes, walk_of

if TYPE_CHECKING:
    from celery_stackstate_admin.models import StateEntry


class StateQuerySet(StoreQuerySet["StateEntry"]):
    """State by scope and key, values and counters before locks.

    The store lists state by scope and key prefix. Any other filter, and any offset, is answered by walking.
    """

    #: Whether the last `count()` stopped before the end of the state.
    cut = False

    def looking_at(self, most: int) -> StateQuerySet:
        """Look at no more than `most` entries for one answer: what lies behind them is not found."""
        found: Any = self.all()
        found.query.look_at_most = most
        return cast(StateQuerySet, found)

    def check_plan(self, plan: Plan) -> None:
        """Raise FieldError when a walk cannot answer `plan`."""
        walk_of(plan, look_at_most=None)

    def fetch(self, plan: Plan) -> Iterator[StateEntry]:
        """Yield the entries of `plan`; those asked for by id are read without a walk."""
        browser, ids = extension().browser, ids_of(plan)
        found: Iterator[Any]
        if ids is not None:
            named = (record for one in ids if (record := browser.get(one)) is not None)
            found = (record for record in named if passes(plan, record))
        else:
            found = self._walk(plan).records(browser)
        return sliced(map(self.model.of, found), plan)

    def total(self, plan: Plan) -> int:
        """Return how many entries match, among those that may be looked at."""
        browser = extension().browser
        if ids_of(plan) is not None:
            return sum(1 for _ in self.all().fetch(Plan(plan.conditions, plan.order)))
        walk = self._walk(plan)
        number = sum(1 for _ in walk.records(browser))
        self.cut = walk.cut
        return number

    def _walk(self, plan: Plan) -> Walk:
        return walk_of(plan, look_at_most=self.query.look_at_most)  # type: ignore[attr-defined]
