"""The checks of settings, one for each kind of value: each returns what it takes, or raises ConfigurationError.

The error names the setting, what it takes, and what it was given.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.records import FINISHED, LOST, STATUSES

#: The statuses of runs of which a number may be kept.
ENDED = tuple(status for status in STATUSES if status in FINISHED or status == LOST)

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{0,64}")


def _fail(setting: str, value: Any, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{setting} must be {wanted}, not {value!r:.80}")


def url(setting: str, value: Any) -> Any:
    """Take a text that names a place."""
    if not isinstance(value, str) or ":" not in value:
        raise _fail(setting, value, "a store URL such as redis://localhost:6379/2")
    return value


def optional_url(setting: str, value: Any) -> Any:
    """Take a text that names a place, or None."""
    return None if value is None else url(setting, value)


def prefix(setting: str, value: Any) -> Any:
    """Take the name of an environment."""
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise _fail(setting, value, "at most 64 letters, digits, '_', '.' or '-'")
    return value


def number(least: float, unit: str) -> Callable[[str, Any], Any]:
    """Return a check that takes a number of `unit`, at least `least`."""

    def check(setting: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e10:
            raise _fail(setting, value, f"a number of {unit}, at least {least:g}")
        return float(value)

    return check


def integer(least: int, unit: str) -> Callable[[str, Any], Any]:
    """Return a check that takes a whole number of `unit`, at least `least`."""

    def check(setting: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _fail(setting, value, f"a whole number of {unit}, at least {least}")
        return value

    return check


def words(setting: str, value: Any) -> Any:
    """Take a list of words."""
    if (
        isinstance(value, str)
        or not isinstance(value, Iterable)
        or not all(isinstance(word, str) and word for word in value)
    ):
        raise _fail(setting, value, "a list of words")
    return tuple(value)


def level(setting: str, value: Any) -> Any:
    """Take a logging level, or its name."""
    level = logging.getLevelName(value.upper()) if isinstance(value, str) else value
    if isinstance(level, bool) or not isinstance(level, int):
        raise _fail(setting, value, "a logging level such as 'INFO'")
    return level


def retention(setting: str, value: Any) -> Any:
    """Take seconds, or a mapping of statuses to seconds."""
    seconds = number(1, "seconds")
    if not isinstance(value, Mapping):
        return seconds(setting, value)
    for status in value:
        if status not in STATUSES:
            raise ConfigurationError(f"{setting} names the status {status!r}; there are {', '.join(STATUSES)}")
    return {status: seconds(f"{setting}[{status!r}]", number) for status, number in value.items()}


def limits(setting: str, value: Any) -> Any:
    """Take a number of runs, a mapping of statuses to such numbers, or None."""
    number = integer(1, "runs")
    if value is None or not isinstance(value, Mapping):
        return None if value is None else number(setting, value)
    for status in value:
        if status not in ENDED:
            raise ConfigurationError(f"{setting} names the status {status!r}; runs end as {', '.join(ENDED)}")
    return {status: number(f"{setting}[{status!r}]", most) for status, most in value.items()}


def log_limits(setting: str, value: Any) -> Any:
    """Take a mapping with names of `LogLimits`."""
    names = [item.name for item in fields(LogLimits)]
    if not isinstance(value, Mapping) or not set(value) <= set(names):
        raise _fail(setting, value, f"a mapping with any of {', '.join(names)}")
    return LogLimits(**{name: integer(0, "lines")(f"{setting}[{name!r}]", most) for name, most in value.items()})


def flag(setting: str, value: Any) -> Any:
    """Take True or False."""
    if not isinstance(value, bool):
        raise _fail(setting, value, "True or False")
    return value


def function(setting: str, value: Any) -> Any:
    """Take a function, its dotted path, or None."""
    if isinstance(value, str):
        module, _, name = value.replace(":", ".").rpartition(".")
        try:
            value = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigurationError(f"{setting} = {value!r:.80} cannot be imported: {error}") from error
    if value is not None and not callable(value):
        raise _fail(setting, value, "a function, or its dotted path")
    return value


def choice(*choices: str) -> Callable[[str, Any], Any]:
    """Return a check that takes one of `choices`."""

    def check(setting: str, value: Any) -> Any:
        if value not in choices:
            raise _fail(setting, value, " or ".join(map(repr, choices)))
        return value

    return check
