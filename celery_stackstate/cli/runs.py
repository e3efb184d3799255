"""The command that lists runs."""

from __future__ import annotations

from functools import partial
from typing import Any

import click

from celery_stackstate.cli.base import Moment, command
from celery_stackstate.cli.listing import Wanted, listing_options, show
from celery_stackstate.cli.output import cell, clock, duration, plain, status
from celery_stackstate.cli.tables import Column
from celery_stackstate.extension import StackState
from celery_stackstate.records import STATUSES, Run, Status

COLUMNS = (
    Column("STATUS"),
    Column("TASK", 0, "head", 18),
    Column("QUEUED", 1),
    Column("RAN", 3),
    Column("ID"),
    Column("WAITED", 6, since=150),
    Column("RETRIES", 7, since=150),
    Column("WORKER", 5, "end", 12),
    Column("KEY", 4, "end", 14),
    Column("ERROR", 2, "end", 18),
)
#: What of a run a list knows.
SUMMARY = (
    *("id", "task", "status", "queue", "worker", "key", "retries", "queued_at", "started_at", "finished_at"),
    *("parent_id", "root_id", "group_id", "host", "origin", "error", "wait", "runtime", "duplicated", "progress"),
)


@click.command()
@click.option("--status", multiple=True, type=click.Choice(STATUSES, case_sensitive=False), help="May be repeated.")
@click.option("--task", help="The task's name.")
@click.option("--worker", help="The worker that has, or last had it.")
@click.option("--queue", help="The queue it was sent to.")
@click.option("--key", help="Its idempotency key.")
@click.option("--group", help="The id of the group it is part of.")
@click.option("--host", help="The host that asked for it.")
@click.option("--origin", help="Whom the project names as asking for it.")
@click.option("--duplicated", is_flag=True, help="Only those of which a duplicate request was suppressed.")
@click.option(
    "--since",
    type=Moment(),
    help="Queued then or later: 15m, 24h, 7d, or a time as 2026-11-22T09:30, in the zone of this machine unless it "
    "names one (2026-11-22T09:30Z).",
)
@click.option("--until", type=Moment(), help="Queued before.")
@click.option("--text", help="Part of the id, task, key or error, among the newest 10,000 that match the rest.")
@listing_options(50)
@command
def runs(stackstate: StackState, *, wanted: Wanted, status: tuple[Status, ...], **filters: Any) -> None:
    """List runs, newest first.

    Times are printed in the zone of this machine; --json has them in UTC.

    \b
    Examples:
        celery -A shop stackstate runs --status FAILURE --status LOST --since 24h
        celery -A shop stackstate runs --task shop.pay --json --all | jq .error
    """
    page = partial(stackstate.runs.list, status=status or None, **filters)
    show(page, wanted, COLUMNS, row, empty="no such run", record=summary)


def row(run: Run) -> tuple[Any, ...]:
    """Return what a list shows of a run."""
    return (
        status(run.status),
        cell(run.task),
        clock(run.queued_at),
        duration(run.runtime),
        cell(run.id),
        duration(run.wait),
        str(run.retries),
        cell(run.worker),
        cell(run.key),
        cell(run.error),
    )


def summary(run: Run) -> dict[str, Any]:
    """Return what programs get of a run in a list."""
    return {name: plain(getattr(run, name)) for name in SUMMARY}
