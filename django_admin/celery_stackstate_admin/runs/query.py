"""Turns a plan into the question that the run history answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.core.exceptions import EmptyResultSet, FieldError

from celery_stackstate.records import to_micros
from celery_stackstate.stores.base import RunQuery
from celery_stackstate_admin.plan import BEHIND, TEXT, Condition, Plan
from celery_stackstate_admin.source import from_django

NAMES = frozenset(
    ("task", "worker", "queue", "key", "parent_id", "root_id", "group_id", "host", "origin", "duplicated")
)
SETS = {"id": "ids", "status": "status"}
INSTANT = timedelta(microseconds=1)
# Each bound as (RunQuery's, added to the value): `since` is inclusive there, `until` exclusive.
BOUNDS = {
    "gte": ("since", timedelta()),
    "gt": ("since", INSTANT),
    "lt": ("until", timedelta()),
    "lte": ("until", INSTANT),
}
NEWEST_FIRST = ((), ("-queued_at",), ("-queued_at", "-id"))
OLDEST_FIRST = (("queued_at",), ("queued_at", "id"))


@dataclass(slots=True)
class _Draft:
    """What is known of the question so far; each condition narrows it."""

    found: dict[str, Any] = field(default_factory=dict)

    def equal(self, name: str, value: Any) -> None:
        if self.found.setdefault(name, value) != value:
            raise EmptyResultSet

    def among(self, name: str, values: tuple[Any, ...]) -> None:
        before = self.found.get(name)
        kept = tuple(dict.fromkeys(value for value in values if before is None or value in before))
        if not kept:
            raise EmptyResultSet
        self.found[name] = kept

    def bound(self, lookup: str, moment: datetime) -> None:
        name, more = BOUNDS[lookup]
        micros = to_micros(from_django(moment) + more)
        tighter = max if name == "since" else min
        self.found[name] = tighter(micros, self.found.get(name, micros))


def run_query(plan: Plan) -> RunQuery:
    """Return `plan` as a query of the run history; its limit is left to the caller.

    Raises:
        FieldError: The history has no index that answers it.
        EmptyResultSet: The conditions exclude each other.
    """
    draft = _Draft()
    for condition in plan.conditions:
        _narrow(draft, condition)
    since, until = draft.found.get("since"), draft.found.get("until")
    if since is not None and until is not None and since >= until:
        raise EmptyResultSet
    if plan.order not in NEWEST_FIRST + OLDEST_FIRST:
        raise FieldError(f"Runs are ordered by the time they were queued, not by {', '.join(plan.order)}.")
    return replace(RunQuery(**draft.found), oldest_first=plan.order in OLDEST_FIRST, offset=plan.offset)


def _narrow(draft: _Draft, condition: Condition) -> None:
    name, lookup, value = condition.field, condition.lookup, condition.value
    if lookup == TEXT:
        draft.equal("text", value)
    elif lookup == BEHIND:
        draft.equal("after", value)
    elif name in NAMES and lookup == "exact":
        draft.equal(name, value)
    elif name in SETS and lookup in ("exact", "in"):
        draft.among(SETS[name], value if lookup == "in" else (value,))
    elif name == "queued_at" and lookup in BOUNDS:
        draft.bound(lookup, value)
    else:
        raise FieldError(f"Runs cannot be looked up by {name}__{lookup}.")
