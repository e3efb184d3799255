"""Keeps the pages to those who may view, and shows an outage as a page instead of a server error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth import get_permission_codename
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import SimpleTemplateResponse, TemplateResponse
from django.utils.translation import gettext as _

from celery_stackstate.errors import ConfigurationError, StackStateError, StoreUnavailable
from celery_stackstate_admin.present import line

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin

logger = logging.getLogger(__name__)


class StorePages(ModelAdmin):
    """A view-only admin over a store: the model's own view permission opens every page of it, nothing else does."""

    actions: Any = None
    show_full_result_count = False
    list_select_related = ()

    class Media:
        css = {"all": ("celery_stackstate_admin/admin.css",)}

    # -- permissions ---------------------------------------------------------------------------------------------

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return whether the user has Django's view permission on this model."""
        name = get_permission_codename("view", self.opts)
        user: Any = request.user
        return bool(user.is_active and user.has_perm(f"{self.opts.app_label}.{name}"))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Return whether the app is listed for this model's sake."""
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: runs and state are made by tasks."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def get_object(self, request: HttpRequest, object_id: str, from_field: Any = None) -> Any:
        """Return the object, None when there is none. Django's own takes any ValueError for that, and ours are some."""
        try:
            return self.get_queryset(request).get(pk=object_id)
        except self.model.DoesNotExist:
            return None

    # -- pages ---------------------------------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> Any:
        """Show the list."""
        return self.guarded(request, lambda: super(StorePages, self).changelist_view(request, extra_context))

    def changeform_view(
        self, request: HttpRequest, object_id: Any = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """Show one object."""
        parent = super().changeform_view
        return self.guarded(request, lambda: parent(request, object_id, form_url, extra_context))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Refuse, before the store is asked for the object."""
        raise PermissionDenied

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> Any:
        """Show what was done to one object in the admin."""
        parent = super().history_view
        return self.guarded(request, lambda: parent(request, object_id, extra_context))

    def guarded(self, request: HttpRequest, view: Callable[[], Any]) -> HttpResponse:
        """Return what `view` answers, its template rendered, or the page about the store that did not answer.

        Django would look the object up first and ask for permission then. Filters and the date hierarchy read while
        they are rendered, therefore that happens here.
        """
        if not self.has_view_permission(request):
            raise PermissionDenied
        try:
            response = view()
            return response.render() if isinstance(response, SimpleTemplateResponse) else response
        except StackStateError as error:
            logger.warning("The page %s cannot be shown: %s", request.path, error, exc_info=error)
            return self._outage(request, error)

    def _outage(self, request: HttpRequest, error: StackStateError) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": _title(error),
            "opts": self.opts,
            "reason": line(error, 500),
            "unconfigured": isinstance(error, ConfigurationError),
            "unavailable": isinstance(error, StoreUnavailable),
            "retry": request.get_full_path(),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(
            request, "admin/celery_stackstate_admin/outage.html", context, status=503, headers={"Retry-After": "10"}
        ).render()


def _title(error: StackStateError) -> str:
    if isinstance(error, StoreUnavailable):
        return _("The store does not answer")
    return _("StackState is not configured") if isinstance(error, ConfigurationError) else _("The store cannot be read")
