"""The state and the locks that a run used, as they are now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from django.utils.translation import gettext

from celery_stackstate.browse import StateRecord, Unreadable, record_id
from celery_stackstate.records import Run, Touched
from celery_stackstate_admin import links, present
from celery_stackstate_admin.source import extension

MOST_OWN, MOST_TOUCHED = 50, 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. `gone` is True where nothing is stored any more; `url` is "" where there is no page of it."""

    key: str
    scope: str
    kind: str
    value: str
    version: str
    #: Counts down: by that alone a page has not changed.
    expires: Any = field(repr=False)
    url: str
    gone: bool = False


@dataclass(frozen=True, slots=True)
class TouchedState:
    """The rows, and whether there is more than they show."""

    entries: tuple[Entry, ...]
    cut: bool


def touched_state(site: Any, run: Run) -> TouchedState:
    """Return the run's own state, and what else it used, in two reads of the store."""
    own = extension().browser.list(scope=f"run:{run.id}", limit=MOST_OWN)
    used = run.touched[:MOST_TOUCHED]
    entries = [*(_entry(site, record) for record in own), *_used(site, used)]
    return TouchedState(tuple(entries), own.next is not None or len(used) < len(run.touched))


def _used(site: Any, touched: Iterable[Touched]) -> Iterable[Entry]:
    places = [(one, "" if one.kind == "pace" else _id(one)) for one in touched]
    found = extension().browser.get_many([known for _, known in places if known])
    for one, known in places:
        record = found.get(known)
        yield _entry(site, record) if record else _nothing(one)


def _id(one: Touched) -> str:
    return record_id(one.scope, one.key, lock=one.kind == "lock")


def _entry(site: Any, record: StateRecord) -> Entry:
    return Entry(
        key=present.line(record.key, 120),
        scope=scope_words(record.scope),
        kind=kind_words(record.kind),
        value=value_words(record),
        version=str(record.version),
        expires=present.until(record.expires_at, record.read_at) if record.expires_at and record.read_at else "",
        url=links.entry_page(site, record.id),
    )


def _nothing(one: Touched) -> Entry:
    """Return a row for what has no entry: it is gone, or it is a throttle, of which there is no page."""
    gone = one.kind != "pace"
    text = gettext("free") if one.kind == "lock" else gettext("gone") if gone else ""
    return Entry(present.line(one.key, 120), scope_words(one.scope), kind_words(one.kind), text, "", "", "", gone)


def scope_words(scope: str) -> str:
    """Return a scope in words."""
    sort, _, name = scope.partition(":")
    texts = {
        "": gettext("app-wide"),
        "task": gettext("task %(name)s"),
        "run": gettext("this run"),
        "scope": gettext("scope %(name)s"),
    }
    return texts.get(sort, "%(name)s") % {"name": present.line(name, 60)}


def kind_words(kind: str) -> str:
    """Return a kind as the pages name it."""
    texts = {
        "value": gettext("value"),
        "state": gettext("value"),
        "counter": gettext("counter"),
        "lock": gettext("lock"),
        "pace": gettext("throttle"),
    }
    return texts.get(kind, present.line(kind, 20))


def value_words(record: StateRecord) -> str:
    """Return the beginning of a value, of a lock its holder."""
    value = record.value
    if isinstance(value, Unreadable):
        return gettext("(cannot be read here)")
    if record.kind != "lock" or not isinstance(value, dict):
        return present.preview(value, 120)
    owner = value.get("run_id") or value.get("owner") or ""
    if value.get("parked"):
        return present.line(gettext("kept for the next attempt of %(owner)s") % {"owner": owner}, 120)
    return present.line(gettext("held by %(owner)s") % {"owner": owner or value.get("host") or present.NOTHING}, 120)
