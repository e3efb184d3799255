"""The options of a publish that are ours: taken out, checked, and completed by the attributes of the task."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal, get_args

from celery_stackstate.beat import current_due
from celery_stackstate.errors import ConfigurationError, InvalidKey
from celery_stackstate.fingerprint import bind_arguments, signature
from celery_stackstate.keys import check_key, ttl_micros

Scope = Literal["task", "app", "run"]
OnFailure = Literal["release", "keep"]
OnDuplicate = Literal["return", "raise", "replace"]
LostPolicy = Literal["mark", "rerun"]


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What `apply_async` and the attributes of a task say of idempotency. `idempotency_key` is text here."""

    idempotency_key: str
    idempotency_ttl: float | None = None
    idempotency_scope: Scope = "task"
    idempotency_on_failure: OnFailure = "release"
    idempotency_fingerprint: Callable[..., Any] | None = None
    on_duplicate: OnDuplicate = "return"
    debounce: float | None = None
    debounce_max_wait: float | None = None


OPTION_NAMES = tuple(field.name for field in fields(KeyOptions))
_CHOICES = {
    "idempotency_scope": get_args(Scope),
    "idempotency_on_failure": get_args(OnFailure),
    "on_duplicate": get_args(OnDuplicate),
    "lost_policy": get_args(LostPolicy),
}
#: Attributes of a task that are ours beside the options of `apply_async`.
FLAGS = ("record_runs", "record_in_background", "single_execution", "keep_payload")
ATTRIBUTES = (*OPTION_NAMES, *FLAGS, "record_sample", "lost_policy", "max_deliveries")


