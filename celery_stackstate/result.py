"""The handle that publishing a task returns."""

from __future__ import annotations

from celery.result import AsyncResult


class RunResult(AsyncResult):
    """Celery's AsyncResult, which also says whether the call created the run.

    `created` is False for a duplicate: `id` is then that of the run that already has the idempotency key.
    """

    created: bool = True
