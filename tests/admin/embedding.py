"""A project that shows runs on pages of its own: its URLs, its ModelAdmin and its pages."""

from __future__ import annotations

from typing import Any

from celery_stackstate_admin.embed import RunsOfObject
from celery_stackstate_admin.status import run_status
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template import RequestContext, Template
from django.urls import path

PAGE = """{% load stackstate %}<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>A page of the project</title></head><body>
<main>{% block main %}TAGS{% endblock %}</main></body></html>"""

# Of the class that themes put in place of Django's.
staff = admin.site.__class__(name="staff")


@admin.register(User, site=staff)
class CustomerAdmin(RunsOfObject, UserAdmin):  # type: ignore[type-arg]
    """A ModelAdmin with fieldsets."""

    runs_limit = 3


@admin.register(Group, site=staff)
class TeamAdmin(RunsOfObject, admin.ModelAdmin):  # type: ignore[type-arg]
    """One without, whose runs are found by another filter."""

    runs_title = "Background work"

    def runs_of(self, obj: Any) -> dict[str, Any]:
        return {"key": f"team:{obj.name}", "status": ["FAILURE", "SUCCESS"]}


def is_owner(request: HttpRequest, run: Any) -> bool:
    if request.GET.get("raise"):
        raise PermissionDenied
    return bool(request.user.is_authenticated and run.origin == f"user:{request.user.pk}")


def page(request: HttpRequest) -> HttpResponse:
    """Render the tags that the query asks for, under a strict policy."""
    shown = Template(PAGE.replace("TAGS", request.GET["tags"]))
    policy = {"Content-Security-Policy": "default-src 'self'"}
    return HttpResponse(
        shown.render(RequestContext(request, {"evil": "</script><b>'\"", "none": None})), headers=policy
    )


urlpatterns = [
    path("admin/", admin.site.urls),
    path("staff/", staff.urls),
    path("page/", page),
    path("progress/<str:run_id>/", run_status(permission=is_owner), name="progress"),
    path("progress-uuid/<uuid:run_id>/", run_status(permission=is_owner)),
    path("progress-error/<str:run_id>/", run_status(permission=is_owner, error_type=True)),
    path("progress-sloppy/<str:run_id>/", run_status(permission=lambda request, run: 1)),  # type: ignore[arg-type,return-value]
]
