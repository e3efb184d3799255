"""The shop: a Django project that works in the background with Celery."""

from .celery import app as celery_app

__all__ = ["celery_app"]
