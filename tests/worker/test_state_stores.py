"""self.state in real workers over the stores that processes share: forks, pools, and servers that go away."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState, StoreUnavailable
from celery_stackstate.state import State
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import notes, run_of, wait_for_note

pytestmark = pytest.mark.worker(app="tests.worker.app_state", broker="redis")

SHARED = pytest.mark.parametrize("worker_store", ["sqlite", "redis", "postgresql", "mysql"], indirect=True)
SHORT = {"stackstate_store_timeout": 2}


@pytest.fixture
def worker_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store that processes share; the databases of servers are shared by the tests of a session."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/stackstate.sqlite3"
    if request.param == "own":
        server: RedisServer = request.getfixturevalue("own_server")
        return server.url
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def own_server(redis_server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop, with the persistence that the README asks for."""
    folder = tmp_path / "store"
    folder.mkdir()
    server = RedisServer(redis_server_binary, folder, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def state(app: Celery, request: pytest.FixtureRequest) -> State:
    """The state as the test sees it, empty."""
    state = StackState.of(app).state
    state.clear()
    return state


@SHARED
@pytest.mark.worker(concurrency=4, env={"STACKSTATE_TEST_USE_AT_IMPORT": "1"})
def test_state_used_in_the_parent_before_the_fork_works_in_every_child(
    state: State, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    results = [tasks.count.delay(500) for _ in range(4)]
    assert max(result.get(timeout=60) for result in results) == state.count("count") == 2_000
    assert "Traceback" not in celery_worker.logs()


@SHARED
@pytest.mark.parametrize(
    "pool",
    [
        pytest.param(p, marks=pytest.mark.worker(pool=p, concurrency=8))
        for p in ("prefork", "gevent", "eventlet", "threads")
    ],
)
def test_every_kind_of_call_works_in_every_pool(
    state: State, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str
) -> None:
    results = [tasks.exchange.delay(number, 10) for number in range(8)]
    assert [result.get(timeout=60) for result in results] == [10] * 8
    assert state.get("sum") == 80
    assert state.lock_info("exchange") is None
    for result in results:
        run_of(app, result.id, status="SUCCESS")
    assert "Traceback" not in celery_worker.logs()


@pytest.mark.parametrize("worker_store", ["own"], indirect=True)
@pytest.mark.worker(conf=SHORT)
def test_an_outage_costs_a_task_one_bounded_wait_and_the_next_task_works_without_a_restart(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, own_server: RedisServer
) -> None:
    assert tasks.count.delay(1).get(timeout=10) == 1
    own_server.stop()
    watch = Stopwatch()
    with pytest.raises(StoreUnavailable):
        tasks.count.delay(1).get(timeout=10)
    assert watch.seconds < 2 * 2 + 2  # the call, the history's one wait, and the worker's way
    own_server.start()
    assert tasks.count.delay(1).get(timeout=10) == 2


@pytest.mark.parametrize("worker_store", ["own"], indirect=True)
@pytest.mark.worker(concurrency=4, conf=SHORT)
def test_a_store_that_stands_still_ends_every_call_in_time_and_goes_on_where_it_was(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, own_server: RedisServer
) -> None:
    assert tasks.count.delay(1).get(timeout=10) == 1
    own_server.pause()
    watch = Stopwatch()
    results = [tasks.count.delay(1) for _ in range(4)]
    for result in results:
        with pytest.raises(StoreUnavailable):
            result.get(timeout=20)
    assert watch.seconds < 2 * 2 + 3
    own_server.resume()
    assert 2 <= tasks.count.delay(1).get(timeout=10) <= 6  # each of the four may have been applied


@pytest.mark.parametrize("worker_store", ["own"], indirect=True)
@pytest.mark.worker(conf=SHORT)
def test_after_sigkill_of_workers_and_store_values_of_a_second_ago_are_back_and_locks_free_after_their_ttl(
    celery_worker: CeleryTestWorker,
    app: Celery,
    tasks: ModuleType,
    own_server: RedisServer,
    start_worker: StartWorker,
) -> None:
    state = StackState.of(app).state
    assert tasks.count.delay(20).get(timeout=10) == 20
    tasks.hold.delay("l", 60.0)
    held = wait_for_note(app, "hold")
    time.sleep(1.2)
    celery_worker.kill("SIGKILL")
    own_server.stop(signal.SIGKILL)
    own_server.start()
    assert state.count("count") == 20
    start_worker()
    assert tasks.hold.apply_async(("l", 0.0), {"wait": 8}).get(timeout=20) == "held"
    assert notes(app, "hold")[-1]["fence"] > held["fence"]
    wait_for(lambda: state.lock_info("l") is None, message="the lock to be free")
