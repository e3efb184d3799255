"""Tables of figures: for a terminal, as Markdown, and as JSON that gives the same tables again."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.rounds import Figure, Results

SHOWN_VERSIONS = ("celery", "kombu", "redis", "hiredis", "psycopg", "sqlalchemy", "django")


@dataclass(frozen=True)
class Column:
    """One measure of each contender: as the ratio to the base of the table, or by itself when it has a scale."""

    measure: str
    title: str
    #: What a figure is multiplied by, for a column of absolute figures.
    scale: float | None = None
    digits: int | None = None


@dataclass(frozen=True)
class Row:
    """A contender with a cell for each column; or with the reason why it has none."""

    name: str
    cells: Sequence[Figure | str | None] = ()
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """One table. A cell is shown with as many digits as its column says, the spread behind it."""

    name: str
    title: str
    columns: Sequence[str]
    digits: Sequence[int]
    rows: Sequence[Row]
    #: What a reader must know of it.
    notes: Sequence[str] = field(default_factory=tuple)

    def texts(self, row: Row) -> list[str]:
        """Return the row as it is shown."""
        if row.note is not None:
            return [row.name, row.note, *[""] * (len(self.columns) - 1)]
        return [row.name, *(shown(cell, digits) for cell, digits in zip(row.cells, self.digits, strict=True))]


def shown(figure: Figure | str | None, digits: int) -> str:
    """Return a cell as text; of a figure the median, and the quartiles where they differ from it."""
    if figure is None or isinstance(figure, str):
        return figure or "-"
    middle, low, high = (f"{number:,.{digits}f}" for number in (figure.median, figure.low, figure.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def ratio_table(
    name: str, title: str, columns: Sequence[Column], results: Results, contenders: Sequence[str], *, base: str
) -> Table:
    """Make the table of what rounds have measured."""

    def row(contender: str) -> Row:
        if contender in results.absent:
            return Row(contender, note=results.absent[contender])
        return Row(contender, [cell(results, contender, column, base) for column in columns])

    digits = [_digits(column) for column in columns]
    return Table(name, title, [column.title for column in columns], digits, [row(one) for one in contenders])


def cell(results: Results, contender: str, column: Column, base: str) -> Figure | None:
    """Return what one column shows of a contender."""
    if column.measure == "trips":
        return results.figure(contender, column.measure)
    if column.scale is None:
        return results.ratio(contender, column.measure, base)
    found = results.figure(contender, column.measure)
    return None if found is None else Figure(*(number * column.scale for number in asdict(found).values()))


def _digits(column: Column) -> int:
    if column.digits is not None:
        return column.digits
    return 2 if column.scale is None else 0


# -- out and in --------------------------------------------------------------------------------------------------------


def printed(tables: Sequence[Table], console: Console) -> None:
    """Print the tables to a terminal."""
    for table in tables:
        drawn = RichTable(title=table.title, title_justify="left", caption="\n".join(table.notes) or None)
        drawn.add_column("")
        for title in table.columns:
            drawn.add_column(title, justify="right")
        for row in table.rows:
            drawn.add_row(*table.texts(row), style=None if row.note is None else "dim")
        console.print(drawn)


def markdown(table: Table) -> str:
    """Return a table as Markdown, without its title."""
    lines = [["", *table.columns], ["---", *["---:"] * len(table.columns)], *map(table.texts, table.rows)]
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([body, *table.notes])


def page(tables: Sequence[Table], machine: Mapping[str, str]) -> str:
    """Return all tables as one piece of Markdown."""
    parts = [described(machine), *(f"### {table.title}\n\n{markdown(table)}" for table in tables)]
    return "\n\n".join(parts) + "\n"


def to_json(tables: Sequence[Table], machine: Mapping[str, str]) -> dict[str, Any]:
    """Return all of it as JSON."""
    return {"machine": dict(machine), "tables": [asdict(table) for table in tables]}


def from_json(data: Mapping[str, Any]) -> tuple[list[Table], dict[str, str]]:
    """Return the tables and the machine that `to_json` wrote."""
    return [_table(one) for one in data["tables"]], dict(data["machine"])


def _table(data: Mapping[str, Any]) -> Table:
    rows = [Row(row["name"], [_cell(cell) for cell in row["cells"]], row["note"]) for row in data["rows"]]
    return Table(**{**data, "rows": rows})


def _cell(data: Any) -> Figure | str | None:
    return Figure(**data) if isinstance(data, dict) else data


def machine(**more: str) -> dict[str, str]:
    """Return what the figures depend on."""
    import os

    versions = {name: _version(name) for name in SHOWN_VERSIONS}
    installed = {name: version for name, version in versions.items() if version}
    return {"python": platform.python_version(), **installed, "cores": str(os.cpu_count()), **more}


def described(machine: Mapping[str, str]) -> str:
    """Return it as a sentence."""
    return ", ".join(f"{name} {value}" for name, value in machine.items())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
