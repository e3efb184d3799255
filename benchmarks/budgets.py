"""What the paths are meant to cost at most, beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.report import Row, Table
from benchmarks.rounds import Figure


@dataclass(frozen=True)
class Budget:
    """A bound of one cell. `than` names a contender of the same column that it is to stay below instead."""

    path: str
    table: str
    row: str
    column: str
    most: float | None = None
    than: str | None = None
    #: The row of the same table that shows what it costs by hand.
    floor: str | None = None


_WALL, _TRIPS = "x bare, wall", "Redis round trips"
#: The last column of a table, whatever its size.
_LARGEST = ""
_KEYED, _HISTORY = "stackstate, Redis: key and history", "stackstate, Redis: history"
_DRIVER = "state-driver"
_FLAT = ("newest page, ms", "exact id, ms", *(f"filter: {name}, ms" for name in ("status", "task", "worker", "queue")))

BUDGETS: Sequence[Budget] = (
    Budget("publish, key and history, Redis", "publish", _KEYED, _WALL, 1.30, floor="floor, Redis"),
    Budget("the same, against celery-singleton", "publish", _KEYED, _WALL, than="celery-singleton"),
    Budget("the same, Redis round trips", "publish", _KEYED, _TRIPS, 2.1),
    Budget("publish, task not tracked", "publish", "stackstate, Redis: task not tracked", _WALL, 1.03),
    Budget("suppressed duplicate, Redis", "publish-duplicate", _KEYED, _WALL, 0.30, floor="floor, Redis"),
    Budget(
        "suppressed duplicate, PostgreSQL",
        "publish-duplicate",
        "stackstate, PostgreSQL: key and history",
        _WALL,
        0.50,
    ),
    Budget("suppressed duplicate, SQLite", "publish-duplicate", "stackstate, SQLite: key and history", _WALL, 0.10),
    Budget("worker solo, history, Redis", "worker-solo", _HISTORY, _WALL, 1.20, floor="floor, Redis"),
    Budget(
        "the same, written in the background",
        "worker-solo",
        "stackstate, Redis: history in the background",
        _WALL,
        1.10,
        floor="floor, Redis",
    ),
    Budget(
        "worker solo, history, PostgreSQL",
        "worker-solo",
        "stackstate, PostgreSQL: history",
        _WALL,
        1.60,
        floor="floor, PostgreSQL",
    ),
    Budget(
        "worker solo, history, SQLite",
        "worker-solo",
        "stackstate, SQLite: history",
        _WALL,
        1.25,
        floor="floor, SQLite",
    ),
    Budget(
        "the same, synchronous=normal",
        "worker-solo",
        "stackstate, SQLite, synchronous=normal: history",
        _WALL,
        1.25,
        floor="floor, SQLite, synchronous=normal",
    ),
    Budget("worker solo, key and history, Redis", "worker-solo", _KEYED, _WALL, 1.60),
    Budget("worker prefork, key and history, Redis", "worker-prefork", _KEYED, _WALL, 1.40),
    Budget("worker solo, task not tracked", "worker-solo", "stackstate, Redis: task not tracked", _WALL, 1.03),
    *(
        Budget(f"{call}, Redis, x redis-py", _DRIVER, "stackstate, Redis", call, most)
        for call, most in (
            ("set", 1.15),
            ("get", 1.15),
            ("increment", 1.15),
            ("add", 1.15),
            ("lock + unlock", 0.90),
            ("throttle", 1.15),
        )
    ),
    *(
        Budget(f"{call}, SQLite, x sqlite3", _DRIVER, "stackstate, SQLite, synchronous=normal", call, 2.0)
        for call in ("set", "get", "increment", "add", "lock + unlock")
    ),
    *(
        Budget(f"{call}, our layer (memory store), µs", "state-time", "stackstate, memory", call, 15)
        for call in ("set", "get", "increment", "add")
    ),
    Budget("one run of 1 kB in Redis, bytes", "scale-redis", "bytes of a run", _LARGEST, 1400),
    Budget("import, ms", "imports", "StackState and StateTask, in a worker", "ms", 15),
    *(
        Budget(f"{row.removesuffix(', ms')}, {store}, ms", f"scale-{store.lower()}", row, _LARGEST, 5)
        for store in ("Redis", "PostgreSQL")
        for row in _FLAT
    ),
)


def compared(tables: Sequence[Table]) -> Table:
    """Return the budgets of what was measured, with the verdict on each."""
    measured = {table.name for table in tables}
    rows = [_row(budget, tables) for budget in BUDGETS if budget.table in measured]
    columns = ("at most", "measured", "share of the budget", "verdict")
    return Table("budgets", "Budgets", columns, (2, 2, 2, 0), rows)


def _row(budget: Budget, tables: Sequence[Table]) -> Row:
    measured = _cell(tables, budget.table, budget.row, budget.column)
    limit = budget.most
    if budget.than is not None:
        other = _cell(tables, budget.table, budget.than, budget.column)
        limit = None if other is None else other.median
    if measured is None or limit is None:
        return Row(budget.path, note="not measured")
    share = Figure(measured.median / limit, measured.low / limit, measured.high / limit)
    floor = None if budget.floor is None else _cell(tables, budget.table, budget.floor, budget.column)
    return Row(budget.path, [Figure(limit, limit, limit), measured, share, _verdict(share, limit, floor)])


def _verdict(share: Figure, limit: float, floor: Figure | None) -> str:
    """Return what the middle half of the rounds says: it is met, it is not, or they do not agree."""
    if share.high <= 1:
        return "met"
    if share.low <= 1:
        return "within the spread"
    if floor is not None and floor.median > limit:
        return f"not met; written by hand it is {floor.median:.2f}"
    return "not met"


def _cell(tables: Sequence[Table], table: str, row: str, column: str) -> Figure | None:
    return next(_cells(tables, table, row, column), None)


def _cells(tables: Sequence[Table], table: str, row: str, column: str) -> Iterator[Figure | None]:
    for one in tables:
        for found in one.rows:
            titles = list(one.columns)
            title = column or titles[-1]
            if (one.name, found.name) == (table, row) and found.note is None and title in titles:
                cell = found.cells[titles.index(title)]
                yield cell if isinstance(cell, Figure) else None
