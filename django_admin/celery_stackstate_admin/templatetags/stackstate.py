"""Template tags with which a project shows runs on pages of its own: `{% load stackstate %}`."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.loader import render_to_string
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from celery_stackstate_admin import embed, present

register = template.Library()
LOADED = "celery_stackstate_admin.loaded"


@register.filter
def ss_number(number: int) -> str:
    """Return a number as the viewer's language writes it."""
    return present.number(number)


@register.simple_tag(takes_context=True)
def stackstate_runs(context: Any, limit: int = 10, **filters: Any) -> SafeString:
    """Show the newest runs that match the filters (`origin`, `key`, `task`, ...) to those who may view runs."""
    found = embed.runs_context(_user(context), limit=limit, **filters)
    return _rendered(context, embed.RUNS, found)


@register.simple_tag(takes_context=True)
def stackstate_status(context: Any) -> SafeString:
    """Show how many runs there are of each sort, and how many workers, to those who may view runs."""
    return _rendered(context, "celery_stackstate_admin/embed/status.html", embed.status_context(_user(context)))


@register.simple_tag(takes_context=True)
def stackstate_progress(context: Any, run_id: str, url: str, label: str = "") -> SafeString:
    """Show a bar that follows a run through the `run_status` view at `url`."""
    shown = {"run_id": str(run_id), "url": str(url), "label": label or _("Progress")}
    return _rendered(context, "celery_stackstate_admin/embed/progress.html", shown)


def _user(context: Any) -> Any:
    """Return who looks at the page: without a request, nobody."""
    request = context.get("request")
    return getattr(request, "user", None) if request is not None else context.get("user")


def _rendered(context: Any, name: str, shown: dict[str, Any] | None) -> SafeString:
    """Return the template; the first of a page brings the style sheet along, and the first bar its script."""
    if shown is None:
        return SafeString("")
    loaded = context.render_context.setdefault(LOADED, set())
    first = {"first": "style" not in loaded, "first_bar": "bar" not in loaded}
    loaded.update({"style", "bar"} if name.endswith("progress.html") else {"style"})
    return render_to_string(name, {**shown, **first})
