"""What each path asks of the server: commands of Redis, those inside of scripts included, and statements of SQL.

The numbers are what they are: a change that makes one larger makes that path dearer, whatever a clock says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_stackstate import StackState
from tests.budgets.apps import an_app
from tests.budgets.counting import Trips, counted
from tests.services import RedisServer
from tests.waiting import wait_for

Cost = Callable[[str], int]

#: Commands of Redis, and statements of PostgreSQL.
COSTS = {
    "get": (2, 1),
    "get_many": (3, 1),
    "set": (3, 4),
    "set, ttl": (5, 4),
    "entry, set, if_version": (5, 3),
    "add": (2, 5),
    "update": (5, 3),
    "pop": (4, 4),
    "touch": (7, 3),
    "delete": (4, 4),
    "increment": (5, 4),
    "count": (2, 1),
    "throttle, unused": (6, 5),
    "throttle": (7, 7),
    "keys": (4, 1),
    "lock": (13, 9),
    "lock, fenced set": (17, 16),
    "publish": (13, 2),
    "publish, key": (5, 5),
    "duplicate": (2, 5),
    "attempt": (10, 3),
    "attempt, 50 lines": (10, 3),
    "attempt, key": (26, 8),
}
STATE: dict[str, Callable[[Any], object]] = {
    "get": lambda state: state.get("a"),
    "get_many": lambda state: state.get_many(["a", "b"]),
    "set": lambda state: state.set("a", 1),
    "set, ttl": lambda state: state.set("a", 1, ttl=60),
    "entry, set, if_version": lambda state: state.set("a", 1, if_version=state.entry("a").version),
    "add": lambda state: state.add("a", 1),
    "update": lambda state: state.update("a", lambda value: value),
    "pop": lambda state: state.pop("a"),
    "touch": lambda state: state.touch("a", ttl=60),
    "delete": lambda state: state.delete("a"),
    "increment": lambda state: state.increment("n"),
    "count": lambda state: state.count("n"),
    "throttle, unused": lambda state: state.throttle(f"p{time.monotonic_ns()}", limit=1000, per=3600),
    "throttle": lambda state: state.throttle("p", limit=1000, per=3600, burst=99),
    "keys": lambda state: list(state.keys("a")),
}


@pytest.fixture(scope="module")
def own_redis(redis_server_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis that counts for nobody else."""
    server = RedisServer(redis_server_binary, tmp_path_factory.mktemp("counting"), "--save", "", "--appendonly", "no")
    server.start()
    yield server.url
    server.stop()


@pytest.fixture(params=["redis", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue("own_redis" if request.param == "redis" else "postgresql_url")
    return found


@pytest.fixture
def app(url: str) -> Iterator[Celery]:
    with an_app(url) as app:
        yield app


@pytest.fixture
def trips(app: Celery, url: str) -> Iterator[Trips]:
    extension = StackState.of(app)
    extension.store.get(b"warm")
    app.tasks["nothing"].apply_async(idempotency_key="warm")
    extension.recorder.flush()
    with counted(extension.store, url) as trips:
        yield trips


@pytest.fixture
def cost(url: str) -> Cost:
    """Return what a path is to cost on this store."""
    return lambda path: COSTS[path][0 if url.startswith("redis") else 1]


@pytest.mark.parametrize("name", STATE)
def test_a_state_call(app: Celery, trips: Trips, cost: Cost, name: str) -> None:
    state = StackState.of(app).state
    state.set("a", 0)
    STATE[name](state)  # a server that was just started has yet to get the script
    state.set("a", 0)
    trips.clear()
    STATE[name](state)
    assert trips.commands_here == cost(name)


@pytest.mark.parametrize(("path", "fenced"), [("lock", False), ("lock, fenced set", True)])
def test_a_lock(app: Celery, trips: Trips, cost: Cost, path: str, fenced: bool) -> None:
    state = StackState.of(app).state

    def held() -> None:
        with state.lock("l", ttl=60) as lock:
            if fenced:
                state.set("a", 1, fence=lock)

    held()
    trips.clear()
    held()
    assert trips.commands_here == cost(path)


def test_a_publish(app: Celery, trips: Trips, cost: Cost) -> None:
    task, flush = app.tasks["nothing"], StackState.of(app).recorder.flush
    task.delay()
    assert trips.commands_here == cost("publish")
    trips.clear()
    task.apply_async(idempotency_key="k")
    assert trips.commands_here == cost("publish, key")
    flush()
    trips.clear()
    task.apply_async(idempotency_key="k")
    assert trips.commands_here == cost("duplicate")


def test_an_attempt(app: Celery, trips: Trips, cost: Cost) -> None:
    runs = StackState.of(app).runs

    def worked(name: str, *args: Any, **options: Any) -> int:
        trips.clear()
        result = app.tasks[name].apply_async(args, **options)

        def ended() -> bool:
            run = runs.get(result.id)
            return run is not None and run.status == "SUCCESS"

        wait_for(ended, message="the end of the run")
        wait_for(lambda: trips.elsewhere, message="what the worker has asked")
        return trips.commands_elsewhere

    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):
        worked("nothing", idempotency_key="what a process does once")
        assert worked("nothing") == cost("attempt")
        assert worked("chatter", 50) == cost("attempt, 50 lines")
        assert worked("nothing", idempotency_key="k") == cost("attempt, key")
