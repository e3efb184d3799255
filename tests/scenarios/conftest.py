"""Every store there is, for the scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from celery_stackstate.renewal import renewer
from celery_stackstate.state import State
from tests.admin.settings import SETTINGS
from tests.scenarios.places import Place
from tests.stores.django_databases import configure, database, installed_app, open_django  # noqa: F401

#: The fixture of each server, which is its URL or has it.
SERVERS = {
    "redis": "redis_url",
    "redis-cluster": "redis_cluster",
    "redis-sentinel": "redis_sentinels",
    "postgresql": "postgresql_url",
    "mysql": "mysql_url",
}
DJANGO = {"django-sqlite": None, "django-postgresql": "postgresql_url", "django-mysql": "mysql_url"}
SHARED = ("sqlite", *SERVERS, *DJANGO)

configure(**SETTINGS)


@pytest.fixture(scope="module")
def django_places(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What `open_django` takes for a database of each vendor, migrated; a vendor is looked for when it is asked for."""
    with ExitStack() as databases:
        yield _DjangoPlaces(request, tmp_path_factory.mktemp("django"), databases)


class _DjangoPlaces(dict[str, str]):
    def __init__(self, request: pytest.FixtureRequest, folder: Path, databases: ExitStack) -> None:
        super().__init__()
        self._request, self._folder, self._databases = request, folder, databases

    def __missing__(self, name: str) -> str:
        fixture = DJANGO[name]
        url = f"sqlite:///{self._folder}/db.sqlite3" if fixture is None else self._request.getfixturevalue(fixture)
        self[name] = self._databases.enter_context(database(name.replace("-", "_"), url))
        return self[name]


def place_of(name: str, request: pytest.FixtureRequest, folder: Path) -> Place:
    """Return a place of its own in the store `name`."""
    if name == "memory":
        return Place(f"memory://{uuid4().hex}", "p")
    if name == "sqlite":
        return Place(f"sqlite:///{folder}/state.sqlite3", "p")
    prefix = f"scenario-{uuid4().hex[:12]}"
    if name in DJANGO:
        return Place(request.getfixturevalue("django_places")[name], prefix, open_django)
    url = request.getfixturevalue(SERVERS[name])
    return Place(getattr(url, "url", url), prefix)


@pytest.fixture(params=["memory", *SHARED])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place in each store."""
    place = place_of(request.param, request, tmp_path)
    yield place
    renewer.forget_all()
    place.store.close()


@pytest.fixture(params=SHARED)
def shared_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place in each store that processes share."""
    place = place_of(request.param, request, tmp_path)
    yield place
    renewer.forget_all()
    place.store.close()


@pytest.fixture
def state(place: Place) -> State:
    """The state as one execution of a run sees it."""
    return place.state("run-1")
