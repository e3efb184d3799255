"""An outage makes no storm: calls end in time, nobody asks again and again, and all goes on without a restart."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from celery_stackstate.stores.redis import RedisStore
from tests.services import HOST, RedisServer
from tests.waiting import Stopwatch

#: Forms of a URL that names one server which is not what it should be.
FORMS = ["redis://{}", "redis+cluster://{}", "sentinel://{}/m"]


class Slammer:
    """Accepts connections and closes them at once; counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._listener = socket.create_server((HOST, 0), backlog=128)
        self.address = f"{HOST}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return
            self.count += 1


@pytest.fixture
def slammer() -> Iterator[Slammer]:
    slammer = Slammer()
    yield slammer
    slammer.close()


@pytest.fixture
def server(redis_server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(redis_server_binary, tmp_path, "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


def outcomes(call: Callable[[], object], threads: int) -> list[tuple[object, float]]:
    """Return what `call` raised in each of so many threads at once, and how long it took."""
    found: list[tuple[object, float]] = []

    def work() -> None:
        watch, raised = Stopwatch(), None
        try:
            call()
        except Exception as error:
            raised = error
        found.append((raised, watch.seconds))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


def test_threads_that_meet_a_silent_server_each_end_in_time_and_go_on(server: RedisServer) -> None:
    # Given a store with connections, and more threads than it may open
    store = open_store(f"{server.url}?max_connections=8", timeout=1)
    assert [error for error, _ in outcomes(lambda: store.add(b"c", 1), 20)] == [None] * 20
    # When the server accepts and never answers
    server.pause()
    try:
        for call in (lambda: store.add(b"c", 1), lambda: store.get(b"c"), store.check):
            found = outcomes(call, 20)
            # Then each call ends in time
            assert {type(error) for error, _ in found} == {StoreUnavailable}
            assert max(seconds for _, seconds in found) < 1.25
    finally:
        server.resume()
    # And the next one works; what was sent may have been applied, once
    assert 20 <= store.add(b"c", 0) <= 40
    store.close()


def test_after_a_request_that_nobody_answered_no_idle_connection_is_trusted(server: RedisServer) -> None:
    store, together = open_store(server.url, timeout=0.5), threading.Barrier(4)
    assert isinstance(store, RedisStore)

    def add_slowly() -> None:
        together.wait(5)
        store.add(b"c", 1)

    assert [error for error, _ in outcomes(add_slowly, 4)] == [None] * 4
    pool = store._client._mine()
    assert sum(map(len, pool.idle.values())) > 1
    server.pause()
    try:
        with pytest.raises(StoreUnavailable):
            store.add(b"c", 1)
    finally:
        server.resume()
    assert sum(map(len, pool.idle.values())) == 0
    assert store.add(b"c", 1) in (5, 6)
    store.close()


@pytest.mark.parametrize("form", FORMS)
def test_a_place_that_never_answers_takes_no_longer_than_the_timeout(form: str) -> None:
    with socket.create_server((HOST, 0), backlog=128) as silent:
        store = open_store(form.format(f"{HOST}:{silent.getsockname()[1]}"), timeout=0.6)
        for _ in range(2):
            found = outcomes(lambda: store.add(b"c", 1), 16)
            assert {type(error) for error, _ in found} == {StoreUnavailable}
            assert {error.maybe_applied for error, _ in found} == {False}  # type: ignore[attr-defined]
            assert max(seconds for _, seconds in found) < 0.8


@pytest.mark.parametrize("form", FORMS[1:])
def test_many_threads_search_as_often_as_one(form: str, slammer: Slammer) -> None:
    # Given 16 threads that call again as soon as a call has failed
    store = open_store(form.format(slammer.address), timeout=1)
    until = time.monotonic() + 2

    def insist() -> None:
        while time.monotonic() < until:
            assert is_down(store)
            time.sleep(0.001)

    assert [error for error, _ in outcomes(insist, 16)] == [None] * 16
    # Then there was a pause of 50 to 250 ms between searches
    assert 5 < slammer.count < 60


def test_a_single_server_is_tried_once_for_each_call(slammer: Slammer) -> None:
    store = open_store(f"redis://{slammer.address}", timeout=1)
    for _ in range(10):
        assert is_down(store)
    time.sleep(0.1)
    assert slammer.count == 10


def is_down(store: Store) -> bool:
    try:
        store.add(b"c", 1)
    except StoreUnavailable as error:
        return error.maybe_applied is False
    return False
