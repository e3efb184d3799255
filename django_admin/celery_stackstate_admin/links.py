"""Addresses of pages in an admin site."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.utils import quote
from django.urls import reverse


def run_page(site: Any, run_id: str) -> str:
    """Return the address of a run's page."""
    return _to(site, "run_change", quote(run_id))


def run_live(site: Any, run_id: str) -> str:
    """Return the address of the part of a run's page that refreshes."""
    return _to(site, "run_live", quote(run_id))


def run_log(site: Any, run_id: str, execution: str | None = None) -> str:
    """Return the address of a run's log as a text, of all of it or of one execution."""
    address = _to(site, "run_log", quote(run_id))
    return address if execution is None else f"{address}?{urlencode({'execution': execution})}"


def run_list(site: Any, **filters: str) -> str:
    """Return the address of the list of runs that match `filters`."""
    return f"{_to(site, 'run_changelist')}?{urlencode(filters)}"


def entry_page(site: Any, entry_id: str) -> str:
    """Return the address of a state entry's page."""
    return _to(site, "stateentry_change", quote(entry_id))


def entry_list(site: Any) -> str:
    """Return the address of the list of all state."""
    return _to(site, "stateentry_changelist")


def scope_list(site: Any, scope: str) -> str:
    """Return the address of the list of one scope's state."""
    return f"{_to(site, 'stateentry_changelist')}?{urlencode({'scope': scope or 'app'})}"


def key_page(site: Any, key_id: str) -> str:
    """Return the address of an idempotency key's page."""
    return _to(site, "idempotencykey_change", quote(key_id))


def worker_list(site: Any, **filters: str) -> str:
    """Return the address of the list of workers that match `filters`."""
    return f"{_to(site, 'worker_changelist')}?{urlencode(filters)}"


def worker_page(site: Any, worker_id: str) -> str:
    """Return the address of a worker's page."""
    return _to(site, "worker_change", quote(worker_id))


def _to(site: Any, name: str, *args: str) -> str:
    return reverse(f"admin:celery_stackstate_admin_{name}", args=args, current_app=site.name)
