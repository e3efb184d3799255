"""What of a message, a result or an error goes into the history: redacted, JSON-like, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_stackstate.facts import Stamp
from celery_stackstate.fingerprint import signature
from celery_stackstate.records import micros_of

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


def request_details(
    extension: StackState, task: Any, headers: Mapping[str, Any], body: Any, stamp: Stamp
) -> dict[str, Any]:
    """Return what a publisher's event holds; a message that goes on with a run repeats the arguments, its event not."""
    details: dict[str, Any] = {"publisher": stamp.publisher, "expires": micros_of(headers.get("expires"))}
    if headers.get("retries") or stamp.waits:
        return details
    args, kwargs = body[:2] if isinstance(body, (list, tuple)) and len(body) >= 2 else ((), {})
    return {**details, **arguments(extension, task, args, kwargs)}


def arguments(extension: StackState, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run as they may be shown."""
    redactor = extension.redactor
    shown_args, shown_kwargs = redactor.arguments(args, kwargs, _parameter_names(task))
    positional, named = redactor.snapshot(shown_args), redactor.snapshot(shown_kwargs)
    return {
        "args": positional.value,
        "kwargs": named.value,
        "payload_truncated": positional.truncated or named.truncated or None,
    }


def error_details(extension: StackState, error: Any, einfo: Any, traceback: Any) -> dict[str, Any]:
    """Return an exception as it may be shown. Local values of its frames are never part of it."""
    text = getattr(einfo, "traceback", None) or (traceback if isinstance(traceback, str) else None)
    redact = extension.redactor.text
    return {
        "error_type": type(error).__name__ if isinstance(error, BaseException) else "Error",
        "error": redact(str(error))[:2000],
        "traceback": None if text is None else redact(str(text), tail=True),
    }


def _parameter_names(task: Any) -> list[str]:
    try:
        return list(signature(task.run).parameters) if task is not None else []
    except (TypeError, ValueError):
        return []
