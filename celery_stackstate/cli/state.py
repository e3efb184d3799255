"""Commands about values and counters."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import click

from celery_stackstate import codec
from celery_stackstate.browse import StateRecord
from celery_stackstate.cli.base import Span, Wrong, command, json_option, yes_option
from celery_stackstate.cli.listing import Wanted, listing_options, show
from celery_stackstate.cli.output import cell, clock, left, plain, print_json, tagged, value_line, value_text
from celery_stackstate.cli.tables import Column
from celery_stackstate.extension import StackState
from celery_stackstate.records import Entry
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    Column("KEY", 0, "wrap", 32),
    Column("SCOPE", 0, "wrap", 40),
    Column("VALUE", 0, "end", 30),
    Column("VERSION", 4),
    Column("CHANGED", 3),
    Column("EXPIRES", 2),
)
#: The scopes there are, as they are written.
SCOPES = ("task", "run", "scope")


def scope_option(function: F) -> F:
    """Add `--scope`."""
    text = "task:NAME, run:ID, scope:NAME, or app for the app-wide keys."
    return click.option("--scope", callback=_check_scope, help=text)(function)


def _check_scope(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value in (None, "app"):
        return None if value is None else ""
    sort, colon, name = value.partition(":")
    if sort not in SCOPES or not colon or not name:
        raise click.BadParameter(f"{value!r} is no scope: write app, task:NAME, run:ID or scope:NAME")
    return value


def in_scope(stackstate: StackState, scope: str | None) -> State:
    """Return the keys of a scope as it is written; None and "" are the app-wide ones."""
    if not scope:
        return stackstate.state
    sort, _, name = scope.partition(":")
    if sort == "run":
        return stackstate.state.for_run(name)
    return stackstate.state.scope(name) if sort == "scope" else stackstate.state_for(RunContext(task=name)).task


@click.group()
def state() -> None:
    """Read and change values and counters."""


@state.command("list")
@click.argument("prefix", default="")
@scope_option
@listing_options(200)
@command
def list_state(stackstate: StackState, prefix: str, scope: str | None, *, wanted: Wanted) -> None:
    """List the keys that begin with PREFIX, of one scope.

    Without --scope a PREFIX is looked for among the app-wide keys; without either the keys of all scopes are listed,
    the app-wide ones first.

    \b
    Examples:
        celery -A shop stackstate state list import:
        celery -A shop stackstate state list cursor: --scope task:shop.import_rows
        celery -A shop stackstate state list
    """
    page = partial(stackstate.browser.list, scope, prefix, locks=False)
    show(page, wanted, COLUMNS, _row, empty="no such key", record=_record)


@state.command()
@click.argument("key")
@scope_option
@json_option
@command
def get(stackstate: StackState, key: str, scope: str | None, *, as_json: bool) -> None:
    """Print the value of KEY as JSON that `state set` takes.

    What JSON lacks has a tag: {"$type": "decimal", "is": "1.50"}. --json prints the version and the times as well.

    \b
    Example:
        celery -A shop stackstate state get cursor:7 --scope task:shop.import_rows
    """
    found = in_scope(stackstate, scope).entry(key)
    if found is None:
        raise Wrong(f"there is no key {key!r} in this scope")
    if as_json:
        print_json([_record(found)])
    else:
        click.echo(value_text(found.value))


@state.command("set")
@click.argument("key")
@click.argument("value")
@scope_option
@click.option("--ttl", type=Span(), help="How long it is kept: 90s, 15m, 24h, 7d.")
@click.option("--if-version", type=int, help="Only while the key has this version.")
@json_option
@command
def set_value(
    stackstate: StackState,
    key: str,
    value: str,
    scope: str | None,
    ttl: float | None,
    if_version: int | None,
    *,
    as_json: bool,
) -> None:
    """Store VALUE under KEY and print its version.

    VALUE is JSON, or - to read that from stdin. What JSON lacks has a tag, as `state get` prints it:
    {"$type": "decimal", "is": "1.50"}.

    \b
    Example:
        celery -A shop stackstate state set flags '{"paused": true}' --ttl 24h
    """
    text = sys.stdin.read() if value == "-" else value
    try:
        parsed = codec.decode(text.encode())
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise Wrong(f"the value is not JSON that can be stored ({error!r}); a text needs quotes: '\"text\"'") from None
    version = in_scope(stackstate, scope).set(key, parsed, ttl=ttl, if_version=if_version)
    if as_json:
        print_json([{"key": key, "scope": scope or "", "version": version}])
    else:
        click.echo(version)


@state.command()
@click.argument("keys", nargs=-1, required=True)
@scope_option
@yes_option("Tasks may count on these keys. Delete them?")
@json_option
@command
def delete(stackstate: StackState, keys: tuple[str, ...], scope: str | None, *, as_json: bool) -> None:
    """Delete KEYS.

    \b
    Example:
        celery -A shop stackstate state delete cursor:7 --yes
    """
    deleted = in_scope(stackstate, scope).delete(*keys)
    if as_json:
        print_json([{"deleted": deleted, "asked": len(keys)}])
    else:
        click.echo(f"{deleted} of {len(keys)} deleted")
    if not deleted:
        raise Wrong("there is no such key in this scope")


def _record(found: StateRecord | Entry) -> dict[str, Any]:
    """Return what programs get of a key: the value as `state set` takes it."""
    return {**plain(found), "value": tagged(found.value)}


def _row(record: StateRecord) -> tuple[str, ...]:
    return (
        cell(record.key),
        cell(record.scope or "app"),
        cell(value_line(record.value)),
        str(record.version),
        clock(record.updated_at),
        left(record.expires_at),
    )
