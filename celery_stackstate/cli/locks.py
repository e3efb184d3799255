"""Commands about locks."""

from __future__ import annotations

from functools import partial

import click

from celery_stackstate.browse import StateRecord
from celery_stackstate.cli.base import Wrong, command, json_option, yes_option
from celery_stackstate.cli.listing import Wanted, listing_options, show
from celery_stackstate.cli.output import NOTHING, cell, clock, left, print_json
from celery_stackstate.cli.state import in_scope, scope_option
from celery_stackstate.cli.tables import Column
from celery_stackstate.extension import StackState

COLUMNS = (
    Column("LOCK", 0, "wrap", 32),
    Column("SCOPE", 6, "end"),
    Column("HOLDER", 1, "head"),
    Column("RUN", 2),
    Column("HOST", 5, "end"),
    Column("FENCE", 7),
    Column("SINCE", 4),
    Column("LAPSES", 3),
)


@click.group()
def locks() -> None:
    """List locks with their holders, and release them by force."""


@locks.command("list")
@scope_option
@listing_options(200)
@command
def list_locks(stackstate: StackState, scope: str | None, *, wanted: Wanted) -> None:
    """List the locks that are held, in all scopes or one.

    \b
    Example:
        celery -A shop stackstate locks list
    """
    show(partial(stackstate.browser.list, scope, locks=True), wanted, COLUMNS, _row, empty="no lock is held")


@locks.command()
@click.argument("name")
@scope_option
@yes_option("Its holder, if there is one, loses the lock. Release it?")
@json_option
@command
def release(stackstate: StackState, name: str, scope: str | None, *, as_json: bool) -> None:
    """Free the lock NAME whoever holds it.

    \b
    Example:
        celery -A shop stackstate locks release rebuild --scope task:shop.rebuild --yes
    """
    if not in_scope(stackstate, scope).force_release(name):
        raise Wrong(f"the lock {name!r} is free")
    if as_json:
        print_json([{"released": name, "scope": scope or ""}])
    else:
        click.echo(f"released {name!r}")


def _row(record: StateRecord) -> tuple[str, ...]:
    held = record.value if isinstance(record.value, dict) else {}
    run, fence = held.get("run_id"), held.get("fence")
    owner = str(held.get("owner") or NOTHING).removesuffix(f"[{run}]")
    return (
        cell(record.key),
        cell(record.scope or "app"),
        cell(f"{owner}, parked for its next attempt" if held.get("parked") else owner),
        cell(run),
        cell(held.get("host")),
        NOTHING if fence is None else str(fence),
        clock(record.updated_at),
        left(record.expires_at),
    )
