"""What can go wrong between a store and its database server: the same tests over PostgreSQL and MySQL."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url

from celery_stackstate.errors import ConfigurationError, CounterRange, StoreUnavailable
from celery_stackstate.stores import open_store, schema
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, Put, RunQuery, RunWrite, Store
from celery_stackstate.stores.dialects import Dialect
from celery_stackstate.stores.sqlalchemy import SQLAlchemyStore
from tests.databases import SilentProxy, ask, new_name, own_database, text_of
from tests.services import free_port
from tests.waiting import Stopwatch, wait_for

TIMEOUT = 1.0


def opened(url: str, prefix: str = "faults", timeout: float = TIMEOUT, **query: str) -> SQLAlchemyStore:
    """Open a store with a short timeout."""
    found = make_url(url).update_query_dict(query)
    return SQLAlchemyStore.from_url(text_of(found), prefix=prefix, timeout=timeout)


def add_some(url: str, times: int) -> None:
    store = opened(url, timeout=20)
    for _ in range(times):
        store.add(b"c", 1)
    store.close()


def assert_unavailable(call: Callable[[], Any], *, maybe_applied: bool | None, within: float = TIMEOUT) -> None:
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    assert watch.seconds < within + 0.15
    assert maybe_applied in (None, caught.value.maybe_applied), str(caught.value)


class FaultTests:
    """Subclassed for each database, with the hooks below."""

    scheme: str
    #: What the plan of a statement says that reads a range of the primary key.
    by_range: str
    #: What a client sends with the end of a write, and with nothing before it.
    commit: bytes

    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    def connect(self, url: str) -> Any:
        raise NotImplementedError

    def make_account(self, admin: Any, name: str, database: str) -> None:
        """Make an account that may use the tables there are and those to come, but make none."""
        raise NotImplementedError

    def drop_account(self, admin: Any, name: str, database: str) -> None:
        raise NotImplementedError

    @pytest.fixture
    def admin(self, url: str) -> Iterator[Any]:
        connection = self.connect(url)
        yield connection
        connection.close()

    @pytest.fixture
    def fresh_url(self, url: str) -> Iterator[str]:
        """A database without our tables."""
        with own_database(self.connect, url) as fresh:
            yield fresh

    @pytest.fixture
    def store(self, url: str) -> Iterator[SQLAlchemyStore]:
        store = opened(url, prefix=new_name())
        store.get(b"warm")
        yield store
        store.close()

    @pytest.fixture
    def proxy(self, url: str) -> Iterator[SilentProxy]:
        found = make_url(url)
        proxy = SilentProxy(found.host or "127.0.0.1", found.port or 0)
        yield proxy
        proxy.close()

    @pytest.fixture
    def far(self, url: str, proxy: SilentProxy) -> Iterator[SQLAlchemyStore]:
        """A store behind the proxy."""
        store = opened(text_of(make_url(url).set(host="127.0.0.1", port=proxy.port)), prefix=new_name())
        store.add(b"c", 1)
        yield store
        store.close()

    # -- outages ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("verb", ["put_all", "remove_all"])
    def test_an_error_behind_the_first_hundred_says_that_these_may_be_done(self, url: str, verb: str) -> None:
        store, admin = opened(url, "hundreds"), self.connect(url)
        keys = [b"k%03d" % number for number in range(150)]
        store.put_all([Put(key, b"before") for key in keys])
        ask(admin, "BEGIN")
        ask(
            admin,
            "UPDATE stackstate_entry SET linger = linger + 1 WHERE prefix = 'hundreds' AND version > 0 AND "
            f"{'`key`' if self.scheme == 'mysql' else chr(34) + 'key' + chr(34)} = %s",
            keys[140],
        )
        work = {
            "put_all": lambda: store.put_all([Put(key, b"after") for key in keys]),
            "remove_all": lambda: store.remove_all(keys),
        }
        assert_unavailable(work[verb], maybe_applied=True, within=2 * TIMEOUT)
        ask(admin, "ROLLBACK")
        changed = store.get(keys[0])
        assert changed is None or changed.value == b"after"
        store.close()
        admin.close()

    def test_a_refused_port_is_unavailable_at_once_and_not_applied(self, url: str) -> None:
        store = opened(text_of(make_url(url).set(host="127.0.0.1", port=free_port())))
        for call in (lambda: store.get(b"k"), lambda: store.add(b"k", 1), store.check, store.purge):
            assert_unavailable(call, maybe_applied=False, within=0.5)

    def test_a_server_that_accepts_and_never_answers_is_unavailable_in_time(self, url: str, proxy: SilentProxy) -> None:
        proxy.silent = True
        store = opened(text_of(make_url(url).set(host="127.0.0.1", port=proxy.port)))
        assert_unavailable(lambda: store.get(b"k"), maybe_applied=False)
        assert_unavailable(lambda: store.add(b"k", 1), maybe_applied=False)

    @pytest.mark.parametrize("hang_up", [False, True])
    def test_a_write_whose_commit_is_not_answered_may_be_applied(
        self, far: SQLAlchemyStore, proxy: SilentProxy, hang_up: bool
    ) -> None:
        proxy.hang_up = hang_up
        append = partial(far.append, [RunWrite("r", 1)])
        calls: list[Callable[[], Any]] = [lambda: far.add(b"c", 1), lambda: far.put(b"k", b"v"), append]
        for number, call in enumerate(calls):
            before = far.add(b"c", 0)
            proxy.after = self.commit
            assert_unavailable(call, maybe_applied=True)
            # the server was told, and the next call works
            assert far.add(b"c", 0) == before + (number == 0)
        assert far.get(b"k") is not None
        assert far.run("r") is not None

    @pytest.mark.parametrize("hang_up", [False, True])
    def test_a_read_that_is_not_answered_is_not_applied_and_the_next_call_works(
        self, far: SQLAlchemyStore, proxy: SilentProxy, hang_up: bool
    ) -> None:
        proxy.hang_up, proxy.after = hang_up, b"SELECT"
        assert_unavailable(lambda: far.get(b"k"), maybe_applied=False)
        assert far.get(b"k") is None

    def test_a_transaction_that_gets_no_answer_before_its_commit_is_not_applied(
        self, far: SQLAlchemyStore, proxy: SilentProxy
    ) -> None:
        lock = far.put(b"lock", b"").entry
        assert lock is not None
        guard = Guard(b"lock", lock.version)
        proxy.after = b"FOR UPDATE"
        assert_unavailable(lambda: far.put(b"k", b"v", guard=guard), maybe_applied=False)
        assert far.get(b"k") is None
        assert far.put(b"k", b"v", guard=guard).applied

    def test_idle_connections_that_an_admin_killed_cost_no_error(self, store: SQLAlchemyStore, admin: Any) -> None:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: store.add(b"c", 1), range(40)))
        self.kill(admin, busy=False)
        assert [store.add(b"c", 1) for _ in range(5)] == [41, 42, 43, 44, 45]
        self.kill(admin, busy=False)
        assert store.get(b"c") is not None

    def test_a_connection_killed_in_its_call_is_unavailable_and_the_next_works(
        self, store: SQLAlchemyStore, admin: Any, url: str
    ) -> None:
        store.add(b"c", 1)
        other = self.connect(url)
        ask(other, "BEGIN")
        ask(other, "SELECT * FROM stackstate_entry WHERE prefix = %s FOR UPDATE", store._prefix)
        killer = threading.Timer(0.2, lambda: self.kill(admin, busy=True))
        killer.start()
        assert_unavailable(lambda: store.add(b"c", 1), maybe_applied=None)
        killer.join()
        other.rollback()
        other.close()
        assert store.add(b"c", 1) == 2

    def kill(self, admin: Any, *, busy: bool) -> None:
        """Kill the store's connections that are in a call, or idle."""
        raise NotImplementedError

    def test_a_row_locked_too_long_is_unavailable_in_time_and_not_applied(
        self, store: SQLAlchemyStore, url: str
    ) -> None:
        store.add(b"c", 1)
        other = self.connect(url)
        ask(other, "BEGIN")
        ask(other, "SELECT * FROM stackstate_entry WHERE prefix = %s FOR UPDATE", store._prefix)
        assert_unavailable(lambda: store.add(b"c", 1), maybe_applied=False)
        assert store.get(b"c").value == 1  # type: ignore[union-attr]
        other.rollback()
        other.close()
        assert store.add(b"c", 1) == 2

    def test_no_free_connection_is_unavailable_in_time(self, url: str) -> None:
        store = opened(url, prefix=new_name(), pool_size="1", max_overflow="0")
        store.add(b"c", 1)
        with store._writing():
            assert_unavailable(lambda: store.get(b"c"), maybe_applied=False)
        assert store.add(b"c", 1) == 2
        store.close()

    def test_a_removal_that_stops_half_way_may_be_applied(self, store: SQLAlchemyStore, url: str) -> None:
        ids = [f"r{number:03}" for number in range(150)]
        store.append([RunWrite(run_id, 1) for run_id in ids])
        other = self.connect(url)
        ask(other, "BEGIN")
        ask(other, "SELECT * FROM stackstate_run WHERE prefix = %s AND run_id = 'r120' FOR UPDATE", store._prefix)
        try:
            assert_unavailable(lambda: store.remove_runs(ids), maybe_applied=True)
            assert_unavailable(lambda: store.remove_runs(["r119", "r120"]), maybe_applied=False)
        finally:
            other.close()
        assert store.count_runs(RunQuery()) == 50
        assert store.remove_runs(ids) == 50

    def test_threads_share_a_bounded_number_of_connections(self, url: str, proxy: SilentProxy) -> None:
        far = text_of(make_url(url).set(host="127.0.0.1", port=proxy.port))
        store = opened(far, prefix=new_name(), timeout=20, pool_size="2", max_overflow="1")
        with ThreadPoolExecutor(12) as threads:
            list(threads.map(lambda _: store.add(b"c", 1), range(240)))
        assert store.add(b"c", 0) == 240
        store.close()
        # overflow connections come and go, but never more than three at once
        assert proxy.most_open <= 3
        wait_for(lambda: proxy.open == 0, message="closed connections")

    def test_a_deadlock_is_tried_again(self, store: SQLAlchemyStore, url: str) -> None:
        store.add(b"a", 1)
        store.add(b"b", 1)
        patient = opened(url, prefix=store._prefix, timeout=20)
        barrier = threading.Barrier(2)

        def cross(first: bytes, second: bytes) -> int:
            tries = []

            def work(execute: Any) -> int:
                tries.append(1)
                patient._lock(execute, first)
                if len(tries) == 1:
                    barrier.wait(10)
                patient._lock(execute, second)
                return len(tries)

            return patient._write(work)

        with ThreadPoolExecutor(2) as threads:
            found = [threads.submit(cross, *keys) for keys in ((b"a", b"b"), (b"b", b"a"))]
            assert sorted(future.result() for future in found) == [1, 2]
        patient.close()

    # -- time ------------------------------------------------------------------------------------------------------

    def test_the_clock_is_read_behind_the_lock(self, url: str) -> None:
        store = opened(url, prefix=new_name(), timeout=20)
        store.put(b"k", b"v", linger=10**9)
        for write in (
            lambda: store.put(b"k", b"w", ttl=60_000_000).entry,
            lambda: store.put(b"k", b"w", expect=store.get(b"k").version, ttl=60_000_000).entry,  # type: ignore[union-attr]
            lambda: store.put(b"k", b"w", ttl=1).applied and store.put(b"k", b"w", ttl=60_000_000).entry,
            lambda: store.remove(b"k") and store.put(b"k", b"x", ttl=60_000_000).entry,
        ):
            other = self.connect(url)
            ask(other, "BEGIN")
            ask(other, "SELECT * FROM stackstate_entry WHERE prefix = %s FOR UPDATE", store._prefix)
            with ThreadPoolExecutor(1) as thread:
                waiting = thread.submit(write)
                time.sleep(1.0)
                released = time.time_ns() // 1000
                other.rollback()
                entry: Any = waiting.result()
            other.close()
            assert entry.now == entry.updated
            assert entry.expires == entry.now + 60_000_000
            assert entry.now >= released - 50_000
        store.close()

    def test_a_counter_that_ended_starts_again_whatever_the_order_of_assignments(self, store: SQLAlchemyStore) -> None:
        store.add(b"c", 5, ttl=1)
        time.sleep(0.002)
        assert store.add(b"c", 1, ttl=60_000_000) == 1
        assert store.add(b"c", -3) == -2

    # -- processes -------------------------------------------------------------------------------------------------

    def test_a_child_does_not_touch_what_it_inherited(self, store: SQLAlchemyStore, proxy: SilentProxy) -> None:
        with store._writing() as execute:
            execute(store._dialect.native("SELECT 1"), ())
            child = os.fork()
            if not child:
                code = 1
                try:
                    store.add(b"c", 1)
                    store.close()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert [tuple(row) for row in execute("SELECT 1", ())] == [(1,)]
        assert store.add(b"c", 1) == 2

    def test_a_child_that_exits_normally_leaves_the_parents_connections_whole(self, store: SQLAlchemyStore) -> None:
        store.add(b"c", 1)
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=store.add, args=(b"c", 1))
        child.start()
        child.join(20)
        assert child.exitcode == 0
        with store._writing() as execute:
            assert [tuple(row) for row in execute("SELECT 1", ())] == [(1,)]
        assert store.add(b"c", 1) == 3

    # -- tables ----------------------------------------------------------------------------------------------------

    def test_four_processes_that_make_the_tables_at_once_lose_nothing(self, fresh_url: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=add_some, args=(fresh_url, 50)) for _ in range(4)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * 4
        store = opened(fresh_url)
        assert store.add(b"c", 0) == 200
        assert store.install() == []
        store.close()

    def test_install_says_what_it_did(self, fresh_url: str) -> None:
        store: Store = opened(fresh_url)
        (line,) = store.install()
        assert "created the tables stackstate_* (version 1)" in line
        assert store.install() == []
        assert store.runs(RunQuery()) == []
        store.close()

    def test_what_is_pending_is_told_and_no_table_is_made(self, fresh_url: str) -> None:
        store: Store = opened(fresh_url)
        assert [store.pending(), store.pending()] == [["it has no tables yet"]] * 2
        assert len(store.install()) == 1
        assert store.pending() == []
        name, version = store.server().split()
        assert name.lower() in ("postgresql", "mysql", "mariadb")
        assert version[0].isdigit()
        store.close()

    def test_tables_of_an_older_release_are_upgraded_and_keep_their_rows(
        self, fresh_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        old = opened(fresh_url)
        old.put(b"k", b"v")
        extra = "ALTER TABLE stackstate_entry ADD COLUMN extra BIGINT"

        def step(dialect: Dialect) -> list[str]:
            return [extra]

        monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, step))
        new = opened(fresh_url)
        assert new.get(b"k").value == b"v"  # type: ignore[union-attr]
        assert new._rows("SELECT extra FROM stackstate_entry", ()) == [(None,)]
        assert new.install() == []
        monkeypatch.undo()
        with pytest.raises(ConfigurationError, match=r"newer.*upgrade"):
            opened(fresh_url).get(b"k")
        assert old.get(b"k") is not None
        for store in (old, new):
            store.close()

    def test_an_account_that_may_not_create_is_told_to_run_init(self, fresh_url: str) -> None:
        url, admin = make_url(fresh_url), self.connect(fresh_url)
        name = new_name()
        self.make_account(admin, name, url.database or "")
        try:
            store = opened(text_of(url.set(username=name, password="secret")))
            with pytest.raises(ConfigurationError, match="celery -A proj stackstate init"):
                store.get(b"k")
            with pytest.raises(ConfigurationError, match="celery -A proj stackstate init"):
                store.install()
            opened(fresh_url).install()
            store.add(b"c", 1)
            assert store.add(b"c", 1) == 2
            store.append([RunWrite("r", 1)])
            assert store.run("r") is not None
            assert store.install() == []
            store.close()
        finally:
            self.drop_account(admin, name, url.database or "")
            admin.close()

    def test_tables_that_somebody_dropped_are_made_anew(self, fresh_url: str) -> None:
        store = opened(fresh_url)
        store.put(b"k", b"v")
        admin = self.connect(fresh_url)
        for table in ("entry", "run", "event", "log", "schema"):
            ask(admin, f"DROP TABLE stackstate_{table}")
        admin.close()
        assert_unavailable(lambda: store.get(b"k"), maybe_applied=False)
        assert store.get(b"k") is None
        store.close()

    # -- traps -----------------------------------------------------------------------------------------------------

    def test_nothing_is_lost_or_half_done_though_the_session_is_prepared_otherwise(self, url: str) -> None:
        store = opened(self.hostile(url), prefix=new_name(), timeout=20)
        with ThreadPoolExecutor(6) as threads:
            found = list(threads.map(lambda _: store.add(b"c", 1), range(300)))
            assert sorted(found) == list(range(1, 301))
            applied = threads.map(lambda n: store.put(b"new", n, expect=Expect.ABSENT).applied, range(60))
            assert sum(applied) == 1
            list(threads.map(lambda n: store.append([RunWrite(f"r{n % 5}", n), RunWrite("x", n)]), range(60)))
        assert store.count_runs(RunQuery()) == 6
        store.close()

    def hostile(self, url: str) -> str:
        """Return a URL whose sessions begin with settings that we must not depend on."""
        raise NotImplementedError

    def test_the_time_zone_of_a_session_does_not_move_the_clock(self, url: str) -> None:
        store = opened(self.elsewhere(url), prefix=new_name())
        entry = store.put(b"k", b"v", ttl=60_000_000).entry
        assert entry is not None
        assert abs(entry.now - time.time_ns() // 1000) < 5_000_000
        with store._writing() as execute:
            execute("SET time_zone = '+05:30'" if self.scheme == "mysql" else "SET timezone = 'Asia/Kolkata'", ())
        found = store.get(b"k")
        assert found is not None
        assert abs(found.now - time.time_ns() // 1000) < 5_000_000
        store.close()

    def elsewhere(self, url: str) -> str:
        return url

    def test_a_reserved_row_that_was_not_needed_is_gone(self, store: SQLAlchemyStore, admin: Any) -> None:
        with pytest.raises(CounterRange):
            store.add(b"c", 5, ceiling=4)
        with pytest.raises(GuardFailed):
            store.put(b"k", b"v", guard=Guard(b"none", 1))
        assert not store.put(b"k", b"v", expect=1).applied
        rows = ask(admin, "SELECT COUNT(*) FROM stackstate_entry WHERE prefix = %s AND version = 0", store._prefix)
        assert [tuple(row) for row in rows] == [(0,)]

    def test_a_refused_put_shows_the_entry_in_its_way_though_it_ends_just_now(self, url: str) -> None:
        store = opened(url, prefix=new_name(), timeout=20)

        def take(number: int) -> None:
            for _ in range(60):
                result = store.put(b"k", number, expect=Expect.ABSENT, ttl=1500)
                assert result.entry is not None

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(take, range(4)))
        store.close()

    # -- set-up ----------------------------------------------------------------------------------------------------

    def test_a_database_or_an_account_that_is_not_there_is_a_configuration_error(self, url: str) -> None:
        for wrong in (make_url(url).set(database="stackstate_test_no_such"),):
            with pytest.raises(ConfigurationError, match="stackstate_url"):
                opened(text_of(wrong)).get(b"k")

    @pytest.mark.parametrize("query", ["pool_size=0", "pool_size=x", "max_overflow=-1", "pool_size=1&pool_size=2"])
    def test_a_malformed_pool_size_is_refused_without_connecting(self, query: str) -> None:
        with pytest.raises(ConfigurationError, match="whole number"):
            open_store(f"{self.scheme}://127.0.0.1:1/x?{query}")

    def test_check_finds_a_server_that_serves(self, store: SQLAlchemyStore) -> None:
        assert store.check() == []
        assert store.shared_between_hosts
        assert store.shared_between_processes

    # -- cost ------------------------------------------------------------------------------------------------------

    def plan(self, connection: Any, sql: str) -> str:
        raise NotImplementedError

    def test_a_scan_reads_a_range_of_the_primary_key(self, url: str, fresh_url: str) -> None:
        count = 1_000_000 if os.environ.get("STACKSTATE_TEST_LONG") else 100_000
        store = opened(fresh_url, prefix="p", timeout=120)
        store.install()
        admin = self.connect(fresh_url)
        self.fill(admin, "few", 1000)
        for number in range(60):
            store.put(b"zz/%d" % number, b"v")
        few = _seconds(lambda: store.scan(b"zz/", limit=50))
        self.fill(admin, "many", count)
        ask(admin, "ANALYZE stackstate_entry" if self.scheme == "postgresql" else "ANALYZE TABLE stackstate_entry")
        many = _seconds(lambda: store.scan(b"zz/", limit=50))
        assert len(store.scan(b"zz/", limit=50)) == 50
        assert many < 10 * few + 0.01
        explained = self.plan(
            admin,
            "SELECT value FROM stackstate_entry WHERE prefix = 'p' AND \"key\" >= 'zz/' AND \"key\" < 'zz0' "
            'AND present = 1 ORDER BY "key" LIMIT 50',
        )
        assert self.by_range in explained, explained
        admin.close()
        store.close()

    def fill(self, admin: Any, name: str, count: int) -> None:
        """Make `count` live entries of the prefix p, whose keys begin with `name`."""
        raise NotImplementedError


def _seconds(call: Callable[[], Any]) -> float:
    best = 60.0
    for _ in range(10):
        started = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - started)
    return best
