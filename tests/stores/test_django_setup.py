"""How the store over Django is set up: its URL, its migrations, routing, and a Celery app that uses it."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

from celery import Celery
from django.apps import apps
from django.conf import settings
from django.core.checks import run_checks
from django.core.management import call_command
from django.db import connections, transaction
from django.test import override_settings

from celery_stackstate import StackState
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.recorder import Recorder
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunWrite, StoredEvent
from celery_stackstate.stores.django.apps import CeleryStackStateConfig
from celery_stackstate.stores.django.store import TABLES, DjangoStore
from tests.admin.settings import SETTINGS
from tests.databases import mysql, new_name, own_database, postgresql
from tests.stores.django_databases import (
    APP,
    add_database,
    configure,
    database,
    forget_database,
    installed_app,  # noqa: F401
    migrate,
    open_django,
)
from tests.waiting import wait_for

configure(**SETTINGS)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'db.sqlite3'}"


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An alias whose database has none of our tables."""
    alias = f"empty_{request.param}"
    with empty_database(request, request.param, tmp_path) as url:
        add_database(alias, url)
        yield alias
        forget_database(alias)


def empty_database(request: pytest.FixtureRequest, server: str, tmp_path: Path) -> AbstractContextManager[str]:
    """The URL of a database that no other test uses."""
    if server == "sqlite":
        return nullcontext(f"sqlite:///{tmp_path / 'db.sqlite3'}")
    connect: Callable[[str], Any] = postgresql if server == "postgresql" else mysql
    return own_database(connect, request.getfixturevalue(f"{server}_url"))


def our_tables(alias: str) -> list[str]:
    return sorted(name for name in connections[alias].introspection.table_names() if name.startswith("stackstate_"))


# -- where it may be used ----------------------------------------------------------------------------------------------


def test_what_a_view_on_an_event_loop_tells_the_history_is_written_by_its_thread(empty: str) -> None:
    migrate(empty)
    store = open_store(f"django://{empty}")
    recorder = Recorder(store)

    async def view() -> bool:
        return recorder.record(RunWrite("r", 1))

    assert asyncio.run(view()) is False
    assert recorder.unrecorded == 0
    wait_for(lambda: store.run("r") is not None, message="the thread to write it")
    recorder.stop()


def test_a_fixture_holds_what_is_stored(empty: str, tmp_path: Path) -> None:
    migrate(empty)
    store, fixture = open_store(f"django://{empty}"), tmp_path / "state.json"
    store.put(b"\x00\xff key", b"\x00\xff value")
    store.add(b"n", 5)
    call_command("dumpdata", CeleryStackStateConfig.label, database=empty, output=str(fixture), verbosity=0)
    assert store.remove_all([b"\x00\xff key", b"n"]) == 2
    call_command("loaddata", str(fixture), database=empty, verbosity=0)
    found = store.get(b"\x00\xff key")
    assert found is not None
    assert (found.value, store.add(b"n", 1)) == (b"\x00\xff value", 6)


# -- migrations --------------------------------------------------------------------------------------------------------


def test_migrations_make_the_tables_and_drop_them(empty: str) -> None:
    store = open_store(f"django://{empty}")
    migrate(empty)
    assert our_tables(empty) == sorted(TABLES)
    assert store.add(b"count", 1) == 1
    assert store.install() == []
    migrate(empty, "zero")
    assert our_tables(empty) == []


def test_without_tables_each_call_says_what_to_run(empty: str) -> None:
    store = open_store(f"django://{empty}")
    for call in (lambda: store.get(b"k"), lambda: store.put(b"k", b""), store.check, store.install, store.purge):
        with pytest.raises(ConfigurationError) as caught:
            call()
        assert f'INSTALLED_APPS += ["{APP}"]' in str(caught.value)
        assert f"manage.py migrate --database={empty}" in str(caught.value)


def test_models_and_migrations_agree() -> None:
    call_command("makemigrations", "celery_stackstate", check=True, dry_run=True, verbosity=0)


def test_system_checks_find_nothing() -> None:
    found = run_checks(app_configs=[apps.get_app_config("celery_stackstate")])
    assert not [message for message in found if "_admin" not in str(message.id)]


