"""The extension under test over one store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.admin.conftest import forget
from tests.stores.django_databases import database

KINDS = ("memory", "sqlite", "redis", "django")


@pytest.fixture(scope="module")
def django_store_url(tmp_path_factory: pytest.TempPathFactory, installed_app: None) -> Iterator[str]:
    """The URL of a store in a database of Django's, with our tables."""
    folder = tmp_path_factory.mktemp("django")
    with database(f"admin_{folder.name}", f"sqlite:///{folder / 'db.sqlite3'}") as place:
        yield f"django://{place.partition('|')[0]}"


@pytest.fixture(params=KINDS)
def any_store(request: pytest.FixtureRequest, shop: Any, tmp_path: Path) -> Iterator[Any]:
    """The extension over an empty store of each kind."""
    urls = {"memory": "memory://any-store", "sqlite": f"sqlite:///{tmp_path}/state.sqlite3"}
    names = {"redis": "redis_url", "django": "django_store_url"}
    url = urls.get(request.param) or request.getfixturevalue(names[request.param])
    with over(shop, url):
        yield shop


class over:
    """Let the extension of these tests use another store, inside of the block."""

    def __init__(self, shop: Any, url: str, prefix: str | None = None) -> None:
        self._shop, self._url, self._prefix = shop, url, prefix or f"admin-{uuid4().hex}"

    def __enter__(self) -> Any:
        conf = self._shop.app.conf
        self._before = (conf.stackstate_url, conf.stackstate_prefix)
        conf.stackstate_url, conf.stackstate_prefix = self._url, self._prefix
        forget(self._shop)
        return self._shop

    def __exit__(self, *_: object) -> None:
        self._shop.close()
        conf = self._shop.app.conf
        conf.stackstate_url, conf.stackstate_prefix = self._before
        forget(self._shop)
