"""The contract over the SQLite store, and what only a file can do wrong."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store, schema, sqlite
from celery_stackstate.stores import sql as sql_store
from celery_stackstate.stores.base import Expect, RunWrite
from celery_stackstate.stores.dialects import SQLITE
from celery_stackstate.stores.sqlite import SQLiteStore
from celery_stackstate.testing import StoreContract
from tests.waiting import Stopwatch


class TestSQLiteStore(StoreContract):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/state.sqlite3"


class TestSQLiteStoreNormal(StoreContract):
    @pytest.fixture
    def store_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/state.sqlite3?synchronous=normal"


class MovableClock(SQLiteStore):
    """A store whose host sets its clock."""

    offset = 0

    def _now(self) -> int:
        return super()._now() + self.offset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.sqlite3"


def descriptors_of(path: Path) -> int:
    links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return sum(link == str(path) for link in links)


def add_many(url: str, times: int) -> None:
    store = open_store(url)
    for _ in range(times):
        store.add(b"c", 1)
    store.close()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite://host/x",
        "sqlite:///x?cache=shared",
        "sqlite:///x?synchronous=off",
    ],
)
def test_a_malformed_url_is_refused_without_connecting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="stackstate_url"):
        open_store(url)


def test_a_relative_path_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///a%20file.db")
    store.put(b"k", b"v")
    store.close()
    assert (tmp_path / "a file.db").exists()


def test_nothing_is_created_before_the_first_call(path: Path) -> None:
    open_store(f"sqlite:///{path}")
    assert not path.exists()


def assert_refused(url: str, *words: str) -> None:
    for call in (
        lambda: open_store(url).check(),
        lambda: open_store(url).get(b"k"),
        lambda: open_store(url).add(b"k", 1),
    ):
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert_refused(f"sqlite:///{tmp_path}/no/such/state.db", f"{tmp_path}/no/such", "create it")


def test_a_path_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(f"sqlite:///{tmp_path}/file/state.db", f"{tmp_path}/file", "create it")


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    assert_refused(f"sqlite:///{tmp_path}", str(tmp_path), "is a folder")


def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_text("precious text, not a database" * 100)
    assert_refused(f"sqlite:///{path}", str(path), "not an SQLite database")
    assert path.read_text().startswith("precious")


def test_a_file_of_a_newer_version_is_refused(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert_refused(f"sqlite:///{path}", str(path), "newer", "upgrade")


def test_four_processes_that_create_the_file_at_once_lose_nothing(path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    url = f"sqlite:///{path}?synchronous=normal"
    processes = [spawn.Process(target=add_many, args=(url, 500)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    store = open_store(url)
    assert store.add(b"c", 0) == 2000
    store.close()


def test_a_write_lock_held_too_long_is_unavailable_in_time_and_not_applied(path: Path) -> None:
    store = open_store(f"sqlite:///{path}", timeout=0.5)
    store.add(b"c", 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable) as caught:
        store.add(b"c", 1)
    assert watch.seconds < 0.6
    assert caught.value.maybe_applied is False
    assert store.get(b"c") is not None
    other.execute("ROLLBACK")
    other.close()
    assert store.add(b"c", 1) == 2
    store.close()


def test_threads_that_ended_leave_no_connections(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    for _ in range(10):
        threads = [threading.Thread(target=store.add, args=(b"c", 1)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert store.add(b"c", 0) == 200
    # SQLite itself keeps the descriptor of a closed connection for the next one, while another is open.
    assert descriptors_of(path) <= 20
    store.close()
    assert descriptors_of(path) == 0


def test_a_fork_in_the_middle_of_a_transaction_leaves_both_whole(path: Path) -> None:
    store = SQLiteStore.from_url(f"sqlite:///{path}", prefix="", timeout=20)
    store.add(b"c", 1)
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with store._writing() as execute:
            execute("UPDATE stackstate_entry SET number = 100", ())
            inside.set()
            go_on.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait(20)
    threading.Timer(0.2, go_on.set).start()
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if store.add(b"c", 1) > 100 else 2
        finally:
            os._exit(code)
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.add(b"c", 1) == 102
    store.close()


def test_a_fork_carries_no_open_database_into_the_child(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    store.add(b"c", 1)
    assert descriptors_of(path) == 1
    child = os.fork()
    if not child:
        os._exit(descriptors_of(path))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.add(b"c", 1) == 2
    store.close()


def test_a_child_outlives_its_parents_connections(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    store.add(b"c", 1)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            store.add(b"c", 1)
            os.read(read, 1)
            code = 0 if [store.add(b"c", 1) for _ in range(100)][-1] == 103 else 2
        finally:
            os._exit(code)
    while store.add(b"c", 0) < 2:
        time.sleep(0.01)
    store.close()  # the last connection that closes takes the log with it
    other = open_store(f"sqlite:///{path}")
    assert other.add(b"c", 1) == 3
    os.write(write, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert other.add(b"c", 0) == 103
    other.close()


def test_a_child_that_exits_normally_does_not_close_what_it_inherited(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    store.put(b"k", b"v")
    fork = multiprocessing.get_context("fork")
    child = fork.Process(target=store.put, args=(b"child", b"v"))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert store.get(b"child") is not None
    assert path.with_name(path.name + "-wal").exists()
    store.close()


@pytest.mark.parametrize("end", ["remove", "expire"])
def test_versions_grow_though_the_clock_is_set_back_while_the_key_lingers(path: Path, end: str) -> None:
    store = MovableClock.from_url(f"sqlite:///{path}", prefix="", timeout=20)
    hour = 3_600_000_000
    first = store.put(b"k", b"v", linger=2 * hour, ttl=1000).entry
    assert first is not None
    if end == "remove":
        store.remove(b"k")
    store.offset = hour
    store.purge()
    store.offset = -hour
    second = store.put(b"k", b"v", linger=0).entry
    assert second is not None
    assert second.version == first.version + 1
    store.remove(b"k")
    store.purge()
    third = store.put(b"k", b"v").entry
    assert third is not None
    assert third.version > second.version
    store.close()


def test_purge_forgets_a_key_one_moment_after_its_linger_not_before(path: Path) -> None:
    store = MovableClock.from_url(f"sqlite:///{path}", prefix="", timeout=20)
    hour = 3_600_000_000
    store.put(b"k", b"v", linger=hour, ttl=1)
    store.offset = hour - 10_000_000
    assert store.purge() == 0
    store.offset = hour + 10_000_000
    assert store.purge() == 1
    store.close()


def test_the_file_is_durable_by_default(path: Path) -> None:
    for query, level in (("", 2), ("?synchronous=normal", 1)):
        store = SQLiteStore.from_url(f"sqlite:///{path}{query}", prefix="", timeout=5)
        assert [(level,)] == store._rows("PRAGMA synchronous", ())
        assert store._rows("PRAGMA journal_mode", ()) == [("wal",)]
        store.close()


def test_tables_of_an_older_release_are_upgraded_and_keep_their_rows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{path}"
    old = open_store(url)
    old.put(b"k", b"v")
    old.close()
    step = "ALTER TABLE stackstate_entry ADD COLUMN extra BIGINT"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, lambda dialect: [step]))
    new = SQLiteStore.from_url(url, prefix="", timeout=5)
    assert new.get(b"k") is not None
    assert new._rows("SELECT extra FROM stackstate_entry", ()) == [(None,)]
    assert new._rows("PRAGMA user_version", ()) == [(len(schema.MIGRATIONS),)]
    new.close()
    monkeypatch.undo()
    assert_refused(url, "newer", "upgrade")


def test_what_is_pending_is_told_and_nothing_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite:///{path}")
    assert store.pending() == ["the file is not there yet"]
    assert not path.exists()
    path.touch()
    assert store.pending() == ["it has no tables yet"]
    assert path.stat().st_size == 0
    store.install()
    assert store.pending() == []
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, lambda dialect: []))
    assert store.pending() == ["its tables are of version 1, this release has 2"]
    store.close()


def test_a_file_that_cannot_be_made_is_told_of_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no folder"):
        open_store(f"sqlite:///{tmp_path}/none/state.sqlite3").pending()


def test_the_version_of_sqlite_is_told(path: Path) -> None:
    assert open_store(f"sqlite:///{path}").server() == f"SQLite {sqlite3.sqlite_version}"


def test_a_scan_reads_a_range_of_the_primary_key(path: Path) -> None:
    store = SQLiteStore.from_url(f"sqlite:///{path}?synchronous=normal", prefix="p", timeout=60)
    for number in range(60):
        store.put(b"zz/%d" % number, b"v")
    few = seconds_of(lambda: store.scan(b"zz/", limit=50))
    count = 1_000_000 if os.environ.get("STACKSTATE_TEST_LONG") else 100_000
    with store._writing() as execute:
        execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
            "INSERT INTO stackstate_entry (prefix, key, present, value, version, updated, linger, keep) "
            "SELECT 'p', CAST('many/' || i AS BLOB), 1, X'', 1, 1, 0, 0 FROM n",
            (count,),
        )
    many = seconds_of(lambda: store.scan(b"zz/", limit=50))
    assert many < 10 * few + 0.01
    sql = SQLITE.native(sql_store.GET.replace('"key" = ?', '"key" >= ?') + ' AND "key" < ? ORDER BY "key" LIMIT ?')
    plan = store._rows("EXPLAIN QUERY PLAN " + sql, (1, 1, "p", b"zz/", b"zz0", 50))
    assert "(prefix=? AND key>? AND key<?)" in str(plan), plan
    assert "TEMP B-TREE" not in str(plan)
    store.close()


def seconds_of(call: Callable[[], object]) -> float:
    best = 60.0
    for _ in range(10):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best


def test_a_write_takes_the_lock_before_it_reads_so_that_busy_waits_instead_of_failing(path: Path) -> None:
    store = open_store(f"sqlite:///{path}?synchronous=normal", timeout=10)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: store.add(b"c", 1), range(800)))
    assert sorted(found) == list(range(1, 801))
    store.close()


def test_no_statement_leaves_the_write_lock_held(path: Path) -> None:
    store = open_store(f"sqlite:///{path}")
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    calls: list[Callable[[], object]] = [
        lambda: store.put(b"k", b"v"),
        lambda: store.put(b"k", b"v", expect=Expect.ABSENT),
        lambda: store.add(b"c", 1),
        lambda: store.remove(b"k"),
        lambda: store.append([RunWrite("r", 1)]),
        store.purge,
        store.check,
    ]
    for call in calls:
        call()
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    other.close()
    store.close()


def test_check_warns_of_a_file_system_that_is_shared_over_a_network(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"sqlite:///{path}")
    assert store.check() == []
    kind = sqlite._file_system(path)
    assert kind
    monkeypatch.setattr(sqlite, "NETWORK_FILE_SYSTEMS", frozenset({kind}))
    (warning,) = store.check()
    assert f"lies on {kind}, where SQLite may lose writes" in warning
    store.close()
