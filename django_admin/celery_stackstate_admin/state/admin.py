"""The admin of state."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from celery_stackstate_admin import clocks, links, present
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.scopes import kind_badge, scope_name, value_preview
from celery_stackstate_admin.state.filters import KindFilter, ScopeFilter
from celery_stackstate_admin.state.folders import PREFIX, FolderChangeList
from celery_stackstate_admin.state.operations import DeleteEntries, ForceRelease, ResetCounters
from celery_stackstate_admin.state.pages import EntryPages

LOOK_AT_MOST = 2_000


@admin.register(StateEntry)
class StateEntryAdmin(EntryPages):
    """State in its folders, as a list by scope and key, and one entry as a page."""

    list_display = ("its_key", "its_value", "its_kind", "in_scope", "expires")
    list_display_links = ("its_key",)
    list_filter = (KindFilter, ScopeFilter)
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    search_fields = ("key",)
    search_help_text = _("The beginning of a key: in the folder or scope you are in, else among the app-wide keys.")
    list_per_page = 50
    operations = (ForceRelease(), ResetCounters(), DeleteEntries())

    class Media:
        js = ("celery_stackstate_admin/countdown.js",)

    def has_force_release_lock_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may release locks by force."""
        user: Any = request.user
        return self.has_view_permission(request) and bool(user.has_perm(f"{self.opts.app_label}.force_release_lock"))

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user may delete; locks are released instead."""
        return super().has_delete_permission(request, obj) and (obj is None or obj.kind != "lock")

    @admin.display(description=_("key"))
    def its_key(self, entry: StateEntry) -> SafeString:
        """Show the key."""
        return format_html('<code class="ss-key">{}</code>', present.line(entry.key, 100))

    @admin.display(description=_("scope"))
    def in_scope(self, entry: StateEntry) -> SafeString:
        """Show the scope, as a link to all of it."""
        url = links.scope_list(self.admin_site, entry.scope)
        name = scope_name(entry.scope)
        shown = present.line(name, 13) if entry.scope.startswith("run:") else present.breakable(name)
        return format_html('<a href="{}" class="ss-scope" title="{}">{}</a>', url, name, shown)

    @admin.display(description=_("kind"))
    def its_kind(self, entry: StateEntry) -> SafeString:
        """Show the kind as a pill."""
        return kind_badge(entry.kind)

    @admin.display(description=_("value"))
    def its_value(self, entry: StateEntry) -> SafeString:
        """Show the beginning of the value, of a lock its holder."""
        return format_html('<span class="ss-value">{}</span>', value_preview(entry.record, 90))

    @admin.display(description=_("expires"))
    def expires(self, entry: StateEntry) -> Any:
        """Show how long the entry still lives."""
        return clocks.countdown(entry.record.expires_at, entry.record.read_at)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the state, of which one page may look at a bounded part."""
        return StateEntry.objects.looking_at(LOOK_AT_MOST)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list under a name of its own: nothing needs to be selected."""
        return super().changelist_view(request, {"title": _("State"), **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that has folders, and says where the walk ended."""
        return FolderChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the entries whose key begins so: in the folder or scope chosen, else among the app-wide keys."""
        term = search_term.strip()
        if term and not request.GET.get("scope"):
            queryset = queryset.filter(scope="")
        folder = request.GET.get(PREFIX, "")
        prefix = term if term.startswith(folder) else folder + term
        return (queryset.filter(key__startswith=prefix) if term else queryset), False
