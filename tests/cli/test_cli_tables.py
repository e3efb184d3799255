"""Lists in terminals of several widths: nothing that people paste is mutilated, columns find room by their rank."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery import Celery
from rich.text import Text

from celery_stackstate import StackState
from celery_stackstate.cli.tables import Column, cells, lines, table
from celery_stackstate.facts import now_micros, rank
from celery_stackstate.holding import HeldLocks, LockOwner
from celery_stackstate.liveness import Lease, enrol, renew
from celery_stackstate.records import FAILURE, to_micros
from celery_stackstate.scoped import RunContext
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite
from tests.cli.commands import Terminal, run
from tests.cli.conftest import MakeProject

WIDTHS = [80, 100, 140]
TASK = "warehouse.imports.suppliers.tasks.import_rows"
WORKER = "celery@worker-7.production.internal"
KEY = "stripe:evt_1NXyzA2eZvKYlo2C"
ERROR = "ConnectionError: the supplier hung up in the middle of the transfer of its catalogue"
DAY = 86_400_000_000


@pytest.fixture
def app(project: MakeProject) -> Celery:
    return project(broker="memory://")


def shown(folder: Path, columns: int, *words: str) -> list[str]:
    """Return the lines of a command in a terminal, none of which is wider than it."""
    with Terminal(folder, ("stackstate", *words), columns) as terminal:
        assert terminal.end() == 0
    text = [line.rstrip() for line in terminal.text.splitlines()]
    assert max(map(len, text)) <= columns
    return text


def record_runs(app: Celery, *, days: int) -> list[str]:
    """Record failed runs that were queued days ago, and return their ids, the newest first."""
    ids = [str(uuid.uuid4()) for _ in range(3)]
    for number, run_id in enumerate(ids):
        at = now_micros() - days * DAY - number * 1_000_000
        facts = RunFacts(task=TASK, created=at, key=KEY)
        standing = RunStanding(FAILURE, worker=WORKER, waited=1_000, started=at, finished=at + 125_000_000, error=ERROR)
        StackState.of(app).runs_store.append([RunWrite(run_id, rank(FAILURE, at // 1000), facts, standing)])
    return ids


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("days", [0, 40, 900])
def test_runs_of_any_day_have_whole_ids_and_the_end_of_the_task(
    app: Celery, tmp_path: Path, columns: int, days: int
) -> None:
    ids = record_runs(app, days=days)
    heading, *rows = shown(tmp_path, columns, "runs")
    assert len(rows) == 3
    for line, run_id in zip(rows, ids, strict=True):
        assert run_id in line.split()
        assert line.startswith("FAILURE  ")
        assert "import_rows" in line.split()[1]
    assert ("ERROR" in heading) is (columns >= 100)
    assert ("KEY" in heading, "WORKER" in heading) == (columns == 140, columns == 140)


@pytest.mark.parametrize("columns", WIDTHS)
def test_keys_are_whole(app: Celery, tmp_path: Path, columns: int) -> None:
    sent = [app.tasks["shop.import_rows"].apply_async((n,), idempotency_key=f"{KEY}{n}") for n in (1, 2)]
    heading, *rows = shown(tmp_path, columns, "keys", "list")
    assert [line.split()[0] for line in rows] == [f"{KEY}{n}" for n in (1, 2)]
    assert {"KEY", "TASK", "STATE", "KEPT"} <= set(heading.split())
    assert ("RUN" in heading) is (columns == 140)
    assert [one.id in line for one, line in zip(sent, rows, strict=True)] == [columns == 140] * 2


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_lock_is_one_line_with_the_whole_id_of_its_run(app: Celery, tmp_path: Path, columns: int) -> None:
    run_id = str(uuid.uuid4())
    held = StackState.of(app).state_for(_inside(run_id)).lock("catalog:42:rebuild", ttl=3600)
    assert held.acquire()
    heading, line = shown(tmp_path, columns, "locks", "list")
    assert line.startswith("catalog:42:rebuild  ")
    assert run_id in line.split()
    assert {"LOCK", "HOLDER", "RUN"} <= set(heading.split())
    assert "import_rows" in line, "what is cut keeps its end"


def _inside(run_id: str) -> RunContext:
    owner = LockOwner(f"{TASK}[{run_id}]", "token", run_id=run_id, held=HeldLocks())
    return RunContext(owner, run_id=run_id, task=TASK)


@pytest.mark.parametrize("columns", WIDTHS)
def test_values_have_room(app: Celery, tmp_path: Path, columns: int) -> None:
    state = StackState.of(app).state
    progress = {"file": "catalogue-2026-11-28.csv", "row": 12_345, "of": 999_999}
    state.set("imports:2026-11-28T0900:progress", progress, ttl=3600)
    heading, line = shown(tmp_path, columns, "state", "list")
    assert line.startswith("imports:2026-11-28T0900:progress  ")
    assert '{"file": "catalogue-2026-11-2' in line
    assert ("VERSION" in heading) is (columns == 140)


@pytest.mark.parametrize("columns", WIDTHS)
def test_workers_have_whole_names(app: Celery, tmp_path: Path, columns: int) -> None:
    store, lease = StackState.of(app).store, Lease(WORKER, "boot")
    enrol(store, lease, pid=4711, pids=[4712], started=to_micros(datetime.now(timezone.utc) - timedelta(days=3)))
    renew(store, lease, seconds=60, pids=[4712], before=0)
    heading, line = shown(tmp_path, columns, "workers")
    assert line.split()[:2] == [WORKER, "live"]
    assert {"WORKER", "STATE", "PID", "STARTED", "SEEN"} <= set(heading.split())


def test_into_a_pipe_goes_everything_however_long(app: Celery, tmp_path: Path) -> None:
    long = "word " * 300 + "end"
    StackState.of(app).state.set("k", long)
    record_runs(app, days=1)
    at = now_micros()
    standing = RunStanding(FAILURE, error=f"ValueError: {long}", started=at, finished=at)
    facts = RunFacts(task=f"a{'.long' * 60}.task", created=at)
    StackState.of(app).runs_store.append([RunWrite("r", rank(FAILURE, at // 1000), facts, standing)])
    assert f'"{long}"' in run(tmp_path, "stackstate", "state", "list").stdout
    listed = run(tmp_path, "stackstate", "runs").stdout
    assert f"ValueError: {long}\n" in listed
    assert f"{facts.task}  " in listed
    assert f"ValueError: {long}" in run(tmp_path, "stackstate", "run", "r").stdout


COLUMNS = (
    Column("ID"),
    Column("TASK", 0, "head", 8),
    Column("ERROR", 1, "end", 8),
    Column("MORE", 2),
    Column("X", 3),
)
ROW = ("0123456789", "proj.package.import_rows", "something went wrong", "mmmmmmmmmm", "x")


def columns_of(room: int) -> list[str]:
    made = table(COLUMNS, [cells(ROW)], room)
    assert sum(column.width or 0 for column in made.columns) + 2 * (len(made.columns) - 1) <= room
    return [str(column.header) for column in made.columns]


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (20, ["ID", "TASK"]),
        (30, ["ID", "TASK", "ERROR"]),
        (33, ["ID", "TASK", "ERROR", "X"]),
        (45, ["ID", "TASK", "ERROR", "MORE", "X"]),
        (80, ["ID", "TASK", "ERROR", "MORE", "X"]),
    ],
)
def test_columns_find_room_in_the_order_of_their_ranks(room: int, expected: list[str]) -> None:
    assert columns_of(room) == expected


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("head", "proj.package.import_rows", "…mport_rows"),
        ("end", "something went wrong", "something …"),
        ("head", "日本語日本語.仕事", "…本語.仕事"),
        ("end", "日本語日本語.仕事", "日本語日本…"),
        ("head", "short", "short"),
    ],
)
def test_what_is_cut_is_marked_and_fits(how: str, text: str, expected: str) -> None:
    columns = (Column("ID"), Column("T", 0, how, 11))  # type: ignore[arg-type]
    made = table(columns, [cells(("0123456789", text))], 23)
    (cell,) = (Text.from_markup(str(one)) for one in made.columns[1].cells)
    assert cell.plain == expected


def test_in_a_pipe_a_long_cell_moves_the_rest_of_its_line_alone() -> None:
    rows = [cells(("a" * 60, "one")), cells(("b", "two"))]
    heading, first, second = lines((Column("A"), Column("B")), rows)
    assert first == f"{'a' * 60}  one"
    assert second == f"b{' ' * 47}  two"
    assert heading == f"A{' ' * 47}  B"
