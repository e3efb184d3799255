"""self.state.lock: one holder at a time, a fence that grows, and no way to free what somebody else holds."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from celery_stackstate.errors import InvalidExpiry, InvalidKey, LockBusy, LockLost, VersionConflict
from celery_stackstate.holding import HeldLocks
from celery_stackstate.renewal import AT_ONCE, Renewer, renewer
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from tests.nouns.conftest import state_of
from tests.waiting import wait_for


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


def test_fences_grow_over_every_way_a_lock_ends(store: Store) -> None:
    fences = []
    for way in range(40):
        state = state_of(store, str(way))
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
    late, next_one = state_of(store, "1").lock("l", ttl=1.0, renew=False), state_of(store, "2").lock("l", ttl=30)
    assert late.acquire()
    assert not next_one.acquire()
    time.sleep(1.05)
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


def test_a_lock_that_is_released_inside_of_its_block_does_not_hide_what_the_body_raised(state: State) -> None:
    with pytest.raises(KeyError):  # noqa: PT012, SIM117 - the block is what is tested
        with state.lock("l") as lock:
            lock.release()
            raise KeyError
    with state.lock("l", on_lock_lost="warn") as lock:
        lock.release()
    with pytest.raises(LockLost, match="not held"), state.lock("l") as lock:
        lock.release()
    assert state.lock_info("l") is None


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


class AlmostOver:
    """A lock of which most of the TTL had passed before it was to be renewed."""

    name, ttl = "l", 60.0

    def __init__(self) -> None:
        self.ends, self.renewed = time.monotonic() + 1.5, threading.Event()

    @property
    def remaining(self) -> float:
        return self.ends - time.monotonic()

    def renew(self) -> bool:
        self.ends = time.monotonic() + self.ttl
        self.renewed.set()
        return True

    def renewable(self) -> bool:
        return self.remaining > 0


def test_a_lock_that_is_to_be_renewed_from_late_on_is_renewed_in_time() -> None:
    lock, renewer = AlmostOver(), Renewer()
    renewer.keep(lock)
    assert lock.renewed.wait(5)
    assert lock.renewable()
    renewer.forget_all()


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
    [
        {"ttl": 0},
        {"ttl": True},
        {"ttl": None},
        {"ttl": 4},
        {"wait": -1},
        {"wait": True},
        {"wait": None},
        {"max_hold": "x"},
    ],
)
def test_wrong_numbers_are_refused(state: State, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidExpiry, match="'l'"):
        state.lock("l", **options)


def test_wrong_names_and_choices_are_refused(state: State) -> None:
    with pytest.raises(InvalidKey):
        state.lock("")
    with pytest.raises(ValueError, match="on_busy"):
        state.lock("l", on_busy="wait")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="on_lock_lost"):
        state.lock("l", on_lock_lost="ignore")  # type: ignore[arg-type]


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


# -- the attempts of one run ---------------------------------------------------------------------------------------


def test_the_holder_may_enter_again_and_the_inner_exit_keeps_the_lock(store: Store) -> None:
    state, other = state_of(store, "1"), state_of(store, "2")
    with state.lock("l", ttl=30) as outer:
        with state.lock("l", ttl=30) as inner, inner:
            assert inner.fence == outer.fence
        outer.check()
        assert not other.lock("l").acquire()
    assert other.lock("l").acquire()


def test_another_thread_does_not_enter_what_this_one_holds(store: Store) -> None:
    state = state_of(store, "1")
    with state.lock("l", ttl=30), ThreadPoolExecutor(1) as pool:
        assert pool.submit(state.lock("l").acquire).result() is False
        assert pool.submit(state_of(store, None).lock("l").acquire).result() is False


def test_a_lock_that_lapsed_is_not_entered_again_but_taken_anew(store: Store) -> None:
    state = state_of(store, "1")
    first = state.lock("l", ttl=0.1, renew=False)
    first.acquire()
    time.sleep(0.15)
    second = state.lock("l", ttl=30)
    assert second.acquire()
    assert second.fence > first.fence


@pytest.mark.parametrize("run", ["1", "2"])
def test_nobody_takes_over_what_is_held_not_even_another_attempt_of_the_run(store: Store, run: str) -> None:
    holder = state_of(store, "1").lock("l", ttl=30)
    assert holder.acquire()
    assert not state_of(store, run).lock("l").acquire()
    holder.check()
    holder.release()


def test_threads_that_share_one_lock_object_release_what_is_their_own(store: Store) -> None:
    shared = state_of(store, None).lock("l", ttl=0.3, renew=False)
    entered, go_on = threading.Event(), threading.Event()
    ends: list[str] = []

    def stall() -> None:
        try:
            with shared:
                entered.set()
                go_on.wait(10)
        except LockLost:
            ends.append("lost")

    stalled = threading.Thread(target=stall)
    stalled.start()
    entered.wait(10)
    time.sleep(0.35)
    shared.ttl = 30
    with shared:
        go_on.set()
        stalled.join()
        assert ends == ["lost"]
        shared.check()
        assert not state_of(store, "2").lock("l").acquire()
    assert state_of(store).lock_info("l") is None


def test_a_lock_that_lapsed_and_was_taken_anew_inside_its_own_block_was_lost(state: State) -> None:
    lock = state.lock("l", ttl=0.1, renew=False)
    lock.acquire()
    time.sleep(0.15)
    with lock:
        pass
    with pytest.raises(LockLost):
        lock.release()


def test_an_inner_lock_that_asks_for_more_gets_it(state: State) -> None:
    with state.lock("l", ttl=1, renew=False), state.lock("l", ttl=30) as inner:
        assert inner.remaining > 25
        time.sleep(1.1)
        inner.check()


def test_an_inner_lock_finds_what_it_asks_for_though_the_outer_is_about_to_lapse(state: State) -> None:
    with state.lock("l", ttl=3, renew=False):
        time.sleep(1.8)
        with state.lock("l", ttl=3, renew=False) as inner:
            assert inner.remaining > 2
            time.sleep(1.4)
            inner.check()


def test_a_forked_child_neither_checks_nor_frees_its_parents_lock(store: Store) -> None:
    lock = state_of(store, "1").lock("l", ttl=30)
    lock.acquire()
    child = os.fork()
    if not child:
        code = 1
        try:
            try:
                lock.check()
            except LockLost:
                lock.release()
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    lock.check()
    lock.release()


def postpone(error: Exception, mode: str) -> NoReturn:
    raise AssertionError(f"{mode}: {error}")


def test_a_kept_lock_waits_for_the_retry_beyond_its_ttl_and_no_other_run_gets_in_between(store: Store) -> None:
    held = HeldLocks()
    state = state_of(store, "1", postpone=postpone, held=held)
    with pytest.raises(KeyError), state.lock("l", ttl=0.3, renew=False, keep_on_retry=True) as first:
        raise KeyError
    held.settle(retry_in=1.0)
    info = state.lock_info("l")
    assert info is not None
    assert (info.parked, info.run_id, info.fence) == (True, "1", first.fence)
    time.sleep(0.6)
    assert not state_of(store, "2").lock("l").acquire()
    second = state_of(store, "1", postpone=postpone).lock("l", ttl=30, keep_on_retry=True)
    with second:
        assert second.fence > first.fence
        assert not state_of(store, "1").lock("l").acquire()  # it waits no more
    assert state.lock_info("l") is None


def test_a_kept_lock_is_given_back_when_no_retry_follows(store: Store) -> None:
    held = HeldLocks()
    state = state_of(store, "1", postpone=postpone, held=held)
    with pytest.raises(KeyError), state.lock("l", ttl=30, keep_on_retry=True):
        raise KeyError
    assert state.lock_info("l") is not None
    with state.lock("l", ttl=30, keep_on_retry=True):  # the body caught the error and goes on
        pass
    assert state.lock_info("l") is None
    with pytest.raises(KeyError), state.lock("l", ttl=30, keep_on_retry=True):
        raise KeyError
    held.settle(retry_in=None)
    assert state.lock_info("l") is None


def test_a_block_that_is_left_after_the_attempt_has_ended_keeps_nothing(store: Store) -> None:
    held = HeldLocks()
    state = state_of(store, "1", postpone=postpone, held=held)
    held.settle(retry_in=None)
    with pytest.raises(KeyError), state.lock("l", ttl=30, keep_on_retry=True):
        raise KeyError
    assert state.lock_info("l") is None


def test_a_lock_that_the_task_forgot_to_release_ends_with_the_attempt(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    held = HeldLocks()
    lock = state_of(store, "1", held=held).lock("l", ttl=30)
    lock.acquire()
    held.settle(retry_in=5.0)
    assert "'l' was not released by shop.tasks.import[1]" in caplog.text
    assert state_of(store).lock_info("l") is None


# -- guarded writes ------------------------------------------------------------------------------------------------


def test_a_guarded_write_goes_through_while_the_lock_is_held(store: Store) -> None:
    state = state_of(store, "1")
    with state.lock("l", ttl=30) as lock:
        version = state.set("k", "v", fence=lock)
        lock.holding.renew()
        assert state.set("k", "w", fence=lock, if_version=version) > version
        assert state.increment("c", 2, fence=lock) == 2
        assert state.decrement("c", fence=lock) == 1
        with pytest.raises(VersionConflict):
            state.set("k", "x", fence=lock, if_version=version)
    assert state.get_many(["k", "c"]) == {"k": "w", "c": 1}


@pytest.mark.parametrize("way", ["lapsed", "taken over", "released by force", "released"])
def test_a_guarded_write_of_a_lost_lock_changes_nothing(store: Store, way: str) -> None:
    state = state_of(store, "1")
    lock = state.lock("l", ttl=0.2 if way in ("lapsed", "taken over") else 30, renew=False)
    lock.acquire()
    state.set("k", "mine")
    if way == "released":
        lock.release()
    elif way == "released by force":
        state.force_release("l")
    else:
        time.sleep(0.25)
    if way == "taken over":
        assert state_of(store, "2").lock("l", ttl=30).acquire()
    for write in (
        lambda: state.set("k", "stale", fence=lock),
        lambda: state.set("new", "stale", fence=lock),
        lambda: state.increment("c", fence=lock),
    ):
        with pytest.raises(LockLost):
            write()
    assert state.get_many(["k", "new", "c"]) == {"k": "mine"}


def test_a_guard_that_is_no_lock_of_this_store_is_refused(store: Store) -> None:
    state = state_of(store)
    with pytest.raises(TypeError, match="fence"):
        state.set("k", 1, fence=5)  # type: ignore[arg-type]
    with state_of(open_store("memory://")).lock("l") as lock, pytest.raises(ValueError, match="another store"):
        state.set("k", 1, fence=lock)
    with pytest.raises(LockLost, match="not held"):
        state.set("k", 1, fence=state.lock("l"))
    assert state.get("k") is None


# -- what becomes of threads and objects ---------------------------------------------------------------------------


def test_the_fence_is_that_of_the_calling_threads_own_holding(store: Store) -> None:
    shared = state_of(store, None).lock("l", ttl=0.2, renew=False)
    entered, go_on = threading.Event(), threading.Event()
    seen: list[int] = []

    def stall() -> None:
        shared.acquire()
        seen.append(shared.fence)
        entered.set()
        go_on.wait(10)
        seen.append(shared.fence)

    stalled = threading.Thread(target=stall)
    stalled.start()
    entered.wait(10)
    time.sleep(0.3)
    assert shared.acquire()
    go_on.set()
    stalled.join()
    assert seen[0] == seen[1] < shared.fence
    with ThreadPoolExecutor(1) as pool:  # one that acquired nothing is told of who did last
        assert pool.submit(lambda: shared.fence).result() == shared.fence


def test_a_lock_that_nobody_has_any_more_is_not_renewed(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    lock = state_of(store, None).lock("l", ttl=5)
    lock.ttl = 2
    assert lock.acquire()
    time.sleep(2.5)
    assert not state_of(store, "2").lock("l").acquire()
    del lock
    gc.collect()
    wait_for(lambda: state_of(store).lock_info("l") is None, timeout=5, message="the lock to lapse")
    wait_for(lambda: "'l' was never released and nobody has it" in caplog.text, timeout=5, message="a word about it")


def test_renewals_that_hang_do_not_cost_another_lock(store: Store) -> None:
    other = state_of(store, None).lock("other", ttl=5)
    other.ttl = 1.5
    other.acquire()
    go_on = threading.Event()
    hanging = [Hanging(go_on) for _ in range(AT_ONCE - 1)]
    for one in hanging:
        renewer.keep(one)
    try:
        time.sleep(2.5)
        other.check()
        assert [one.asked for one in hanging] == [1] * (AT_ONCE - 1)
    finally:
        go_on.set()
    other.release()


class Hanging:
    """What is due at once, and whose renewal waits for somebody's transaction."""

    name, ttl, remaining = "hanging", 0.01, 0.1

    def __init__(self, go_on: threading.Event) -> None:
        self.asked, self._go_on = 0, go_on

    def renewable(self) -> bool:
        return True

    def renew(self) -> bool:
        self.asked += 1
        self._go_on.wait(10)
        return False
