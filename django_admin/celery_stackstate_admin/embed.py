"""What a project shows of its runs on pages of its own: those of one of its objects, and how all of them fare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from celery_stackstate.errors import ConfigurationError, StackStateError, StoreUnavailable
from celery_stackstate.records import FAILURE, LOST, QUEUED, RECEIVED, RETRY, STARTED, Run, to_micros
from celery_stackstate.stores.base import RunQuery
from celery_stackstate_admin import links, present
from celery_stackstate_admin.models import Run as RunModel
from celery_stackstate_admin.source import extension, now

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

VIEW = "celery_stackstate_admin.view_run"
VIEW_WORKERS = "celery_stackstate_admin.view_worker"
#: What runs are looked up by, each with an index.
FILTERS = ("origin", "key", "task", "queue", "worker", "status", "host", "group")
#: Where the list of runs calls a filter by another name.
IN_LIST = {"group": "group_id"}
MOST_RUNS = 100
CAP = 10_000
RUNS = "celery_stackstate_admin/embed/runs.html"


def may_view(user: Any) -> bool:
    """Return whether `user` may view runs: the permission that the admin asks for."""
    return bool(user is not None and user.is_active and user.has_perm(VIEW))


def reason(error: StackStateError) -> str:
    """Return in a sentence why there is nothing to show."""
    if isinstance(error, StoreUnavailable):
        return _("The store does not answer.")
    if isinstance(error, ConfigurationError):
        return _("StackState is not configured.")
    return _("The store cannot be read.")


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run as a row; `url` is "" where there is no page of it."""

    url: str
    name: str
    id: str
    badge: Any
    queued: Any
    took: str
    error: str


def find_runs(*, limit: int = 10, **filters: str | int | Sequence[str] | None) -> list[Run]:
    """Return the newest runs that match all filters: `origin`, `key`, `task`, `queue`, `worker`, `status`, ...

    A filter of None matches nothing: what is not known yet is not to show the runs of everybody else.

    Raises:
        TypeError: There is no such filter, or none at all.
        StoreUnavailable: The store cannot be reached now.
    """
    unknown = filters.keys() - set(FILTERS)
    if unknown or not filters:
        raise TypeError(f"runs are found by one or more of {', '.join(FILTERS)}, not by {sorted(filters)}")
    if None in filters.values():
        return []
    wanted: Any = {name: _as_text(value) for name, value in filters.items()}
    return list(extension().runs.list(limit=max(1, min(int(limit), MOST_RUNS)), **wanted))


def _as_text(value: Any) -> Any:
    """Return what templates have, a number or a text not translated yet, as text; several texts as they are."""
    return value if isinstance(value, (list, tuple, set, frozenset)) else str(value)


def runs_context(user: Any, *, site: Any = None, limit: int = 10, **filters: Any) -> dict[str, Any] | None:
    """Return what the template of runs shows to `user`, None for one who may not view runs."""
    if not may_view(user):
        return None
    context: dict[str, Any] = {"lines": [], "unavailable": "", "all_url": ""}
    site = _site(site)
    try:
        runs = find_runs(limit=limit, **filters)
    except StackStateError as error:
        return {**context, "unavailable": reason(error)}
    pages = bool(user.is_staff)
    simple = {IN_LIST.get(name, name): value for name, value in filters.items() if isinstance(value, str)}
    return {
        **context,
        "lines": [_line(run, site, pages=pages) for run in runs],
        "all_url": _address(links.run_list, site, **simple) if pages and len(simple) == len(filters) else "",
    }


def _line(run: Run, site: Any, *, pages: bool) -> RunLine:
    return RunLine(
        url=_address(links.run_page, site, run.id) if pages else "",
        name=present.line(run.task or _("(task not known yet)"), 120),
        id=present.line(run.id, 9),
        badge=present.badge(run.status),
        queued=present.moment(run.queued_at, now()),
        took=present.ran(run, now()),
        error=present.line(run.error, 160) if run.error and run.status != "SUCCESS" else "",
    )


def _site(site: Any) -> Any:
    """Return the admin site whose pages are linked: `site` where it shows runs, else the default one."""
    return site if site is not None and site.is_registered(RunModel) else admin.site


