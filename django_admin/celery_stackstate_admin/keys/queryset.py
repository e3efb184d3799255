"""Idempotency keys as a queryset."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from django.core.exceptions import EmptyResultSet, FieldError

from celery_stackstate.errors import InvalidKey
from celery_stackstate_admin.plan import Plan
from celery_stackstate_admin.queryset import StoreQuerySet, sliced
from celery_stackstate_admin.source import extension
from celery_stackstate_admin.walk import TESTS, ids_of, passes

if TYPE_CHECKING:
    from celery_stackstate.records import KeyRecord
    from celery_stackstate_admin.models import IdempotencyKey

STEP = 250
FIELDS = frozenset({"id", "scope", "key", "task", "state", "run_id"})


class KeyQuerySet(StoreQuerySet["IdempotencyKey"]):
    """Keys by scope and key, which is how the store lists them. Any other filter is answered by walking."""

    #: Whether the last `count()` stopped before the end of the keys.
    cut = False

    def looking_at(self, most: int) -> KeyQuerySet:
        """Look at no more than `most` keys for one answer: what lies behind them is not found."""
        found: Any = self.all()
        found.query.look_at_most = most
        return cast(KeyQuerySet, found)

    def check_plan(self, plan: Plan) -> None:
        """Raise FieldError when a walk cannot answer `plan`."""
        key_walk_of(plan, look_at_most=None)

    def fetch(self, plan: Plan) -> Iterator[IdempotencyKey]:
        """Yield the keys of `plan`; those asked for by id are read without a walk."""
        ids = ids_of(plan)
        found: Iterator[Any] = self._walk(plan).records() if ids is None else _named(ids, plan)
        return sliced(map(self.model.of, found), plan)

    def total(self, plan: Plan) -> int:
        """Return how many keys match, among those that may be looked at."""
        ids = ids_of(plan)
        if ids is not None:
            return sum(1 for _ in _named(ids, plan))
        walk = self._walk(plan)
        number = sum(1 for _ in walk.records())
        self.cut = walk.cut
        return number

    def _walk(self, plan: Plan) -> KeyWalk:
        return key_walk_of(plan, look_at_most=self.query.look_at_most)  # type: ignore[attr-defined]


@dataclass(slots=True)
class KeyWalk:
    """One walk along the keys of a task ("" for those of the app, None for all), and whether it ended early."""

    task: str | None
    prefix: str
    plan: Plan
    look_at_most: int | None
    cut: bool = False

    def records(self) -> Iterator[KeyRecord]:
        """Yield the keys that pass, in the store's order."""
        keys, after, looked_at = extension().idempotency, None, 0
        while True:
            most = STEP if self.look_at_most is None else min(STEP, self.look_at_most - looked_at)
            page = keys.list(self.prefix, task=self.task, limit=most, after=after)
            yield from (record for record in page.items if passes(self.plan, Named(record)))
            looked_at += len(page.items)
            after = page.next
            if after is None:
                return
            if looked_at == self.look_at_most:
                self.cut = bool(keys.list(self.prefix, task=self.task, limit=1, after=after).items)
                return


class Named:
    """A key's record together with its id, for the conditions of a plan."""

    def __init__(self, record: KeyRecord) -> None:
        self._record = record

    def __getattr__(self, name: str) -> Any:
        return key_id(self._record) if name == "id" else getattr(self._record, name)


def key_walk_of(plan: Plan, *, look_at_most: int | None) -> KeyWalk:
    """Return the walk that answers `plan`, along the keys of one task where it names one.

    Raises:
        FieldError: It asks for what keys are not listed by.
        EmptyResultSet: The conditions exclude each other.
    """
    for condition in plan.conditions:
        if condition.field not in FIELDS or condition.lookup not in TESTS:
            raise FieldError(f"Keys cannot be looked up by {condition.field}__{condition.lookup}.")
    if plan.order not in ((), ("scope", "key")):
        raise FieldError("Keys are listed by scope and key.")
    scopes = {test.value for test in plan.conditions if (test.field, test.lookup) == ("scope", "exact")}
    if len(scopes) > 1:
        raise EmptyResultSet
    task = _task_of(scopes.pop()) if scopes else None
    prefixes = [c.value for c in plan.conditions if c.field == "key" and c.lookup in ("exact", "startswith")]
    prefix = max(prefixes, key=len, default="") if task is not None else ""
    return KeyWalk(task, prefix, plan, look_at_most)


def _task_of(scope: str) -> str | None:
    """Return the task by which the keys of a scope are listed; None for those of runs, which all keys contain."""
    if not scope:
        return ""
    sort, _, name = scope.partition(":")
    return name if sort == "task" and name else None


def key_id(record: KeyRecord) -> str:
    """Return what names a key in a URL."""
    return urlsafe_b64encode(f"{record.scope}\0{record.key}".encode()).decode().rstrip("=")


def place_of(object_id: str) -> tuple[str, dict[str, str]] | None:
    """Return the key that an id names, and the arguments with which the keys are asked for it; None for no id."""
    try:
        text = urlsafe_b64decode(object_id.encode() + b"=" * (-len(object_id) % 4)).decode()
    except ValueError:
        return None
    scope, nul, key = text.partition("\0")
    sort, _, name = scope.partition(":")
    if not nul or (scope and (sort not in ("task", "run") or not name)):
        return None
    return key, {sort: name} if scope else {}


def _named(ids: tuple[str, ...], plan: Plan) -> Iterator[KeyRecord]:
    for one in ids:
        record = _get(one)
        if record is not None and passes(plan, Named(record)):
            yield record


def _get(object_id: str) -> KeyRecord | None:
    place = place_of(object_id)
    if place is None:
        return None
    try:
        return cast("KeyRecord | None", extension().idempotency.get(place[0], **place[1]))
    except InvalidKey:
        return None