def take_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split our options off, checked. Only an `idempotency_key` of None says something: that there is no key.

    Raises:
        ConfigurationError: An option has an unknown name or value.
        InvalidKey: The key cannot be one.
    """
    mine = {name: options[name] for name in OPTION_NAMES if options.get(name) is not None}
    if "idempotency_key" in options:
        mine["idempotency_key"] = options["idempotency_key"]
    rest = {name: value for name, value in options.items() if name not in OPTION_NAMES}
    for name in rest:
        wrong = _what_is_wrong_with(name)
        if wrong:  # Celery would take it for a property of the message, and nobody would miss the promise
            raise ConfigurationError(wrong)
    _check(mine)
    key = mine.get("idempotency_key")
    if key is not None and not callable(key):
        mine["idempotency_key"] = check_key(key, "idempotency_key")
    return mine, rest


def complete(task: Any, mine: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> KeyOptions | None:
    """Return the options of a call with those of the task's attributes filled in; None when it has no key.

    Raises:
        ConfigurationError: Options without a key, a key that cannot be made, or options that do not go together.
        InvalidKey: What was made cannot be a key.
    """
    given = {**_attributes(task), **mine}
    key = given.get("idempotency_key")
    if key is not None:
        key = _made(task, key, args, kwargs, by_call="idempotency_key" in mine)
    if key is None:
        others = [name for name in mine if name != "idempotency_key"]
        if others and "idempotency_key" not in mine:
            raise ConfigurationError(f"{', '.join(others)} was given without an idempotency_key")
        return None
    _check_together({**given, "keep_payload": attribute(task, "keep_payload")})
    return KeyOptions(**{**given, "idempotency_key": check_key(key, "idempotency_key")})


def attribute(task: Any, name: str) -> Any:
    """Return an attribute of a task as it was given: a function stays one, and is no method."""
    return vars(task).get(name, getattr(type(task), name, None)) if task is not None else None


def check_attributes(task_class: Any) -> None:
    """Check the attributes of a task that are ours, when it is bound.

    Raises:
        ConfigurationError: One has a wrong value, is a method, or names an argument that the task does not have; or the
            decorator was given one whose name is nearly that of another.
    """
    if "_decorated" in vars(task_class):
        for name in vars(task_class):
            meant = _meant(name, ATTRIBUTES)
            if meant:  # Celery would take it for an attribute of the project's own, and nobody would miss the promise
                raise ConfigurationError(f"the task {task_class.name}: {name} is not an option; did you mean {meant}?")
    values = {name: getattr(task_class, name, None) for name in ATTRIBUTES}
    for name, value in values.items():
        owner = next(base for base in task_class.__mro__ if name in vars(base))
        if callable(value) and getattr(value, "__qualname__", "").endswith(f"{owner.__qualname__}.{name}"):
            raise ConfigurationError(
                f"the task class {owner.__name__} defines a method {name!r}, which is an option of StateTask; "
                f"rename it, or give the option a value or a function from elsewhere"
            )
    try:
        _check({name: value for name, value in values.items() if value is not None})
        _check_together(values)
        _check_key(values["idempotency_key"], task_class.run)
    except ConfigurationError as error:
        raise ConfigurationError(f"the task {task_class.name}: {error}") from None


@lru_cache(maxsize=1024)
def _what_is_wrong_with(name: str) -> str | None:
    """Return why an option that is none of ours cannot be meant for Celery or the transport; None when it can."""
    if name in ATTRIBUTES:
        return f"{name} is an attribute of the task, not an option of a call"
    if name.startswith(("idempot", "debounce")):
        return f"{name} is not an option; there are {', '.join(OPTION_NAMES)}"
    meant = _meant(name, OPTION_NAMES)
    return f"{name} is not an option; did you mean {meant}?" if meant else None


@lru_cache(maxsize=1024)
def _meant(name: str, names: tuple[str, ...]) -> str | None:
    """Return which of `names` a name is nearly, but not; None when it is one of them or like none."""
    return None if name in names else next(iter(get_close_matches(name, names, n=1, cutoff=0.87)), None)


# -- inside --------------------------------------------------------------------------------------------------------


def _attributes(task: Any) -> dict[str, Any]:
    found = {name: attribute(task, name) for name in OPTION_NAMES}
    return {name: value for name, value in found.items() if value is not None}


def _made(task: Any, key: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, by_call: bool) -> Any:
    """Return the key that a string, a format string or a callable makes."""
    if not callable(key):
        return key if by_call else _formatted(key, {**kwargs, **bind_arguments(task.run, args, kwargs)})
    try:
        if not by_call:
            return key(*args, **kwargs)
        due = current_due()
        if due is not None:
            return key(due)
    except Exception as error:
        raise ConfigurationError(
            f"the idempotency_key of {task.name if task else 'the call'} raised {error!r}"
        ) from error
    raise ConfigurationError(
        "idempotency_key is a callable: that is for an attribute of the task (it gets the arguments) and for the "
        "options of a beat entry (it gets the due time); give apply_async the key itself"
    )


class _Filled(string.Formatter):
    """Fills arguments in. What is None or empty is refused: the requests without it would share one key."""

    def __init__(self, template: str) -> None:
        self._template = template

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        first = field_name.partition(".")[0].partition("[")[0]
        if first not in kwargs:
            raise self._refusal(first, "missing")
        if _is_nothing(kwargs[first]):
            raise self._refusal(first, repr(kwargs[first]))
        value, used = super().get_field(field_name, args, kwargs)
        if _is_nothing(value):
            raise self._refusal(field_name, repr(value))
        return value, used

    def _refusal(self, name: str, found: str) -> InvalidKey:
        return InvalidKey(f"the idempotency_key {self._template!r} needs the argument {name!r}, which is {found}")


def _is_nothing(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value)


def _formatted(template: str, arguments: Mapping[str, Any]) -> str:
    try:
        return _Filled(template).vformat(template, (), arguments)
    except InvalidKey:
        raise
    except Exception as error:
        raise ConfigurationError(
            f"the idempotency_key {template!r} cannot be made of the arguments: {error!r}"
        ) from error


def _check_key(key: Any, run: Callable[..., Any]) -> None:
    if isinstance(key, str):
        _check_fields(key, run)
    elif key is not None and not callable(key):
        raise ConfigurationError(f"idempotency_key must be a format string or a function, not {key!r:.80}")


def _check_fields(template: str, run: Callable[..., Any]) -> None:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ConfigurationError(f"idempotency_key {template!r} is no format string: {error}") from None
    parameters = signature(run).parameters
    if not names:
        raise ConfigurationError(f"idempotency_key {template!r} names no argument: all calls would share one key")
    for name in names:
        first = name.split(".")[0].split("[")[0]
        if first not in parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            raise ConfigurationError(
                f"idempotency_key {template!r} names {first!r}, which is no argument; there are {', '.join(parameters)}"
            )


def _check(mine: Mapping[str, Any]) -> None:
    for name, choices in _CHOICES.items():
        if name in mine and mine[name] not in choices:
            raise ConfigurationError(f"{name} must be {' or '.join(map(repr, choices))}, not {mine[name]!r:.80}")
    ttl_micros(mine.get("idempotency_ttl"))
    for name in ("debounce", "debounce_max_wait"):
        value = mine.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9
        ):
            raise ConfigurationError(f"{name} must be a number of seconds, more than 0, not {value!r:.80}")
    for name in FLAGS:
        if name in mine and not isinstance(mine[name], bool):
            raise ConfigurationError(f"{name} must be True or False, not {mine[name]!r:.80}")
    function = mine.get("idempotency_fingerprint")
    if function is not None and not callable(function):
        raise ConfigurationError(f"idempotency_fingerprint must be a callable, not {function!r:.80}")
    share = mine.get("record_sample")
    if share is not None and (isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1):
        raise ConfigurationError(f"record_sample must be a number from 0 to 1, not {share!r:.80}")
    most = mine.get("max_deliveries")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise ConfigurationError(f"max_deliveries must be a whole number, at least 1, not {most!r:.80}")


def _check_together(given: Mapping[str, Any]) -> None:
    if given.get("debounce_max_wait") is not None and given.get("debounce") is None:
        raise ConfigurationError("debounce_max_wait was given without debounce")
    if given.get("debounce") is not None and given.get("on_duplicate") not in (None, "return"):
        raise ConfigurationError("debounce and on_duplicate do not go together: the last payload wins")
    if given.get("keep_payload") is False and (given.get("debounce") or given.get("lost_policy") == "rerun"):
        raise ConfigurationError(
            "keep_payload=False forbids keeping what a run was asked for, which debounce and lost_policy='rerun' need"
        )
