"""The admin of state."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from celery_stackstate_admin import links, present
from celery_stackstate_admin.changelist import StateChangeList
from celery_stackstate_admin.filters import KindFilter, ScopeFilter
from celery_stackstate_admin.guard import StorePages
from celery_stackstate_admin.models import Run, StateEntry
from celery_stackstate_admin.page import Fact
from celery_stackstate_admin.source import from_django, now

LOOK_AT_MOST = 2_000


@admin.register(StateEntry)
class StateEntryAdmin(StorePages):
    """State as a list by scope and key, and one entry as a page."""

    list_display = ("its_key", "its_value", "its_kind", "in_scope", "expires")
    list_display_links = ("its_key",)
    list_filter = (KindFilter, ScopeFilter)
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    search_fields = ("key",)
    search_help_text = "The beginning of a key, among the app-wide keys or in the scope chosen beside the list."
    list_per_page = 50
    fields = ("id",)

    @admin.display(description="key")
    def its_key(self, entry: StateEntry) -> SafeString:
        """Show the key."""
        return format_html('<code class="ss-key">{}</code>', present.line(entry.key, 100))

    @admin.display(description="scope")
    def in_scope(self, entry: StateEntry) -> SafeString:
        """Show the scope, as a link to all of it."""
        url = links.scope_list(self.admin_site, entry.scope)
        name = scope_name(entry.scope)
        shown = present.line(name, 13) if entry.scope.startswith("run:") else present.breakable(name)
        return format_html('<a href="{}" class="ss-scope" title="{}">{}</a>', url, name, shown)

    @admin.display(description="kind")
    def its_kind(self, entry: StateEntry) -> SafeString:
        """Show the kind as a pill."""
        return kind_badge(entry.kind)

    @admin.display(description="value")
    def its_value(self, entry: StateEntry) -> SafeString:
        """Show the beginning of the value, of a lock its holder."""
        text = holder(entry.record.value) if entry.kind == "lock" else present.preview(entry.record.value, 90)
        return format_html('<span class="ss-value">{}</span>', text)

    @admin.display(description="expires")
    def expires(self, entry: StateEntry) -> Any:
        """Show how long the entry still lives."""
        return present.until(entry.record.expires_at, now())

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the state, of which one page may look at a bounded part."""
        return StateEntry.objects.looking_at(LOOK_AT_MOST)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that says where the walk ended."""
        return StateChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the entries whose key begins so: in the scope chosen, else among the app-wide keys."""
        prefix = search_term.strip()
        if prefix and not request.GET.get("scope"):
            queryset = queryset.filter(scope="")
        return (queryset.filter(key__startswith=prefix) if prefix else queryset), False

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the entry instead of a form."""
        entry = kwargs.get("obj")
        if entry is not None:
            context["title"] = present.line(entry.key, 200)
            context["subtitle"] = entry.kind
            context["badge"] = kind_badge(entry.kind)
            context["facts"] = self._facts(request, entry)
            context["value"] = present.pretty(entry.record.value)
        return super().render_change_form(request, context, *args, **kwargs)

    def _facts(self, request: HttpRequest, entry: StateEntry) -> list[Fact]:
        expires = entry.expires_at
        facts = [
            Fact("Scope", scope_name(entry.scope), url=self._scope_url(request, entry.scope)),
            Fact("Version", str(entry.version), mono=True),
            Fact("Changed", present.clock(entry.updated_at, precise=True)),
            Fact(
                "Expires",
                present.clock(expires) if expires else "never",
                present.until(from_django(expires), now()) if expires else "",
            ),
        ]
        if entry.kind == "lock":
            facts.append(Fact("Held by", holder(entry.record.value)))
        return facts

    def _scope_url(self, request: HttpRequest, scope: str) -> str:
        """Return where a scope leads: to its run for those who may view runs, else to the list of it."""
        sort, _, name = scope.partition(":")
        owner = self.admin_site._registry.get(Run)
        if sort == "run" and owner is not None and owner.has_view_permission(request):
            return links.run_page(self.admin_site, name)
        return links.scope_list(self.admin_site, scope)


def scope_name(scope: str) -> str:
    """Return a scope in words."""
    sort, _, name = scope.partition(":")
    return f"{sort} {present.line(name, 60)}" if scope else "app-wide"


def kind_badge(kind: str) -> SafeString:
    """Return a kind as a pill."""
    css = kind if kind in ("value", "counter", "lock") else "other"
    return format_html('<span class="ss-badge ss-kind-{}">{}</span>', css, kind)


def holder(value: Any) -> str:
    """Return who holds a lock, in one line."""
    if not isinstance(value, dict):
        return present.preview(value)
    owner, host, pid = value.get("owner") or "", value.get("host") or "", value.get("pid") or ""
    place = f"{host} ({pid})" if host and pid else str(host)
    return present.line(" · ".join(part for part in (str(owner), place) if part) or present.NOTHING)
