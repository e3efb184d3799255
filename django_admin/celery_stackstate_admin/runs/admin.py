"""The admin of runs."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from celery_stackstate.records import FAILURE, LOST, REJECTED, RETRY
from celery_stackstate_admin import present
from celery_stackstate_admin.models import Run
from celery_stackstate_admin.operationpages import OperationPages
from celery_stackstate_admin.runlist.changelist import RunChangeList
from celery_stackstate_admin.runlist.filters import (
    DuplicatedFilter,
    HostFilter,
    QueueFilter,
    StatusFilter,
    TaskFilter,
    WorkerFilter,
)
from celery_stackstate_admin.runpage.page import progress_view
from celery_stackstate_admin.runpage.pages import RunPages
from celery_stackstate_admin.runs.operations import DeleteRuns, ReleaseKey, Rerun
from celery_stackstate_admin.runs.revoking import Revoke, Terminate
from celery_stackstate_admin.source import now

WITH_ERROR = frozenset({FAILURE, LOST, REJECTED, RETRY})


@admin.register(Run)
class RunAdmin(OperationPages, RunPages):
    """Runs as a list, and one run as a page that follows it."""

    operations = (Rerun(), Revoke(), Terminate(), ReleaseKey(), DeleteRuns())

    list_display = ("task_and_key", "badge", "queued", "waited", "ran", "retried", "in_queue", "on_worker")
    list_display_links = ("task_and_key",)
    list_filter = (StatusFilter, TaskFilter, QueueFilter, WorkerFilter, HostFilter, DuplicatedFilter)
    date_hierarchy = "queued_at"
    ordering = ("-queued_at", "-id")
    sortable_by = ("queued",)
    search_fields = ("id",)
    search_help_text = _(
        "A run's whole id, or part of an id, task name, key or error: "
        "the part is looked for among the newest 10,000 runs that match the filters."
    )
    list_per_page = 50
    fields = ("id",)

    # -- the list --------------------------------------------------------------------------------------------------

    @admin.display(description=_("task"))
    def task_and_key(self, run: Run) -> SafeString:
        """Show the task; below it the id's beginning, the key, and what went wrong."""
        error = run.error if run.status in WITH_ERROR else None
        return format_html(
            '<span class="ss-task">{}</span><span class="ss-meta" title="{}"><code>{}</code>{}</span>{}',
            present.breakable(present.line(run.task or gettext("(task not known yet)"), 120)),
            present.line(run.id, 255),
            present.line(run.id, 9),
            format_html(" · {} <code>{}</code>", gettext("key"), present.line(run.key, 48)) if run.key else "",
            format_html('<span class="ss-error-line">{}</span>', present.line(error, 110)) if error else "",
        )

    @admin.display(description=_("status"))
    def badge(self, run: Run) -> SafeString:
        """Show the status as a pill; of a run that goes on also how far it is."""
        view = None if run.record.finished else progress_view(run.record)
        if view is None:
            return present.badge(run.status)
        bar = format_html(
            '<progress class="ss-bar-{}" max="1" value="{}" aria-label="{}">{}</progress>',
            *(view.tone, view.value, gettext("Progress"), view.percent),
        )
        return format_html(
            '{}<span class="ss-meta ss-how-far" title="{}">{}{}</span>',
            *(present.badge(run.status), view.message, bar if view.value else "", view.text),
        )

    @admin.display(description=_("queued"), ordering="queued_at")
    def queued(self, run: Run) -> Any:
        """Show when the run was asked for."""
        return present.moment(run.queued_at, now())

    @admin.display(description=_("wait"))
    def waited(self, run: Run) -> str:
        """Show how long the run waited for a worker."""
        return present.duration(run.wait)

    @admin.display(description=_("duration"))
    def ran(self, run: Run) -> str:
        """Show how long the last attempt ran, or runs by now."""
        return format_html('<span class="ss-so-far">{}</span>', present.ran(run.record, now()))

    @admin.display(description=_("retries"))
    def retried(self, run: Run) -> str:
        """Show how often the task asked to be tried again; attempts that were lost are told of on the run's page."""
        return present.number(run.retries) if run.retries else present.NOTHING

    @admin.display(description=_("queue"))
    def in_queue(self, run: Run) -> str:
        """Show where the run was sent to."""
        return present.breakable(present.line(run.queue, 60)) if run.queue else present.NOTHING

    @admin.display(description=_("worker"))
    def on_worker(self, run: Run) -> str:
        """Show who has, or last had it: its host up to the first dot, with the whole name in the title."""
        return present.worker(run.worker) if run.worker else present.NOTHING

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list under a name of its own: nothing needs to be selected."""
        return super().changelist_view(request, {"title": gettext("Runs"), **(extra_context or {})})

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
