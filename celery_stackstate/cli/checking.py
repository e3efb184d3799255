"""The command that looks for what is wrong with the set-up."""

from __future__ import annotations

import click
from rich.text import Text

from celery_stackstate import diagnosis
from celery_stackstate.cli import output
from celery_stackstate.cli.base import Away, Wrong, command, json_option
from celery_stackstate.cli.tables import Column, print_table
from celery_stackstate.extension import StackState
from celery_stackstate.visible import visible

COLUMNS = (Column(""), Column(""), Column("", 0, "wrap"))
STYLES = {diagnosis.OK: "green", diagnosis.WARNING: "yellow", diagnosis.ERROR: "bold red", diagnosis.AWAY: "bold red"}


@click.command()
@click.option("--strict", is_flag=True, help="End with exit code 1 for warnings, too.")
@json_option
@command
def check(stackstate: StackState, *, strict: bool, as_json: bool) -> None:
    """Look for what is wrong with the set-up.

    Looks at settings, stores, clocks, tasks, workers and timeouts, and says what to change, and why. Makes no
    tables. Ends with exit code 0 where all is well or there are warnings alone, 1 for errors, 3 for a store that is
    away.

    \b
    Example:
        celery -A shop stackstate check --strict
    """
    findings = list(diagnosis.diagnose(stackstate))
    if as_json:
        output.print_json(findings)
    else:
        _print(findings)
    levels = {finding.level for finding in findings}
    if diagnosis.AWAY in levels:
        raise Away("a store cannot be reached now")
    if diagnosis.ERROR in levels or (strict and diagnosis.WARNING in levels):
        raise Wrong("there is something to be corrected")


def _print(findings: list[diagnosis.Finding]) -> None:
    rows = [(Text(one.level, style=STYLES[one.level]), one.subject, visible(one.text)) for one in findings]
    print_table(COLUMNS, rows, headings=False)
