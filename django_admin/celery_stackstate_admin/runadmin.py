"""The admin of runs."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.safestring import SafeString

from celery_stackstate.records import FAILURE, LOST, REJECTED, RETRY, LogLine
from celery_stackstate.records import Run as RunRecord
from celery_stackstate_admin import links, present
from celery_stackstate_admin.changelist import RunChangeList
from celery_stackstate_admin.filters import QueueFilter, StatusFilter, TaskFilter, WorkerFilter
from celery_stackstate_admin.guard import StorePages
from celery_stackstate_admin.models import Run, StateEntry
from celery_stackstate_admin.page import MOST_LINES, Fact, RunPage, build_page, default_facts
from celery_stackstate_admin.source import extension, now

MAIN = "admin/celery_stackstate_admin/run/main.html"
MOST_ENTRIES = 50
WITH_ERROR = frozenset({FAILURE, LOST, REJECTED, RETRY})


@admin.register(Run)
class RunAdmin(StorePages):
    """Runs as a list, and one run as a page that follows it."""

    list_display = ("task_and_key", "badge", "queued", "waited", "ran", "on_worker")
    list_display_links = ("task_and_key",)
    list_filter = (StatusFilter, TaskFilter, QueueFilter, WorkerFilter)
    date_hierarchy = "queued_at"
    ordering = ("-queued_at", "-id")
    sortable_by = ("queued",)
    search_fields = ("id",)
    search_help_text = (
        "A run's whole id, or part of an id, task name, key or error: "
        "the part is looked for among the newest 10,000 runs that match the filters."
    )
    list_per_page = 50
    fields = ("id",)

    class Media:
        js = ("celery_stackstate_admin/refresh.js",)

    # -- the list --------------------------------------------------------------------------------------------------

    @admin.display(description="task")
    def task_and_key(self, run: Run) -> SafeString:
        """Show the task; below it the id's beginning, the key, and what went wrong."""
        error = run.error if run.status in WITH_ERROR else None
        return format_html(
            '<span class="ss-task">{}</span><span class="ss-meta" title="{}"><code>{}</code>{}</span>{}',
            present.breakable(present.line(run.task or "(task not known yet)", 120)),
            present.line(run.id, 255),
            present.line(run.id, 9),
            format_html(" · key <code>{}</code>", present.line(run.key, 48)) if run.key else "",
            format_html('<span class="ss-error-line">{}</span>', present.line(error, 110)) if error else "",
        )

    @admin.display(description="status")
    def badge(self, run: Run) -> SafeString:
        """Show the status as a pill, and how often the run was retried."""
        if not run.retries:
            return present.badge(run.status)
        times = "1 retry" if run.retries == 1 else f"{run.retries} retries"
        return format_html('{}<span class="ss-meta">{}</span>', present.badge(run.status), times)

    @admin.display(description="queued", ordering="queued_at")
    def queued(self, run: Run) -> Any:
        """Show when the run was asked for."""
        return present.moment(run.queued_at, now())

    @admin.display(description="waited")
    def waited(self, run: Run) -> str:
        """Show how long the run waited for a worker."""
        return present.duration(run.wait)

    @admin.display(description="ran")
    def ran(self, run: Run) -> str:
        """Show how long the last attempt ran."""
        return present.duration(run.runtime)

    @admin.display(description="worker")
    def on_worker(self, run: Run) -> str:
        """Show who has, or last had it."""
        return present.line(run.worker, 60) if run.worker else present.NOTHING

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that knows the store's order and bounds."""
        return RunChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the run with exactly this id, else those that contain the text."""
        text = search_term.strip()
        if not text:
            return queryset, False
        exact = queryset.filter(pk=text)
        return (exact if exact.exists() else queryset.search(text)), False

    # -- one run ---------------------------------------------------------------------------------------------------

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's pages, and the part of a run's page that refreshes."""
        live = path(
            "<path:object_id>/live/",
            self.admin_site.admin_view(self.live_view),
            name="celery_stackstate_admin_run_live",
        )
        return [live, *super().get_urls()]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the run instead of a form."""
        run = kwargs.get("obj")
        if run is None:
            raise PermissionDenied
        context.update(self._run_context(request, run.record))
        context["live_url"] = links.run_live(self.admin_site, run.pk)
        return super().render_change_form(request, context, *args, **kwargs)

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what changes of a run's page, without the page around it."""
        return self.guarded(request, lambda: self._live(request, unquote(object_id)))

    def _live(self, request: HttpRequest, run_id: str) -> TemplateResponse:
        record = extension().runs.get(run_id)
        if record is None:
            raise Http404
        return TemplateResponse(request, MAIN, self._run_context(request, record))

    def _run_context(self, request: HttpRequest, record: RunRecord) -> dict[str, Any]:
        return {
            "title": present.line(record.task or "Run", 200),
            "subtitle": present.line(record.id, 60),
            "page": self._page(record),
            "entries": self._entries(request, record.id),
        }

    def _page(self, record: RunRecord) -> RunPage:
        runs = extension().runs
        facts = [*default_facts(record), *self._family(record)]
        return build_page(record, runs.events(record.id), _logs(record), facts, now())

    def _family(self, record: RunRecord) -> list[Fact]:
        """Return cells that lead to related runs."""
        facts = []
        if record.parent_id:
            facts.append(
                Fact(
                    "Started by run",
                    record.parent_id[:8],
                    url=links.run_page(self.admin_site, record.parent_id),
                    mono=True,
                )
            )
        if record.root_id and record.root_id not in (record.id, record.parent_id):
            facts.append(
                Fact("Root run", record.root_id[:8], url=links.run_page(self.admin_site, record.root_id), mono=True)
            )
        return facts

    def _entries(self, request: HttpRequest, run_id: str) -> list[dict[str, Any]]:
        """Return the run's own state, for those who may view state."""
        owner = self.admin_site._registry.get(StateEntry)
        if owner is None or not owner.has_view_permission(request):
            return []
        page = extension().browser.list(scope=f"run:{run_id}", limit=MOST_ENTRIES)
        return [
            {
                "url": links.entry_page(self.admin_site, record.id),
                "key": present.line(record.key, 120),
                "kind": record.kind,
                "value": present.preview(record.value, 120),
                "version": record.version,
            }
            for record in page.items
        ]


def _logs(record: RunRecord) -> list[LogLine]:
    """Return the first lines of the run; when there are more than that, also the first of its last attempt."""
    runs = extension().runs
    lines: list[LogLine] = runs.logs(record.id, limit=MOST_LINES + 1)
    if len(lines) <= MOST_LINES or not record.attempts:
        return lines
    last = record.attempts[-1].execution
    earlier = [entry for entry in lines if entry.execution != last]
    return [*earlier, *runs.logs(record.id, execution=last, limit=MOST_LINES + 1)]
