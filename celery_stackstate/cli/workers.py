"""The command that lists workers."""

from __future__ import annotations

from datetime import datetime, timezone

import click
from rich.text import Text

from celery_stackstate.cli.base import command, json_option
from celery_stackstate.cli.output import cell, clock, duration, print_json
from celery_stackstate.cli.tables import Column, print_table
from celery_stackstate.extension import StackState

COLUMNS = (
    Column("WORKER"),
    Column("STATE"),
    Column("HOST", 4, "end"),
    Column("PID", 2),
    Column("STARTED", 3),
    Column("SEEN", 1),
)


@click.command()
@json_option
@command
def workers(stackstate: StackState, *, as_json: bool) -> None:
    """List the workers, also those that died lately.

    \b
    Example:
        celery -A shop stackstate workers
    """
    found = stackstate.workers()
    if as_json:
        print_json(found)
        return
    now = datetime.now(timezone.utc)
    rows = [
        (
            cell(one.hostname),
            Text("live", style="green") if one.live else Text("dead", style="red"),
            cell(one.host),
            one.pid,
            clock(one.started_at),
            f"{duration((now - one.seen_at).total_seconds())} ago",
        )
        for one in found
    ]
    print_table(COLUMNS, rows, empty="no worker is known")
