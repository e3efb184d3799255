"""The Django app that shows runs and state in the admin."""

from __future__ import annotations

from django.apps import AppConfig


class CeleryStackStateAdminConfig(AppConfig):
    """Name the app, and register its system checks."""

    name = "celery_stackstate_admin"
    label = "celery_stackstate_admin"
    verbose_name = "Celery StackState"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the checks when Django has loaded."""
        from celery_stackstate_admin import checks  # noqa: F401
