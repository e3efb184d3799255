"""What makes two requests the same request: a digest of the task and its bound arguments, or of how it was called."""

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


def without_defaults(
    function: Callable[..., Any] | None, arguments: Mapping[str, Any], dumps: Callable[[Any], str]
) -> dict[str, Any]:
    """Return the bound arguments less those that are as by default, which spelled out or not are the same request.

    A parameter that a new release adds with a default leaves the fingerprints of older requests as they were.
    """
    parameters = {} if function is None else signature(function).parameters
    empty = inspect.Parameter.empty
    return {
        name: value
        for name, value in arguments.items()
        if name not in parameters
        or parameters[name].default is empty
        or not _is_default(parameters[name].default, value, dumps)
    }


def _is_default(default: Any, value: Any, dumps: Callable[[Any], str]) -> bool:
    """Return whether a message says of a value what it says of the default."""
    if default is value:
        return True
    try:
        return _canonical(default, dumps) == _canonical(value, dumps)
    except Exception:  # a default that no message could say
        return False


@lru_cache(maxsize=1024)
def signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a task's body; computing it anew would cost each publish more than all the rest here."""
    return inspect.signature(function)


def digest(task: str, arguments: Any, dumps: Callable[[Any], str]) -> str:
    """Return the SHA-256 of the canonical JSON of a task name and arguments of it, in hexadecimal.

    Args:
        task: The task's name.
        arguments: By name, or as they were spelled.
        dumps: Writes them as JSON the way the message would, so that a tuple and the list it becomes are the same.

    Raises:
        NotSerializable: They cannot be written as JSON.
    """
    try:
        canonical = _canonical([task, arguments], dumps)
    except Exception as error:
        raise NotSerializable(
            f"the arguments of {task} cannot be fingerprinted for an idempotency key: {error}. "
            f"Pass JSON-like arguments, for example an id instead of an object"
        ) from error
    return hashlib.sha256(canonical.encode()).hexdigest()


def fingerprint(
    task: str, arguments: Any, args: Sequence[Any], kwargs: Mapping[str, Any], dumps: Callable[[Any], str]
) -> str:
    """Return the fingerprint of a request: the digest of what counts of it, and that of how it was spelled.

    The second is all that a process has which does not know the task, so that is what the two have in common.

    Args:
        task: The task's name.
        arguments: What counts of the arguments; None where the task is not known.
        args: As they were given.
        kwargs: As they were given.
        dumps: See `digest`.

    Raises:
        NotSerializable: What counts cannot be written as JSON.
    """
    as_spelled = bind_arguments(None, args, kwargs)
    if arguments is None:
        return digest(task, as_spelled, dumps)
    counts = digest(task, arguments, dumps)
    try:
        spelled = digest(task, as_spelled, dumps)
    except NotSerializable:
        return counts  # a function of the project has chosen what counts
    return counts if spelled == counts else f"{counts} {spelled}"


def is_same_request(one: str, other: str) -> bool:
    """Return whether two fingerprints are of the same request: they have a digest in common."""
    return one == other or not set(one.split()).isdisjoint(other.split())


def _canonical(value: Any, dumps: Callable[[Any], str]) -> str:
    plain = value if _is_plain(value) else json.loads(dumps(value))
    return _ENCODER.encode(plain)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
_ATOMS = frozenset({str, int, float, bool, type(None)})


def _is_plain(value: Any) -> bool:
    """Return whether a message says the same of a value as JSON itself does."""
    kind = type(value)
    if kind in _ATOMS:
        return True
    if kind is dict:
        return all(type(name) is str and _is_plain(one) for name, one in value.items())
    return kind in (list, tuple) and all(map(_is_plain, value))
