"""What of a message, a result or an error goes into the history: redacted, JSON-like, of bounded size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from celery_stackstate.facts import Stamp
from celery_stackstate.fingerprint import signature
from celery_stackstate.header import HEADER
from celery_stackstate.payload import as_text, shortened
from celery_stackstate.receiving import INTERRUPTS
from celery_stackstate.records import micros_of

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

MAX_ERROR = 2000
BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def request_details(
    extension: StackState, task: Any, headers: Mapping[str, Any], body: Any, stamp: Stamp
) -> dict[str, Any]:
    """Return what a publisher's event holds; a message that goes on with a run repeats the arguments, its event not."""
    details: dict[str, Any] = {
        "host": stamp.host,
        "pid": stamp.pid,
        "program": stamp.program,
        "expires": micros_of(headers.get("expires")),
    }
    if headers.get("retries") or stamp.waits:
        return details
    args, kwargs, embedded = body if isinstance(body, (list, tuple)) and len(body) == 3 else ((), {}, {})
    return {**details, **lineage(headers, embedded), **arguments(extension, task, args, kwargs)}


def lineage(headers: Mapping[str, Any], embedded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a message says of the canvas that its run is part of, and of the run that it repeats."""
    ours = headers.get(HEADER) or {}
    chord = embedded.get("chord") or {}
    return {
        "group_index": headers.get("group_index"),
        "chord": text_of((chord.get("options") or {}).get("task_id")) if isinstance(chord, Mapping) else None,
        "chain": ours.get("chain"),
        "rerun_of": ours.get("rerun_of"),
    }


def text_of(run_id: Any) -> str | None:
    """Return an id as text; Celery takes a UUID for one as well."""
    return None if run_id is None else str(run_id)


def arguments(extension: StackState, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run as they may be shown."""
    redactor = extension.redactor
    shown_args, shown_kwargs = redactor.arguments(args, kwargs, _names_of(task, len(args)))
    positional, named = redactor.snapshot(shown_args, "args"), redactor.snapshot(shown_kwargs, "kwargs")
    return {
        "args": positional.value,
        "kwargs": named.value,
        "payload_truncated": positional.truncated or named.truncated or None,
    }


def error_details(extension: StackState, error: Any, einfo: Any, traceback: Any) -> dict[str, Any]:
    """Return an exception as it may be shown; of one of the project's own that cannot say what it is, its type."""
    try:
        return _error_details(extension, error, einfo, traceback)
    except INTERRUPTS:
        raise
    except Exception as failure:
        known = type(error).__name__
        return {"error_type": known, "error": f"<{known}, which raised {type(failure).__name__}>", "traceback": None}


def _error_details(extension: StackState, error: Any, einfo: Any, traceback: Any) -> dict[str, Any]:
    """Return what an exception says. Local values of its frames are never part of it."""
    text = getattr(einfo, "traceback", None) or (traceback if isinstance(traceback, str) else None)
    redact, message = extension.redactor.line, as_text(error)
    return {
        "error_type": type(error).__name__ if isinstance(error, BaseException) else "Error",
        "error": shortened(redact("error", message), MAX_ERROR, of=message),
        "traceback": None if text is None else redact("error", str(text), tail=True),
    }


def _names_of(task: Any, count: int) -> list[str]:
    """Return the names of the parameters that take `count` positional arguments; `*args` takes all the rest."""
    try:
        parameters = signature(task.run).parameters.values() if task is not None else ()
    except (TypeError, ValueError):
        return []
    names = [parameter.name for parameter in parameters if parameter.kind in BY_POSITION]
    rest = [parameter.name for parameter in parameters if parameter.kind is Parameter.VAR_POSITIONAL]
    return names + rest * max(0, count - len(names))
