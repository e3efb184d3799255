"""What the commands share: the extension of the app, exit codes, errors as one line, common options."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from functools import wraps
from typing import Any, TypeVar

import click

from celery_stackstate.attached import extension_of
from celery_stackstate.errors import StackStateError, StoreUnavailable
from celery_stackstate.extension import StackState
from celery_stackstate.visible import visible

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds in the units that a span of time may have.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Wrong(click.ClickException):
    """Ends a command with a line for people, and exit code 1: something is to be corrected, or was not found."""


class Away(click.ClickException):
    """Ends a command with a line for people, and exit code 3: a store cannot be reached now."""

    exit_code = 3


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the extension as its first argument; the library's errors become a line and an exit code."""

    @click.pass_context
    @wraps(function)
    def run(context: click.Context, /, *args: Any, **kwargs: Any) -> Any:
        _write_what_the_terminal_can()
        _check_texts(kwargs)
        try:
            return function(_extension(context), *args, **kwargs)
        except StoreUnavailable as error:
            raise Away(visible(error)) from error
        except StackStateError as error:
            raise Wrong(visible(error)) from error

    return run


def _write_what_the_terminal_can() -> None:
    """Let letters that the output's encoding lacks be written as what they are called, not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_texts(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        try:
            (value if isinstance(value, str) else "").encode()
        except UnicodeEncodeError as error:
            raise Wrong(f"{name}: {value!a} is no text in the encoding of this terminal") from error


def _extension(context: click.Context) -> StackState:
    """Return the extension of the app, whose tasks are loaded as a worker loads them, which also sets up Django."""
    app: Any = context.obj.app
    try:
        app.loader.import_default_modules()
        app.finalize()
    except StackStateError:
        raise
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {error} ({at.filename}, line {at.lineno})"
        raise Wrong(visible(f"the tasks of the app cannot be imported: {told}")) from error
    root = context.find_root()
    if root is not context and root.params.get("app") is None and extension_of(app) is None:
        raise click.UsageError(
            "name the Celery app: celery -A proj stackstate ..., where proj is the module that makes it", context
        )
    return StackState.of(app)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs.")(function)


def yes_option(question: str) -> Callable[[F], F]:
    """Add `--yes`, without which the command asks `question`."""
    return click.confirmation_option("--yes", prompt=question, help="Do not ask.")


class Moment(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A time: a span before now such as 90s, 15m, 24h, 7d, or a time of ISO 8601 or as tables show it.

    Without a zone it is in that of this machine, as everything that is printed for people.
    """

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return the aware datetime that a text names."""
        if isinstance(value, datetime):
            return value
        number, unit = value[:-1], value[-1:]
        try:
            if unit in UNITS and number.isdecimal():
                return datetime.now(timezone.utc) - timedelta(seconds=int(number) * UNITS[unit])
            return _read(value).astimezone()
        except (OverflowError, OSError):
            self.fail(f"{value!r} is further away than a time can be", param, ctx)
        except ValueError:
            self.fail(f"{value!r} is no time: write 15m, 24h, 7d, 2026-11-22T09:30 or 2026-11-22T09:30Z", param, ctx)


def _read(text: str) -> datetime:
    """Return the time that a text names, with a zone if it has one; what tables leave out of it is that of today."""
    text, today = text.replace("Z", "+00:00"), datetime.now().date()
    for whole in (text, f"{today.year}-{text}", f"{today}T{text}") if ":" in text else (text,):
        try:
            return datetime.fromisoformat(whole)
        except ValueError:
            continue
    raise ValueError


class Span(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Seconds, or a span such as 90s, 15m, 24h, 7d."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds that a text names."""
        if isinstance(value, float):
            return value
        factor = UNITS.get(value[-1:])
        try:
            seconds = float(value[:-1]) * factor if factor else float(value)
        except ValueError:
            self.fail(f"{value!r} is no span of time: write 90, 90s, 15m, 24h or 7d", param, ctx)
        return seconds
