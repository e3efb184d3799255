"""A view that a project mounts for its own users: how far a run is, as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, JsonResponse
from django.views.decorators.http import require_safe

from celery_stackstate.errors import ConfigurationError, StackStateError
from celery_stackstate.records import Progress, Run
from celery_stackstate_admin.present import line
from celery_stackstate_admin.source import extension

logger = logging.getLogger(__name__)

NO_STORE = {"Cache-Control": "no-store"}


def run_status(
    *, permission: Callable[[HttpRequest, Run], bool], error_type: bool = False
) -> Callable[..., JsonResponse]:
    """Return a view of a run's status, for a URL with `run_id` in it.

    An unknown run and a forbidden one get the same answer, 404. It tells nothing of payload, result or log.

    Args:
        permission: Says of a request whether it may know of the run. There is no default.
        error_type: Whether the name of the exception that ended the last attempt is told.

    Raises:
        ConfigurationError: `permission` cannot be called.
    """
    if not callable(permission):
        raise ConfigurationError(f"run_status(permission=) needs a function of a request and a run, not {permission!r}")

    @require_safe
    def view(request: HttpRequest, run_id: str) -> JsonResponse:
        # Also of an unknown run, so that it is not to be told from a forbidden one by what the session answers.
        getattr(getattr(request, "user", None), "is_authenticated", None)
        try:
            run = extension().runs.get(str(run_id))
        except StackStateError as error:
            logger.warning("The status of a run cannot be told: %s", error)
            return JsonResponse({"error": "unavailable"}, status=503, headers={**NO_STORE, "Retry-After": "5"})
        if run is None or not _allowed(permission, request, run):
            # A look at the session leaves this header: an unknown run has it, too, not to be told from a forbidden one.
            return JsonResponse({"error": "not found"}, status=404, headers={**NO_STORE, "Vary": "Cookie"})
        return JsonResponse(status_of(run, error_type=error_type), headers=NO_STORE)

    return view


def _allowed(permission: Callable[[HttpRequest, Run], bool], request: HttpRequest, run: Run) -> bool:
    try:
        return permission(request, run) is True
    except (PermissionDenied, Http404):
        return False


def status_of(run: Run, *, error_type: bool = False) -> dict[str, Any]:
    """Return what a program may be told of a run."""
    told: dict[str, Any] = {
        "id": run.id,
        "status": run.status,
        "finished": run.finished,
        "progress": None if run.progress is None else _progress(run.progress),
        "queued_at": _iso(run.queued_at),
        "started_at": _iso(run.started_at),
        "finished_at": _iso(run.finished_at),
    }
    if error_type:
        told["error_type"] = run.attempts[-1].error_type if run.attempts else None
    return told


def _progress(progress: Progress) -> dict[str, Any]:
    done, total = _finite(progress.done), _finite(progress.total)
    percent = None if done is None or not total or total < 0 else int(100 * min(1.0, max(0.0, done / total)))
    message = None if progress.message is None else line(progress.message, 200)
    return {"done": done, "total": total, "message": message, "percent": percent}


def _finite(number: Any) -> float | None:
    return number if isinstance(number, (int, float)) and math.isfinite(number) else None


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
