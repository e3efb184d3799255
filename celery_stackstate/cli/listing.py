"""What the commands that list something share: a page of it, the pages behind it, and the word that there is more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import click

from celery_stackstate.cli.output import print_json
from celery_stackstate.cli.tables import Column, print_table
from celery_stackstate.records import Page

F = TypeVar("F", bound=Callable[..., Any])

#: So many records are read at a time.
BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much of a list is asked for: `limit` records behind `after`; None is all."""

    limit: int | None
    after: str | None
    as_json: bool


def listing_options(default: int) -> Callable[[F], F]:
    """Add `--limit`, `--all`, `--after` and `--json`, which the command gets as `wanted`."""

    def add(function: F) -> F:
        @wraps(function)
        def run(*args: Any, limit: int, everything: bool, after: str | None, as_json: bool, **kwargs: Any) -> Any:
            return function(*args, wanted=Wanted(None if everything else limit, after, as_json), **kwargs)

        options = (
            click.option("--limit", type=click.IntRange(1), default=default, show_default=True, help="Most to print."),
            click.option("--all", "everything", is_flag=True, help="Print all there are, whatever --limit says."),
            click.option("--after", metavar="PLACE", help='Go on where a list ended: "more: --after PLACE".'),
            click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs."),
        )
        for option in reversed(options):
            run = option(run)
        return run  # type: ignore[return-value]

    return add


@dataclass
class Listing:
    """Reads a list by pages: `page` returns one, given `limit` and `after`. At its end `more` is where to go on."""

    page: Callable[..., Page[Any]]
    wanted: Wanted
    more: str | None = field(default=None, init=False)

    def __iter__(self) -> Iterator[Any]:
        """Yield the records that are wanted."""
        left, after = self.wanted.limit, self.wanted.after
        while left is None or left > 0:
            page = self.page(limit=BATCH if left is None else min(BATCH, left), after=after)
            yield from page
            left = None if left is None else left - len(page)
            after = page.next
            if after is None:
                return
        self.more = after if self.page(limit=1, after=after).items else None


def show(
    page: Callable[..., Page[Any]],
    wanted: Wanted,
    columns: Sequence[Column],
    row: Callable[[Any], Sequence[Any]],
    *,
    empty: str,
    record: Callable[[Any], Any] = lambda found: found,
) -> None:
    """Print what is wanted of a list, and on the other stream whether there is more of it.

    Args:
        page: Returns a page, given `limit` and `after`.
        wanted: How much to print.
        columns: Those of the table.
        row: What the table shows of a record.
        empty: What is said when there is nothing.
        record: What the JSON shows of a record.
    """
    listing = Listing(page, wanted)
    if wanted.as_json:
        print_json(map(record, listing))
    else:
        print_table(columns, map(row, listing), empty="no more" if wanted.after else empty)
    if listing.more is not None:
        click.echo(f"more: --after {listing.more}", err=True)
