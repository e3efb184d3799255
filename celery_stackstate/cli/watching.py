"""The command that follows what goes on: one run to its end, or the newest runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from celery_stackstate.cli import one_run, output, runs, tables
from celery_stackstate.cli.base import Wrong, command, json_option
from celery_stackstate.cli.output import cell, clock, duration, plain, print_text
from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.extension import StackState
from celery_stackstate.records import LOST, SUCCESS, Event, LogLine, Run
from celery_stackstate.stores.base import RunQuery

PAUSE, LIST_PAUSE = 0.5, 2.0
#: Seconds after which the events are read although nothing else of the run has changed: a task may have added some.
EVENTS_PAUSE = 2.0
PAGE = 1_000
#: So much of a result or an error is shown in a terminal.
LONGEST_END = 500
#: Seconds for which a run may be unknown: its publisher's fact, or ours, may be on its way.
PATIENCE = 5.0


class Unsuccessful(click.exceptions.Exit):
    """Ends the command with exit code 4: the run did not succeed."""

    def __init__(self) -> None:
        super().__init__(4)


@click.command()
@click.argument("run_id", metavar="[ID]", required=False)
@click.option("--task", help="Without an ID: only runs of this task.")
@click.option("--queue", help="Without an ID: only runs sent to this queue.")
@json_option
@command
def watch(stackstate: StackState, run_id: str | None, task: str | None, queue: str | None, *, as_json: bool) -> None:
    """Follow the run ID to its end, or the newest runs.

    Of one run: progress, events, log lines, outcome. Ends with exit code 0 when the run succeeded, and 4 when it did
    not. Ctrl-C ends the watching, not the run. --json prints one object a line for each thing that happens: its `kind`
    is "run" (status and progress), "event", "log", and at last "outcome", the run with all that is known.

    \b
    Example:
        celery -A shop stackstate watch 7d1c8a9e-3b6e-4f0a-9a44-0c1b6f3e2d10
    """
    if run_id is not None and (task or queue):
        raise click.UsageError("--task and --queue choose among the newest runs: leave them, or the ID, out")
    if run_id is None and as_json:
        raise click.UsageError("--json follows one run, so give its ID; `stackstate runs --json` lists the newest")
    try:
        if run_id is None:
            _watch_list(stackstate, task, queue)
        elif (_as_json if as_json else _as_text)(Followed(stackstate, run_id)).status != SUCCESS:
            raise Unsuccessful
    except KeyboardInterrupt:
        if run_id is not None:
            click.echo(f"no longer watched; the run {run_id} goes on", err=True)
        raise click.exceptions.Exit(130) from None


@dataclass(frozen=True, slots=True)
class Told:
    """What was not told before: whether the summary has changed, events without progress, and log lines."""

    changed: bool
    events: list[Event]
    lines: list[LogLine]


class Followed:
    """A run as it goes on: `read` returns what is new, `run` is its summary, `outcome` in the end all that is known."""

    def __init__(self, stackstate: StackState, run_id: str) -> None:
        self._runs, self.run_id = stackstate.runs, run_id
        self.run: Run | None = None
        self.is_deleted = False
        self._seen: set[tuple[object, str, str | None]] = set()
        self._last: LogLine | None = None
        self._due = 0.0
        self.outcome: Run | None = None

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.run is not None and (self.run.finished or self.run.status == LOST)

    def read(self) -> Told:
        """Return what there is since the last time."""
        before, found = self.run, self._runs.find(RunQuery(ids=(self.run_id,), limit=1))
        self.is_deleted = before is not None and not found
        if not found:
            return Told(False, [], [])
        self.run = found[0]
        changed = self.run != before
        if self.over:
            self.outcome = self._runs.get(self.run_id)
        events = self._events() if changed or self.over or time.monotonic() > self._due else []
        return Told(changed, events, self._lines())

    def _events(self) -> list[Event]:
        self._due = time.monotonic() + EVENTS_PAUSE
        events = [event for event in self._runs.events(self.run_id) if self._is_first(event)]
        return [event for event in events if event.name != "progress"]

    def _is_first(self, event: Event) -> bool:
        sign = (event.at, event.name, event.execution)
        first = sign not in self._seen
        self._seen.add(sign)
        return first

    def _lines(self) -> list[LogLine]:
        found: list[LogLine] = []
        while True:
            page = self._runs.logs(self.run_id, after=self._last, limit=PAGE)
            found += page
            self._last = page[-1] if page else self._last
            if len(page) < PAGE:
                return found


def _as_json(followed: Followed) -> Run:
    """Print what the run does until it has ended, for programs; return it."""
    for told in _following(followed, lambda error: None):
        output.print_json(_objects(followed, told))
    run = _outcome(followed)
    output.print_json([{"kind": "outcome", **plain(run)}])
    return run


def _as_text(followed: Followed) -> Run:
    """Print what the run does until it has ended, for people; return it."""
    out = output.console()
    with Live(console=out, transient=True, auto_refresh=False, redirect_stdout=False) as live:

        def wait(error: StoreUnavailable) -> None:
            live.update(Text(f"{cell(error)}; trying again", style="yellow"), refresh=True)

        for told in _following(followed, wait):
            for text in _in_order(told, one_run.LONGEST_TOLD if out.is_terminal else None):
                print_text(out, text)
            live.update(_now(followed.run), refresh=True)
    run = _outcome(followed)
    print_text(out, _end(run, LONGEST_END if out.is_terminal else None))
    return run


def _outcome(followed: Followed) -> Run:
    if followed.outcome is None:
        raise _deleted(followed)
    return followed.outcome


def _deleted(followed: Followed) -> Wrong:
    return Wrong(f"the run {followed.run_id!r} was deleted meanwhile")


def _following(followed: Followed, wait: Callable[[StoreUnavailable], None]) -> Iterator[Told]:
    """Yield what is told until the run is over, and once more: a process of its worker may have a fact to write."""
    give_up, settled = time.monotonic() + PATIENCE, False
    while True:
        try:
            told = followed.read()
        except StoreUnavailable as error:
            wait(error)
            time.sleep(LIST_PAUSE)
            continue
        if followed.run is None and time.monotonic() > give_up:
            raise Wrong(f"no run {followed.run_id!r} is recorded")
        if followed.is_deleted:
            raise _deleted(followed)
        yield told
        if settled and followed.over:
            return
        settled = followed.over
        time.sleep(PAUSE)


def _objects(followed: Followed, told: Told) -> list[dict[str, Any]]:
    """Return what programs get of it, a change of the run itself at last."""
    found: list[Any] = [("event", event) for event in told.events] + [("log", line) for line in told.lines]
    found.sort(key=lambda pair: pair[1].at)
    shown = [{"kind": kind, **plain(one)} for kind, one in found]
    if told.changed and followed.run is not None:
        shown.append({"kind": "run", **runs.summary(followed.run)})
    return shown


def _in_order(told: Told, most: int | None) -> list[Text]:
    found = [(event.at, one_run.event_text(event, most)) for event in told.events]
    found += [(line.at, one_run.log_text(line)) for line in told.lines]
    return [text for _, text in sorted(found, key=lambda pair: pair[0])]


def _now(run: Run | None) -> RenderableType:
    """Return the last line of the screen: the status, and how far it is."""
    if run is None:
        return Text("not recorded yet", style="dim")
    progress = run.progress
    if progress is None:
        return one_run.head(run)
    message = Text(cell(progress.message) if progress.message else "")
    if not progress.total:
        return Group(one_run.head(run), Text.assemble(f"{progress.done:g}  ", message))
    table = Table.grid(padding=(0, 1))
    share = min(1.0, max(0.0, progress.done / progress.total))
    bar = ProgressBar(total=1.0, completed=share, width=40)
    table.add_row(bar, f"{share:.0%}", f"{progress.done:g} of {progress.total:g}", message)
    return Group(one_run.head(run), table)


def _end(run: Run, most: int | None) -> Text:
    """Return how the run ended, in one line."""
    parts = [output.status(run.status)]
    if run.runtime is not None:
        parts.append(Text(f"after {duration(run.runtime)}"))
    if run.status == SUCCESS and run.result is not None:
        parts.append(Text(f"result {cell(output.value_line(run.result), most)}"))
    if run.error and run.status != SUCCESS:
        parts.append(Text(cell(run.error, most)))
    return Text("  ").join(parts)


def _watch_list(stackstate: StackState, task: str | None, queue: str | None) -> None:
    """Show the newest runs until Ctrl-C."""
    out = output.console()
    if not out.is_terminal:
        raise Wrong("watching all runs needs a terminal; `stackstate runs --json` prints them for programs")
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_list(stackstate, out, task, queue), refresh=True)
            time.sleep(LIST_PAUSE)


def _list(stackstate: StackState, out: Console, task: str | None, queue: str | None) -> RenderableType:
    try:
        page = stackstate.runs.list(task=task, queue=queue, limit=max(1, out.height - 3))
    except StoreUnavailable as error:
        return Text(f"{cell(error)}; trying again", style="yellow")
    return Group(
        Text(f"The newest runs at {clock(output.now())}; Ctrl-C ends this", style="dim"),
        tables.table(runs.COLUMNS, [tables.cells(runs.row(run)) for run in page], out.width),
    )
