"""The command line of the benchmarks."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import imports, locks, publish, report, scale, state, where, worker
from benchmarks.report import Table
from benchmarks.servers import running


@dataclass(frozen=True)
class Subject:
    """What is measured, and how much of it."""

    run: Callable[..., Iterable[Table]]
    rounds: int
    sizes: dict[str, Any]
    quick: dict[str, Any]


SUBJECTS = {
    "publish": Subject(publish.run, 20, {"calls": 200}, {"calls": 5}),
    "worker": Subject(worker.run, 5, {"tasks": 1000}, {"tasks": 10, "pools": ("solo",)}),
    "state": Subject(state.run, 20, {"calls": 200}, {"calls": 3}),
    "locks": Subject(locks.run, 7, {"seconds": 3.0, "processes": 4}, {"seconds": 0.3, "processes": 2}),
    "scale": Subject(scale.run, 20, {"sizes": (10_000, 100_000), "purged": 5_000}, {"sizes": (50, 100), "purged": 20}),
    "imports": Subject(imports.run, 20, {"workers": 5}, {"workers": 1}),
    "where": Subject(where.run, 3, {"calls": 3000}, {"calls": 50}),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subjects", nargs=-1, type=click.Choice([*SUBJECTS, "all"]))
@click.option("--rounds", type=click.IntRange(1), help="So many rounds, in place of each subject's own number.")
@click.option("--quick", is_flag=True, help="One round of next to nothing, to see that all of it works.")
@click.option("--full", is_flag=True, help="Scale up to 1,000,000 runs.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables as JSON.")
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path, dir_okay=False), help="As Markdown.")
def main(
    subjects: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    full: bool,
    json_file: Path | None,
    markdown_file: Path | None,
) -> None:
    """Measure what things cost, beside what a project would use instead: all subjects, or those named."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers are stopped
    chosen = list(SUBJECTS) if not subjects or "all" in subjects else list(dict.fromkeys(subjects))
    tables: list[Table] = []
    with running() as servers:
        machine = report.machine(**servers.versions())
        for name in chosen:
            subject = SUBJECTS[name]
            sizes = {**subject.sizes, **(subject.quick if quick else {})}
            if full and "sizes" in sizes:
                sizes["sizes"] = (*sizes["sizes"], 1_000_000)
            number = rounds or (1 if quick else subject.rounds)
            for table in subject.run(servers, rounds=number, progress=_telling(name), **sizes):
                tables.append(replace(table, notes=(*table.notes, _how_often(number, sizes))))
                if json_file is not None:  # what is there outlives an interruption
                    json_file.write_text(json.dumps(report.to_json(tables, machine), indent=1) + "\n")
    text = report.page(tables, machine)
    if markdown_file is not None:
        markdown_file.write_text(text)
    if sys.stdout.isatty():
        report.printed(tables, Console())
    else:
        click.echo(text)


def _how_often(rounds: int, sizes: Mapping[str, Any]) -> str:
    """Return how much was measured, as a sentence."""
    return f"Rounds: {rounds}; {'; '.join(f'{name} {_listed(size)}' for name, size in sizes.items())}."


def _listed(size: Any) -> str:
    several = size if isinstance(size, tuple) else (size,)
    return ", ".join(f"{one:,}" if isinstance(one, int) else str(one) for one in several)


def _telling(subject: str) -> Callable[[str], None]:
    def tell(what: str) -> None:
        click.echo(f"{subject}: {what}", err=True)

    return tell
