"""What `manage.py check` says about the admin pages."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core import checks

from celery_stackstate.errors import StackStateError
from celery_stackstate_admin.source import extension

NO_ADMIN = "celery_stackstate_admin.E001"
NO_APP = "celery_stackstate_admin.W001"


@checks.register(checks.Tags.admin)
def check_setup(**_: Any) -> list[checks.CheckMessage]:
    """Return what keeps the pages from working: no admin is an error, no Celery app (yet) a warning."""
    if not apps.is_installed("django.contrib.admin"):
        return [
            checks.Error(
                "celery_stackstate_admin shows its pages in Django's admin, which is not installed.",
                hint="Add 'django.contrib.admin' to INSTALLED_APPS.",
                id=NO_ADMIN,
            )
        ]
    try:
        extension()
    except StackStateError as error:
        return [
            checks.Warning(
                f"The admin pages of celery-stackstate have no Celery app to read from: {error}",
                hint="Import your Celery app when Django starts (in the project's __init__.py), "
                'or name it: STACKSTATE_APP = "proj.celery:app".',
                id=NO_APP,
            )
        ]
    return []
