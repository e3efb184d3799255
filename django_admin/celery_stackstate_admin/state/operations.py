"""What may be done to state: delete entries, set counters back, release locks by force."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from django.contrib.admin.models import DELETION
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from celery_stackstate.errors import NotACounter, StoreUnavailable
from celery_stackstate_admin import clocks, present
from celery_stackstate_admin.operations import CHANGED, GONE, Call, Interrupted, Operation, Outcome, Row
from celery_stackstate_admin.scopes import holder, kind_badge, scope_name, value_preview
from celery_stackstate_admin.state import entries

if TYPE_CHECKING:
    from celery_stackstate_admin.operations import Text

PREVIEW = 400


class EntryOperation(Operation):
    """Something that is done to entries, each as it was seen."""

    detail_label: Text = gettext_lazy("Value")

    def row(self, obj: Any) -> Row:
        """Return the entry with its scope and the beginning of its value."""
        name, scope = present.line(obj.key, 160), scope_name(obj.scope)
        return Row(name, scope, kind_badge(obj.kind), value_preview(obj.record, PREVIEW), self.detail_label)

    def stamp(self, obj: Any) -> str:
        """Return the version: what was changed since is not touched."""
        return str(obj.version)

    def refusals(self, objects: Sequence[Any], *, forced: bool) -> dict[Any, Text]:
        """Return why the entries of other kinds, and those without a proper name, are left as they are."""
        return {obj.pk: reason for obj in objects if (reason := self.refusal(obj))}

    def refusal(self, obj: Any) -> Text:
        """Return why it cannot be done to this entry, "" when it can."""
        if entries.is_reachable(obj.scope, obj.key):
            return ""
        return _("it has a name that the state does not give out")

    def offered(self, obj: Any) -> bool:
        """Return whether it can be done to this entry."""
        return not self.refusal(obj)

    def perform(self, call: Call, objects: Sequence[Any]) -> Iterable[Outcome]:
        """Do it to one entry after the other."""
        for obj in objects:
            try:
                yield self.do(obj)
            except StoreUnavailable as error:
                raise Interrupted(
                    _("The store stopped answering: %(reason)s") % {"reason": present.line(error, 300)}
                ) from error

    def do(self, obj: Any) -> Outcome:
        """Do it to one entry."""
        raise NotImplementedError


class DeleteEntries(EntryOperation):
    """Deletes values and counters, each if it is still what was seen."""

    name, permission, flag = "delete_entries", "delete", DELETION
    verb = gettext_lazy("Delete")
    removes = dangerous = True

    def refusal(self, obj: Any) -> Text:
        """Refuse locks: they are released."""
        if obj.kind == "lock":
            return _("a lock is released, not deleted")
        return super().refusal(obj)

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Delete this entry?", "Delete %(number)s entries?", number) % {"number": present.number(number)}

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "The entry is gone for every task at once. Tasks that ask for it get their default.",
            "The entries are gone for every task at once. Tasks that ask for them get their defaults.",
            number,
        )

    def do(self, obj: Any) -> Outcome:
        """Delete one entry."""
        if not entries.remove(obj.record):
            return Outcome(obj, refused=CHANGED)
        return Outcome(obj, log=_("Deleted (version %(version)d).") % {"version": obj.version})

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("%(number)s entry was deleted.", "%(number)s entries were deleted.", number) % {
            "number": present.number(number)
        }


class ResetCounters(EntryOperation):
    """Sets counters back to nothing, whatever they have counted meanwhile: no count is lost in between."""

    name, permission = "reset_counters", "change"
    verb = gettext_lazy("Reset counter")
    removes = True

    def stamp(self, obj: Any) -> str:
        """Return nothing: a counter that is counted all the time can be reset as well."""
        return ""

    def refusal(self, obj: Any) -> Text:
        """Refuse what is no counter."""
        return super().refusal(obj) if obj.kind == "counter" else _("it is no counter")

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Reset this counter?", "Reset %(number)s counters?", number) % {
            "number": present.number(number)
        }

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "The counter is removed: it begins again at 0 when it is next counted, with no expiry until then.",
            "The counters are removed: they begin again at 0 when they are next counted, with no expiry until then.",
            number,
        )

    def do(self, obj: Any) -> Outcome:
        """Reset one counter."""
        try:
            value = entries.reset(obj.record)
        except NotACounter:
            return Outcome(obj, refused=CHANGED)
        return Outcome(obj, log=_("Counter reset; it was at %(value)d.") % {"value": value})

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("%(number)s counter was reset.", "%(number)s counters were reset.", number) % {
            "number": present.number(number)
        }


class ForceRelease(EntryOperation):
    """Takes locks from whoever holds them."""

    name, permission = "force_release", "force_release_lock"
    verb = gettext_lazy("Force release")
    detail_label = gettext_lazy("Held by")
    removes = dangerous = True

    def row(self, obj: Any) -> Row:
        """Return the lock with who holds it since when, and its fence."""
        row, value = super().row(obj), obj.record.value
        if obj.kind != "lock" or not isinstance(value, dict):
            return row
        told = _("%(holder)s\ntaken %(age)s, fence %(fence)s") % {
            "holder": row.detail,
            "age": clocks.age(value["acquired_at"], obj.record.read_at),
            "fence": value["fence"],
        }
        return replace(row, detail=told)

    def stamp(self, obj: Any) -> str:
        """Return the fence: a renewal changes the version, another holder the fence."""
        value = obj.record.value
        return str(value["fence"]) if isinstance(value, dict) else str(obj.version)

    def refusal(self, obj: Any) -> Text:
        """Refuse what is no lock."""
        return super().refusal(obj) if obj.kind == "lock" else _("it is no lock")

    def question(self, number: int) -> Text:
        """Return the title of the confirmation."""
        return ngettext("Release this lock by force?", "Release %(number)s locks by force?", number) % {
            "number": present.number(number)
        }

    def consequence(self, number: int) -> Text:
        """Return what will happen."""
        return ngettext(
            "The next task that asks for the lock gets it, while its holder may still be working. "
            "The holder is not stopped: it finds out when it checks or renews the lock, or leaves it.",
            "The next tasks that ask for the locks get them, while their holders may still be working. "
            "The holders are not stopped: they find out when they check or renew their locks, or leave them.",
            number,
        )

    def do(self, obj: Any) -> Outcome:
        """Release one lock."""
        if not entries.release(obj.record):
            return Outcome(obj, refused=GONE)
        log = _("Lock released by force; it was held by %(holder)s (fence %(fence)s).") % {
            "holder": holder(obj.record.value),
            "fence": self.stamp(obj),
        }
        return Outcome(obj, log=log)

    def done(self, number: int) -> Text:
        """Return the message."""
        return ngettext("%(number)s lock was released.", "%(number)s locks were released.", number) % {
            "number": present.number(number)
        }
