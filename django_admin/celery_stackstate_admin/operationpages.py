"""The pages of operations: the question, and what became of it. Reached from the list and from an object's page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from django.contrib import messages
from django.contrib.admin.utils import quote, unquote
from django.contrib.auth import get_permission_codename
from django.core.exceptions import BadRequest, PermissionDenied
from django.db import connections, transaction
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from celery_stackstate_admin import present
from celery_stackstate_admin.confirmed import is_token, left_of, left_words, wanted_of
from celery_stackstate_admin.guard import StorePages
from celery_stackstate_admin.operations import CHANGED, GONE, Call, Operation, Outcome, Report, carry_out
from celery_stackstate_admin.source import first_time

MOST_SHOWN = 20
MOST_REASONS = 5
AT_A_TIME = 250
CONFIRM = "admin/celery_stackstate_admin/confirm.html"


class OperationPages(StorePages):
    """A view-only admin with operations, each behind its own permission and a confirmation."""

    operations: tuple[Operation, ...] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Give each operation's permission the method that Django's actions look for."""
        super().__init_subclass__(**kwargs)
        for operation in cls.operations:
            name = f"has_{operation.permission}_permission"
            if not hasattr(cls, name):
                setattr(cls, name, _has_permission(operation.permission))

    def __init__(self, model: Any, admin_site: Any) -> None:
        super().__init__(model, admin_site)
        self.actions = [*map(_action, self.operations), *(self.actions or ())]

    # -- permissions -----------------------------------------------------------------------------------------------

    def may(self, request: HttpRequest, permission: str) -> bool:
        """Return whether the user has the permission that begins so on this model, and may view it."""
        user: Any = request.user
        codename = get_permission_codename(permission, self.opts)
        return self.has_view_permission(request) and bool(user.has_perm(f"{self.opts.app_label}.{codename}"))

    def allows(self, request: HttpRequest, operation: Operation) -> bool:
        """Return whether the user may do it."""
        return bool(getattr(self, f"has_{operation.permission}_permission")(request))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether there is an operation that deletes, and the user may do it."""
        return any(one.permission == "delete" for one in self.operations) and self.may(request, "delete")

    # -- from the list, and from an object's page --------------------------------------------------------------------

    def get_actions(self, request: HttpRequest, action_location: Any = None) -> dict[str, Any]:
        """Return the operations that the user may do, and none of those that the site has for its tables."""
        located = () if action_location is None else (action_location,)
        found: dict[str, Any] = super().get_actions(request, *located)
        own = {operation.name for operation in self.operations}
        foreign = {name for name, _function in self.admin_site.actions} - own
        return {name: action for name, action in found.items() if name not in foreign}

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list; refuse an operation that the user may not do before anything is read."""
        if request.method == "POST":
            asked = set(request.POST.getlist("action"))
            for operation in self.operations:
                if operation.name in asked and not self.allows(request, operation):
                    raise PermissionDenied
        return super().changelist_view(request, extra_context)

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Put the buttons of the operations on the page."""
        obj = kwargs.get("obj")
        if obj is not None:
            context["operations"] = [
                {"url": self.operation_url(one, obj.pk), "verb": one.verb, "dangerous": one.dangerous}
                for one in self.operations
                if self.allows(request, one) and one.offered(obj)
            ]
            context["history_url"] = self._url("history", quote(obj.pk))
        return super().render_change_form(request, context, *args, **kwargs)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Lead to the confirmation of what deletes, refuse where nothing does."""
        operation = next((one for one in self.operations if one.permission == "delete"), None)
        if operation is None or not self.allows(request, operation):
            raise PermissionDenied
        return HttpResponseRedirect(self.operation_url(operation, unquote(object_id)))

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's pages and the confirmations. No quoted id begins with `_op`."""
        view = _autocommitted(self.admin_site.admin_view(self.operation_view))
        return [path("_op/<slug:name>/", view, name=self._name("operation")), *super().get_urls()]

    def operation_url(self, operation: Operation, object_id: str) -> str:
        """Return the address of the confirmation for one object."""
        return f"{self._url('operation', operation.name)}?{urlencode({'id': object_id})}"

    # -- the question ------------------------------------------------------------------------------------------------

    def operation_view(self, request: HttpRequest, name: str) -> HttpResponse:
        """Ask before an operation (GET), or do it (POST)."""
        return self.guarded(request, lambda: self._operate(request, name))

    def _operate(self, request: HttpRequest, name: str) -> HttpResponse:
        operation = next((one for one in self.operations if one.name == name), None)
        if operation is None:
            raise Http404
        if not self.allows(request, operation):
            raise PermissionDenied
        if request.method == "POST":
            return self._do(request, operation)
        objects = list(self.objects_of(request.GET.getlist("id")[:MOST_SHOWN]).values())
        if not objects:
            raise Http404(_("There is no such object any more."))
        back = self._url("change", quote(objects[0].pk)) if len(objects) == 1 else self._url("changelist")
        return self.confirm(request, operation, objects, back=back)

    def confirm_selected(self, request: HttpRequest, operation: Operation, queryset: Any) -> HttpResponse:
        """Ask before an operation on what was selected in the list, as much of it as is taken at once."""
        objects = list(queryset[: operation.at_once])
        left = left_of(queryset, objects) if len(objects) == operation.at_once else ""
        if not objects:
            self.message_user(request, _("Nothing that was selected is there any more."), messages.WARNING)
            return HttpResponseRedirect(request.get_full_path())
        return self.confirm(request, operation, objects, back=request.get_full_path(), left=left)

    def confirm(
        self, request: HttpRequest, operation: Operation, objects: Sequence[Any], *, back: str, left: str = ""
    ) -> HttpResponse:
        """Return the page that asks."""
        refusals = operation.refusals(objects, forced=True)
        possible = [obj for obj in objects if obj.pk not in refusals]
        reasons = Counter(str(reason) for reason in refusals.values()).most_common(MOST_REASONS)
        # What cannot be done is told of as well, but behind what will be.
        shown = [*possible, *(obj for obj in objects if obj.pk in refusals)][:MOST_SHOWN]
        context = {
            **self.admin_site.each_context(request),
            "title": operation.question(len(possible) or len(objects)),
            "opts": self.opts,
            "module_name": capfirst(self.opts.verbose_name_plural),
            "list_url": self._url("changelist"),
            "media": self.media,
            "operation": operation,
            "consequence": operation.consequence(len(possible)) if possible else "",
            "warnings": operation.warnings(possible) if possible else [],
            "force_label": operation.force_label(possible) if possible else "",
            "rows": [self._row(operation, obj, refusals.get(obj.pk, "")) for obj in shown],
            "number": len(objects),
            "possible": len(possible),
            "unshown": len(objects) - len(shown),
            "reasons": reasons,
            "same_reason": len(reasons) == 1 and len(refusals) > 1,
            "left": left,
            "left_words": left_words(left),
            "at_once": operation.at_once,
            "objects": json.dumps([[obj.pk, operation.stamp(obj)] for obj in possible]),
            "token": uuid4().hex,
            "back": back,
            "post_url": self._url("operation", operation.name),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, CONFIRM, context)

    def _row(self, operation: Operation, obj: Any, refused: Any) -> dict[str, Any]:
        return {"row": operation.row(obj), "url": self._url("change", quote(obj.pk)), "refused": refused}

    # -- the answer --------------------------------------------------------------------------------------------------

    def _do(self, request: HttpRequest, operation: Operation) -> HttpResponse:
        wanted, token = wanted_of(request, operation), request.POST.get("token", "")
        if not is_token(token):
            raise BadRequest("The form's token is missing.")
        back = self._back(request.POST.get("back", ""))
        if not first_time(token):
            text = _("This form was sent before. Nothing was done a second time.")
            self.message_user(request, text, messages.WARNING)
            return HttpResponseRedirect(back)
        found = self.objects_of(list(wanted))
        gone = [Outcome(self.model(pk=pk), refused=GONE) for pk in wanted if pk not in found]
        changed = [Outcome(obj, refused=CHANGED) for pk, obj in found.items() if operation.stamp(obj) != wanted[pk]]
        unchanged = [obj for pk, obj in found.items() if operation.stamp(obj) == wanted[pk]]
        report = carry_out(operation, Call(self, request, bool(request.POST.get("force"))), unchanged)
        report.refused += [*gone, *changed]
        self._tell(request, operation, report)
        return HttpResponseRedirect(self._url("changelist") if operation.removes and "/change/" in back else back)

    def objects_of(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return those of the objects that there are, by primary key in the order of `ids`."""
        found: dict[str, Any] = {}
        for start in range(0, len(ids), AT_A_TIME):
            found |= {obj.pk: obj for obj in self.model._default_manager.filter(pk__in=ids[start : start + AT_A_TIME])}
        return {pk: found[pk] for pk in ids if pk in found}

    def _tell(self, request: HttpRequest, operation: Operation, report: Report) -> None:
        if report.done:
            text: Any = operation.done(len(report.done))
            if len(report.done) == 1 and report.done[0].url:
                text = format_html('{} <a href="{}">{}</a>', text, report.done[0].url, _("Open it"))
            self.message_user(request, text, messages.SUCCESS)
        for doubt in report.doubts():
            self.message_user(request, doubt, messages.WARNING)
        if report.interrupted:
            self.message_user(request, str(report.interrupted), messages.ERROR)
        reasons = report.reasons()
        for reason, number, first in reasons[:MOST_REASONS]:
            self.message_user(request, _refused(reason, number, first), messages.WARNING)
        left = request.POST.get("left", "")
        if words := left_words(left):
            text = ngettext(
                "%(number)s more was selected and is left as it is: select it again to go on.",
                "%(number)s more were selected and are left as they are: select them again to go on.",
                1 if left == "1" else 2,
            )
            self.message_user(request, text % {"number": words}, messages.INFO)

    def _back(self, asked: str) -> str:
        """Return where to go on: the page of this admin that was asked from, else the list."""
        own = self._url("changelist")
        safe = url_has_allowed_host_and_scheme(asked, allowed_hosts=None) and asked.isprintable()
        return asked if safe and asked.startswith(own) else own

    def _name(self, page: str) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_{page}"

    def _url(self, page: str, *args: str) -> str:
        return reverse(f"admin:{self._name(page)}", args=args, current_app=self.admin_site.name)


def _refused(reason: str, number: int, first: str) -> str:
    text = ngettext("%(first)s: %(reason)s.", "%(first)s and %(others)s more: %(reason)s.", number)
    return text % {"first": first, "others": present.number(number - 1), "reason": present.line(reason, 300)}


def _autocommitted(view: Any) -> Any:
    """Return `view` for ATOMIC_REQUESTS to leave alone.

    What was published or freed is not taken back, so its LogEntry is not either. And the token of a form is written on
    a connection of its own, to which a transaction around it would bar SQLite's file.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(using=alias)(view)
    return view


def _has_permission(permission: str) -> Callable[..., bool]:
    def has_permission(self: OperationPages, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, permission)

    return has_permission


def _action(operation: Operation) -> Callable[..., Any]:
    """Return an operation as one of Django's actions."""

    def act(admin: OperationPages, request: HttpRequest, queryset: Any) -> HttpResponse:
        return admin.confirm_selected(request, operation, queryset)

    act.__name__ = operation.name
    described: Any = act
    described.allowed_permissions = (operation.permission,)
    described.short_description = operation.verb
    return act
