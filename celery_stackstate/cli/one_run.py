"""The command that shows one run with all that is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Console
from rich.text import Text

from celery_stackstate.cli import output
from celery_stackstate.cli.base import Wrong, command, json_option
from celery_stackstate.cli.output import cell, clock, duration, plain, whole_clock
from celery_stackstate.cli.tables import Column, print_table
from celery_stackstate.extension import StackState
from celery_stackstate.history import ENDINGS
from celery_stackstate.records import EPOCH, Attempt, Event, LogLine, Run, Touched, from_micros
from celery_stackstate.visible import visible

ATTEMPTS = (
    Column("#"),
    Column("STATUS"),
    Column("WORKER", 2, "end"),
    Column("PID", 4),
    Column("STARTED", 1),
    Column("WAITED", 5),
    Column("RAN", 3),
    Column("CPU", 7),
    Column("MEMORY", 8),
    Column("ERROR", 0, "wrap", 24),
)
CHILDREN = (Column("STATUS"), Column("TASK", 0, "head"), Column("ID"))
FACTS = (Column(""), Column("", 0, "wrap"))
TIMELINE = (Column(""), Column(""), Column(""), Column("", 0, "wrap"))
#: So many of the keys that a run used, and of the runs that it published, are shown; --json has all of the former.
MOST_USED = MOST_CHILDREN = 10
#: So many reports of progress are shown of those that lie between two other events.
MOST_PROGRESS = 5
#: So much of a fact, and of what a line of the timeline tells of one thing, is shown.
LONGEST_FACT, LONGEST_TOLD = 2_000, 60
#: The events that workers and publishers tell, what of theirs another part of the page tells, and what is a time.
OURS = ENDINGS | {"queued", "received", "started", "progress", "state"}
ELSEWHERE = frozenset(
    (
        *("args", "kwargs", "traceback", "result", "epoch", "boot", "queued_at", "touched", "pid", "host", "program"),
        *("wait", "cpu", "peak_memory", "error_type", "omitted_lines"),
    )
)
TIMES = frozenset(("eta", "expires"))
#: The part of a log that is read first, from its end, in seconds; how much longer the next one is; lines at a time.
FIRST_SPAN, FACTOR, PAGE = 1.0, 8, 1_000


@click.command()
@click.argument("run_id", metavar="ID")
@click.option("--logs", type=click.IntRange(0), default=50, show_default=True, help="So many log lines, the last ones.")
@click.option("--progress", is_flag=True, help="Show each report of progress, not the first, the last and a few.")
@json_option
@command
def run(stackstate: StackState, run_id: str, logs: int, *, progress: bool, as_json: bool) -> None:
    """Show one run: what was asked, attempts, timeline, log.

    Times are in the zone of this machine; --json has them in UTC.

    \b
    Example:
        celery -A shop stackstate run 7d1c8a9e-3b6e-4f0a-9a44-0c1b6f3e2d10
    """
    found = stackstate.runs.get(run_id)
    if found is None:
        raise Wrong(f"no run {run_id!r} is recorded; `stackstate runs --text {run_id[:8]}` looks for parts of ids")
    events, lines = stackstate.runs.events(run_id), last_lines(stackstate, found, logs)
    children = list(stackstate.runs.children(run_id, limit=MOST_CHILDREN + 1))
    if as_json:
        family = [{"id": one.id, "task": one.task, "status": one.status} for one in children[:MOST_CHILDREN]]
        told = {"events": events, "logs": lines, "children": family, "more_children": len(children) > MOST_CHILDREN}
        output.print_json([{**plain(found), **plain(told)}])
        return
    _print(found, children, events if progress else list(thinned(events)), lines)


def _print(found: Run, children: list[Run], events: Sequence[Event | int], lines: list[LogLine]) -> None:
    out = output.console()
    output.print_text(out, head(found))
    _print_section(out, "", FACTS, list(_facts(found, LONGEST_FACT if out.is_terminal else None)))
    _print_section(out, "Attempts", ATTEMPTS, list(map(_attempt, found.attempts)), headings=True)
    _print_section(out, "Published runs", CHILDREN, [_child(one) for one in children[:MOST_CHILDREN]])
    if len(children) > MOST_CHILDREN:
        out.print(f"... and more: these are the newest {MOST_CHILDREN}")
    _print_section(out, "Timeline", TIMELINE, list(_timeline(events, LONGEST_TOLD if out.is_terminal else None)))
    if lines:
        out.print("\nLog", style="bold")
        for line in lines:
            output.print_text(out, log_text(line))
    if found.traceback:
        out.print("\nTraceback", style="bold")
        output.print_text(out, Text(visible(found.traceback)))


def last_lines(stackstate: StackState, found: Run, most: int) -> list[LogLine]:
    """Return the last log lines of a run: those of its last second, of the last eight, and so on until they suffice."""
    if not most:
        return []
    end, span = found.finished_at or output.now(), FIRST_SPAN
    begin = (found.queued_at or EPOCH) - timedelta(hours=1)  # by the clock of another host
    while True:
        start = end - timedelta(seconds=span)
        lines = _lines_since(stackstate, found.id, start, most)
        if len(lines) >= most or start < begin:
            return lines
        span *= FACTOR


def _lines_since(stackstate: StackState, run_id: str, start: datetime, most: int) -> list[LogLine]:
    """Return the last lines of those behind a time."""
    last, kept = LogLine(start, "", "", "", ""), list[LogLine]()
    while True:
        page = stackstate.runs.logs(run_id, after=last, limit=PAGE)
        kept = (kept + page)[-most:]
        if len(page) < PAGE:
            return kept
        last = page[-1]


def head(run: Run) -> Text:
    """Return the line that names a run."""
    return Text.assemble(output.status(run.status), "  ", (cell(run.task), "bold"), "  ", cell(run.id))


def log_text(line: LogLine) -> Text:
    """Return a log line as it is printed; the lines of a longer text are set in."""
    style = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "bold red", "DEBUG": "dim"}.get(line.level, "")
    message = visible(line.message).replace("\n", "\n    ")
    return Text.assemble((f"{clock(line.at, seconds=True)} ", "dim"), (f"{line.level:<7} ", style), message)


def event_text(event: Event, most: int | None) -> Text:
    """Return an event as it is printed, with up to `most` characters of each thing that it tells."""
    at = clock(event.at, seconds=True)
    return Text.assemble((f"{at} ", "dim"), (f"{cell(event.name)} ", "cyan"), _told(event, most))


def _told(event: Event, most: int | None) -> str:
    """Return what a line of the timeline tells of an event: of a task's own all, of ours what stands nowhere else."""
    told = dict(event.data)
    if event.name in OURS:
        told = {name: _shown(name, value) for name, value in told.items() if _counts(name, value)}
    return ", ".join(f"{cell(name)}={cell(plain(value), most)}" for name, value in told.items())


