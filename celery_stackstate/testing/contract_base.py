"""How the contract tests open a store: often, in this process and in others."""

from __future__ import annotations

import multiprocessing
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest

from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store

Open = Callable[..., Store]

#: A life long enough to be seen, short enough to be waited for: 60 ms.
SHORT = 60_000
#: Long enough that a test never sees its end.
LONG = 600_000_000

HOSTILE_TEXT = (
    "",
    " ",
    "'; DROP TABLE stackstate_run; --",
    'a"b\\c`d',
    "{}:{stackstate:x}",
    "*?[a-z]%_",
    "line\nbreak\r\ttab",
    "\u00e9\u00c9\u0130\u00df \u4e2d\u6587 \U0001f600",
    "+",
    "-",
    "abc ",
    "x" * 255,
    "\U0001f600" * 255,
)
HOSTILE_KEYS = (
    b"\x00",
    b"\x00\x00",
    b"\xff",
    b"\xff\xff\xff",
    b"a",
    b"a%",
    b"a_",
    b"a\x00b",
    b"a\xff",
    b"a\xff\xff",
    b"Abc",
    b"abc",
    b"abc ",
    b"{}",
    b"*",
    b"'; --",
    b"k" * 2048,
)


@dataclass(frozen=True)
class Place:
    """Where a store lies: enough to open it again, also in another process."""

    opener: Open
    url: str
    prefix: str
    timeout: float = 20.0

    def open(self) -> Store:
        """Open the store once more."""
        return self.opener(self.url, prefix=self.prefix, timeout=self.timeout)


class ContractBase:
    """Fixtures of the contract."""

    #: How a URL becomes a store: a picklable function, since other processes call it too.
    opener: Open = staticmethod(open_store)

    @pytest.fixture
    def store_url(self) -> str:
        """Override: a URL that names the same place however often it is opened in one test."""
        raise NotImplementedError(f"{type(self).__name__} needs a fixture `store_url`")

    @pytest.fixture
    def place(self, store_url: str) -> Place:
        """The place under a prefix of its own, so that no test sees another."""
        return Place(type(self).opener, store_url, "contract-" + uuid.uuid4().hex[:12])

    @pytest.fixture
    def open_store(self, place: Place) -> Iterator[Callable[[], Store]]:
        """Open the place once more, as another part of the program would; it is closed after the test."""
        opened: list[Store] = []

        def open_once_more() -> Store:
            opened.append(place.open())
            return opened[-1]

        yield open_once_more
        for store in opened:
            store.close()

    @pytest.fixture
    def store(self, open_store: Callable[[], Store]) -> Store:
        """The store under test."""
        return open_store()


def clock(store: Store) -> int:
    """Return the store's time."""
    entry = store.put(b"the clock", b"").entry
    store.remove(b"the clock")
    assert entry is not None
    return entry.now


def wait_past(store: Store, moment: int) -> None:
    """Sleep until the store's clock has passed `moment`."""
    deadline = time.monotonic() + 10
    while clock(store) <= moment:
        assert time.monotonic() < deadline, "the store's clock stands still"
        time.sleep(0.005)


@cache
def processes() -> tuple[Any, ProcessPoolExecutor]:
    """Return a maker of barriers, and processes that are kept for all tests: to start one takes longer than a test."""
    spawn = multiprocessing.get_context("spawn")
    return spawn.Manager(), ProcessPoolExecutor(16, spawn)


def _in_process(barrier: Any, place: Place, job: Callable[..., Any], number: int, args: tuple[Any, ...]) -> Any:
    return _at_once(barrier, place.open(), job, number, args)


def _at_once(barrier: Any, store: Store, job: Callable[..., Any], number: int, args: tuple[Any, ...]) -> Any:
    try:
        barrier.wait(60)
        return job(store, number, *args)
    finally:
        store.close()


def together(place: Place, count: int, job: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `job(store, number, *args)` in `count` processes that begin at once, each with a store of its own.

    Where processes share nothing they are threads. Returns what the jobs return. `count` is 16 at most.
    """
    if not place.open().shared_between_processes:
        barrier = threading.Barrier(count)
        with ThreadPoolExecutor(count) as threads:
            waiting = [threads.submit(_at_once, barrier, place.open(), job, n, args) for n in range(count)]
            return [future.result() for future in waiting]
    manager, pool = processes()
    shared = manager.Barrier(count)
    futures = [pool.submit(_in_process, shared, place, job, n, args) for n in range(count)]
    return [future.result() for future in futures]