def _address(link: Any, *args: Any, **kwargs: Any) -> str:
    """Return an address in the admin, "" where the project has no admin mounted."""
    try:
        return str(link(*args, **kwargs))
    except NoReverseMatch:
        return ""


class RunsOfObject(ModelAdmin):
    """Adds a section with the runs of the object to a ModelAdmin of the project, for those who may view runs.

    Put it before ModelAdmin: `class OrderAdmin(RunsOfObject, admin.ModelAdmin)`. The runs are those whose origin is the
    model's name, a colon and the primary key; override `runs_of` for others.
    """

    #: The section's title.
    runs_title: str | Promise = gettext_lazy("Runs")
    #: How many runs it shows.
    runs_limit = 10

    class Media:
        css = {"all": ("celery_stackstate_admin/embed.css",)}

    def runs_of(self, obj: Any) -> dict[str, Any]:
        """Return the filters that find the runs of `obj`, as `find_runs` takes them."""
        return {"origin": f"{obj._meta.model_name}:{obj.pk}"}

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the section's field."""
        field = self._runs_field(request, obj)
        return [*super().get_readonly_fields(request, obj), *([field] if field else [])]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Add the section, behind all others."""
        field = self._runs_field(request, obj)
        sets = [
            (title, {**options, "fields": _without(options["fields"], field)})
            for title, options in super().get_fieldsets(request, obj)
        ]
        return [*sets, *([(self.runs_title, {"fields": (field,)})] if field else [])]

    def _runs_field(self, request: HttpRequest, obj: Any) -> Any:
        """Return a field that knows its viewer, the same one throughout a request."""
        if obj is None or not may_view(request.user):
            return None
        made = request.__dict__.setdefault("_stackstate_fields", {})
        key = (type(self), obj.pk)
        if key not in made:
            made[key] = self._make_field(request.user)
        return made[key]

    def _make_field(self, user: Any) -> Any:
        def stackstate_runs(obj: Any) -> SafeString:
            context = runs_context(user, site=self.admin_site, limit=self.runs_limit, **self.runs_of(obj))
            return SafeString("") if context is None else render_to_string(RUNS, context)

        described: Any = stackstate_runs
        described.short_description = _("Newest first")
        return stackstate_runs


def _without(fields: Any, field: Any) -> Any:
    return [one for one in fields if one is not field]


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of the card."""

    label: str
    value: str
    tone: str
    url: str


def status_context(user: Any, *, site: Any = None) -> dict[str, Any] | None:
    """Return what the card shows to `user`, None for one who may not view runs: five counts, each with a bound."""
    if not may_view(user):
        return None
    site = _site(site)
    try:
        found = extension()
        since = to_micros(now() - timedelta(days=1))
        counts = [
            (_("running"), "running", (STARTED,), None),
            (_("queued"), "queued", (QUEUED, RECEIVED, RETRY), None),
            (_("failed in 24 hours"), "failure", (FAILURE,), since),
            (_("lost in 24 hours"), "lost", (LOST,), since),
        ]
        figures = [
            Figure(label, _number(found.runs.count(_query(status, at), cap=CAP)), tone, _card_link(user, site, status))
            for label, tone, status, at in counts
        ]
        alive = sum(worker.live for worker in found.workers())
    except StackStateError as error:
        return {"figures": [], "unavailable": reason(error), "all_url": ""}
    workers = _address(links.worker_list, site, live="yes") if user.is_staff and user.has_perm(VIEW_WORKERS) else ""
    figures.append(Figure(_("workers alive"), present.number(alive), "worker" if alive else "failure", workers))
    return {"figures": figures, "unavailable": "", "all_url": _address(links.run_list, site) if user.is_staff else ""}


def _query(status: tuple[str, ...], since: int | None) -> RunQuery:
    return RunQuery(status=status) if since is None else RunQuery(status=status, since=since)


def _card_link(user: Any, site: Any, status: tuple[str, ...]) -> str:
    asked = {"status": status[0]} if len(status) == 1 else {"status__in": ",".join(status)}
    return _address(links.run_list, site, **asked) if user.is_staff else ""


def _number(count: int) -> str:
    return f"{present.number(count)}+" if count >= CAP else present.number(count)
