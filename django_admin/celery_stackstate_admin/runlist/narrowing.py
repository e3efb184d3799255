"""What a list of runs is narrowed to, and how each part of it is taken back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from django.contrib.admin.views.main import IGNORED_PARAMS
from django.utils import dateformat, timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext, gettext_lazy

from celery_stackstate.records import FAILURE, FINISHED, LOST, STATUSES
from celery_stackstate_admin.present import line
from celery_stackstate_admin.source import from_django

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

#: Other names that addresses may use.
ALIASES = {"group": "group_id", "root": "root_id", "parent": "parent_id"}
#: What the form for whole values asks for.
EXACT = ("key", "origin")
UNFINISHED = tuple(status for status in STATUSES if status not in FINISHED and status != LOST)
DATES = ("queued_at__year", "queued_at__month", "queued_at__day")

_LABELS = {
    "status": gettext_lazy("status"),
    "task": gettext_lazy("task"),
    "queue": gettext_lazy("queue"),
    "worker": gettext_lazy("worker"),
    "host": gettext_lazy("host"),
    "origin": gettext_lazy("origin"),
    "key": gettext_lazy("key"),
    "group_id": gettext_lazy("group"),
    "root_id": gettext_lazy("root run"),
    "parent_id": gettext_lazy("parent run"),
    "queued_at__gte": gettext_lazy("queued from"),
    "queued_at__lt": gettext_lazy("queued before"),
}


@dataclass(frozen=True, slots=True)
class Narrowed:
    """One condition of a list; `url` is the list without it."""

    label: str
    value: str
    url: str


@dataclass(frozen=True, slots=True)
class Choice:
    """A link to a part of the list; `chosen` when it is what the list shows."""

    label: str
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Exact:
    """A field of the form for values that are too many to be offered as a choice."""

    name: str
    label: str
    value: str


def narrowed(changelist: ChangeList) -> list[Narrowed]:
    """Return the conditions in the list's address; dates chosen by the hierarchy and the search show themselves."""
    return [
        Narrowed(
            label=str(_LABELS.get(name.removesuffix("__exact").removesuffix("__in"), line(name, 60))),
            value=_shown(name, str(values[-1])),
            url=changelist.get_query_string({name: None}),
        )
        for name, values in _conditions(changelist)
    ]


def without(changelist: ChangeList) -> str:
    """Return the address of the list without any of these conditions."""
    return changelist.get_query_string(dict.fromkeys(name for name, _ in _conditions(changelist)))


def quick(changelist: ChangeList) -> list[Choice]:
    """Return links to what people look for first: all runs, those under way, those that failed or were lost."""
    params = changelist.params
    present = (params.get("status"), params.get("status__in"))
    choices = (
        (gettext("All"), None, None),
        (gettext("Unfinished"), None, ",".join(UNFINISHED)),
        (gettext("Failed"), FAILURE, None),
        (gettext("Lost"), LOST, None),
    )
    return [
        Choice(label, changelist.get_query_string({"status": one, "status__in": several}), present == (one, several))
        for label, one, several in choices
    ]


def exact_fields(changelist: ChangeList) -> list[Exact]:
    """Return the fields of the form that asks for whole values."""
    return [Exact(name, str(_LABELS[name]), str(changelist.params.get(name, ""))) for name in EXACT]


def kept_params(changelist: ChangeList) -> list[tuple[str, str]]:
    """Return what that form takes along of the list's address."""
    return [(name, str(value)) for name, value in changelist.params.items() if name not in EXACT]


def _conditions(changelist: ChangeList) -> Iterator[tuple[str, list[str]]]:
    for name, values in changelist.filter_params.items():
        if name not in IGNORED_PARAMS and name not in DATES:
            yield name, values


def _shown(name: str, value: str) -> str:
    moment = parse_datetime(value) if name.startswith("queued_at__") else None
    if moment is None:
        return line(value, 80)
    return dateformat.format(timezone.localtime(from_django(moment)), "j M Y H:i")
