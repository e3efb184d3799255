"""Rebuilding a dataclass, TypedDict or pydantic model from the plain data that was stored."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from celery_stackstate.errors import WrongType

T = TypeVar("T")


def rebuild(value: Any, kind: type[T], path: str = "value") -> T:
    """Return `value` as a `kind`.

    Fields that `kind` does not know are left out of a dataclass, so that an older program reads what a newer one wrote.

    Args:
        value: What was stored: dicts, lists, and the other types that state takes.
        kind: A dataclass, TypedDict or pydantic model, whose fields may be such again; also `list[...]`,
            `dict[str, ...]` and `tuple[...]`. Their fields may also be `X | None`, `Literal`, Enum members by their
            value, and the types that state takes.
        path: What the value is called in errors.

    Raises:
        WrongType: The value does not fit; names the path of what does not.
    """
    return _rebuild(value, kind, path)  # type: ignore[no-any-return]


def _rebuild(value: Any, kind: Any, path: str) -> Any:
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin = get_origin(kind) or kind
    if kind is Any or isinstance(kind, TypeVar):
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, get_args(kind), path)
    if origin is Literal:
        meant = [one for one in get_args(kind) if one == value and type(one) is type(value)]
        return meant[0] if meant else _refuse(value, kind, path)
    if hasattr(kind, "model_validate"):
        return _model(value, kind, path)
    if is_typeddict(origin) or (dataclasses.is_dataclass(origin) and isinstance(origin, type)):
        return _fields(value, origin, path)
    if origin in (list, tuple, dict):
        return _container(value, origin, get_args(kind), path)
    return _plain_value(value, type(None) if kind is None else origin, path)


def _plain_value(value: Any, kind: Any, path: str) -> Any:
    if not isinstance(kind, type):
        raise WrongType(f"as_type: {kind!r} at {path} is no type that can be rebuilt", path=path)
    if kind is float and type(value) is int:
        return float(value)
    if issubclass(kind, Enum):
        members = [member for member in kind if member.value == value]
        return members[0] if members else _refuse(value, kind, path)
    fits = isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float))
    return value if fits else _refuse(value, kind, path)


def _one_of(value: Any, kinds: tuple[Any, ...], path: str) -> Any:
    for kind in sorted(kinds, key=lambda kind: not _is_exact(value, kind)):
        try:
            return _rebuild(value, kind, path)
        except WrongType:
            continue
    return _refuse(value, Union[kinds], path)  # noqa: UP007 - made at run time


def _is_exact(value: Any, kind: Any) -> bool:
    """Return whether a `kind` holds all of `value` without turning it into something else."""
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return set(value) <= {field.name for field in dataclasses.fields(kind)}
    return type(value) is (get_origin(kind) or kind)


def _model(value: Any, kind: Any, path: str) -> Any:
    try:
        return kind.model_validate(value)
    except ValueError as error:  # pydantic's ValidationError is one
        try:
            return kind.model_validate_json(json.dumps(value))  # what a strict model takes of model_dump(mode="json")
        except (TypeError, ValueError):
            raise WrongType(f"{path} does not fit {_name(kind)}: {error}", path=path) from error


def _fields(value: Any, kind: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(value, kind, path)
    try:
        hints = get_type_hints(kind)
    except (NameError, TypeError) as error:  # Python 3.10 does not resolve an InitVar
        raise WrongType(f"as_type: {_name(kind)} at {path} has a type hint that cannot be resolved: {error}") from error
    if is_typeddict(kind):
        required = kind.__required_keys__
        rebuilt = dict(value)
    else:
        given = {field.name: field for field in dataclasses.fields(kind) if field.init}
        hints = {name: hints[name] for name in given}
        required = {name for name, field in given.items() if _has_no_default(field)}
        rebuilt = {}
    for name, hint in hints.items():
        if name in value:
            rebuilt[name] = _rebuild(value[name], _plain_hint(hint), f"{path}[{name!r}]")
        elif name in required:
            raise WrongType(f"{path} has no {name!r}, which {_name(kind)} needs", path=path)
    return rebuilt if is_typeddict(kind) else _made(kind, rebuilt, path)


def _made(kind: Any, fields: dict[str, Any], path: str) -> Any:
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:  # of an InitVar, or of the class's own checks
        raise WrongType(f"{path} does not make a {_name(kind)}: {error}", path=path) from error


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain_hint(hint: Any) -> Any:
    """Return the type inside Required, NotRequired, ReadOnly or Annotated."""
    while getattr(get_origin(hint), "_name", None) in ("Required", "NotRequired", "ReadOnly"):
        hint = get_args(hint)[0]
    return hint


def _container(value: Any, kind: Any, inner: tuple[Any, ...], path: str) -> Any:
    if not isinstance(value, kind):
        _refuse(value, kind, path)
    if not inner:
        return value
    if kind is dict:
        if inner[0] not in (str, Any):
            raise WrongType(f"as_type: the keys at {path} are str, not {_name(inner[0])}", path=path)
        return {key: _rebuild(item, inner[1], f"{path}[{key!r}]") for key, item in value.items()}
    if kind is tuple and inner[-1] is not Ellipsis:
        if len(inner) != len(value):
            raise WrongType(f"{path} has {len(value)} items where {len(inner)} are expected", path=path)
        return tuple(
            _rebuild(item, hint, f"{path}[{at}]") for at, (item, hint) in enumerate(zip(value, inner, strict=True))
        )
    return kind(_rebuild(item, inner[0], f"{path}[{at}]") for at, item in enumerate(value))


def _refuse(value: Any, kind: Any, path: str) -> Any:
    raise WrongType(f"{path} is {value!r:.80}, a {type(value).__name__}, where {_name(kind)} is expected", path=path)


def _name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
