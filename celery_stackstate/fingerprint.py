"""What makes two requests the same request: a digest of the task and its bound arguments."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from celery_stackstate.errors import NotSerializable


def bind_arguments(
    function: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments by parameter name, defaults filled in, however they were spelled.

    Without a function, or where its signature does not take them, they are told apart by position alone.
    """
    if function is not None:
        try:
            bound = inspect.signature(function).bind(*args, **kwargs)
        except (TypeError, ValueError):
            pass
        else:
            bound.apply_defaults()
            return dict(bound.arguments)
    return {"args": list(args), "kwargs": dict(kwargs)}


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