def test_the_tables_are_those_of_the_sqlite_store(tmp_path: Path, file: str) -> None:
    plain = open_store(f"sqlite:///{tmp_path / 'plain.sqlite3'}")
    plain.put(b"k", b"")
    plain.close()
    made = "SELECT sql FROM sqlite_master WHERE name LIKE '%stackstate_%' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    add_database("plain", f"sqlite:///{tmp_path / 'plain.sqlite3'}")
    with database("ours", file), connections["ours"].cursor() as ours, connections["plain"].cursor() as theirs:
        assert ours.execute(made).fetchall() == theirs.execute(made).fetchall()
    forget_database("plain")


@pytest.mark.parametrize("server", ["sqlite", "postgresql", "mysql"])
def test_another_store_over_the_same_database_sees_the_same(
    request: pytest.FixtureRequest, tmp_path: Path, server: str
) -> None:
    prefix = uuid.uuid4().hex
    with empty_database(request, server, tmp_path) as url, database(f"both_{server}", url) as place:
        over_django, plain = open_django(place, prefix=prefix, timeout=5), open_store(url, prefix=prefix)
        over_django.put(b"k", b"value")
        assert plain.add(b"count", 1) == 1
        found = plain.get(b"k")
        assert found is not None
        assert found.value == b"value"
        assert over_django.add(b"count", 1) == 2
        plain.close()
        migrate(f"both_{server}", "zero")
        assert our_tables(f"both_{server}") == []


def test_sqlmigrate_shows_the_statements(file: str) -> None:
    with database("shown", file):
        out = io.StringIO()
        call_command("sqlmigrate", "celery_stackstate", "0001", database="shown", stdout=out, no_color=True)
    assert "CREATE TABLE IF NOT EXISTS stackstate_entry" in out.getvalue()


def test_tables_made_from_the_models_alone_serve_too(file: str) -> None:
    add_database("synced", file)
    with override_settings(MIGRATION_MODULES={"celery_stackstate": None}):
        call_command("migrate", database="synced", run_syncdb=True, verbosity=0)
    store = open_store("django://synced")
    assert store.add(b"count", 1) == 1
    assert our_tables("synced") == sorted(TABLES)
    forget_database("synced")


