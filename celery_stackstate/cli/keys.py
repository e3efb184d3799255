"""Commands about idempotency keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import click

from celery_stackstate.cli.base import Wrong, command, json_option, yes_option
from celery_stackstate.cli.listing import Wanted, listing_options, show
from celery_stackstate.cli.output import cell, clock, left, print_json, whole_clock
from celery_stackstate.cli.tables import Column, print_table
from celery_stackstate.extension import StackState
from celery_stackstate.records import KeyRecord, from_micros

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    Column("KEY", 0, "wrap", 40),
    Column("TASK", 1, "head"),
    Column("STATE", 0),
    Column("RUN", 3),
    Column("CHANGED", 4),
    Column("KEPT", 2),
)


def place_options(function: F) -> F:
    """Add what a key is found by: its task, or its parent run."""
    task = click.option("--task", help="The task's name; without it keys of scope app are meant.")
    run = click.option("--run", help="For keys of scope run: the id of the parent run.")
    return task(run(function))


@click.group()
def keys() -> None:
    """Look at idempotency keys, and free them."""


@keys.command("list")
@click.argument("prefix", default="")
@click.option("--task", help="The task's name, or '' for keys of scope app; needed with a PREFIX.")
@listing_options(200)
@command
def list_keys(stackstate: StackState, prefix: str, task: str | None, *, wanted: Wanted) -> None:
    """List the keys that are in use or kept, of one task or all.

    \b
    Example:
        celery -A shop stackstate keys list stripe: --task shop.handle_webhook
    """
    show(partial(stackstate.idempotency.list, prefix, task=task), wanted, COLUMNS, _row, empty="no such key")


@keys.command("show")
@click.argument("key")
@place_options
@json_option
@command
def show_key(stackstate: StackState, key: str, task: str | None, run: str | None, *, as_json: bool) -> None:
    """Show what is known of KEY.

    \b
    Example:
        celery -A shop stackstate keys show stripe:evt_1 --task shop.handle_webhook
    """
    found = stackstate.idempotency.get(key, task=task, run=run)
    if found is None:
        raise Wrong(f"the key {key!r} is free{_hint(task, run)}")
    if as_json:
        print_json([found])
        return
    print_table((Column(""), Column("", 0, "wrap")), _facts(found), headings=False)


@keys.command()
@click.argument("key")
@place_options
@yes_option("The next call with this key begins another run, whatever this one does. Free it?")
@json_option
@command
def reset(stackstate: StackState, key: str, task: str | None, run: str | None, *, as_json: bool) -> None:
    """Free KEY for the next call, whatever its run does.

    \b
    Example:
        celery -A shop stackstate keys reset stripe:evt_1 --task shop.handle_webhook --yes
    """
    if not stackstate.idempotency.reset(key, task=task, run=run):
        raise Wrong(f"the key {key!r} is free{_hint(task, run)}")
    if as_json:
        print_json([{"freed": key, "task": task, "run": run}])
    else:
        click.echo(f"freed {key!r}")


def _hint(task: str | None, run: str | None) -> str:
    return "" if task or run else " among those of scope app; those of a task need --task"


def _facts(found: KeyRecord) -> Iterator[tuple[str, str]]:
    yield "key", cell(found.key)
    yield "scope", cell(found.scope or "app")
    yield "task", cell(found.task)
    yield "state", _state(found)
    yield "run", cell(found.run_id)
    yield "deliveries", str(found.deliveries)
    yield "asked for", f"{whole_clock(from_micros(found.generation))} (generation {found.generation})"
    yield "changed", whole_clock(found.updated_at)
    yield "kept", _kept(found)


def _state(record: KeyRecord) -> str:
    return f"{record.state}, free: the next call begins another run" if record.free else record.state


def _kept(record: KeyRecord) -> str:
    return left(record.expires_at) if record.expires_at else "while it runs"


def _row(record: KeyRecord) -> tuple[str, ...]:
    return (
        cell(record.key),
        cell(record.task),
        "free" if record.free else record.state,
        cell(record.run_id),
        clock(record.updated_at),
        _kept(record),
    )
