"""Django in the processes of these tests: settings that name any database at run time, and how stores are opened."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import django
import pytest
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store

APP = "celery_stackstate.stores.django"
ENGINES = {"sqlite": "sqlite3", "postgresql": "postgresql", "mysql": "mysql"}


def configure(**given: Any) -> None:
    """Configure Django, unless another test module has."""
    if not settings.configured:
        default = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
        settings.configure(**{"DATABASES": default, "INSTALLED_APPS": [APP], "USE_TZ": True, **given})
        django.setup()


def use_pymysql() -> None:
    """Let PyMySQL stand in for mysqlclient, of which Django wants a version."""
    import pymysql

    if "MySQLdb" not in sys.modules:
        pymysql.version_info = (2, 2, 8, "final", 0)
        pymysql.install_as_MySQLdb()


def add_database(alias: str, url: str, **settings_of_it: Any) -> None:
    """Add to DATABASES, under `alias`, the database of a URL such as `sqlite:///file` or `mysql://root@host/name`."""
    if alias in connections.settings:
        return
    parts = urlsplit(url)
    if parts.scheme == "mysql":
        use_pymysql()
    name = url.partition(":///")[2] if parts.scheme == "sqlite" else parts.path[1:]
    connections.settings[alias] = {
        "ENGINE": f"django.db.backends.{ENGINES[parts.scheme]}",
        "NAME": name,
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": parts.port or "",
        **settings_of_it,
    }
    connections.configure_settings(connections.settings)


def open_django(url: str, *, prefix: str, timeout: float) -> Store:
    """Open the store of `alias|URL of its database`, in any process."""
    alias, _, database = url.partition("|")
    configure()
    add_database(alias, database)
    return open_store(f"django://{alias}", prefix=prefix, timeout=timeout)


def migrate(alias: str, target: str | None = None) -> None:
    """Migrate our app in one database."""
    call_command("migrate", "celery_stackstate", *([target] if target else []), database=alias, verbosity=0)


@contextmanager
def database(alias: str, url: str, **settings_of_it: Any) -> Iterator[str]:
    """Give the name of a database with our tables, as `open_django` takes it."""
    add_database(alias, url, **settings_of_it)
    migrate(alias)
    try:
        yield f"{alias}|{url}"
    finally:
        forget_database(alias)


def forget_database(alias: str) -> None:
    """Take a database out of DATABASES again."""
    connections[alias].close()
    del connections[alias]
    del connections.settings[alias]


@pytest.fixture(scope="module", autouse=True)
def installed_app() -> Iterator[None]:
    """Our app beside those of the other tests that use Django in this process."""
    apps = settings.INSTALLED_APPS
    with override_settings(INSTALLED_APPS=apps if APP in apps else [*apps, APP]):
        yield
