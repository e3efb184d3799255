"""Django's autodiscovery looks here."""

from __future__ import annotations

from celery_stackstate_admin.keys.admin import IdempotencyKeyAdmin
from celery_stackstate_admin.runs.admin import RunAdmin
from celery_stackstate_admin.state.admin import StateEntryAdmin
from celery_stackstate_admin.workers.admin import WorkerAdmin

__all__ = ["IdempotencyKeyAdmin", "RunAdmin", "StateEntryAdmin", "WorkerAdmin"]
