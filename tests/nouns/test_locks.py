"""self.state.lock: one holder at a time, a fence that grows, and no way to free what somebody else holds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from celery_stackstate.errors import InvalidExpiry, InvalidKey, LockBusy, LockLost
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from tests.nouns.conftest import state_of
from tests.waiting import wait_for

SPAWN = multiprocessing.get_context("spawn")


def test_a_second_holder_is_refused_and_told_who_has_it(store: Store) -> None:
    first, second = state_of(store, "1"), state_of(store, "2")
    with first.lock("catalog", ttl=30):
        with pytest.raises(LockBusy, match=r"held by shop.tasks.import\[1\]") as caught, second.lock("catalog"):
            pass
        assert caught.value.owner == "shop.tasks.import[1]"
        assert 25 < caught.value.retry_after <= 30
    with second.lock("catalog"):
        pass


def test_locks_are_apart_by_name_and_scope_and_from_values(state: State) -> None:
    state.set("a", "value")
    with state.lock("a"), state.lock("b"), state.task.lock("a"), state.scope("x").lock("a"):
        assert state.get("a") == "value"
        assert state.clear() == 1
        assert state.lock_info("a") is not None


def test_fences_grow_over_every_way_a_lock_ends(state: State) -> None:
    fences = []
    for way in range(40):
        lock = state.lock("l", ttl=0.05 if way % 3 == 2 else 30, renew=False)
        assert lock.acquire()
        fences.append(lock.fence)
        if way % 3 == 0:
            lock.release()
        elif way % 3 == 1:
            assert state.force_release("l")
        else:
            time.sleep(0.06)
    assert fences == sorted(set(fences))


def test_a_lock_lapses_after_its_ttl_and_its_late_holder_frees_nothing(store: Store) -> None:
    late, next_one = state_of(store, "1").lock("l", ttl=0.2, renew=False), state_of(store, "2").lock("l", ttl=30)
    assert late.acquire()
    assert not next_one.acquire()
    time.sleep(0.3)
    assert next_one.acquire()
    assert next_one.fence > late.fence
    with pytest.raises(LockLost):
        late.check()
    with pytest.raises(LockLost, match="lost before its end"):
        late.release()
    next_one.check()
    next_one.release()


def test_a_lost_lock_is_told_at_the_end_of_the_block_unless_the_body_failed(state: State) -> None:
    with pytest.raises(LockLost), state.lock("l"):
        state.force_release("l")
    with pytest.raises(KeyError):  # noqa: PT012, SIM117 - the block is what is tested
        with state.lock("l"):
            state.force_release("l")
            raise KeyError
    with state.lock("l", on_lock_lost="warn"):
        state.force_release("l")


def test_renewal_keeps_a_lock_beyond_its_ttl(state: State) -> None:
    with state.lock("l", ttl=5) as lock:
        before = state.lock_info("l")
        wait_for(lambda: lock.remaining < 3.6, timeout=3, message="a third of the ttl to pass")
        wait_for(lambda: lock.remaining > 4.5, timeout=3, message="a renewal")
        after = state.lock_info("l")
        assert before is not None
        assert after is not None
        assert after.expires_at is not None
        assert before.expires_at is not None
        assert after.expires_at > before.expires_at
        assert (
            (before.fence, before.acquired_at) == (after.fence, after.acquired_at) == (lock.fence, before.acquired_at)
        )
        lock.check()
    assert state.lock_info("l") is None


def test_max_hold_ends_the_renewal(state: State) -> None:
    lock = state.lock("l", ttl=5, max_hold=0.5)
    lock.acquire()
    time.sleep(2.2)  # a renewal would have been due after 1.67 s
    assert lock.remaining < 3
    lock.release()


def test_waiting_gets_the_lock_when_it_is_freed(store: Store) -> None:
    first = state_of(store, "1").lock("l", ttl=30)
    first.acquire()
    threading.Timer(0.3, first.release).start()
    started = time.monotonic()
    with state_of(store, "2").lock("l", wait=5):
        assert 0.25 < time.monotonic() - started < 2


def test_info_names_the_holder(state: State) -> None:
    assert state.lock_info("l") is None
    with state.lock("l", ttl=30) as lock:
        info = state.lock_info("l")
        assert info is not None
        assert (info.name, info.owner, info.pid, info.fence) == (
            "l",
            "shop.tasks.import[run-1]",
            os.getpid(),
            lock.fence,
        )
        assert info.host


@pytest.mark.parametrize(
    "options",
    [{"ttl": 0}, {"ttl": True}, {"ttl": None}, {"ttl": 4}, {"wait": -1}, {"wait": True}, {"max_hold": "x"}],
)
def test_wrong_numbers_are_refused(state: State, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidExpiry, match="'l'"):
        state.lock("l", **options)


def test_wrong_names_and_choices_are_refused(state: State) -> None:
    with pytest.raises(InvalidKey):
        state.lock("")
    with pytest.raises(ValueError, match="on_busy"):
        state.lock("l", on_busy="wait")
    with pytest.raises(ValueError, match="on_lock_lost"):
        state.lock("l", on_lock_lost="ignore")


def test_releasing_twice_is_an_error(state: State) -> None:
    lock = state.lock("l")
    lock.acquire()
    lock.release()
    with pytest.raises(LockLost, match="not held"):
        lock.release()


def test_sections_of_threads_never_overlap(store: Store) -> None:
    inside, overlaps = [], []

    def work(number: int) -> None:
        for _ in range(10):
            with state_of(store, str(number)).lock("l", ttl=30, wait=30):
                inside.append(number)
                overlaps.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert overlaps == [1] * 40


def _sections(url: str, prefix: str, path: str, number: int) -> None:
    state = state_of(open_store(url, prefix=prefix), str(number))
    for _ in range(40):
        with state.lock("l", ttl=30, wait=60) as lock, open(path, "a", buffering=1) as journal:
            journal.write(f"start {lock.fence}\n")
            journal.write(f"end {lock.fence}\n")


def _hold_for_ever(url: str, prefix: str) -> None:
    with state_of(open_store(url, prefix=prefix), "killed").lock("l", ttl=5):
        time.sleep(60)


@pytest.fixture(params=["sqlite", "redis"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/l.sqlite3" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def test_sections_of_processes_never_overlap_and_fences_grow(shared_url: str, tmp_path: Path) -> None:
    prefix, path = uuid4().hex, str(tmp_path / "journal")
    workers = [SPAWN.Process(target=_sections, args=(shared_url, prefix, path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0] * 4
    lines = [line.split() for line in Path(path).read_text().splitlines()]
    assert len(lines) == 320
    assert all(
        start[0] == "start" and end == ["end", start[1]] for start, end in zip(lines[::2], lines[1::2], strict=True)
    )
    fences = [int(fence) for what, fence in lines if what == "start"]
    assert fences == sorted(set(fences))


def test_a_killed_holder_is_passed_over_after_its_ttl(shared_url: str) -> None:
    prefix = uuid4().hex
    state = state_of(open_store(shared_url, prefix=prefix), "next")
    holder = SPAWN.Process(target=_hold_for_ever, args=(shared_url, prefix))
    holder.start()
    info = wait_for(lambda: state.lock_info("l"), timeout=15, message="the holder to hold")
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    lock = state.lock("l", ttl=30)
    assert not lock.acquire()
    patient = state.lock("l", ttl=30, wait=6)
    assert patient.acquire()
    assert info is not None
    assert patient.fence > info.fence
    patient.release()
