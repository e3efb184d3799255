"""pytest-celery on local processes: `celery_setup`, `celery_worker` and their nodes without a container engine.

With STACKSTATE_TEST_CONTAINERS=1 pytest-celery's own fixtures, and so its containers, are used instead.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from pytest_celery import (
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
    RabbitMQTestBroker,
    RedisTestBackend,
    RedisTestBroker,
)

from tests.nodes import RabbitMQNames, RabbitMQProcess, RedisProcess, StartWorker, WorkerOptions, WorkerProcess, connect
from tests.services import RedisServer
from tests.waiting import log_tail

CONTAINERS = os.environ.get("STACKSTATE_TEST_CONTAINERS") == "1"
BROKERS = ("redis", "rabbitmq")
LOCAL_RABBITMQ = "amqp://guest:guest@127.0.0.1:5672//"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "worker(app, pool, concurrency, count, args, env, conf, broker): tests.nodes.WorkerOptions"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = [name for marker in metafunc.definition.iter_markers("parametrize") for name in marker.args[0]]
    if CONTAINERS or "celery_broker" not in metafunc.fixturenames or "celery_broker" in given:
        return
    broker = _options(metafunc.definition).broker
    metafunc.parametrize("celery_broker", [broker] if broker else BROKERS, indirect=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    workers = getattr(item, "funcargs", {}).get("celery_worker_cluster") or ()
    if report.failed and not CONTAINERS:
        report.sections += [(f"log of {worker.name()}", log_tail(worker, 60)) for worker in workers]
    return report


def _options(item: Any) -> WorkerOptions:
    """Merge the markers of module, class and function; the nearest wins."""
    given: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("worker"))):
        given.update(marker.kwargs)
    return WorkerOptions(**given)


@pytest.fixture
def worker_options(request: pytest.FixtureRequest) -> WorkerOptions:
    """What the test's `worker` markers ask for."""
    return _options(request.node)


