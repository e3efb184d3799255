"""Puts the tables of a JSON file into a page, between its markers: `python -m benchmarks.page results.json PAGE.md`.

A table named `publish` goes between `<!-- table: publish -->` and `<!-- end -->`; what the figures depend on goes where
the name is `machine`, and the budgets beside what was measured where it is `budgets`: those of tables that the file
lacks stay as they are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from benchmarks import budgets, report

PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def rewritten(text: str, data: Mapping[str, Any]) -> str:
    """Return the page with every table that the results have; a place of another table stays as it is."""
    tables, machine = report.from_json(data)
    parts = {table.name: report.markdown(table) for table in tables}
    parts["machine"] = report.described(machine)
    parts["budgets"] = report.markdown(budgets.compared(tables))

    def replaced(place: re.Match[str]) -> str:
        before, name, old, after = place.groups()
        if name not in parts:
            return place[0]
        part = _with_rows_of(old, parts[name]) if name == "budgets" else parts[name]
        return f"{before}\n{part}\n\n{after}"

    return PLACE.sub(replaced, text)


def _with_rows_of(old: str, new: str) -> str:
    """Return the table `old` with the rows of `new` in place of those that begin alike, and the others behind it."""
    rows = {_first_cell(line): line for text in (old, new) for line in text.splitlines() if line.startswith("|")}
    return "\n".join(rows.values())


def _first_cell(line: str) -> str:
    return line.split("|")[1].strip()


@click.command()
@click.argument("results", type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.argument("page", type=click.Path(exists=True, path_type=Path, dir_okay=False))
def main(results: Path, page: Path) -> None:
    """Rewrite the tables of PAGE from the JSON file RESULTS."""
    page.write_text(rewritten(page.read_text(), json.loads(results.read_text())))


if __name__ == "__main__":
    main()
