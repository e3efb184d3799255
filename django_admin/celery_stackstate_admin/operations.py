"""What may be done to the objects of a list: one after the other, after a question, by those who may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import CHANGE, LogEntry
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from celery_stackstate_admin.present import badge, line
from celery_stackstate_admin.present import number as number_text

if TYPE_CHECKING:
    from django.http import HttpRequest

    Text = str | Promise

GONE = _("it is not there any more")
NOT_TRIED = _("not tried, because of what happened before it")
CHANGED = _("it has changed since you were asked")


class Interrupted(Exception):
    """What an operation needs does not answer: nothing more is tried. Its text is for the operator."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request to do something: `admin` is the model's admin, `forced` whether the checkbox was ticked."""

    admin: Any
    request: HttpRequest
    forced: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one object.

    `refused` says why nothing was done, "" where something was. `log` is the text of the LogEntry; `url` leads to what
    came of it; `doubt` says why it may have come to nothing.
    """

    obj: Any
    refused: Text = ""
    log: Text = ""
    url: str = ""
    doubt: Text = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One object as the confirmation lists it: `detail` is shown as code below it."""

    title: Text
    meta: Text = ""
    badge: Any = ""
    detail: Text = ""
    detail_label: Text = ""


class Operation:
    """Something that may be done to a number of objects of a model.

    `permission` is the beginning of a codename, as Django has it: "revoke" of a Run is "revoke_run".
    """

    #: Names the action and its address.
    name = ""
    permission = ""
    #: The button's text: a verb.
    verb: Text = ""
    #: As LogEntry has it.
    flag = CHANGE
    #: How many objects are taken at once.
    at_once = 1000
    #: Whether it cannot be undone: the button is red.
    dangerous = False
    #: Whether the objects are gone afterwards.
    removes = False

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        raise NotImplementedError

    def consequence(self, number: int) -> Text:
        """Return what will happen, in a sentence or two."""
        raise NotImplementedError

    def warnings(self, objects: Sequence[Any]) -> list[Text]:
        """Return what to know before going on."""
        return []

    def force_label(self, objects: Sequence[Any]) -> Text:
        """Return the text of a checkbox without which some of the objects are refused, "" for none."""
        return ""

    def row(self, obj: Any) -> Row:
        """Return how the confirmation lists `obj`."""
        return Row(line(obj, 160))

    def stamp(self, obj: Any) -> str:
        """Return what must be the same when the answer comes, "" where nothing need be."""
        return ""

    def offered(self, obj: Any) -> bool:
        """Return whether the page of `obj` has the button."""
        return True

    def refusals(self, objects: Sequence[Any], *, forced: bool) -> dict[Any, Text]:
        """Return why it cannot be done, by primary key, for those objects to which it cannot."""
        return {}

    def perform(self, call: Call, objects: Sequence[Any]) -> Iterable[Outcome]:
        """Do it, and yield each object's outcome as soon as it is known.

        Raises:
            Interrupted: What it needs does not answer.
        """
        raise NotImplementedError

    def done(self, number: int) -> Text:
        """Return the message for `number` objects that it was done to."""
        raise NotImplementedError


@dataclass(slots=True)
class Report:
    """What became of all objects of one request."""

    done: list[Outcome] = field(default_factory=list)
    refused: list[Outcome] = field(default_factory=list)
    #: Why it ended early.
    interrupted: Text = ""

    def doubts(self) -> list[str]:
        """Return the doubts, each once."""
        return list(dict.fromkeys(str(outcome.doubt) for outcome in self.done if outcome.doubt))

    def reasons(self) -> list[tuple[str, int, str]]:
        """Return each reason with how many objects it holds for and the first of them, the most frequent first."""
        counts = Counter(str(outcome.refused) for outcome in self.refused)
        first: dict[str, str] = {}
        for outcome in self.refused:
            first.setdefault(str(outcome.refused), line(outcome.obj.pk, 60))
        return [(reason, number, first[reason]) for reason, number in counts.most_common()]


def carry_out(operation: Operation, call: Call, objects: Sequence[Any]) -> Report:
    """Do it to those objects to which it can be done, write a LogEntry for each, and return what became of all."""
    report = Report()
    refusals = operation.refusals(objects, forced=call.forced)
    report.refused += [Outcome(obj, refused=refusals[obj.pk]) for obj in objects if obj.pk in refusals]
    wanted = [obj for obj in objects if obj.pk not in refusals]
    told = set()
    try:
        for outcome in _each(operation, call, wanted):
            told.add(outcome.obj.pk)
            (report.refused if outcome.refused else report.done).append(outcome)
    except Interrupted as error:
        report.interrupted = str(error)
    report.refused += [Outcome(obj, refused=NOT_TRIED) for obj in wanted if obj.pk not in told]
    return report


def _each(operation: Operation, call: Call, objects: Sequence[Any]) -> Iterator[Outcome]:
    if not objects:
        return
    for outcome in operation.perform(call, objects):
        if not outcome.refused:
            record(call.request, outcome.obj, operation.flag, outcome.log or operation.verb)
        yield outcome


def record(request: HttpRequest, obj: Any, flag: int, text: Text) -> None:
    """Write the LogEntry of what the user of `request` did to `obj`."""
    user: Any = request.user
    LogEntry.objects.log_actions(user.pk, [obj], flag, str(text), single_object=True)


def of_these(objects: Sequence[Any], number: int, alone: str, several: str) -> str:
    """Return `alone` of the only object there is, else `several` with the number of those for which it holds."""
    return alone if len(objects) == 1 else several % {"number": number_text(number)}


def status_row(obj: Any, **more: Any) -> Row:
    """Return the row of something with an id and a status."""
    return Row(line(obj, 120), line(obj.pk, 120), badge(obj.status), **more)