class OnlyThere:
    """A router that puts our tables in one database."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        return db == "there" if app_label == "celery_stackstate" else None


def test_a_router_decides_where_the_tables_are_made(tmp_path: Path) -> None:
    for alias in ("here", "there"):
        add_database(alias, f"sqlite:///{tmp_path / alias}")
    with override_settings(DATABASE_ROUTERS=[OnlyThere()]):
        for alias in ("here", "there"):
            migrate(alias)
    assert (our_tables("here"), our_tables("there")) == ([], sorted(TABLES))
    for alias in ("here", "there"):
        forget_database(alias)


# -- URLs --------------------------------------------------------------------------------------------------------------


def test_each_alias_is_a_place_of_its_own(tmp_path: Path) -> None:
    with database("one", f"sqlite:///{tmp_path / 'one'}"), database("two", f"sqlite:///{tmp_path / 'two'}"):
        one, two = open_store("django://one"), open_store("django://two")
        one.put(b"k", b"one")
        assert two.get(b"k") is None
        with transaction.atomic(using="one"):
            assert (one.in_transaction(), two.in_transaction()) == (True, False)


def test_without_an_alias_the_default_database_is_meant() -> None:
    for url in ("django://", "django://default"):
        store = open_store(url)
        assert isinstance(store, DjangoStore)
        assert store.alias == "default"


@pytest.mark.parametrize("url", ["django:", "django:default", "django:/default"])
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="django://default"):
        open_store(url)


@pytest.mark.parametrize("url", ["django://no_such", "django://default/x", "django://default?x=1"])
def test_an_unknown_alias_is_refused_with_those_there_are(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"DATABASES has .*default"):
        open_store(url)


@contextmanager
def changed(alias: str, **settings_of_it: Any) -> Iterator[None]:
    connections.settings[alias] = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:", **settings_of_it}
    connections.configure_settings(connections.settings)
    try:
        yield
    finally:
        forget_database(alias)


def test_another_vendor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with changed("oracle"):
        monkeypatch.setattr(type(connections["oracle"]), "vendor", "oracle")
        with pytest.raises(ConfigurationError, match="served are PostgreSQL, MySQL, MariaDB and SQLite"):
            open_store("django://oracle")


def test_an_alias_without_autocommit_is_refused() -> None:
    with changed("manual", AUTOCOMMIT=False), pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        open_store("django://manual")


def test_an_app_that_is_not_installed_is_named(file: str) -> None:
    without = [app for app in settings.INSTALLED_APPS if app != APP]
    with database("bare", file):
        store = open_store("django://bare")
        with override_settings(INSTALLED_APPS=without), pytest.raises(ConfigurationError, match="INSTALLED_APPS"):
            store.check()
        assert any("one machine" in warning for warning in store.check())


def test_a_store_knows_who_shares_it(file: str, mysql_url: str) -> None:
    add_database("shared", mysql_url)
    add_database("local", file)
    shared, local, memory = (open_store(f"django://{alias}") for alias in ("shared", "local", "default"))
    assert (shared.shared_between_hosts, local.shared_between_hosts) == (True, False)
    assert (local.shared_between_processes, memory.shared_between_processes) == (True, False)
    for alias in ("shared", "local"):
        forget_database(alias)


def test_missing_time_limits_are_warned_of(postgresql_url: str) -> None:
    with database("unlimited", postgresql_url):
        assert any("connect_timeout" in warning for warning in open_store("django://unlimited").check())


def test_values_that_the_server_binds_serve_too(postgresql_url: str) -> None:
    with database("binding", postgresql_url, OPTIONS={"server_side_binding": True}) as place:
        store = open_django(place, prefix=uuid.uuid4().hex, timeout=5)
        assert store.put(b"k", b"value", ttl=60_000_000, linger=1).applied
        assert (store.add(b"count", 2), store.add(b"count", 3)) == (2, 5)
        store.append([RunWrite("r", 1, events=[StoredEvent("u", 1, "name", None, b"\0")])])
        assert store.run("r") is not None
        assert [entry.key for entry in store.scan(b"")] == [b"count", b"k"]


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_nothing_imports_django_before_the_url_is_used() -> None:
    code = (
        "import sys, celery_stackstate; from celery_stackstate.stores import open_store; open_store('memory://x'); "
        "print({'django.db', 'celery_stackstate.stores.django'} & set(sys.modules))"  # kombu imports a part of Django
    )
    assert run_python(code) == "set()\n"


def test_without_django_the_extra_is_named() -> None:
    code = (
        "import importlib.util as u, celery_stackstate.stores as s; find = u.find_spec\n"
        "u.find_spec = lambda name, *more: None if name == 'django' else find(name, *more)\n"
        "try: s.open_store('django://default')\n"
        "except s.ConfigurationError as error: print(error)"
    )
    assert "pip install 'celery-stackstate[django]'" in run_python(code)


def test_without_settings_the_error_says_so() -> None:
    code = (
        "import celery_stackstate.stores as s\n"
        "try: s.open_store('django://default')\n"
        "except s.ConfigurationError as error: print(error)"
    )
    assert "DJANGO_SETTINGS_MODULE" in run_python(code)


# -- a Celery app ------------------------------------------------------------------------------------------------------


def test_state_of_an_app_joins_the_transaction_of_its_caller(file: str) -> None:
    with database("shop", file), override_settings(CELERY_STACKSTATE_URL="django://shop"):
        app = Celery(f"shop-{new_name()}", broker="memory://", set_as_current=False)
        app.config_from_object("django.conf:settings", namespace="CELERY")
        state = StackState(app).state
        state.set("outside", {"done": 1})
        with transaction.atomic(using="shop"):
            state.set("inside", [1, 2])
            state.increment("count")
        try:
            with transaction.atomic(using="shop"):
                state.set("outside", "lost")
                state.increment("count", 10)
                raise KeyError
        except KeyError:
            pass
        assert (state.get("outside"), state.get("inside"), state.count("count")) == ({"done": 1}, [1, 2], 1)
        StackState(app).close()
