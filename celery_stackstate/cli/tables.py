"""Tables that fit the terminal: where it is narrow, columns are left out, not mutilated. Whole lines into a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.cells import cell_len, chop_cells
from rich.table import Table
from rich.text import Text

from celery_stackstate.cli.output import console

#: Blanks between columns.
GAP = 2
#: So far apart are columns in a pipe at most; what is longer moves the rest of its line.
APART = 48
#: How narrow the columns become that are always there: those that are cut, then all.
NARROW, NARROWEST = 16, 8


@dataclass(frozen=True, slots=True)
class Column:
    """A column: where it stands, and what becomes of it where there is too little room.

    Args:
        heading: What stands above it.
        rank: Columns find room in the order of their ranks; those of rank 0 are always there.
        how: "whole" for what is never cut, as ids; "end" loses its end, "head" its head (dotted names), "wrap" goes on
            in the next line.
        least: How narrow it may become, where it is not whole.
        since: From which width of the terminal on it is shown at all.
    """

    heading: str
    rank: int = 0
    how: Literal["whole", "end", "head", "wrap"] = "whole"
    least: int = 16
    since: int = 0


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[Any]], *, empty: str = "", headings: bool = True
) -> None:
    """Print rows, one for each record, under headings; `empty` when there are none."""
    out, shown = console(), [cells(row) for row in rows]
    if not shown:
        out.print(empty)
    elif out.is_terminal:
        out.print(table(columns, shown, out.width, headings=headings))
    else:
        for line in lines(columns, shown, headings=headings):
            print(line, file=out.file)


def cells(row: Sequence[Any]) -> list[Text]:
    """Return what is in a row as text without markup."""
    return [one if isinstance(one, Text) else Text(str(one)) for one in row]


def lines(columns: Sequence[Column], rows: Sequence[Sequence[Text]], *, headings: bool = True) -> Iterable[str]:
    """Yield the lines of a table in which nothing is left out."""
    above = [[column.heading for column in columns]] if headings else []
    texts = [*above, *([cell.plain for cell in row] for row in rows)]
    widths = [min(APART, max(map(cell_len, column))) for column in zip(*texts, strict=True)]
    for row in texts:
        line = (" " * GAP).join(one + " " * (width - cell_len(one)) for one, width in zip(row, widths, strict=True))
        yield line.rstrip()


def table(columns: Sequence[Column], rows: Sequence[Sequence[Text]], room: int, *, headings: bool = True) -> Table:
    """Return a table that is no wider than `room`: of the columns that fit, each as wide as it may be."""
    widths = [
        max(cell_len(column.heading) if headings else 0, *(cell_len(row[place].plain) for row in rows), 1)
        if rows
        else cell_len(column.heading)
        for place, column in enumerate(columns)
    ]
    chosen = _chosen(columns, widths, room)
    _fit(columns, widths, chosen, room)
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0), show_header=headings)
    for place in chosen:
        folds = columns[place].how in ("whole", "wrap")
        made.add_column(
            columns[place].heading,
            width=widths[place],
            no_wrap=not folds,
            overflow="fold" if folds else "ellipsis",
        )
    for row in rows:
        made.add_row(*(_shortened(row[place], columns[place].how, widths[place]) for place in chosen))
    return made


def _chosen(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Return the places of the columns that find room, in the order of their ranks, each at its least width."""
    chosen: list[int] = []
    for place in sorted(range(len(columns)), key=lambda place: columns[place].rank):
        needed = sum(_least(columns[one], widths[one]) + GAP for one in [*chosen, place]) - GAP
        if columns[place].rank == 0 or (needed <= room and columns[place].since <= room):
            chosen.append(place)
    return sorted(chosen)


def _least(column: Column, width: int) -> int:
    return width if column.how == "whole" else min(width, max(column.least, cell_len(column.heading)))


def _fit(columns: Sequence[Column], widths: list[int], chosen: Sequence[int], room: int) -> None:
    """Let the widest columns give way: to their least width, then those that are cut, and in the end any of them."""
    over = sum(widths[place] + GAP for place in chosen) - GAP - room
    cut = [place for place in chosen if columns[place].how in ("end", "head")]
    bounds = (
        {place: _least(columns[place], widths[place]) for place in chosen},
        {place: NARROW if place in cut else widths[place] for place in chosen},
        dict.fromkeys(chosen, NARROWEST),
    )
    for bound in bounds:
        while over > 0:
            wide = [place for place in chosen if widths[place] > bound[place]]
            if not wide:
                break
            widths[max(wide, key=widths.__getitem__)] -= 1
            over -= 1


def _shortened(cell: Text, how: str, width: int) -> Text:
    """Return a cell that is cut where its column says so; the rest of them rich does."""
    plain = cell.plain
    if cell_len(plain) <= width or how not in ("head", "end"):
        return cell
    if how == "end":
        return Text(chop_cells(plain[: width + 1], width - 1)[0] + "…", style=cell.style)
    tail = plain[-width:]
    while cell_len(tail) > width - 1:
        tail = tail[1:]
    return Text("…" + tail, style=cell.style)
