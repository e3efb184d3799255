"""Turns a plan into a walk through the state, which is listed by scope and key and has no other index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import EmptyResultSet, FieldError

from celery_stackstate_admin.plan import Condition, Plan

STEP = 250
TESTS = frozenset({"exact", "in", "startswith"})
FIELDS = frozenset({"id", "scope", "key", "kind"})


@dataclass(slots=True)
class Walk:
    """One walk: where it goes, what it keeps, and (afterwards) whether it ended before the state did."""

    scope: str | None
    prefix: str
    plan: Plan
    look_at_most: int | None
    locks: bool | None = None
    scopes: str = ""
    cut: bool = False

    def records(self, browser: Any) -> Iterator[Any]:
        """Yield the entries that pass, in the store's order."""
        place: dict[str, Any] = {"scope": self.scope, "prefix": self.prefix, "scopes": self.scopes}
        after: str | None = None
        looked_at = 0
        while True:
            most = STEP if self.look_at_most is None else min(STEP, self.look_at_most - looked_at)
            page = browser.list(**place, locks=self.locks, after=after, limit=most)
            yield from (record for record in page.items if passes(self.plan, record))
            looked_at += len(page.items)
            after = page.next
            if after is None or not page.items:
                return
            if looked_at == self.look_at_most:
                rest = browser.list(**place, locks=self.locks, after=after, limit=1)
                self.cut = bool(rest.items)
                return


def ids_of(plan: Plan) -> tuple[str, ...] | None:
    """Return the ids that `plan` is restricted to, or None."""
    found: tuple[str, ...] | None = None
    for condition in plan.conditions:
        if condition.field == "id":
            these = condition.value if condition.lookup == "in" else (condition.value,)
            found = tuple(dict.fromkeys(one for one in these if found is None or one in found))
    return found


def walk_of(plan: Plan, *, look_at_most: int | None) -> Walk:
    """Return the walk that answers `plan`, along the scope and key prefix where they are given.

    Raises:
        FieldError: It asks for more than scope, key and kind.
        EmptyResultSet: The conditions exclude each other.
    """
    for condition in plan.conditions:
        if condition.field not in FIELDS or condition.lookup not in TESTS:
            raise FieldError(f"State cannot be looked up by {condition.field}__{condition.lookup}.")
    if plan.order not in ((), ("scope", "key")):
        raise FieldError("State is listed by scope and key.")
    scopes = {test.value for test in plan.conditions if (test.field, test.lookup) == ("scope", "exact")}
    if len(scopes) > 1:
        raise EmptyResultSet
    scope = scopes.pop() if scopes else None
    prefixes = [c.value for c in plan.conditions if c.field == "key" and c.lookup in ("exact", "startswith")]
    # Without a scope the browser would look for the prefix in the app-wide keys only.
    prefix = max(prefixes, key=len, default="") if scope is not None else ""
    sorts = [c.value for c in plan.conditions if (c.field, c.lookup) == ("scope", "startswith")]
    kinds = {test.value for test in plan.conditions if (test.field, test.lookup) == ("kind", "exact")}
    locks = None if not kinds else kinds == {"lock"}
    return Walk(scope, prefix, plan, look_at_most, locks, max(sorts, key=len, default=""))


def passes(plan: Plan, record: Any) -> bool:
    """Return whether `record` meets all conditions of `plan`."""
    return all(_holds(condition, getattr(record, condition.field)) for condition in plan.conditions)


def _holds(test: Condition, value: str) -> bool:
    if test.lookup == "startswith":
        return value.startswith(test.value)
    return value in test.value if test.lookup == "in" else bool(value == test.value)
