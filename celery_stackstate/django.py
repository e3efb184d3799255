"""The task base class for Django projects."""

from __future__ import annotations

from celery.contrib.django.task import DjangoTask

from celery_stackstate.task import StateTask


class DjangoStateTask(StateTask, DjangoTask):
    """StateTask with the methods of Celery's DjangoTask, which a task class of one's own would otherwise take away:
    `delay_on_commit` and `apply_async_on_commit` publish when the database transaction is committed."""

    abstract = True
