"""The page of one entry: its value, what is known of it, and the form that changes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from celery_stackstate.browse import Unreadable
from celery_stackstate.errors import VersionConflict
from celery_stackstate_admin import clocks, links, present
from celery_stackstate_admin.facts import Fact
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.operationpages import OperationPages
from celery_stackstate_admin.scopes import holder, kind_badge, scope_title, shows_runs
from celery_stackstate_admin.state import entries
from celery_stackstate_admin.state.form import EntryForm, ModelForm
from celery_stackstate_admin.state.valuetext import has_tags, readable, why_not

if TYPE_CHECKING:
    from celery_stackstate.browse import StateRecord

TRIES = 3
GONE = "admin/celery_stackstate_admin/stateentry/gone.html"


class EntryPages(OperationPages):
    """The page of one entry. Django's own view asks, checks and logs; only the writing is ours."""

    form = EntryForm
    fields = ("value", "lifetime", "seconds", "seen")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may change values; who holds a lock is nothing to be edited."""
        return self.may(request, "change") and (obj is None or not reason_against(obj.record))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Return the form for those who may change the entry, else one without fields."""
        if obj is not None and self.has_change_permission(request, obj):
            return EntryForm
        return super().get_form(request, obj, change, **{**kwargs, "fields": (), "form": _Nothing})

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the form's fields for those who may change the entry."""
        if obj is not None and self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        return []

    def changeform_view(
        self, request: HttpRequest, object_id: Any = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Show the entry; on POST change it unless somebody else did, also between the check and the write."""
        parent = super().changeform_view
        if request.method == "POST" and object_id is not None and "value" in request.POST:
            return self.guarded(request, lambda: self._change(request, object_id, form_url, extra_context, parent))
        return parent(request, object_id, form_url, extra_context)

    def _change(self, request: HttpRequest, object_id: str, form_url: str, extra: Any, parent: Any) -> HttpResponse:
        for _attempt in range(TRIES):
            if self.may(request, "change") and self.get_object(request, unquote(object_id)) is None:
                return self._gone(request)
            try:
                response: HttpResponse = parent(request, object_id, form_url, extra)
            except Overtaken:
                continue  # it is another one now, or gone: the form is checked against that
            return response
        raise VersionConflict(_("The entry changes too often to be edited here."))

    def _gone(self, request: HttpRequest) -> HttpResponse:
        """Return the page for what was deleted, or expired, while somebody wrote: the text is not lost."""
        typed = request.POST.get("value", "").replace("\r\n", "\n")  # as forms send the ends of lines
        context = {
            **self.admin_site.each_context(request),
            "title": _("The entry is gone"),
            "opts": self.opts,
            "typed": present.visible(typed),
            "list_url": links.entry_list(self.admin_site),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, GONE, context, status=409)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Write the value if the entry is still the one that the form was checked against."""
        given = form.cleaned_data
        try:
            form.written = entries.write(
                obj.record, given["value"], lifetime=given["lifetime"], seconds=given["seconds"]
            )
        except VersionConflict as error:
            raise Overtaken from error

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """Return what the LogEntry says: the versions, of a counter its numbers, never a value."""
        record, versions = form.instance.record, {"old": form.instance.record.version, "new": form.written}
        if record.kind == "counter":
            return _("Counter set from %(before)d to %(after)d (version %(old)d, now %(new)d).") % {
                **versions,
                "before": record.value,
                "after": form.cleaned_data["value"],
            }
        return _("Value changed (version %(old)d, now %(new)d).") % versions

    def response_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        """Show the entry as it is now."""
        text = _("The entry “%(key)s” was changed.") % {"key": present.line(obj.key, 80)}
        self.message_user(request, text, messages.SUCCESS)
        return HttpResponseRedirect(request.path)

    # -- the page ----------------------------------------------------------------------------------------------------

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the entry, and the form for those who may change it."""
        entry = kwargs.get("obj")
        if entry is not None:
            record, form = entry.record, context["adminform"].form
            context |= {
                "title": present.line(entry.key, 200),
                "subtitle": kind_badge(entry.kind),
                "badge": kind_badge(entry.kind),
                "facts": [*self._facts(request, record), *(self._lock_facts(request, record))],
                "is_lock": entry.kind == "lock",
                "value": value_text(record),
                "may_edit": self.has_change_permission(request, entry),
                "not_editable": reason_against(record) if self.may(request, "change") else "",
                "entry_form": form,
                "has_tags": entry.kind == "value" and not reason_against(record) and has_tags(record.value),
                "conflict": getattr(form, "conflict", False),
            }
        return super().render_change_form(request, context, *args, **kwargs)

    def _facts(self, request: HttpRequest, record: StateRecord) -> list[Fact]:
        return [
            Fact(_("Scope"), scope_title(record.scope), url=self._scope_url(request, record.scope)),
            Fact(_("Type"), type_name(record)),
            Fact(_("Version"), str(record.version), mono=True),
            Fact(
                _("Renewed") if record.kind == "lock" else _("Changed"),
                present.clock(record.updated_at, precise=True),
                clocks.age(record.updated_at, record.read_at),
            ),
            Fact(
                _("Lapses") if record.kind == "lock" else _("Expires"),
                clocks.countdown(record.expires_at, record.read_at),
                present.clock(record.expires_at) if record.expires_at else "",
            ),
        ]

    def _lock_facts(self, request: HttpRequest, record: StateRecord) -> list[Fact]:
        if record.kind != "lock" or not isinstance(record.value, dict):
            return []
        value = record.value
        facts = [
            Fact(_("Held by"), holder(value)),
            Fact(
                _("Taken"),
                present.clock(value["acquired_at"], precise=True),
                clocks.age(value["acquired_at"], record.read_at),
            ),
            Fact(_("Fence"), str(value["fence"]), mono=True),
        ]
        if value["parked"]:
            facts.append(Fact(_("Parked"), _("yes: it waits for the next attempt")))
        if value["run_id"]:
            url = links.run_page(self.admin_site, value["run_id"]) if shows_runs(self.admin_site, request) else ""
            facts.insert(1, Fact(_("Run"), present.line(value["run_id"], 40), url=url, mono=True))
        return facts

    def _scope_url(self, request: HttpRequest, scope: str) -> str:
        """Return where a scope leads: to its run for those who may view runs, else to the list of it."""
        sort, _, name = scope.partition(":")
        if sort == "run" and shows_runs(self.admin_site, request):
            return links.run_page(self.admin_site, name)
        return links.scope_list(self.admin_site, scope)


class Overtaken(Exception):
    """Somebody else changed the entry between the check and the write."""


class _Nothing(ModelForm):
    """The form of those who only look."""

    class Meta:
        model = StateEntry
        fields = ()


def reason_against(record: StateRecord) -> str:
    """Return why an entry cannot be edited, "" when it can."""
    if record.kind == "lock":
        return _("A lock is taken and given back by those who hold it.")
    if not entries.is_reachable(record.scope, record.key):
        return _("This entry has a name that the state does not give out, so it can only be looked at.")
    return why_not(record.value) if record.kind == "value" else ""


def value_text(record: StateRecord) -> str | SafeString:
    """Return the value for reading."""
    value = record.value
    if isinstance(value, Unreadable):
        return _("(%(size)s bytes that cannot be read here: %(reason)s)") % {
            "size": present.number(value.size),
            "reason": present.line(value.reason, 300),
        }
    if record.kind == "counter":
        return format_html("{}", present.number(value))
    return present.visible(readable(value))


def type_name(record: StateRecord) -> str:
    """Return what the value is, in Python's words, with its length where it has one."""
    value = record.value
    if isinstance(value, Unreadable):
        return _("not readable here")
    if record.kind != "value":
        return _("lock") if record.kind == "lock" else _("counter (64-bit)")
    name = "None" if value is None else type(value).__name__
    if isinstance(value, (str, bytes, list, tuple, dict)):
        return _("%(type)s of length %(length)s") % {"type": name, "length": present.number(len(value))}
    return name
