"""Django's autodiscovery looks here."""

from __future__ import annotations

from celery_stackstate_admin.runadmin import RunAdmin
from celery_stackstate_admin.stateadmin import StateEntryAdmin

__all__ = ["RunAdmin", "StateEntryAdmin"]
