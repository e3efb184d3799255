"""The contract over a PostgreSQL database, and what only a PostgreSQL server can do wrong."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from celery_stackstate.errors import ConfigurationError, NotACounter, StoreUnavailable
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store, sql
from celery_stackstate.stores.base import DroppedLogs, Expect, RunStanding, RunWrite, StoredEvent, StoredLog
from celery_stackstate.stores.sqlalchemy import SQLAlchemyStore
from celery_stackstate.testing import StoreContract
from tests.databases import ask, new_name, own_database, postgresql, text_of
from tests.stores.sql_faults import FaultTests
from tests.waiting import Stopwatch, wait_for


class TestPostgreSQLStore(StoreContract):
    @pytest.fixture
    def store_url(self, postgresql_url: str) -> str:
        return postgresql_url


class TestPostgreSQLFaults(FaultTests):
    scheme = "postgresql"
    commit = b"INSERT INTO"
    by_range = "Index Cond: ((prefix = 'p'::text) AND (key >="

    @pytest.fixture
    def url(self, postgresql_url: str) -> str:
        return postgresql_url

    def connect(self, url: str) -> psycopg.Connection[Any]:
        return postgresql(url)

    def kill(self, admin: Any, *, busy: bool) -> None:
        ours = (
            "FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'celery-stackstate' AND (state = 'active') = %s"
        )
        ask(
            admin,
            "SELECT pg_terminate_backend(pid) " + ours,
            busy,
        )
        wait_for(lambda: not ask(admin, "SELECT 1 " + ours, busy), message="the end of the connections")

    def make_account(self, admin: Any, name: str, database: str) -> None:
        ask(admin, f"CREATE ROLE {name} LOGIN PASSWORD 'secret'")
        ask(admin, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        ask(admin, f"ALTER DEFAULT PRIVILEGES GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {name}")

    def drop_account(self, admin: Any, name: str, database: str) -> None:
        ask(admin, f"DROP OWNED BY {name}")
        ask(admin, f"DROP ROLE {name}")

    def fill(self, admin: Any, name: str, count: int) -> None:
        ask(
            admin,
            "INSERT INTO stackstate_entry (prefix, key, present, value, version, updated, linger, keep) "
            f"SELECT 'p', convert_to('{name}/' || n, 'UTF8'), 1, '', 1, 1, 0, 0 FROM generate_series(1, {count}) AS n",
        )

    def plan(self, connection: Any, sql: str) -> str:
        return "\n".join(row[0] for row in ask(connection, "EXPLAIN " + sql))

    def hostile(self, url: str) -> str:
        query = {"options": "-c default_transaction_isolation=serializable -c timezone=Asia/Kolkata"}
        return text_of(make_url(url).update_query_dict(query))

    elsewhere = hostile


def test_a_user_who_names_psycopg_or_postgres_gets_the_same_store(postgresql_url: str) -> None:
    for scheme in ("postgres", "postgresql+psycopg"):
        store = open_store(postgresql_url.replace("postgresql", scheme, 1), prefix="names")
        assert store.add(b"c", 1) > 0
        store.close()


def test_another_driver_or_database_is_a_configuration_error() -> None:
    for url in ("postgresql+psycopg2://h/d", "postgresql+asyncpg://h/d", "oracle://h/d", "mysql+mysqldb://h/d"):
        with pytest.raises(ConfigurationError, match=r"served are postgresql://"):
            SQLAlchemyStore.from_url(url, prefix="", timeout=5)
        with pytest.raises(ConfigurationError, match="stackstate_url"):
            open_store(url)


@pytest.mark.parametrize(
    ("url", "missing", "extra"),
    [
        ("postgresql://h/d", "psycopg", "postgresql"),
        ("mysql://h/d", "pymysql", "mysql"),
        ("mysql://h/d", "sqlalchemy", "mysql"),
    ],
)
def test_a_driver_that_is_not_installed_is_named_with_its_extra(url: str, missing: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from celery_stackstate.stores import open_store\n"
        f"open_store({url!r})"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"pip install 'celery-stackstate[{extra}]'" in found.stderr, found.stderr


def test_nothing_imports_a_driver_before_a_url_asks_for_it() -> None:
    code = (
        "import sys, celery_stackstate, celery_stackstate.stores\n"
        "from celery_stackstate.stores import open_store\n"
        "open_store('sqlite:///x'), open_store('memory://')\n"
        "print({'sqlalchemy', 'psycopg', 'pymysql'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_each_verb_is_one_round_trip(postgresql_url: str) -> None:
    store = SQLAlchemyStore.from_url(postgresql_url, prefix="trips", timeout=5)
    store.get(b"warm")
    driver: Any = store._driver
    trips: list[int] = []
    run, at_once = driver.run, driver.at_once

    def counted_run(*args: Any) -> Any:
        trips.append(1)
        return run(*args)

    def counted_at_once(connection: Any, statements: Any, deadline: float) -> Any:
        trips.extend([1] * (len(statements) > 1))
        return at_once(connection, statements, deadline)

    driver.run, driver.at_once = counted_run, counted_at_once
    first = store.put(b"a", b"1", expect=Expect.ABSENT).entry
    assert first is not None
    log = StoredLog("e", 1, 1, 20, "l", "m")
    calls: list[Callable[[], Any]] = [
        lambda: store.get(b"a"),
        lambda: store.get_many([b"a", b"b"]),
        lambda: store.scan(b"a"),
        lambda: store.put(b"b", b"new", expect=Expect.ABSENT),
        lambda: store.put(b"b", b"any", ttl=10**9),
        lambda: store.put(b"a", b"2", expect=first.version),
        lambda: store.add(b"c", 1, ttl=10**9),
        lambda: store.add(b"c", 1, floor=0, ceiling=10),
        lambda: store.remove(b"a"),
        lambda: store.append([RunWrite("r", 1, events=[StoredEvent("u", 1, "n", None, b"")], logs=[log])] * 3),
        lambda: store.append([RunWrite("r", 1, dropped=[DroppedLogs("e", 1, 1)], most_events=5, most_logs=5)]),
        lambda: store.tally(0, 2**62),
    ]
    for number, call in enumerate(calls):
        trips.clear()
        call()
        assert len(trips) == 1, number
    store.remove(b"b")
    store.remove(b"c")
    store.close()


def test_the_server_decides_as_the_general_form_does(postgresql_url: str) -> None:
    store = SQLAlchemyStore.from_url(postgresql_url, prefix="rules", timeout=20)
    chance = random.Random(1)

    def row() -> tuple[Any, ...] | None:
        rows = store._rows(
            "SELECT present, value, number, version, expires, updated, linger, keep, purge_at FROM stackstate_entry "
            "WHERE prefix = 'rules'",
            (),
        )
        return rows[0] if rows else None

    for _ in range(300):
        old = row()
        linger = chance.choice([0, 1, 3000, 10**7])
        end: dict[str, Any] = chance.choice([{}, {"ttl": 1}, {"ttl": 2000}, {"ttl": 10**8}, {"expires": 1}])
        kind = chance.choice(["put", "absent", "add", "remove", "purge"])
        if kind in ("put", "absent"):
            value: bytes | int = b"v" if chance.random() < 0.5 else 7
            expect = Expect.ABSENT if kind == "absent" else Expect.ANY
            if not store.put(b"k", value, expect=expect, linger=linger, **end).applied:
                continue
        elif kind == "add":
            try:
                store.add(b"k", 1, **end)
            except NotACounter:
                continue
        elif kind == "remove":
            store.remove(b"k")
            continue
        else:
            store.purge()
            continue
        new = row()
        assert new is not None
        now = new[5]
        remembered = sql._remembered([old[:8]], now) if old else 0
        lives = old is not None and old[0] and (old[4] is None or old[4] > now)
        counted_on = lives and kind == "add"
        expires = old[4] if counted_on and old else now + end["ttl"] if "ttl" in end else end.get("expires")
        assert new[0] == 1
        assert new[3] == (max(old[3] + 1, now) if old else now)
        assert new[4] == expires
        assert new[6] == (old[6] if counted_on and old else 0 if kind == "add" else linger)
        assert new[7] == remembered
        assert new[8] == (None if expires is None else max(expires + new[6], remembered, new[3] + 1))
    store.remove(b"k")
    store.close()


def test_a_lock_does_not_wait_for_its_renewal(postgresql_url: str) -> None:
    store, prefix = open_store(postgresql_url, prefix="renewed", timeout=5), "renewed"
    state = State(store, RunContext(), limit=1000)
    admin = postgresql(postgresql_url)
    with state.lock("l", ttl=6) as lock:
        ask(admin, "BEGIN")
        ask(admin, "SELECT 1 FROM stackstate_entry WHERE prefix = %s AND version > 0 FOR UPDATE", prefix)
        time.sleep(2.5)  # the renewal waits for that row since 2 s
        watch = Stopwatch()
        lock.check()
        assert lock.remaining < 4
        assert watch.seconds < 0.5
        admin.rollback()
        wait_for(lambda: lock.remaining > 4, message="the renewal")
    assert state.lock_info("l") is None
    admin.close()
    store.close()


def test_purge_passes_by_what_others_hold(postgresql_url: str) -> None:
    store = open_store(postgresql_url, prefix="held", timeout=5)
    for key in (b"a", b"b"):
        store.put(key, b"v", ttl=1)
    store.append([RunWrite("r", 1, standing=RunStanding(forget=1))])
    admin = postgresql(postgresql_url)
    ask(admin, "BEGIN")
    ask(admin, "SELECT 1 FROM stackstate_entry WHERE prefix = 'held' AND key = 'a' FOR UPDATE")
    time.sleep(0.01)
    watch = Stopwatch()
    assert store.purge() == 2
    assert watch.seconds < 1
    admin.rollback()
    admin.close()
    assert store.purge() == 1
    store.close()


def test_check_tells_of_settings_that_lose_writes(postgresql_url: str) -> None:
    loose = make_url(postgresql_url).update_query_dict({"options": "-c synchronous_commit=off"})
    store = open_store(text_of(loose))
    assert ["synchronous_commit" in warning for warning in store.check()] == [True]
    store.close()


def test_a_connection_to_a_server_that_takes_no_writes_is_not_kept(postgresql_url: str) -> None:
    with own_database(postgresql, postgresql_url) as url:
        admin, store = postgresql(url), open_store(url)
        store.put(b"k", b"before")
        database = make_url(url).database
        # given connections to a place that was the primary, as a standby is after a failover
        ask(admin, f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        store.close()
        with pytest.raises(StoreUnavailable, match="read-only") as caught:
            store.put(b"k", b"refused")
        assert not caught.value.maybe_applied
        # when the name leads to the new primary
        ask(admin, f"ALTER DATABASE {database} RESET default_transaction_read_only")
        # then
        assert store.put(b"k", b"after").applied
        store.close()
        admin.close()


def test_a_server_that_is_full_costs_no_connection_that_is_there(postgresql_url: str) -> None:
    with own_database(postgresql, postgresql_url) as url:
        admin = postgresql(url)
        store = SQLAlchemyStore.from_url(url, prefix="", timeout=2)
        store.put(b"k", b"v")
        name = new_name()
        ask(admin, f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1")
        ask(admin, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {name}")
        bounded = SQLAlchemyStore.from_url(text_of(make_url(url).set(username=name)), prefix="", timeout=2)
        bounded.put(b"k", b"mine")
        pool = bounded._pool()
        (idle,) = pool.idle
        busy = pool.idle.pop()
        with pytest.raises(StoreUnavailable, match="too many connections"):
            bounded.get(b"k")
        pool.keep(busy)
        assert bounded.get(b"k") is not None
        assert list(bounded._pool().idle) == [idle]
        bounded.close()
        store.close()
        ask(admin, f"DROP OWNED BY {name}")
        ask(admin, f"DROP ROLE {name}")
        admin.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:pa@s3cr@127.0.0.1:1/db",
        "mysql://me:pa@s3cr@127.0.0.1:1/db",
        "postgresql://me:x@127.0.0.1:s3cr/db",
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        open_store(url)
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("option", ["foo=bar", "sslmode=zzz"])
def test_an_option_that_no_server_can_serve_is_a_configuration_error(postgresql_url: str, option: str) -> None:
    store = open_store(f"{postgresql_url}?{option}")
    with pytest.raises(ConfigurationError):
        store.get(b"k")
