"""What may be done to idempotency keys: to reset them. And their states as pills."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from celery_stackstate.errors import StoreUnavailable, VersionConflict
from celery_stackstate.key_record import FAILED, RETRYING, RUNNING, SUCCEEDED
from celery_stackstate_admin import present
from celery_stackstate_admin.keys.queryset import place_of
from celery_stackstate_admin.operations import GONE, Call, Interrupted, Operation, Outcome, Row, of_these
from celery_stackstate_admin.scopes import scope_name
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate.records import KeyRecord
    from celery_stackstate_admin.operations import Text

#: The tones of the statuses of runs, which the same colours show.
TONES = {RUNNING: "started", RETRYING: "retry", SUCCEEDED: "success", FAILED: "failure"}


class ResetKeys(Operation):
    """Frees keys for the next call."""

    name = permission = "reset"
    verb = gettext_lazy("Reset key")
    dangerous = True

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Reset this key?", "Reset %(number)s keys?", number) % {"number": present.number(number)}

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "The next call with the key begins another run. A message of its run that is still with the broker then "
            "does nothing.",
            "The next call with each key begins another run. Messages of their runs that are still with the broker "
            "then do nothing.",
            number,
        )

    def warnings(self, objects: Sequence[Any]) -> list[Text]:
        """Tell of runs that are at work, and of successes that may be repeated."""
        found: list[Text] = []
        running = sum(obj.state == RUNNING for obj in objects)
        if running:
            alone = _("Its run is at work. It goes on, and the next call may begin another beside it.")
            text = ngettext(
                "The run of %(number)s key is at work. It goes on, and the next call may begin another beside it.",
                "The runs of %(number)s keys are at work. They go on, and the next calls may begin others beside them.",
                running,
            )
            found.append(of_these(objects, running, alone, text))
        succeeded = sum(obj.state == SUCCEEDED for obj in objects)
        if succeeded:
            alone = _("Its run succeeded. After the reset the same request does its work again.")
            text = ngettext(
                "The run of %(number)s key succeeded. After the reset the same request does its work again.",
                "The runs of %(number)s keys succeeded. After the reset the same requests do their work again.",
                succeeded,
            )
            found.append(of_these(objects, succeeded, alone, text))
        return found

    def row(self, obj: Any) -> Row:
        """Return the key with its scope, state and run."""
        return Row(present.line(obj.key, 160), scope_name(obj.scope), state_badge(obj.record), obj.run_id)

    def stamp(self, obj: Any) -> str:
        """Return which run has the key, and how far it is."""
        return f"{obj.generation} {obj.state}"

    def offered(self, obj: Any) -> bool:
        """Return whether the key is taken."""
        return not obj.record.free

    def refusals(self, objects: Sequence[Any], *, forced: bool) -> dict[Any, Text]:
        """Refuse keys that are free."""
        return {obj.pk: _("it is free already") for obj in objects if obj.record.free}

    def perform(self, call: Call, objects: Sequence[Any]) -> Iterable[Outcome]:
        """Reset one key after the other."""
        for obj in objects:
            key, where = place_of(obj.pk) or (obj.key, {})
            try:
                freed = extension().idempotency.reset(key, **where)
            except VersionConflict as error:
                yield Outcome(obj, refused=present.line(error, 200))
                continue
            except StoreUnavailable as error:
                text = _("The store stopped answering: %(reason)s")
                raise Interrupted(text % {"reason": present.line(error, 300)}) from error
            log = _("Key reset; it was %(state)s, with the run %(run)s.")
            known = {"state": obj.state, "run": present.line(obj.run_id, 60)}
            yield Outcome(obj, log=log % known) if freed else Outcome(obj, refused=GONE)

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("%(number)s key was reset.", "%(number)s keys were reset.", number) % {
            "number": present.number(number)
        }


def state_badge(record: KeyRecord) -> SafeString:
    """Return the state as a pill, with a word for a key that is free."""
    css, state = TONES.get(record.state, "other"), present.line(record.state, 20)
    if not record.free:
        return format_html('<span class="ss-badge ss-{}">{}</span>', css, state)
    return format_html(
        '<span class="ss-badge ss-{}">{}</span> <span class="ss-badge ss-free">{}</span>', css, state, _("free")
    )
