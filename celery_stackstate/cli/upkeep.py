"""Commands that make and clean what the stores need."""

from __future__ import annotations

import click

from celery_stackstate.cli.base import command, json_option
from celery_stackstate.cli.output import print_json
from celery_stackstate.extension import StackState

#: So many entries and runs go in one round of `purge`.
BATCH = 2_000


@click.command()
@json_option
@command
def init(stackstate: StackState, *, as_json: bool) -> None:
    """Create or upgrade the tables that the stores need.

    \b
    Run it when you deploy, before the workers start. It changes nothing where there is nothing to do.
    Stores without tables (Redis) need none; those of django:// are made by `manage.py migrate`.

    \b
    Example:
        celery -A shop stackstate init
    """
    for place, done in stackstate.install():
        if as_json:
            print_json([{"place": place, "done": done}])
        else:
            click.echo(f"{place}: {done}")


@click.command()
@click.option("--limit", type=click.IntRange(1), help="Delete no more than about so many.")
@json_option
@command
def purge(stackstate: StackState, limit: int | None, *, as_json: bool) -> None:
    """Delete what is beyond its retention.

    In bounded batches, until nothing is left of it. Workers do it by themselves, about once a minute.

    \b
    Example:
        celery -A shop stackstate purge
    """
    deleted = 0
    while limit is None or deleted < limit:
        done = stackstate.purge(limit=BATCH if limit is None else min(BATCH, limit - deleted))
        deleted += done
        if not done:
            break
    if as_json:
        print_json([{"deleted": deleted}])
    else:
        click.echo(f"{deleted:,} ended entries and runs deleted")
