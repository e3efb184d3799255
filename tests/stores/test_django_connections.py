"""Django's connections under this store: threads, forks, dead servers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("django")

from django.db import Error, close_old_connections, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from sqlalchemy import make_url

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.stores.base import Guard, RunWrite
from celery_stackstate.stores.django.store import DjangoStore
from tests.admin.settings import SETTINGS
from tests.databases import SilentProxy, ask, mysql, postgresql, text_of
from tests.services import free_port
from tests.stores.django_databases import configure, database, forget_database, installed_app, open_django  # noqa: F401
from tests.waiting import wait_for

configure(**SETTINGS)


@pytest.fixture(scope="module", params=["sqlite", "sqlite-wal", "postgresql", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param.startswith("sqlite"):
        url = f"sqlite:///{tmp_path_factory.mktemp('django') / 'db.sqlite3'}"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    wal = {"OPTIONS": {"init_command": "PRAGMA journal_mode = WAL"}} if request.param == "sqlite-wal" else {}
    with database(f"connections_{request.param}", url, **wal) as found:
        yield found


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def server_place(request: pytest.FixtureRequest) -> Iterator[str]:
    with database(f"server_{request.param}", request.getfixturevalue(f"{request.param}_url")) as found:
        yield found


def opened(place: str, timeout: float = 5) -> DjangoStore:
    store = open_django(place, prefix=uuid.uuid4().hex, timeout=timeout)
    assert isinstance(store, DjangoStore)
    return store


@pytest.fixture
def store(place: str) -> Iterator[DjangoStore]:
    store = opened(place)
    yield store
    store.close()


@pytest.fixture
def server_store(server_place: str) -> Iterator[DjangoStore]:
    store = opened(server_place)
    yield store
    store.close()


def admin_of(place: str) -> Any:
    url = place.partition("|")[2]
    return (postgresql if url.startswith("postgresql") else mysql)(url)


SESSION = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
SESSIONS = {
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()",
    "mysql": "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()",
}
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


def session_of(connection: BaseDatabaseWrapper) -> int:
    with connection.cursor() as cursor:
        cursor.execute(SESSION[connection.vendor])
        number: int = cursor.fetchone()[0]
        return number


def kill_session(place: str, connection: BaseDatabaseWrapper) -> None:
    number = session_of(connection)
    admin = admin_of(place)
    ask(admin, KILL[connection.vendor].format(number))
    admin.close()
    time.sleep(0.1)


def in_thread(name: str, work: Callable[[], Any]) -> Any:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()), name=name)
    thread.start()
    thread.join(30)
    return done[0]


# -- threads -----------------------------------------------------------------------------------------------------------


def test_a_call_in_a_thread_of_ours_leaves_no_connection_open(store: DjangoStore) -> None:
    def is_open_after_a_call() -> bool:
        store.append([RunWrite("r", 1)])
        store.run("r")
        return connections[store.alias].connection is not None

    assert in_thread("stackstate-recorder", is_open_after_a_call) is False


def test_a_call_in_a_thread_of_the_user_leaves_the_connection_open(store: DjangoStore) -> None:
    def is_open_after_a_call() -> bool:
        store.put(b"k", b"")
        found = connections[store.alias].connection is not None
        connections.close_all()
        return found

    assert in_thread("user", is_open_after_a_call) is True


def test_max_age_counts_in_threads_of_ours(server_place: str) -> None:
    store = opened(server_place)
    connections.settings[store.alias]["CONN_MAX_AGE"] = 60

    def sessions() -> list[int]:
        found = []
        for _ in range(2):
            store.add(b"c", 1)
            found.append(session_of(connections[store.alias]))
        connections.close_all()
        return found

    try:
        assert len(set(in_thread("stackstate-recorder", sessions))) == 1
    finally:
        connections.settings[store.alias]["CONN_MAX_AGE"] = 0


def test_threads_that_ended_leave_no_sessions(server_store: DjangoStore, server_place: str) -> None:
    for _ in range(5):
        threads = [threading.Thread(target=server_store.add, args=(b"c", 1)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server_store.add(b"c", 0) == 40
    gc.collect()
    admin = admin_of(server_place)
    vendor = connections[server_store.alias].vendor
    wait_for(lambda: ask(admin, SESSIONS[vendor])[0][0] <= 2, message="the sessions of ended threads")
    admin.close()


# -- dead connections --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["get", "put", "add"])
def test_a_connection_that_died_idle_is_replaced_unnoticed(
    server_store: DjangoStore, server_place: str, call: str
) -> None:
    server_store.add(b"count", 1)
    kill_session(server_place, connections[server_store.alias])
    if call == "get":
        assert server_store.get(b"count") is not None
    elif call == "put":
        assert server_store.put(b"k", b"").applied
    assert server_store.add(b"count", 1) == 2


def test_a_connection_that_dies_inside_a_block_takes_the_block_along(
    server_store: DjangoStore, server_place: str
) -> None:
    server_store.add(b"count", 1)
    # At its end Django cannot commit, and says so in its own words.
    with suppress(Error), transaction.atomic(using=server_store.alias):
        server_store.add(b"count", 10)
        kill_session(server_place, connections[server_store.alias])
        with pytest.raises(StoreUnavailable) as caught:
            server_store.add(b"count", 100)
        assert caught.value.maybe_applied is False
        with pytest.raises(StoreUnavailable):
            server_store.get(b"count")
    close_old_connections()  # as at the end of a request and of a task
    assert server_store.add(b"count", 1) == 2


@pytest.fixture
def proxied(server_place: str) -> Iterator[tuple[SilentProxy, DjangoStore]]:
    """A store behind a proxy, in the same database."""
    url = make_url(server_place.partition("|")[2])
    proxy = SilentProxy(url.host or "", url.port or {"postgresql": 5432}.get(url.drivername, 3306))
    through = text_of(url.set(port=proxy.port))
    options = {"connect_timeout": 2} if url.drivername == "postgresql" else {"connect_timeout": 2, "read_timeout": 2}
    with database("proxied", through, OPTIONS=options) as place:
        yield proxy, opened(place)
    proxy.close()


def lose(proxy: SilentProxy, word: bytes) -> None:
    """Lose the answer to what is sent with `word`, and the connection."""
    proxy.hang_up, proxy.after = True, word


def guard_of(store: DjangoStore) -> Guard:
    """Return a guard that holds. A write with a guard takes several messages everywhere."""
    entry = store.put(b"guard", b"").entry
    assert entry is not None
    return Guard(entry.key, entry.version)


def test_a_lost_answer_to_the_commit_may_have_been_applied(proxied: tuple[SilentProxy, DjangoStore]) -> None:
    proxy, store = proxied
    guard = guard_of(store)
    # As a message of its own: BEGIN ... READ COMMITTED holds the word too.
    lose(proxy, {"postgresql": b"\x0bCOMMIT", "mysql": b"\x03COMMIT"}[connections[store.alias].vendor])
    with pytest.raises(StoreUnavailable) as caught:
        store.put(b"k", b"", guard=guard)
    assert caught.value.maybe_applied is True
    assert store.get(b"k") is not None


def test_a_lost_answer_before_the_commit_changed_nothing(proxied: tuple[SilentProxy, DjangoStore]) -> None:
    proxy, store = proxied
    guard = guard_of(store)
    lose(proxy, b"FOR UPDATE")
    with pytest.raises(StoreUnavailable) as caught:
        store.put(b"k", b"", guard=guard)
    assert caught.value.maybe_applied is False
    assert store.get(b"k") is None


def test_a_lost_answer_to_a_whole_transaction_may_have_been_applied(proxied: tuple[SilentProxy, DjangoStore]) -> None:
    proxy, store = proxied
    store.add(b"count", 1)
    lose(proxy, b"COMMIT")
    if connections[store.alias].vendor == "mysql":
        proxy.after = b"\x03COMMIT"
    with pytest.raises(StoreUnavailable) as caught:
        store.add(b"count", 1)
    assert caught.value.maybe_applied is True
    assert store.add(b"count", 1) == 3


def test_writes_of_a_session_that_died_idle_are_done_once(server_store: DjangoStore, server_place: str) -> None:
    for number in range(1, 6):
        kill_session(server_place, connections[server_store.alias])
        assert server_store.add(b"count", 1) == number


def test_after_an_outage_the_next_call_works(server_store: DjangoStore, server_place: str) -> None:
    server_store.add(b"count", 1)
    connection = connections[server_store.alias]
    kill_session(server_place, connection)
    port = connection.settings_dict["PORT"]
    connection.settings_dict["PORT"] = free_port()
    try:
        for call in (lambda: server_store.get(b"count"), lambda: server_store.add(b"count", 1), server_store.check):
            with pytest.raises(StoreUnavailable) as caught:
                call()
            assert caught.value.maybe_applied is False
    finally:
        connection.settings_dict["PORT"] = port
    assert server_store.add(b"count", 1) == 2


# -- forks -------------------------------------------------------------------------------------------------------------


def fork(work: Callable[[], int], *, exits_normally: bool) -> int | None:
    """Do `work` in a forked child and return its exit code."""

    def child() -> None:
        code = work()
        if not exits_normally:
            os._exit(code)
        raise SystemExit(code)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(30)
    return process.exitcode


@pytest.mark.parametrize("exits_normally", [True, False])
def test_a_child_has_a_session_of_its_own_and_leaves_the_parents_alone(
    server_store: DjangoStore, exits_normally: bool
) -> None:
    server_store.add(b"count", 1)
    connection = connections[server_store.alias]
    before = session_of(connection)

    def work() -> int:
        server_store.add(b"count", 1)
        mine = session_of(connections[server_store.alias])
        server_store.close()
        gc.collect()
        return int(mine == before)

    assert fork(work, exits_normally=exits_normally) == 0
    assert server_store.add(b"count", 1) == 3
    assert session_of(connection) == before


def test_celerys_fixup_in_the_child_leaves_the_parents_session_alone(server_store: DjangoStore) -> None:
    from celery import Celery
    from celery.fixups.django import DjangoWorkerFixup

    server_store.add(b"count", 1)
    connection = connections[server_store.alias]
    before = session_of(connection)

    def work() -> int:
        DjangoWorkerFixup(Celery(set_as_current=False)).on_worker_process_init()
        return int(server_store.add(b"count", 1) != 2)

    assert fork(work, exits_normally=False) == 0
    assert session_of(connection) == before


def test_a_child_forked_inside_a_block_cannot_write_for_its_parent(store: DjangoStore) -> None:
    def work() -> int:
        try:
            store.add(b"count", 10)
        except StoreUnavailable:
            return 0
        return 1

    with transaction.atomic(using=store.alias):
        store.add(b"count", 1)
        assert fork(work, exits_normally=False) == 0
        store.add(b"count", 1)
    assert store.add(b"count", 0) == 2


def test_a_fork_waits_for_the_call_of_a_thread_of_ours(store: DjangoStore) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def call() -> None:
        with store._writing() as execute:
            execute("DELETE FROM stackstate_entry WHERE 1 = 0", ())
            inside.set()
            go_on.wait(20)

    thread = threading.Thread(target=call, name="stackstate-recorder")
    thread.start()
    inside.wait(20)
    threading.Timer(0.3, go_on.set).start()
    started = time.monotonic()
    assert fork(lambda: int(store.add(b"count", 1) != 1), exits_normally=False) == 0
    assert time.monotonic() - started > 0.25
    thread.join()
    assert store.add(b"count", 1) == 2


def test_no_sqlite_file_is_open_in_a_child(store: DjangoStore) -> None:
    connection = connections[store.alias]
    if connection.vendor != "sqlite":
        pytest.skip("only a file has locks in the memory of a process")
    store.add(b"count", 1)
    name = os.path.realpath(connection.settings_dict["NAME"])

    def descriptors() -> int:
        return sum(os.path.realpath(f"/proc/self/fd/{fd}").startswith(name) for fd in os.listdir("/proc/self/fd"))

    assert descriptors() > 0
    assert fork(descriptors, exits_normally=False) == 0
    assert store.add(b"count", 1) == 2
