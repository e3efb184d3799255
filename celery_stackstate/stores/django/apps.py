"""The Django app that owns the tables."""

from __future__ import annotations

from django.apps import AppConfig

APP = "celery_stackstate.stores.django"


class CeleryStackStateConfig(AppConfig):
    """Name the app."""

    name = APP
    label = "celery_stackstate"
    verbose_name = "Celery StackState"
    default_auto_field = "django.db.models.BigAutoField"
