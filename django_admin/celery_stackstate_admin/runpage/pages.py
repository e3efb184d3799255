"""The page of one run: what it shows, the part that refreshes, and the log to take away."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, islice
from typing import Any
from urllib.parse import quote as percent_quote
from urllib.parse import unquote as percent_unquote
from urllib.parse import urlencode

from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils.translation import get_language, gettext

from celery_stackstate.errors import StackStateError
from celery_stackstate.records import Event
from celery_stackstate.records import Run as RunRecord
from celery_stackstate_admin import links, present
from celery_stackstate_admin.guard import StorePages
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.runpage.family import Family, family_of
from celery_stackstate_admin.runpage.logs import LEVEL_CHOICES, LogFilter, Place, has_more, read_log, text_of
from celery_stackstate_admin.runpage.page import Fact, build_page, default_facts
from celery_stackstate_admin.runpage.timeline import goes_on
from celery_stackstate_admin.runpage.touched import TouchedState, touched_state
from celery_stackstate_admin.source import extension, now

logger = logging.getLogger(__name__)

MAIN = "admin/celery_stackstate_admin/run/main.html"
# What a browser sends back: what the page was made of, and the place of its last log line.
_TAG = re.compile(r'(?:W/)?"([0-9a-f]{40}):(\d{1,18}):(\d{1,18}):([^"]{0,1000})"')
#: A drawing that reaches until now is drawn again when it would be this part wider.
GROWS_BY = 200


@dataclass(frozen=True, slots=True)
class Material:
    """What a run's page is made of, but its log."""

    run: RunRecord
    events: list[Event]
    family: Family | None
    state: TouchedState | None
    wanted: LogFilter
    at: datetime

    def digest(self) -> str:
        """Return a name for this content: as long as it is the same, the page would be, but for log lines."""
        since = self.run.queued_at or self.run.started_at or self.at
        seconds = (self.at - since).total_seconds()
        age = 0 if not goes_on(self.run) else int(GROWS_BY * math.log(max(1.0, seconds)))
        content = repr((self.run, self.events, self.family, self.state, self.wanted, age, get_language()))
        return hashlib.sha1(content.encode(errors="backslashreplace"), usedforsecurity=False).hexdigest()


class RunPages(StorePages):
    """One run as a page that follows it."""

    class Media:
        js = tuple(f"celery_stackstate_admin/{name}.js" for name in ("morph", "refresh", "runlog", "timeline"))

    def get_urls(self) -> list[URLPattern]:
        """Return the admin's pages, the part of a run's page that refreshes, and its log as a text."""
        view = self.admin_site.admin_view
        name = "celery_stackstate_admin_run"
        return [
            path("<path:object_id>/live/", view(self.live_view), name=f"{name}_live"),
            path("<path:object_id>/log/", view(self.log_view), name=f"{name}_log"),
            *super().get_urls(),
        ]

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the run instead of a form."""
        run = kwargs.get("obj")
        if run is None:
            raise PermissionDenied
        material = self._material(request, run.record)
        context.update(self._run_context(request, material))
        query = {name: value for name in ("level", "q") if (value := request.GET.get(name))}
        live = links.run_live(self.admin_site, run.pk)
        context["live_url"] = f"{live}?{urlencode(query)}" if query else live
        return super().render_change_form(request, context, *args, **kwargs)

    # -- the part that refreshes -----------------------------------------------------------------------------------

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show what changes of a run's page, without the page around it; 304 where the browser has it already."""
        return self.guarded(request, lambda: self._live(request, unquote(object_id)))

    def _live(self, request: HttpRequest, run_id: str) -> HttpResponse:
        material = self._material(request, self._found(run_id))
        if _unchanged(request.headers.get("If-None-Match", ""), material):
            return HttpResponse(status=304)
        context = self._run_context(request, material)
        response = HttpResponse(render_to_string(MAIN, context, request))
        if context["log_end"] is not None:
            at, execution, seq = context["log_end"]
            response["ETag"] = f'"{material.digest()}:{at}:{seq}:{percent_quote(execution, safe="")}"'
        return response

    def _found(self, run_id: str) -> RunRecord:
        record: RunRecord | None = extension().runs.get(run_id)
        if record is None:
            raise Http404
        return record

    def _material(self, request: HttpRequest, record: RunRecord) -> Material:
        owner = self.admin_site._registry.get(StateEntry)
        sees_state = owner is not None and owner.has_view_permission(request)
        return Material(
            run=record,
            events=extension().runs.events(record.id),
            family=family_of(self.admin_site, record),
            state=touched_state(self.admin_site, record) if sees_state else None,
            wanted=LogFilter.of(request.GET),
            at=now(),
        )

    def _run_context(self, request: HttpRequest, material: Material) -> dict[str, Any]:
        record = material.run
        log = read_log(record, material.wanted)
        page = build_page(
            record,
            material.events,
            log,
            material.wanted,
            facts=[*default_facts(record, material.at), *self._relatives(record)],
            log_url=lambda execution: links.run_log(self.admin_site, record.id, execution),
            now=material.at,
        )
        return {
            "title": present.line(record.task or gettext("Run"), 200),
            "subtitle": present.line(record.id, 60),
            "page": page,
            "levels": LEVEL_CHOICES,
            "family": material.family,
            "state": material.state,
            "log_end": log.end,
        }

    def _relatives(self, record: RunRecord) -> list[Fact]:
        """Return cells that lead to related runs."""
        root_id = record.root_id if record.root_id not in (record.id, record.parent_id) else None
        related = [
            (gettext("Started by run"), record.parent_id),
            (gettext("Root run"), root_id),
            (gettext("Awaited by run"), record.chord_id),
            (gettext("Repeats run"), record.rerun_of),
            *((gettext("Repeated by run"), run_id) for run_id in record.reruns),
            (gettext("Replaced by run"), record.replaced_by),
        ]
        return [
            Fact(label, present.line(run_id, 9), url=links.run_page(self.admin_site, run_id), mono=True)
            for label, run_id in related
            if run_id
        ]

    # -- the log as a text -----------------------------------------------------------------------------------------

    def log_view(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Answer with all log lines of a run, or of its `?execution=`, as a file."""
        return self.guarded(request, lambda: self._log_file(request, unquote(object_id)))

    def _log_file(self, request: HttpRequest, run_id: str) -> StreamingHttpResponse:
        record = self._found(run_id)
        execution = request.GET.get("execution") or None
        # The first line is read before the answer begins: a store that does not answer is told of as on any page.
        response = StreamingHttpResponse(_begun(text_of(record, execution)), content_type="text/plain; charset=utf-8")
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", record.id)[:80].strip(".-") or "run"
        response["Content-Disposition"] = f'attachment; filename="{name}.log"'
        response["X-Content-Type-Options"] = "nosniff"
        return response


def _unchanged(tag: str, material: Material) -> bool:
    """Return whether the page that got `tag` shows all there is."""
    found = _TAG.fullmatch(tag)
    if found is None or found[1] != material.digest():
        return False
    place: Place = (int(found[2]), percent_unquote(found[4]), int(found[3]))
    return not has_more(material.run.id, place)


def _begun(texts: Iterator[str]) -> Iterator[str]:
    """Return `texts`, the first of which is read at once."""
    return chain(list(islice(texts, 1)), _to_its_end(texts))


def _to_its_end(texts: Iterator[str]) -> Iterator[str]:
    try:
        yield from texts
    except StackStateError as error:
        logger.warning("A log ends early: %s", error, exc_info=error)
        yield "# " + gettext("The store did not answer: the rest is missing.") + "\n"
