"""Revoking runs: workers are told, those that are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.records import LOST, QUEUED
from celery_stackstate_admin import present
from celery_stackstate_admin.operations import Call, Operation, Outcome, Row, status_row
from celery_stackstate_admin.runs import broker
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate_admin.models import Run
    from celery_stackstate_admin.operations import Text


def live(run: Run) -> bool:
    """Return whether somebody may still run it."""
    return not run.record.finished and run.status != LOST


class Revoke(Operation):
    """Tells the workers not to run what has not begun."""

    name, permission, verb = "revoke", "revoke", gettext_lazy("Revoke")
    terminate = False

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Revoke this run?", "Revoke these %(number)s runs?", number) % {
            "number": present.number(number)
        }

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "All workers are told to skip it when its message comes. If it has begun already, it goes on to its end.",
            "All workers are told to skip them when their messages come. Those that have begun go on to their end.",
            number,
        )

    def warnings(self, objects: Sequence[Run]) -> list[Text]:
        """Say how far it reaches."""
        return [_("Only workers that are there now will know. One that is started later runs what it finds.")]

    def row(self, run: Run) -> Row:
        """Show who has it."""
        return status_row(run)

    def offered(self, run: Run) -> bool:
        """Offer it for what has not ended."""
        return live(run)

    def refusals(self, objects: Sequence[Run], *, forced: bool) -> dict[Any, Text]:
        """Refuse what has ended."""
        reason = gettext_lazy("it has ended")
        return {run.pk: reason for run in objects if run.record.finished}

    def perform(self, call: Call, objects: Sequence[Run]) -> Iterable[Outcome]:
        """Tell all workers at once."""
        found = extension()
        try:
            alive = sum(worker.live for worker in found.workers())
        except StoreUnavailable:
            alive = 0
        answers = broker.revoke(found.app, [run.pk for run in objects], terminate=self.terminate, workers=alive)
        doubt = _doubt(answers)
        told = str(self.verb) if answers else _("%(verb)s: no worker answered") % {"verb": self.verb}
        return [Outcome(run, log=told, doubt=doubt) for run in objects]

    def done(self, number: int) -> Text:
        """Return the message."""
        text = ngettext("Workers were told to skip it.", "Workers were told to skip %(number)s runs.", number)
        return text % {"number": present.number(number)}


class Terminate(Revoke):
    """Tells the workers not to run it, and ends the process in which it runs."""

    name, permission, verb, dangerous = "terminate", "terminate", gettext_lazy("Revoke and terminate"), True
    terminate = True

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        text = ngettext("Revoke this run and end it?", "Revoke these %(number)s runs and end them?", number)
        return text % {"number": present.number(number)}

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "All workers are told to skip it. If it has begun, the process it runs in gets SIGTERM: the task stops "
            "where it is, in the middle of whatever it does.",
            "All workers are told to skip them. Where one has begun, the process it runs in gets SIGTERM: the task "
            "stops where it is, in the middle of whatever it does.",
            number,
        )

    def warnings(self, objects: Sequence[Run]) -> list[Text]:
        """Say what it may hit."""
        return [
            *super().warnings(objects),
            _(
                "By the time the signal arrives the process may have taken up another run, which then ends instead. "
                "Solo, thread and green pools cannot end a run."
            ),
        ]

    def offered(self, run: Run) -> bool:
        """Offer it for what may have begun."""
        return live(run) and run.status != QUEUED

    def done(self, number: int) -> Text:
        """Return the message."""
        text = ngettext("Workers were told to end it.", "Workers were told to end %(number)s runs.", number)
        return text % {"number": present.number(number)}


def _doubt(answers: dict[str, Any]) -> str:
    if not answers:
        return _(
            "No worker answered within two seconds. One whose pool is busy with a run, as a solo pool is, reads it "
            "later; where none is running, nothing will come of it."
        )
    errors = {
        name: answer["error"] for name, answer in answers.items() if isinstance(answer, dict) and "error" in answer
    }
    if not errors:
        return ""
    name, error = next(iter(errors.items()))
    told = {"worker": present.line(name, 80), "error": present.line(error, 200)}
    return _("The worker %(worker)s could not: %(error)s") % told
