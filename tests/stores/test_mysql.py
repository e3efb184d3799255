"""The contract over a MySQL or MariaDB database, and what only such a server can do wrong."""

from __future__ import annotations

from typing import Any

import pymysql
import pytest
from sqlalchemy import make_url

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite
from celery_stackstate.testing import StoreContract
from tests.databases import ask, mysql, own_database, text_of
from tests.stores.sql_faults import FaultTests


class TestMySQLStore(StoreContract):
    @pytest.fixture
    def store_url(self, mysql_url: str) -> str:
        return mysql_url


class TestMySQLFaults(FaultTests):
    scheme = "mysql"
    commit = b"COMMIT"
    by_range = "type=range key=PRIMARY"

    @pytest.fixture
    def url(self, mysql_url: str) -> str:
        return mysql_url

    def connect(self, url: str) -> pymysql.Connection[Any]:
        return mysql(url)

    def kill(self, admin: Any, *, busy: bool) -> None:
        found = ask(
            admin,
            "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
            "AND command = %s",
            "Query" if busy else "Sleep",
        )
        for (number,) in found:
            ask(admin, f"KILL {number}")

    def make_account(self, admin: Any, name: str, database: str) -> None:
        ask(admin, f"CREATE USER {name}@'%' IDENTIFIED BY 'secret'")
        ask(admin, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {database}.* TO {name}@'%'")

    def drop_account(self, admin: Any, name: str, database: str) -> None:
        ask(admin, f"DROP USER {name}@'%'")

    def fill(self, admin: Any, name: str, count: int) -> None:
        digits = "(SELECT 0 AS d" + "".join(f" UNION ALL SELECT {digit}" for digit in range(1, 10)) + ")"
        names = "abcdef"[: len(str(count)) - 1]
        number = " + ".join(f"{name}.d * {10**power}" for power, name in enumerate(names))
        ask(
            admin,
            "INSERT INTO stackstate_entry (prefix, `key`, present, value, version, updated, linger, keep) "
            f"SELECT 'p', CONCAT('{name}/', {number}), 1, '', 1, 1, 0, 0 FROM "
            + ", ".join(f"{digits} AS {name}" for name in names),
        )

    def plan(self, connection: Any, sql: str) -> str:
        with connection.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute("EXPLAIN " + sql.replace('"', "`"))
            return "\n".join(f"type={row['type']} key={row['key']}" for row in cursor.fetchall())

    def hostile(self, url: str) -> str:
        return text_of(make_url(url).update_query_dict({"init_command": "SET SESSION tx_isolation = 'SERIALIZABLE'"}))

    def elsewhere(self, url: str) -> str:
        return text_of(make_url(url).update_query_dict({"init_command": "SET time_zone = '-03:00'"}))


def test_a_value_beyond_the_servers_packet_is_refused_and_the_next_call_works(mysql_url: str) -> None:
    store = open_store(mysql_url, prefix="packet")
    admin = mysql(mysql_url)
    ((packet,),) = ask(admin, "SELECT @@max_allowed_packet")
    admin.close()
    with pytest.raises((ValueError, StoreUnavailable)):
        store.put(b"k", b"x" * (packet + 1))
    assert store.get(b"k") is None
    assert store.add(b"c", 1) > 0
    store.close()


def test_an_option_that_the_driver_does_not_have_is_a_configuration_error(mysql_url: str) -> None:
    store = open_store(f"{mysql_url}?ssl_mode=REQUIRED")
    with pytest.raises(ConfigurationError, match="ssl_mode"):
        store.get(b"k")


def test_runs_are_purged_though_a_transaction_holds_an_ended_entry(mysql_url: str) -> None:
    store, admin = open_store(mysql_url, prefix="held", timeout=2), mysql(mysql_url)
    store.put(b"k", b"v", ttl=1)
    store.append([RunWrite("old", 1, RunFacts(task="t"), RunStanding("SUCCESS", forget=1))])
    admin.begin()
    ask(admin, "SELECT 1 FROM stackstate_entry WHERE prefix = 'held' AND `key` = 'k' FOR UPDATE")
    purged = store.purge()
    admin.rollback()
    assert (purged, store.run("old")) == (1, None)
    assert store.purge() == 1
    store.close()
    admin.close()


def test_the_collation_of_the_database_does_not_fold_keys_or_names(mysql_url: str) -> None:
    admin = mysql(mysql_url)
    with own_database(mysql, mysql_url) as url:
        ask(admin, f"ALTER DATABASE {make_url(url).database} CHARACTER SET latin1 COLLATE latin1_swedish_ci")
        store = open_store(url)
        names = ["Abc", "abc", "\u00e4bc", "abc ", "\u4e2d"]
        for number, name in enumerate(names):
            store.put(name.encode(), number)
            store.append([RunWrite(name, 1, RunFacts(task=name))])
        assert [entry.value for entry in store.scan(b"")] == [0, 1, 3, 2, 4]
        assert store.run_names("task") == sorted(names)
        store.close()
    admin.close()
