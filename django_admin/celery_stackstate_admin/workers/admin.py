"""The admin of workers: who lives, who died and left no word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from celery_stackstate.records import STARTED
from celery_stackstate_admin import clocks, links, present
from celery_stackstate_admin.changelist import StoreChangeList
from celery_stackstate_admin.facts import Fact
from celery_stackstate_admin.guard import StorePages
from celery_stackstate_admin.models import Worker
from celery_stackstate_admin.scopes import shows_runs

if TYPE_CHECKING:
    from celery_stackstate.records import Worker as WorkerRecord


class WorkerChangeList(StoreChangeList):
    """Workers by name and start."""

    def get_ordering(self, request: Any, queryset: Any) -> list[Any]:
        """Return the only order there is."""
        return ["hostname", "id"]


class LivingFilter(admin.SimpleListFilter):
    """Filters workers by whether they live."""

    title, parameter_name = gettext_lazy("lease"), "live"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        """Offer both."""
        return [("yes", gettext_lazy("alive")), ("no", gettext_lazy("dead"))]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Narrow to those that live, or do not."""
        asked = self.value()
        return queryset.filter(live=asked == "yes") if asked in ("yes", "no") else queryset


@admin.register(Worker)
class WorkerAdmin(StorePages):
    """Workers as a list, and one start of a worker as a page."""

    list_display = ("its_name", "its_life", "on_host", "its_pid", "started", "lease", "work")
    list_display_links = ("its_name",)
    list_filter = (LivingFilter,)
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    search_fields = ("hostname",)
    search_help_text = gettext_lazy("Part of a worker's name.")
    list_per_page = 100
    fields = ("id",)

    class Media:
        js = ("celery_stackstate_admin/countdown.js",)

    @admin.display(description=gettext_lazy("worker"))
    def its_name(self, worker: Worker) -> SafeString:
        """Show the name."""
        return format_html('<span class="ss-key">{}</span>', present.line(worker.hostname, 120))

    @admin.display(description=gettext_lazy("lease"))
    def its_life(self, worker: Worker) -> SafeString:
        """Show whether it lives, as a pill."""
        return life_badge(worker.record)

    @admin.display(description=gettext_lazy("host"))
    def on_host(self, worker: Worker) -> str:
        """Show the host."""
        return present.line(worker.host, 80)

    @admin.display(description=gettext_lazy("pid"))
    def its_pid(self, worker: Worker) -> str:
        """Show the pid of the parent process."""
        return str(worker.pid)

    @admin.display(description=gettext_lazy("started"))
    def started(self, worker: Worker) -> Any:
        """Show when it was started."""
        record = worker.record
        return present.moment(record.started_at, record.read_at or record.seen_at)

    @admin.display(description=gettext_lazy("lease ends"))
    def lease(self, worker: Worker) -> Any:
        """Show how long its lease lasts unless it is renewed, of a dead one when it was last seen."""
        return lease_left(worker.record)

    @admin.display(description=gettext_lazy("runs"))
    def work(self, worker: Worker) -> SafeString:
        """Show a link to what it runs, or what it left behind."""
        text = _("running now") if worker.live else _("left behind")
        return format_html('<a href="{}">{}</a>', running(self.admin_site, worker.record), text)

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns, with what it runs for those who may view runs."""
        return [name for name in self.list_display if name != "work" or shows_runs(self.admin_site, request)]

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list under a name of its own: nothing needs to be selected."""
        return super().changelist_view(request, {"title": _("Workers"), **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list in the order of names."""
        return WorkerChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the workers whose name contains the text."""
        text = search_term.strip()
        return (queryset.filter(hostname__icontains=text) if text else queryset), False

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the worker instead of a form."""
        worker = kwargs.get("obj")
        if worker is not None:
            context["title"] = present.line(worker.hostname, 200)
            context["badge"] = life_badge(worker.record)
            context["facts"] = facts(worker.record)
            if shows_runs(self.admin_site, request):
                context["running_url"] = running(self.admin_site, worker.record)
                context["runs_url"] = links.run_list(self.admin_site, worker=worker.hostname)
        return super().render_change_form(request, context, *args, **kwargs)


def facts(record: WorkerRecord) -> list[Fact]:
    """Return what is known of a worker."""
    pids = ", ".join(map(str, record.processes))
    return [
        Fact(_("Host"), present.line(record.host, 200)),
        Fact(_("Pid"), str(record.pid), mono=True),
        Fact(_("Started"), present.clock(record.started_at), clocks.age(record.started_at, record.read_at)),
        Fact(
            _("Last sign of life"),
            present.clock(record.seen_at, precise=True),
            clocks.age(record.seen_at, record.read_at),
        ),
        Fact(_("Lease ends"), lease_left(record)),
        Fact(_("Processes"), present.line(pids, 400) or present.NOTHING, mono=True),
        Fact(_("This start of it"), present.line(record.boot, 60), mono=True),
    ]


def lease_left(record: WorkerRecord) -> Any:
    """Return how long a lease lasts unless it is renewed."""
    if not record.live:
        return _("lapsed")
    return clocks.countdown(record.expires_at, record.read_at, never=_("unknown"))


def life_badge(record: WorkerRecord) -> SafeString:
    """Return whether a worker lives, as a pill."""
    css, text = ("success", _("alive")) if record.live else ("lost", _("dead"))
    return format_html('<span class="ss-badge ss-{}">{}</span>', css, text)


def running(site: Any, record: WorkerRecord) -> str:
    """Return the address of the list of what the worker has begun and not ended."""
    return links.run_list(site, worker=record.hostname, status=STARTED)