def _counts(name: str, value: Any) -> bool:
    return name not in ELSEWHERE and (name == "done" or value not in (None, 0))


def _shown(name: str, value: Any) -> Any:
    return clock(from_micros(value), seconds=True) if name in TIMES and isinstance(value, int) else value


def thinned(events: Sequence[Event]) -> Iterator[Event | int]:
    """Yield events, of many reports of progress in a row a few alone; a number tells how many are left out there."""
    row: list[Event] = []
    for event in events:
        if event.name == "progress":
            row.append(event)
            continue
        yield from _few(row)
        row = []
        yield event
    yield from _few(row)


def _few(row: list[Event]) -> Iterator[Event | int]:
    if len(row) <= MOST_PROGRESS:
        yield from row
        return
    places = [round(number * (len(row) - 1) / (MOST_PROGRESS - 1)) for number in range(MOST_PROGRESS)]
    for before, place in zip([-1, *places], places, strict=False):
        if place - before > 1:
            yield place - before - 1
        yield row[place]


def _print_section(
    out: Console, title: str, columns: Sequence[Column], rows: Sequence[Sequence[Any]], *, headings: bool = False
) -> None:
    if rows:
        out.print(f"\n{title}" if title else "", style="bold")
        print_table(columns, rows, headings=headings)


def _facts(run: Run, most: int | None) -> Iterator[tuple[Text, str]]:
    progress = run.progress
    facts: dict[str, Any] = {
        "args": _json(run.args) if run.args else None,
        "kwargs": _json(run.kwargs) if run.kwargs else None,
        "cut": "args and kwargs were too large to be kept whole" if run.payload_truncated else None,
        "result": _json(run.result) if run.result is not None else None,
        "error": run.error,
        "key": run.key,
        "queue": run.queue,
        "queued": whole_clock(run.queued_at) if run.queued_at else None,
        "eta": whole_clock(run.eta) if run.eta else None,
        "waited": duration(run.wait) if run.wait is not None else None,
        "ran": duration(run.runtime) if run.runtime is not None else None,
        "progress": _progress(progress.done, progress.total, progress.message) if progress else None,
        "meta": _json(run.meta) if run.meta is not None else None,
        "published by": str(run.publisher) if run.publisher else None,
        "parent": run.parent_id,
        "root": run.root_id if run.root_id not in (run.id, run.parent_id) else None,
        "group": run.group_id,
        "rerun of": run.rerun_of,
        "reruns": ", ".join(run.reruns),
        "replaced by": run.replaced_by,
        "duplicates": f"{run.duplicates} suppressed" if run.duplicates else None,
        "used": _used(run.touched),
    }
    for name, value in facts.items():
        if value:
            yield Text(name, style="dim"), cell(value, most)


def _used(touched: tuple[Touched, ...]) -> str:
    names = [f"{one.kind} {one.key} ({one.scope or 'app'})" for one in touched[:MOST_USED]]
    return ", ".join(names) + (f" and {len(touched) - MOST_USED} more" if len(touched) > MOST_USED else "")


def _json(value: Any) -> str:
    return value if isinstance(value, str) else output.value_line(value)


def _progress(done: float, total: float | None, message: str | None) -> str:
    amount = f"{done:g} of {total:g}" if total is not None else f"{done:g}"
    return f"{amount}: {message}" if message else amount


def _attempt(attempt: Attempt) -> tuple[Any, ...]:
    error = f"{attempt.error_type}: {attempt.error}" if attempt.error_type else attempt.error
    return (
        str(attempt.number),
        output.status(attempt.status),
        cell(attempt.worker),
        str(attempt.pid or output.NOTHING),
        clock(attempt.started_at, seconds=True),
        duration(attempt.wait),
        duration(attempt.runtime),
        duration(attempt.cpu_time),
        f"{attempt.peak_memory / 1_048_576:.0f} MiB" if attempt.peak_memory else output.NOTHING,
        cell(error),
    )


def _child(run: Run) -> tuple[Any, ...]:
    return output.status(run.status), cell(run.task), cell(run.id)


def _timeline(events: Sequence[Event | int], most: int | None) -> Iterator[tuple[Any, ...]]:
    before: datetime | None = None
    for event in events:
        if isinstance(event, int):
            yield "", "", Text("...", style="dim"), f"{event} more reports of progress (--progress)"
            continue
        after = f"+{duration((event.at - before).total_seconds())}" if before else ""
        name = Text(cell(event.name), style="cyan")
        yield clock(event.at, seconds=True), after, name, _told(event, most)
        before = event.at
