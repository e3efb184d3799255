"""What may be done to runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import DELETION
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from celery_stackstate.errors import NotRepeatable, StoreUnavailable
from celery_stackstate_admin import links, present
from celery_stackstate_admin.operations import Call, Interrupted, Operation, Outcome, Row, of_these, status_row
from celery_stackstate_admin.runs import broker
from celery_stackstate_admin.runs.revoking import live
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate.records import KeyRecord
    from celery_stackstate_admin.models import Run
    from celery_stackstate_admin.operations import Text

MOST_PAYLOAD = 4_000


class Rerun(Operation):
    """Publishes what a run was asked for as a run of its own."""

    name, permission, verb, at_once = "rerun", "rerun", gettext_lazy("Run again"), 100

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Run this again?", "Run these %(number)s again?", number) % {"number": present.number(number)}

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "Its task is sent once more with the arguments that were kept, as a run of its own that is linked to this "
            "one. It has no idempotency key, and follows no group or chord.",
            "Their tasks are sent once more with the arguments that were kept, each as a run of its own that is linked "
            "to the one it repeats. They have no idempotency keys, and follow no group or chord.",
            number,
        )

    def warnings(self, objects: Sequence[Run]) -> list[Text]:
        """Tell of those that may be doubled, or whose work is done."""
        unfinished = sum(live(run) for run in objects)
        succeeded = sum(run.status == "SUCCESS" for run in objects)
        told: list[Text] = []
        if unfinished:
            alone = _("It has not ended: it would be done by two runs at a time.")
            text = ngettext(
                "%(number)s of these has not ended: it would be done by two runs at a time.",
                "%(number)s of these have not ended: each would be done by two runs at a time.",
                unfinished,
            )
            told.append(of_these(objects, unfinished, alone, text))
        if succeeded:
            alone = _("It succeeded: what it did is done a second time.")
            text = ngettext(
                "%(number)s of these succeeded: what it did is done a second time.",
                "%(number)s of these succeeded: what they did is done a second time.",
                succeeded,
            )
            told.append(of_these(objects, succeeded, alone, text))
        return told

    def offered(self, run: Run) -> bool:
        """Offer it for runs of which the payload was kept whole."""
        return not self.refusals([run], forced=True)

    def row(self, run: Run) -> Row:
        """Show the payload as the history has it: redacted."""
        record = extension().runs.get(run.pk)
        if record is None or (record.args is None and record.kwargs is None):
            return status_row(run, detail_label=_("Its arguments are kept, but not in the history."))
        payload = present.pretty({"args": record.args, "kwargs": record.kwargs})
        if len(payload) > MOST_PAYLOAD:
            payload = f"{payload[:MOST_PAYLOAD]}…"
        return status_row(run, detail=payload, detail_label=_("Arguments, as the history shows them"))

    def refusals(self, objects: Sequence[Run], *, forced: bool) -> dict[Any, Text]:
        """Refuse runs of which the payload was not kept whole."""
        kept = extension().repeatable(*(run.pk for run in objects))
        reason = gettext_lazy("what it was asked for was not kept whole: its task lacks keep_payload=True")
        return {run.pk: reason for run in objects if run.pk not in kept}

    def perform(self, call: Call, objects: Sequence[Run]) -> Iterator[Outcome]:
        """Publish each."""
        found = extension()
        with broker.connection(found.app) as connection:
            for run in objects:
                try:
                    new_id = found.rerun(run.pk, connection=connection, retry=False).id
                except NotRepeatable as error:
                    yield Outcome(run, refused=str(error))
                    continue
                except StoreUnavailable as error:
                    raise Interrupted(str(error)) from error
                told = _("Run again as %(id)s") % {"id": new_id}
                yield Outcome(run, log=told, url=links.run_page(call.admin.admin_site, new_id))

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("It runs again.", "%(number)s run again.", number) % {"number": present.number(number)}


class ReleaseKey(Operation):
    """Frees the idempotency key of a run."""

    name, permission, verb = "release_key", "release_key", gettext_lazy("Release key")

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        text = ngettext("Release the key of this run?", "Release the keys of these %(number)s runs?", number)
        return text % {"number": present.number(number)}

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "The next call with its key makes a run of its own. A message of this run that is still with the broker "
            "then does nothing.",
            "The next call with one of their keys makes a run of its own. Messages of these runs that are still with "
            "the broker then do nothing.",
            number,
        )

    def warnings(self, objects: Sequence[Run]) -> list[Text]:
        """Tell of those that would be doubled."""
        unfinished = sum(live(run) for run in objects)
        if not unfinished:
            return []
        alone = _("It has not ended. If it is in its body it goes on, beside whatever the next call starts.")
        text = ngettext(
            "%(number)s of these has not ended. If it is in its body it goes on, beside whatever the next call starts.",
            "%(number)s of these have not ended. Those in their bodies go on, beside whatever the next calls start.",
            unfinished,
        )
        return [of_these(objects, unfinished, alone, text)]

    def row(self, run: Run) -> Row:
        """Show the key."""
        return status_row(run, detail=present.line(run.key or "", 300), detail_label=_("Key"))

    def offered(self, run: Run) -> bool:
        """Offer it for runs with a key."""
        return bool(run.key)

    def refusals(self, objects: Sequence[Run], *, forced: bool) -> dict[Any, Text]:
        """Refuse those that have no key, or have it no more."""
        none, other = gettext_lazy("it has no key"), gettext_lazy("its key is free, or belongs to another run by now")
        return {run.pk: other if run.key else none for run in objects if key_of(run) is None}

    def perform(self, call: Call, objects: Sequence[Run]) -> Iterator[Outcome]:
        """Free each."""
        for run in objects:
            try:
                held = key_of(run)
                freed = held is not None and extension().idempotency.reset(held.key, **_place(held))
            except StoreUnavailable as error:
                raise Interrupted(str(error)) from error
            if freed:
                yield Outcome(run, log=_("Released the key %(key)s") % {"key": present.line(run.key, 200)})
            else:
                yield Outcome(run, refused=_("its key is free already"))

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("Its key is free.", "%(number)s keys are free.", number) % {"number": present.number(number)}


class DeleteRuns(Operation):
    """Deletes runs from the history."""

    name, permission, verb, flag = "delete", "delete", gettext_lazy("Delete"), DELETION
    dangerous = removes = True

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Delete this run?", "Delete these %(number)s runs?", number) % {
            "number": present.number(number)
        }

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "Its record is deleted with all events and log lines, and what was kept to run it again. Its task, its "
            "state and its key are left as they are.",
            "Their records are deleted with all events and log lines, and what was kept to run them again. Their "
            "tasks, state and keys are left as they are.",
            number,
        )

    def row(self, run: Run) -> Row:
        """Show the run."""
        return status_row(run)

    def force_label(self, objects: Sequence[Run]) -> Text:
        """Ask for those that have not ended."""
        unfinished = sum(live(run) for run in objects)
        if not unfinished:
            return ""
        alone = _("Delete it although it has not ended. It goes on, and what it still tells is recorded again.")
        text = ngettext(
            "Delete also the one that has not ended. It goes on, and what it still tells is recorded again.",
            "Delete also the %(number)s that have not ended. They go on, and what they still tell is recorded again.",
            unfinished,
        )
        return of_these(objects, unfinished, alone, text)

    def refusals(self, objects: Sequence[Run], *, forced: bool) -> dict[Any, Text]:
        """Refuse what has not ended, unless that was confirmed."""
        reason = gettext_lazy("it has not ended, and the box that confirms that was not ticked")
        return {} if forced else {run.pk: reason for run in objects if live(run)}

    def perform(self, call: Call, objects: Sequence[Run]) -> Iterator[Outcome]:
        """Delete each."""
        for run in objects:
            try:
                gone = not extension().forget(run.pk)
            except StoreUnavailable as error:
                raise Interrupted(str(error)) from error
            yield Outcome(run, refused=_("it is not there any more") if gone else "", log=_("Deleted"))

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("%(number)s run was deleted.", "%(number)s runs were deleted.", number) % {
            "number": present.number(number)
        }


def key_of(run: Run) -> KeyRecord | None:
    """Return the record of the run's key, None when the key is free or belongs to another run."""
    if not run.key:
        return None
    places: list[dict[str, str | None]] = [{"task": run.task}, {}]
    if run.parent_id and run.task:
        places.append({"task": run.task, "run": run.parent_id})
    for place in places:
        held: KeyRecord | None = extension().idempotency.get(run.key, **place)
        if held is not None and held.run_id == run.pk and not held.free:
            return held
    return None


def _place(held: KeyRecord) -> dict[str, str]:
    """Return the arguments by which `idempotency.get` found it."""
    sort, _colon, name = held.scope.partition(":")
    if sort == "run":
        return {"task": held.task, "run": name.rpartition(f":{held.task}")[0]}
    return {"task": name} if sort == "task" else {}
