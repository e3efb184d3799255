"""Querysets whose objects come from a StackState store.

They are Django's own, so names, values, cloning and slicing are Django's; only what would reach the database is
answered from the plan, and what is not answered here raises NotSupportedError instead of reading a missing table.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, TypeVar

from django.core.exceptions import EmptyResultSet, FieldError
from django.db import NotSupportedError
from django.db.models import Aggregate, Count, Max, Min, Model, Q, QuerySet
from django.db.models.query import BaseIterable

from celery_stackstate_admin.plan import Plan, StoreQuery, no_sql, read

M = TypeVar("M", bound=Model)

#: Where counting ends.
COUNT_CAP = 10_000


class StoreIterable(BaseIterable):  # type: ignore[type-arg]
    """Yields a store queryset's objects; values() and values_list() put Django's own in its place, which refuse."""

    def __iter__(self) -> Iterator[Any]:
        return self.queryset.objects_of_plan()  # type: ignore[attr-defined, no-any-return]


class StoreQuerySet(QuerySet[M, M]):
    """What the querysets of both models share."""

    def __init__(self, model: Any = None, query: Any = None, using: Any = None, hints: Any = None) -> None:
        super().__init__(model, StoreQuery(model) if query is None else query, using, hints)
        self._iterable_class = StoreIterable

    # -- what a subclass answers ---------------------------------------------------------------------------------

    def check_plan(self, plan: Plan) -> None:
        """Raise FieldError when `plan` cannot be answered."""
        raise NotImplementedError

    def fetch(self, plan: Plan) -> Iterator[M]:
        """Yield the objects of `plan`, slice included."""
        raise NotImplementedError

    def total(self, plan: Plan) -> int:
        """Return how many objects match `plan`, ignoring its slice."""
        raise NotImplementedError

    def extreme(self, field: str, *, last: bool) -> Any:
        """Return the smallest or largest value of `field`, or None."""
        raise FieldError(f"{self.model.__name__} has no smallest or largest {field}.")

    # -- Django's interface --------------------------------------------------------------------------------------

    def filter(self, *args: Any, **kwargs: Any) -> Any:
        """Narrow as Django does; a lookup that the store cannot answer raises FieldError here, not while listing."""
        return super().filter(*args, **kwargs)._checked()

    def exclude(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse with FieldError (unless there is nothing to exclude): stores have no negated lookups."""
        return super().exclude(*args, **kwargs)._checked()

    def objects_of_plan(self) -> Iterator[M]:
        """Yield what this queryset asks for."""
        plan = self.plan()
        return iter(()) if plan is None or plan.limit == 0 else self.fetch(plan)

    def plan(self) -> Plan | None:
        """Return what is asked for, None when nothing can match."""
        try:
            found = read(self.query)  # type: ignore[arg-type]
            self.check_plan(found)
        except EmptyResultSet:
            return None
        return found

    def count(self) -> int:
        """Return how many objects there are; a store stops counting at a bound."""
        if self._result_cache is not None:
            return len(self._result_cache)
        plan = self.plan()
        if plan is None:
            return 0
        behind = max(0, self.total(plan) - plan.offset)
        return behind if plan.limit is None else min(behind, plan.limit)

    def exists(self) -> bool:
        """Return whether there is any object."""
        if self._result_cache is not None:
            return bool(self._result_cache)
        return next(self[:1].objects_of_plan(), None) is not None

    def aggregate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Answer Min and Max of a time, and Count with or without a filter."""
        named = {**{one.default_alias: one for one in args}, **kwargs}
        return {name: self._aggregate(expression) for name, expression in named.items()}

    def delete(self) -> Any:
        """Refuse."""
        raise NotSupportedError(no_sql(self.model))

    def raw(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise NotSupportedError(no_sql(self.model))

    def _insert(self, *args: Any, **kwargs: Any) -> Any:
        raise NotSupportedError(no_sql(self.model))

    def _raw_delete(self, using: Any) -> Any:
        raise NotSupportedError(no_sql(self.model))

    def _checked(self) -> Any:
        self.plan()
        return self

    def _aggregate(self, expression: Any) -> Any:
        if not isinstance(expression, Aggregate):
            raise FieldError(f"{expression} cannot be answered here.")
        source = getattr(expression.get_source_expressions()[0], "name", "*")
        if isinstance(expression, Count):
            return self.filter(_condition(expression)).count()
        if not isinstance(expression, (Min, Max)) or expression.filter is not None:
            raise FieldError(f"{expression.name} of {source} cannot be answered here.")
        return self.extreme(source, last=isinstance(expression, Max))


def _condition(count: Count) -> Q:
    """Return the filter of a Count: the Q itself up to Django 5.2, inside an expression since."""
    found: Any = count.filter
    return Q() if found is None else getattr(found, "condition", found)


def sliced(found: Iterator[M], plan: Plan) -> Iterator[M]:
    """Return the part of `found` that `plan` asks for."""
    return islice(found, plan.offset, None if plan.limit is None else plan.offset + plan.limit)
