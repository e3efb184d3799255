"""The contract over Django's connection to each database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("django")

from celery_stackstate.testing import StoreContract
from tests.admin.settings import SETTINGS
from tests.stores.django_databases import configure, database, installed_app, open_django  # noqa: F401

configure(**SETTINGS)


@pytest.fixture(scope="module")
def sqlite_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("django")
    # Where tests are moved between workers there may be a second file; the kept processes know the first by its alias.
    with database(f"contract_{folder.name}", f"sqlite:///{folder / 'db.sqlite3'}") as place:
        yield place


@pytest.fixture(scope="module")
def postgresql_place(postgresql_url: str) -> Iterator[str]:
    with database("contract_postgresql", postgresql_url) as place:
        yield place


@pytest.fixture(scope="module")
def mysql_place(mysql_url: str) -> Iterator[str]:
    with database("contract_mysql", mysql_url) as place:
        yield place


class TestDjangoSQLite(StoreContract):
    opener = staticmethod(open_django)

    @pytest.fixture
    def store_url(self, sqlite_place: str) -> str:
        return sqlite_place


class TestDjangoPostgreSQL(StoreContract):
    opener = staticmethod(open_django)

    @pytest.fixture
    def store_url(self, postgresql_place: str) -> str:
        return postgresql_place


class TestDjangoMySQL(StoreContract):
    opener = staticmethod(open_django)

    @pytest.fixture
    def store_url(self, mysql_place: str) -> str:
        return mysql_place
