"""What makes two requests the same request: a digest of the task and its bound arguments."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from celery_stackstate.errors import NotSerializable


def bind_arguments(
    function: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments by parameter name, defaults filled in, however they were spelled.

    Without a function, or where its signature does not take them, they are told apart by position alone.
    """
    try:
        bound = signature(function).bind(*args, **kwargs) if function is not None else None
    except (TypeError, ValueError):
        bound = None
    if bound is None:
        return {"args": list(args), "kwargs": dict(kwargs)}
    bound.apply_defaults()
    return dict(bound.arguments)


@lru_cache(maxsize=1024)
def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a task's body; computing it anew would cost each publish more than all the rest here."""
    return inspect.signature(function)


def fingerprint(task: str, arguments: Mapping[str, Any], dumps: Callable[[Any], str]) -> str:
    """Return the SHA-256 of the canonical JSON of a task name and its bound arguments, in hexadecimal.

    Args:
        task: The task's name.
        arguments: What `bind_arguments` returned.
        dumps: Writes them as JSON the way the message would, so that a tuple and the list it becomes are the same.

    Raises:
        NotSerializable: They cannot be written as JSON.
    """
    try:
        plain = json.loads(dumps([task, arguments]))
    except Exception as error:
        raise NotSerializable(
            f"the arguments of {task} cannot be fingerprinted for an idempotency key: {error}. "
            f"Pass JSON-like arguments, for example an id instead of an object"
        ) from error
    canonical = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
