"""Rebuilding a dataclass, TypedDict or pydantic model from the plain data that was stored."""

from __future__ import annotations

import dataclasses
import json
import types
from collections import abc
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

from celery_stackstate.errors import WrongType

T = TypeVar("T")

#: What may stand for a stored list, tuple or dict in a type hint.
ABSTRACT: Mapping[Any, tuple[type, ...]] = {
    abc.Iterable: (list, tuple),
    abc.Collection: (list, tuple),
    abc.Sequence: (list, tuple),
    abc.MutableSequence: (list,),
    abc.Mapping: (dict,),
    abc.MutableMapping: (dict,),
}


def rebuild(value: Any, kind: type[T], path: str = "value") -> T:
    """Return `value` as a `kind`.

    Fields that `kind` does not know are left out of a dataclass, so that an older program reads what a newer one wrote.

    Args:
        value: What was stored: dicts, lists, and the other types that state takes.
        kind: A dataclass, TypedDict or pydantic model, whose fields may be such again; also `list[...]`,
            `dict[str, ...]` and `tuple[...]`, or `Sequence[...]` and `Mapping[str, ...]`. Their fields may also be
            `X | None`, `Literal`, Enum members by their value, and the types that state takes.
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
        return _fields(value, origin, path, _bound(origin, get_args(kind)))
    if origin in ABSTRACT:
        return _abstract(value, kind, origin, path)
    if origin in (list, tuple, dict):
        return _container(value, origin, get_args(kind), path)
    if get_args(kind):
        raise WrongType(f"as_type: {_name(kind)} at {path} is no type that can be rebuilt", path=path)
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
    if isinstance(value, Mapping):
        known = _field_names(get_origin(kind) or kind)
        if known is not None:
            return set(value) <= known
    return type(value) is (get_origin(kind) or kind)


def _field_names(kind: Any) -> set[Any] | None:
    """Return what the fields of a class may be called in what was stored; None for any other type."""
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind)}
    if is_typeddict(kind):
        return set(kind.__required_keys__ | kind.__optional_keys__)
    models: Mapping[str, Any] | None = getattr(kind, "model_fields", None)
    return None if models is None else {*models, *(field.alias for field in models.values() if field.alias)}


def _model(value: Any, kind: Any, path: str) -> Any:
    try:
        return _validated(kind.model_validate, value)
    except ValueError as error:  # pydantic's ValidationError is one
        try:
            # what a strict model takes of model_dump(mode="json")
            return _validated(kind.model_validate_json, json.dumps(value))
        except (TypeError, ValueError):
            raise WrongType(f"{path} does not fit {_name(kind)}: {error}", path=path) from error


def _validated(validate: Any, value: Any) -> Any:
    """Let pydantic read fields by their names, as `model_dump` writes them, and by their aliases."""
    try:
        return validate(value, by_alias=True, by_name=True)
    except TypeError:  # pydantic before 2.11
        return validate(value)


def _fields(value: Any, kind: Any, path: str, bound: Mapping[Any, Any]) -> Any:
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
        given = {field.name: field for field in dataclasses.fields(kind)}
        hints = {name: hints[name] for name in given}
        required = {name for name, field in given.items() if field.init and _has_no_default(field)}
        rebuilt = {}
    for name, hint in hints.items():
        if name in value:
            rebuilt[name] = _rebuild(value[name], _with(_plain_hint(hint), bound), f"{path}[{name!r}]")
        elif name in required:
            raise WrongType(f"{path} has no {name!r}, which {_name(kind)} needs", path=path)
    return rebuilt if is_typeddict(kind) else _made(kind, rebuilt, path)


def _made(kind: Any, fields: dict[str, Any], path: str) -> Any:
    later = [field.name for field in dataclasses.fields(kind) if not field.init and field.name in fields]
    try:
        made = kind(**{name: value for name, value in fields.items() if name not in later})
    except (TypeError, ValueError) as error:  # of an InitVar, or of the class's own checks
        raise WrongType(f"{path} does not make a {_name(kind)}: {error}", path=path) from error
    for name in later:
        object.__setattr__(made, name, fields[name])  # also of a frozen class
    return made


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain_hint(hint: Any) -> Any:
    """Return the type inside Required, NotRequired, ReadOnly or Annotated."""
    while getattr(get_origin(hint), "_name", None) in ("Required", "NotRequired", "ReadOnly"):
        hint = get_args(hint)[0]
    return hint


def _bound(kind: Any, inner: tuple[Any, ...]) -> dict[Any, Any]:
    """Return what the type variables of a generic class stand for."""
    return dict(zip(getattr(kind, "__parameters__", ()), inner, strict=False))


def _with(hint: Any, bound: Mapping[Any, Any]) -> Any:
    """Return a hint of a generic class with what its type variables stand for."""
    if isinstance(hint, TypeVar):
        return bound.get(hint, hint)
    free = getattr(hint, "__parameters__", ())
    return hint[tuple(bound.get(one, one) for one in free)] if free and get_origin(hint) is not None else hint


def _abstract(value: Any, kind: Any, origin: Any, path: str) -> Any:
    if type(value) not in ABSTRACT[origin]:
        _refuse(value, kind, path)
    inner = get_args(kind)
    return _container(value, type(value), (*inner, Ellipsis) if inner and type(value) is tuple else inner, path)


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