@pytest.fixture
def store_server(redis_server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of the test's own that keeps what it has when it is stopped, for the keys, state and history."""
    folder = tmp_path / "store"
    folder.mkdir()
    server = RedisServer(redis_server_binary, folder, "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture
def worker_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL in STACKSTATE_TEST_STORE: SQLite unless a parameter names another; a module may override the fixture."""
    name = getattr(request, "param", "sqlite")
    if name == "sqlite":
        return f"sqlite:///{tmp_path}/stackstate.sqlite3"
    if name == "redis":
        redis_url: str = request.getfixturevalue("celery_backend").config()["host_url"]
        return redis_url
    url: str = request.getfixturevalue(f"{name}_url")
    # A server takes about a hundred connections, and tests that start twenty processes run beside others.
    return f"{url}{'&' if '?' in url else '?'}pool_size=3&max_overflow=0"


@pytest.fixture(scope="session")
def rabbitmq_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str | RabbitMQProcess]:
    """The RabbitMQ of the environment's URL, else the local one, else one that we start."""
    given = os.environ.get("STACKSTATE_TEST_RABBITMQ_URL")
    if given or _guest_is_let_in():
        yield given or LOCAL_RABBITMQ
        return
    server = RabbitMQProcess(tmp_path_factory.mktemp("rabbitmq"))
    server.start()
    try:
        server.ready()
        yield server
    finally:
        server.teardown()


def _guest_is_let_in() -> bool:
    connection = connect(LOCAL_RABBITMQ)
    refusals: tuple[type[Exception], ...] = (OSError, *connection.connection_errors, *connection.channel_errors)
    try:
        with connection:
            connection.connect()
    except refusals:
        return False
    return True


@pytest.fixture
def celery_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CeleryTestBroker]:
    """The broker: the test runs once for each, or for the one that its marker names."""
    container: RedisProcess | RabbitMQNames
    if request.param == "redis":
        container = RedisProcess(tmp_path)
        container.start()
        node = RedisTestBroker(container)
    else:
        server = request.getfixturevalue("rabbitmq_server")
        container = RabbitMQNames(server) if isinstance(server, str) else RabbitMQNames(server.url, server)
        node = RabbitMQTestBroker(container)
    try:
        node.ready()
        yield node
    finally:
        node.teardown()


@contextmanager
def _django_that_may_be_looked_at() -> Iterator[None]:
    """Let Django have settings: pytest-celery looks at every object there is, and those raise while there are none."""
    conf = sys.modules.get("django.conf")
    if conf is None or conf.settings.configured:
        yield
        return
    unset = conf.settings._wrapped
    conf.settings.configure()
    yield
    conf.settings._wrapped = unset


@pytest.fixture
def celery_backend(tmp_path: Path) -> Iterator[CeleryTestBackend]:
    """The result backend: a Redis of its own, so that either can be killed without the other."""
    node = RedisTestBackend(RedisProcess(tmp_path))
    node.container.start()
    try:
        node.ready()
        yield node
    finally:
        with _django_that_may_be_looked_at():
            node.teardown()


def environment_of(
    options: WorkerOptions, broker: CeleryTestBroker, backend: CeleryTestBackend, store: str
) -> Mapping[str, str]:
    """Return the environment of a worker and its producer; their app's module reads it."""
    conf = {
        "broker_connection_retry_on_startup": True,
        "stackstate_prefix": f"t{abs(hash(store + backend.config()['host_url'])):x}",  # databases are shared by tests
        **broker.container.settings,
        **options.conf,
    }
    return {
        "STACKSTATE_TEST_BROKER": broker.config()["host_url"],
        "STACKSTATE_TEST_BACKEND": backend.config()["host_url"],
        "STACKSTATE_TEST_STORE": store,
        "STACKSTATE_TEST_CONF": json.dumps(conf),
        **options.env,
    }


@pytest.fixture
def celery_setup_app(
    worker_options: WorkerOptions,
    celery_broker: CeleryTestBroker,
    celery_backend: CeleryTestBackend,
    worker_store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Celery]:
    """The worker's own app, imported afresh in the test's process with the worker's environment."""
    for name, value in environment_of(worker_options, celery_broker, celery_backend, worker_store).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delitem(sys.modules, worker_options.app, raising=False)
    monkeypatch.setattr("celery._state._tls.current_app", None)
    app: Celery = importlib.import_module(worker_options.app).app
    yield app
    if isinstance(celery_broker.container, RabbitMQNames):
        prefix = celery_broker.container.name
        celery_broker.container.queues.update(name for name in app.amqp.queues if name.startswith(prefix))
    app.close()
    sys.modules.pop(worker_options.app, None)


@pytest.fixture
def app(celery_setup_app: Celery) -> Celery:
    """The producer's app, which knows the worker's tasks."""
    return celery_setup_app


@pytest.fixture
def tasks(app: Celery, worker_options: WorkerOptions) -> ModuleType:
    """The module of the producer's app: `tasks.add.delay(1, 2)`."""
    return sys.modules[worker_options.app]


@pytest.fixture
def start_worker(
    worker_options: WorkerOptions,
    celery_setup_app: Celery,
    celery_broker: CeleryTestBroker,
    celery_backend: CeleryTestBackend,
    worker_store: str,
    tmp_path: Path,
) -> Iterator[StartWorker]:
    """Start workers by call, all of which end with the test."""
    nodes: list[CeleryTestWorker] = []

    def start(*, wait: bool = True, **overrides: Any) -> CeleryTestWorker:
        options = replace(worker_options, **overrides)
        environment = environment_of(options, celery_broker, celery_backend, worker_store)
        queue = celery_setup_app.conf.task_default_queue
        node = CeleryTestWorker(WorkerProcess(options, queue, tmp_path, environment), celery_setup_app)
        nodes.append(node)
        node.container.start()
        if wait:
            node.ready()
        return node

    yield start
    for node in nodes:
        node.teardown()


@pytest.fixture
def celery_worker_cluster(start_worker: StartWorker, worker_options: WorkerOptions) -> CeleryWorkerCluster:
    """As many workers as the marker's `count` says, started side by side."""
    cluster = CeleryWorkerCluster(*[start_worker(wait=False) for _ in range(worker_options.count)])
    cluster.ready()
    return cluster


@pytest.fixture
def celery_worker(celery_worker_cluster: CeleryWorkerCluster) -> CeleryTestWorker:
    """The first worker."""
    return celery_worker_cluster[0]


if CONTAINERS:
    del celery_broker, celery_backend, celery_worker_cluster, celery_worker, celery_setup_app
