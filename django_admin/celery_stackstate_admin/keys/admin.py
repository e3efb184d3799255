"""The admin of idempotency keys. What is kept privately for them, envelopes and results, is on no page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from celery_stackstate.key_record import FAILED, PUBLISHED, RESERVED, RETRYING, RUNNING, SUCCEEDED
from celery_stackstate.records import from_micros
from celery_stackstate_admin import clocks, links, present
from celery_stackstate_admin.changelist import StoreChangeList
from celery_stackstate_admin.facts import Fact
from celery_stackstate_admin.keys.filters import KeyScopeFilter, KeyStateFilter
from celery_stackstate_admin.keys.operations import ResetKeys, state_badge
from celery_stackstate_admin.keys.queryset import KeyQuerySet
from celery_stackstate_admin.models import IdempotencyKey
from celery_stackstate_admin.operationpages import OperationPages
from celery_stackstate_admin.scopes import scope_name, shows_runs
from celery_stackstate_admin.source import now

if TYPE_CHECKING:
    from celery_stackstate.records import KeyRecord

LOOK_AT_MOST = 2_000
ENDED = (SUCCEEDED, FAILED)
MEANING = {
    RESERVED: gettext_lazy("asked for; its message is being published"),
    PUBLISHED: gettext_lazy("its message is out; no worker has begun it"),
    RUNNING: gettext_lazy("a worker has begun it"),
    RETRYING: gettext_lazy("it waits for its next attempt"),
    SUCCEEDED: gettext_lazy("it succeeded; the key is kept so that it is not run again"),
    FAILED: gettext_lazy("it failed; the key is kept so that it is not run again"),
}


class KeyChangeList(StoreChangeList):
    """Keys in the order the store lists them in."""

    queryset: KeyQuerySet

    def get_ordering(self, request: Any, queryset: Any) -> list[Any]:
        """Return the store's order, the only one there is."""
        return ["scope", "key"]

    def get_results(self, request: Any) -> None:
        """Read the page; say so when the walk ended before the keys did."""
        super().get_results(request)
        if self.queryset.cut:
            self.store_note = _(
                "The list ends after %(count)s keys were looked at; there are more. "
                "Choose a task and search for the beginning of a key."
            ) % {"count": present.number(self.queryset.query.look_at_most)}  # type: ignore[attr-defined]


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(OperationPages):
    """Keys as a list by scope and key, and one key as a page."""

    list_display = ("key_and_task", "its_state", "its_run", "asked", "kept")
    list_display_links = ("key_and_task",)
    list_filter = (KeyScopeFilter, KeyStateFilter)
    show_facets = admin.ShowFacets.NEVER
    sortable_by = ()
    search_fields = ("key",)
    search_help_text = gettext_lazy("The beginning of a key: of the task you chose, else among the app-wide keys.")
    list_per_page = 50
    fields = ("id",)
    operations = (ResetKeys(),)

    class Media:
        js = ("celery_stackstate_admin/countdown.js",)

    @admin.display(description=gettext_lazy("key"))
    def key_and_task(self, key: IdempotencyKey) -> SafeString:
        """Show the key; below it the task, and the scope where it is another than the task's."""
        task = present.breakable(present.line(key.task, 100))
        own = key.scope == f"task:{key.task}"
        return format_html(
            '<code class="ss-key">{}</code><span class="ss-meta">{}{}</span>',
            present.line(key.key, 100),
            task,
            "" if own else format_html(" · {}", scope_name(key.scope)),
        )

    @admin.display(description=gettext_lazy("state"))
    def its_state(self, key: IdempotencyKey) -> SafeString:
        """Show the state as a pill."""
        return state_badge(key.record)

    @admin.display(description=gettext_lazy("run"))
    def its_run(self, key: IdempotencyKey) -> SafeString:
        """Show the run that has the key, as a link."""
        shown = present.line(key.run_id, 9)
        url = links.run_page(self.admin_site, key.run_id)
        return format_html('<a href="{}" title="{}"><code>{}</code></a>', url, present.line(key.run_id, 255), shown)

    @admin.display(description=gettext_lazy("run"))
    def its_run_id(self, key: IdempotencyKey) -> SafeString:
        """Show the run that has the key."""
        return format_html('<code title="{}">{}</code>', present.line(key.run_id, 255), present.line(key.run_id, 9))

    def get_list_display(self, request: HttpRequest) -> Any:
        """Return the columns; the run is a link for those who may view runs."""
        run = "its_run" if shows_runs(self.admin_site, request) else "its_run_id"
        return [run if name == "its_run" else name for name in self.list_display]

    @admin.display(description=gettext_lazy("asked for"))
    def asked(self, key: IdempotencyKey) -> Any:
        """Show when the run was asked for."""
        return present.moment(from_micros(key.generation), key.record.read_at or now())

    @admin.display(description=gettext_lazy("kept"))
    def kept(self, key: IdempotencyKey) -> Any:
        """Show how long the key is still kept."""
        return retention(key.record)

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the keys, of which one page may look at a bounded part."""
        return IdempotencyKey.objects.looking_at(LOOK_AT_MOST)

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list under a name of its own: nothing needs to be selected."""
        return super().changelist_view(request, {"title": _("Idempotency keys"), **(extra_context or {})})

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> Any:
        """Return the list that says where the walk ended."""
        return KeyChangeList

    def get_search_results(self, request: HttpRequest, queryset: Any, search_term: str) -> tuple[Any, bool]:
        """Return the keys that begin so: of the task chosen, else among the app-wide ones."""
        prefix = search_term.strip()
        if prefix and not request.GET.get(KeyScopeFilter.parameter_name):
            queryset = queryset.filter(scope="")
        return (queryset.filter(key__startswith=prefix) if prefix else queryset), False

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        """Show the key instead of a form."""
        key = kwargs.get("obj")
        if key is not None:
            context["title"] = present.line(key.key, 200)
            context["badge"] = state_badge(key.record)
            context["explanation"] = explanation(key.record)
            context["facts"] = self._facts(request, key.record)
        return super().render_change_form(request, context, *args, **kwargs)

    def _facts(self, request: HttpRequest, record: KeyRecord) -> list[Fact]:
        run = links.run_page(self.admin_site, record.run_id) if shows_runs(self.admin_site, request) else ""
        changed = _("Finished") if record.state in ENDED else _("Last change")
        asked_at = from_micros(record.generation)
        return [
            Fact(_("Task"), present.breakable(present.line(record.task, 200))),
            Fact(_("Scope"), scope_name(record.scope)),
            Fact(_("Run"), present.line(record.run_id, 60), url=run, mono=True),
            Fact(_("Generation"), str(record.generation), mono=True),
            Fact(_("Reserved"), present.clock(asked_at, precise=True), clocks.age(asked_at, record.read_at)),
            Fact(
                changed,
                present.clock(record.updated_at, precise=True),
                clocks.age(record.updated_at, record.read_at),
            ),
            Fact(_("Begun"), times(record.deliveries)),
            Fact(_("Kept"), retention(record), present.clock(record.expires_at) if record.expires_at else ""),
            Fact(_("Fingerprint"), present.line(record.fingerprint, 20), mono=True),
        ]


def times(number: int) -> str:
    """Return how often something happened."""
    return ngettext("%(number)d time", "%(number)d times", number) % {"number": number} if number else _("not yet")


def retention(record: KeyRecord) -> Any:
    """Return how long a key is still kept."""
    return clocks.countdown(record.expires_at, record.read_at, never=_("until its run ends"), form="for")


def explanation(record: KeyRecord) -> str:
    """Return what the state of a key means for the next call."""
    if record.free:
        return _("The key is free: the next call with it begins another run.")
    return _("The key is taken: %(meaning)s.") % {"meaning": MEANING.get(record.state, record.state)}
