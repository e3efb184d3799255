"""The shop's Celery app. `task_cls` is the one line that a project with Celery changes; the store is in settings.py."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")

app = Celery("shop", task_cls="celery_stackstate.django:DjangoStateTask")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
