"""Reads what a queryset was asked for out of Django's own query, so that another place than SQL can answer it.

Django checks field names and converts values while it builds the query; what remains here is to walk the WHERE tree.
Whatever is not understood raises FieldError: the admin turns that into its "bad lookup" answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import EmptyResultSet, FieldError
from django.db import NotSupportedError
from django.db.models import sql
from django.db.models.expressions import Col
from django.db.models.lookups import Lookup
from django.db.models.sql.where import AND, NothingNode, WhereNode

TEXT = "text"
BEHIND = "behind"


class StoreQuery(sql.Query):
    """A query that is read, never compiled."""

    #: What `RunQuerySet.search` looks for; copied with the query, as all its attributes are.
    text: str | None = None
    #: What was found of it, by question; one dictionary for the query and all its copies.
    found: dict[Any, list[Any]]
    #: The `(microseconds, id)` behind which `RunQuerySet.behind` begins.
    behind: tuple[int, str] | None = None
    #: How many entries `StateQuerySet` may look at for one answer.
    look_at_most: int | None = None

    def get_compiler(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: there is no table."""
        raise NotSupportedError(no_sql(self.model))

    def chain(self, klass: Any = None) -> Any:
        """Return a copy; refuse to become an UPDATE or DELETE."""
        if klass is not None:
            raise NotSupportedError(no_sql(self.model))
        return super().chain()


def no_sql(model: Any) -> str:
    """Return the message for calls that would need a table."""
    return f"{model.__name__} objects lie in the StackState store, not in a table: this call needs SQL."


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison that must hold: a field's name, the lookup's name and the converted value."""

    field: str
    lookup: str
    value: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """What a queryset asks for. `order` holds field names as in `order_by`; `limit` is None for all."""

    conditions: tuple[Condition, ...]
    order: tuple[str, ...]
    offset: int = 0
    limit: int | None = None


def read(query: StoreQuery) -> Plan:
    """Return the plan of `query`.

    Raises:
        FieldError: It asks for what only SQL can do.
        EmptyResultSet: Nothing can match.
    """
    for attribute in ("annotations", "extra", "combinator", "distinct_fields", "extra_order_by", "group_by"):
        if getattr(query, attribute):
            raise FieldError(f"{no_sql(query.model)} ({attribute})")
    offset, end = query.low_mark, query.high_mark
    limit = None if end is None else end - offset
    return Plan(tuple(_conditions(query)), tuple(_order(query)), offset, limit)


def _conditions(query: StoreQuery) -> Iterator[Condition]:
    if query.text is not None:
        yield Condition("", TEXT, query.text)
    if query.behind is not None:
        yield Condition("", BEHIND, query.behind)
    yield from _walk(query.where)


def _walk(where: WhereNode) -> Iterator[Condition]:
    if where.negated or (where.connector != AND and len(where.children) > 1):
        raise FieldError("Only conditions that must all hold can be looked up here, none negated.")
    for child in where.children:
        if isinstance(child, WhereNode):
            yield from _walk(child)
        elif isinstance(child, NothingNode):
            raise EmptyResultSet
        elif isinstance(child, Lookup) and isinstance(child.lhs, Col):
            yield from _comparison(child)
        else:
            raise FieldError(f"{type(child).__name__} cannot be looked up here.")


def _comparison(lookup: Lookup[Any]) -> Iterator[Condition]:
    field = lookup.lhs.target.attname
    if isinstance(lookup.rhs, StoreQuery):
        if lookup.lookup_name != "in" or not lookup.lhs.target.primary_key or lookup.rhs.is_sliced:
            raise FieldError(f"{field}__{lookup.lookup_name} cannot be compared with a queryset here.")
        yield from _conditions(lookup.rhs)
        return
    value = tuple(lookup.rhs) if lookup.lookup_name == "in" else lookup.rhs
    if any(hasattr(one, "as_sql") for one in (value if isinstance(value, tuple) else (value,))):
        raise FieldError(f"{field}__{lookup.lookup_name} can be compared with plain values only.")
    if isinstance(value, str) and "\0" in value:
        raise EmptyResultSet  # no store takes NUL in a text; databases raise an error over it
    yield Condition(field, str(lookup.lookup_name), value)


def _order(query: StoreQuery) -> Iterator[str]:
    key = query.get_meta().pk.name
    for name in query.order_by or (query.default_ordering and query.get_meta().ordering) or ():
        if not isinstance(name, str):
            raise FieldError("Objects of the StackState store are ordered by the names of fields.")
        descending = name.startswith("-") is query.standard_ordering
        bare = name.lstrip("-+")
        yield ("-" if descending else "") + (key if bare == "pk" else bare)
