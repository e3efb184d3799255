"""A soft time limit strikes anywhere: Celery raises it from a signal handler, between any two lines of the main thread.

With STACKSTATE_TEST_LONG=1 it strikes for half a minute in each test.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType

import pytest

from celery_stackstate.errors import LockBusy
from celery_stackstate.holding import HeldLocks
from celery_stackstate.renewal import AT_ONCE, renewer
from celery_stackstate.state import State
from tests.scenarios.conftest import DJANGO
from tests.scenarios.places import Place
from tests.waiting import Stopwatch, wait_for

SECONDS = 30.0 if os.environ.get("STACKSTATE_TEST_LONG") else 2.0
KEYS = [f"key {number}" for number in range(20)]
LOCKS = ["a", "b", "c"]


class TimeLimit(Exception):
    """What the handler raises, an Exception as Celery's is."""


def _is_lost_in(frame: FrameType | None) -> bool:
    """Return whether others would swallow what is raised now: Python in a finalizer, redis-py as it connects.

    Callbacks of weak sets and of the garbage collector (Hypothesis has one) are like finalizers.
    """
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if name in ("__del__", "_force_close", "gc_callback") or file.endswith(("_weakrefset.py", "weakref.py")):
            return True
        if "/redis/" in file and "celery_stackstate" not in file:
            return True
        frame = frame.f_back
    return False


class Strikes:
    """Lets a limit strike once in a while inside of the work it is given."""

    def __init__(self) -> None:
        self.armed = False
        self.raised = 0
        self.lost: list[str] = []
        self._where = ""

    def strike(self, _: int, frame: FrameType | None) -> None:
        if self.armed and not _is_lost_in(frame):
            self.armed = False
            self.raised += 1
            self._where = "".join(traceback.format_stack(frame)[-6:])
            raise TimeLimit

    def upon(self, work: Callable[[], object], clean_up: Callable[[], object]) -> None:
        """Work until it struck, and clean up as a task does: while the limit is being handled."""
        try:
            self.armed = True
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0003, 0.003), 0.001)
            while self.armed:
                work()
        except TimeLimit:
            clean_up()
        else:
            self.lost.append(self._where)
        finally:
            self.armed = False  # the work may have failed by itself


@pytest.fixture
def strikes() -> Iterator[Strikes]:
    made = Strikes()
    before = signal.signal(signal.SIGALRM, made.strike)
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_time(work: Callable[[], object]) -> None:
    watch = Stopwatch()
    work()
    assert watch.seconds < 5, "it waited for what was left in haste"


def _raise_it_on() -> None:
    raise  # noqa: PLE0704 - inside of an except clause


def _left_apart() -> int:
    return sum(thread.name == "stackstate-apart" for thread in threading.enumerate())


def look(state: State) -> None:
    key = random.choice(KEYS)
    assert state.get(key) == f"value of {key}"


def test_a_time_limit_in_a_call_leaves_no_trace_but_itself(place: Place, strikes: Strikes) -> None:
    state = place.state("1")
    for key in KEYS:
        state.set(key, f"value of {key}")
    cleaned = 0

    def work() -> None:
        look(state)
        state.increment("n")
        state.set("other", random.random(), ttl=60)

    def clean_up() -> None:
        nonlocal cleaned
        cleaned += 1
        look(state)
        assert state.increment("cleaned") == cleaned

    over = time.monotonic() + SECONDS
    while time.monotonic() < over:
        strikes.upon(work, lambda: in_time(clean_up))
    assert strikes.raised > 5
    assert strikes.lost == []
    with ThreadPoolExecutor(8) as pool:  # nothing was left locked, and no connection is missing
        watch = Stopwatch()
        list(pool.map(lambda _: look(state), range(200)))
        assert watch.seconds < 10


def test_a_time_limit_while_locks_are_taken_leaves_none_behind_and_the_renewal_alive(
    place: Place, strikes: Strikes
) -> None:
    over = time.monotonic() + SECONDS
    state, late = place.state("1"), 0

    def work() -> None:
        nonlocal late
        name = random.choice(LOCKS)
        try:
            with state.lock(name, ttl=60, on_lock_lost="warn"):
                pass
        except LockBusy:  # by a request whose sender was struck, and which the server ran after it was looked for
            late += 1
            state.force_release(name)

    def clean_up() -> None:
        with state.lock("cleaning up", ttl=60, wait=1):
            pass

    while time.monotonic() < over:
        held = HeldLocks()
        state = place.state("1", held=held)
        strikes.upon(work, lambda: in_time(clean_up))
        held.settle(None)
    assert strikes.raised > 5
    assert strikes.lost == []
    assert late * 10 <= strikes.raised
    assert [place.state("2").lock_info(name) for name in [*LOCKS, "cleaning up"]] == [None] * 4
    lock = place.state("2").lock("renewed", ttl=5)
    lock.acquire()
    wait_for(lambda: lock.remaining < 3.6, timeout=4, message="a third of the ttl to pass")
    wait_for(lambda: lock.remaining > 3.8, timeout=4, message="a renewal")
    assert 1 <= sum(thread in renewer._threads for thread in threading.enumerate()) <= AT_ONCE
    lock.release()


@pytest.mark.parametrize("place", list(DJANGO), indirect=True)
def test_a_time_limit_inside_a_transaction_spoils_that_one_alone(place: Place, strikes: Strikes) -> None:
    from django.db import transaction

    state = place.state("1")
    for key in KEYS:
        state.set(key, f"value of {key}")

    def joins() -> None:
        look(state)
        state.increment("n")

    def counts_apart() -> None:
        state.throttle("api", 1000, 1)

    for work in (joins, counts_apart):
        over = time.monotonic() + SECONDS
        while time.monotonic() < over:
            try:
                with transaction.atomic(using=place.store.alias):  # type: ignore[attr-defined]
                    strikes.upon(work, _raise_it_on)
            except TimeLimit:
                in_time(lambda: look(state))
            # Nobody's limits strike faster than a server commits. What was left in haste goes on, in order, each on a
            # connection of its own.
            wait_for(lambda: _left_apart() < 10, timeout=20, message="what was counted apart to end")
    assert strikes.raised > 5
    assert strikes.lost == []
    assert state.count("n") == 0
    assert state.increment("afterwards") == 1
