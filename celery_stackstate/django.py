"""The task base class for Django projects."""

from __future__ import annotations

from typing import Any

from celery.contrib.django.task import DjangoTask

from celery_stackstate.task import StateTask


class DjangoStateTask(StateTask, DjangoTask):
    """StateTask with the methods of Celery's DjangoTask, which a task class of one's own would otherwise take away:
    `delay_on_commit` and `apply_async_on_commit` publish when the database transaction is committed."""

    abstract = True

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call `delay` when the transaction is committed: at once outside of one, never after a rollback."""
        super().delay_on_commit(*args, **kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call `apply_async`, whose options it takes, when the transaction is committed."""
        super().apply_async_on_commit(*args, **kwargs)
