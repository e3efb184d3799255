"""The tables of runs in each SQL database: lists by every column read an index, and nothing is left of deleted runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

from celery_stackstate.stores.base import RunFacts, RunQuery, RunStanding, RunWrite
from celery_stackstate.stores.sql import SQLStore
from celery_stackstate.stores.sql_base import Row
from celery_stackstate.stores.sqlalchemy import SQLAlchemyStore
from celery_stackstate.stores.sqlite import SQLiteStore
from celery_stackstate.testing.contract_seeds import COLUMNS
from tests.admin.settings import SETTINGS
from tests.databases import mysql, own_database, postgresql
from tests.stores.django_databases import configure, database, installed_app, open_django  # noqa: F401
from tests.stores.removed_runs import make_and_delete

configure(**SETTINGS)

T = 1_700_000_000_000_000
RUNS = 4000


class ExplainingSQLite(SQLiteStore):
    """A store that keeps the plans of what it reads."""

    plan = ""

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        self.plan = str(super()._rows("EXPLAIN QUERY PLAN " + sql, parameters, deadline))
        return super()._rows(sql, parameters, deadline)


class ExplainingServer(SQLAlchemyStore):
    """The same for a server."""

    plan = ""

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        how = "EXPLAIN " if self._dialect.name == "PostgreSQL" else "EXPLAIN FORMAT=JSON "
        self.plan = "\n".join(str(row[0]) for row in super()._rows(how + sql, parameters, deadline))
        return super()._rows(sql, parameters, deadline)


Explaining = ExplainingSQLite | ExplainingServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explaining]:
    """A store with many runs, of which half have no value in a column, and one in twenty has the same.

    It is a database for nobody else: what other tests leave in the tables is in their statistics.
    """
    store: Explaining
    prefix = uuid.uuid4().hex
    places = ExitStack()
    if request.param == "sqlite":
        file = tmp_path_factory.mktemp("filled") / "state.sqlite3"
        store = ExplainingSQLite.from_url(f"sqlite:///{file}?synchronous=normal", prefix=prefix, timeout=60)
    else:
        connect: Any = postgresql if request.param == "postgresql" else mysql
        url = places.enter_context(own_database(connect, request.getfixturevalue(f"{request.param}_url")))
        store = ExplainingServer.from_url(url, prefix=prefix, timeout=60)
    for start in range(0, RUNS, 500):
        store.append([_a_run(number) for number in range(start, start + 500)])
    with store._writing() as execute:
        execute("ANALYZE TABLE stackstate_run" if request.param == "mysql" else "ANALYZE stackstate_run", ())
    with places:
        yield store
        store.close()


def _a_run(number: int) -> RunWrite:
    text = f"v{number // 2 % 10}" if number % 2 else None
    texts: dict[str, Any] = dict.fromkeys((name for name in COLUMNS if name != "worker"), text)
    standing = RunStanding(f"S{number % 50}", text)
    return RunWrite(f"r{number}", 1, RunFacts(**texts, created=T + number), standing)


def assert_index_is_used(store: Explaining, column: str) -> None:
    name = f"stackstate_run_{column}"
    used = (f"USING INDEX {name} (", f"using {name} on ", f'"key": "{name}"')
    assert any(words in store.plan for words in used), store.plan


@pytest.mark.parametrize("column", COLUMNS)
def test_a_list_by_a_column_reads_its_index_in_order(filled: Explaining, column: str) -> None:
    page = filled.runs(RunQuery(**{column: "v7"}, limit=20))  # type: ignore[arg-type]
    assert len(page) == 20
    assert_index_is_used(filled, column)
    assert not any(word in filled.plan for word in ("Sort", "filesort", "TEMP B-TREE")), filled.plan


def test_a_tally_reads_the_index_of_the_listed_runs(filled: Explaining) -> None:
    tallies = filled.tally(T, T + RUNS, cap=200)
    assert sum(tally.runs for tally in tallies) == 200
    assert_index_is_used(filled, "listed")


def test_a_column_without_a_value_is_in_no_index_where_the_database_can_leave_it_out(filled: Explaining) -> None:
    sql = {
        "SQLite": "SELECT sql FROM sqlite_master WHERE name = 'stackstate_run_{}'",
        "PostgreSQL": "SELECT indexdef FROM pg_indexes WHERE indexname = 'stackstate_run_{}'",
    }
    if filled._dialect.name in sql:
        for column in COLUMNS:
            ((made,),) = filled._rows(sql[filled._dialect.name].format(column), ())
            assert "IS NOT NULL" in made


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql", "django"])
def test_nothing_is_left_of_removed_and_purged_runs(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    prefix = uuid.uuid4().hex
    if server == "django":
        with database("removed", f"sqlite:///{tmp_path / 'db.sqlite3'}") as place:
            _assert_no_rows_are_left(open_django(place, prefix=prefix, timeout=20))
    elif server == "sqlite":
        _assert_no_rows_are_left(SQLiteStore.from_url(f"sqlite:///{tmp_path}/x.sqlite3", prefix=prefix, timeout=20))
    else:
        url = request.getfixturevalue(f"{server}_url")
        _assert_no_rows_are_left(SQLAlchemyStore.from_url(url, prefix=prefix, timeout=20))


def _assert_no_rows_are_left(store: Any) -> None:
    assert isinstance(store, SQLStore)
    make_and_delete(store)
    for table in ("run", "event", "log"):
        assert store._read(f"SELECT COUNT(*) FROM stackstate_{table} WHERE prefix = ?", (store._prefix,)) == [(0,)]
    store.close()
