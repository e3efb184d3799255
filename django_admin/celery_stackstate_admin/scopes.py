"""Scopes, kinds and values of state in words."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from celery_stackstate.browse import Unreadable
from celery_stackstate_admin import present

KINDS = {"value": gettext_lazy("value"), "counter": gettext_lazy("counter"), "lock": gettext_lazy("lock")}


def scope_title(scope: str) -> str:
    """Return a scope in words, as a heading has it."""
    return present.line(scope_name(scope), 80)


def scope_name(scope: str) -> str:
    """Return a scope in words."""
    sort, _colon, name = scope.partition(":")
    shown = {"name": present.line(name, 60)}
    if not scope:
        return _("app-wide")
    if sort == "run":
        return _("run %(name)s") % shown
    if sort == "task":
        return _("task %(name)s") % shown
    return _("scope %(name)s") % shown if sort == "scope" else present.line(scope, 60)


def kind_badge(kind: str) -> SafeString:
    """Return a kind as a pill."""
    css = kind if kind in KINDS else "other"
    return format_html('<span class="ss-badge ss-kind-{}">{}</span>', css, KINDS.get(kind, kind))


def value_preview(record: Any, most: int) -> str:
    """Return the beginning of an entry's value on one line, of a lock who holds it."""
    if isinstance(record.value, Unreadable):
        return present.line(_("(not readable here: %(reason)s)") % {"reason": record.value.reason}, most)
    return holder(record.value) if record.kind == "lock" else present.preview(record.value, most)


def holder(value: object) -> str:
    """Return who holds a lock, in one line."""
    if not isinstance(value, dict):
        return present.preview(value)
    owner, host, pid = value.get("owner") or "", value.get("host") or "", value.get("pid") or ""
    if value.get("parked"):
        return present.line(_("kept for the next attempt of %(owner)s") % {"owner": owner})
    place = f"{host} ({pid})" if host and pid else str(host)
    if owner == f"{host}:{pid}":  # outside of runs, whoever holds it is called after its place
        return present.line(place)
    return present.line(" · ".join(part for part in (str(owner), place) if part) or present.NOTHING)


def shows_runs(site: Any, request: HttpRequest) -> bool:
    """Return whether the site has pages of runs that the user may open."""
    model = apps.get_model("celery_stackstate_admin", "Run")
    owner = site._registry.get(model)
    return owner is not None and bool(owner.has_view_permission(request))
