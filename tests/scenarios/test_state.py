"""The state half of the scenarios, each over every store and named after its sentence.

Those that need a real worker are in tests/worker/test_state.py, and name their number there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from celery_stackstate.errors import (
    CounterRange,
    InvalidKey,
    LockBusy,
    LockLost,
    NotACounter,
    NotSerializable,
    StackStateError,
    StoreUnavailable,
    ValueTooLarge,
    VersionConflict,
)
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from tests.nouns.conftest import state_of
from tests.scenarios.places import SPAWN, Place, in_processes
from tests.waiting import Stopwatch, wait_for

# -- values --------------------------------------------------------------------------------------------------------


def test_01_no_key_gives_none_or_the_default_and_a_stored_none_is_a_value(state: State) -> None:
    assert (state.get("k"), state.get("k", 7)) == (None, 7)
    state.set("k", None)
    assert state.get("k", 7) is None
    assert state.entry("k") is not None


def _get(state: State, _: int) -> Any:
    return state.get("k")


def test_02_text_of_every_script_comes_back_equal_in_another_process(state: State, place: Place) -> None:
    value = {"é": "日本", "😀": [1, 2.5, True, None]}
    state.set("k", value)
    (found,) = in_processes(place, 1, _get)
    assert found == value
    assert [type(item) for item in found["😀"]] == [int, float, bool, type(None)]


def test_03_dates_decimals_uuids_and_bytes_come_back_equal_and_of_their_type_after_a_restart(
    state: State, place: Place
) -> None:
    value = {
        "moments": [datetime(2026, 1, 2, 3, 4, 5, 6), datetime(2026, 1, 2, tzinfo=timezone.utc)],
        "offset": datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-5, minutes=-30))),
        "day": [date(2026, 1, 2), clock_time(1, 2, 3, 4)],
        "money": {"sum": Decimal("1.10")},
        "id": UUID(int=7),
        "raw": b"\xff\x00",
    }
    state.set("k", value)
    (found,) = in_processes(place, 1, _get)
    assert found == value
    assert str(found["money"]["sum"]) == "1.10"
    assert found["offset"].utcoffset() == timedelta(hours=-5, minutes=-30)
    assert (type(found["day"][0]), type(found["raw"]), type(found["id"])) == (date, bytes, UUID)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({1, 2}, "value"),
        (object(), "value"),
        ([timedelta(1)], r"value\[0\]"),
        ({"a": {(1, 2): 3}}, r"value\['a'\]"),
        ({1: 2}, "value"),
        ({"a": float("nan")}, r"value\['a'\]"),
        ([float("inf")], r"value\[0\]"),
        (["\ud800"], r"value\[0\]"),
    ],
)
def test_04_what_would_not_come_back_is_refused_with_its_path_and_the_old_value_stays(
    state: State, value: Any, path: str
) -> None:
    state.set("k", "old")
    with pytest.raises(NotSerializable, match=path):
        state.set("k", value)
    assert state.get("k") == "old"


@pytest.mark.parametrize(
    "value", [{"__type__": "nope", "__value__": 1}, {"$type": "nope", "is": 1}, {"$type": {"$type": "datetime"}}]
)
def test_05_a_dict_that_mimics_a_tag_reads_back_equal(state: State, value: Any) -> None:
    state.set("k", [value])
    assert state.get("k") == [value]


def test_06_a_value_over_the_limit_is_refused_before_the_store_is_asked() -> None:
    away = state_of(open_store("redis://127.0.0.1:1/0", timeout=1))
    with pytest.raises(StoreUnavailable):
        away.set("k", "x")
    for write in (away.set, away.add, lambda key, value: away.set(key, value, if_version=1)):
        with pytest.raises(ValueTooLarge):
            write("k", "x" * 2**20)


def test_06_a_value_over_the_limit_is_refused_in_bytes_and_one_at_it_passes(state: State) -> None:
    with pytest.raises(ValueTooLarge):
        state.set("k", "x" * 2**20)
    most = (262_144 - 2) // 2
    state.set("k", "é" * most)
    with pytest.raises(ValueTooLarge):
        state.set("k", "é" * most + "x")
    assert state.get("k") == "é" * most


def test_07_keys_that_cannot_be_keys_are_refused_and_others_differ_by_every_byte(state: State) -> None:
    for key in ("", "x" * 1025, "a\x00b", "k ", 7):
        with pytest.raises(InvalidKey):
            state.set(key, 1)  # type: ignore[arg-type]
    keys = ["Abc", "abc", "Äbc", "a:b", "a|b", "{x}", "abc\u0301", "ab\u0107", "a%", "a_", "x" * 1024]
    for number, key in enumerate(keys):
        state.set(key, number)
    assert state.get_many(keys) == {key: number for number, key in enumerate(keys)}
    assert list(state.keys()) == sorted(keys, key=str.encode)


def test_08_a_key_is_apart_in_each_scope_and_clear_removes_only_its_own(place: Place) -> None:
    first, second = place.state("1", task="a"), place.state("2", task="b")
    scopes = [first, first.task, second.task, first.run, second.run]
    for number, scope in enumerate(scopes):
        scope.set("k", number)
    assert [scope.get("k") for scope in scopes] == [0, 1, 2, 3, 4]
    assert first.run.clear() == 1
    assert [scope.get("k") for scope in scopes] == [0, 1, 2, None, 4]


# -- TTL -----------------------------------------------------------------------------------------------------------


def test_09_a_ttl_ends_the_key_for_every_call_without_a_purge(state: State) -> None:
    began = time.monotonic()
    state.set("k", 1, ttl=0.5)
    found = state.get("k")
    assert found == 1 or time.monotonic() - began > 0.4
    time.sleep(0.6)
    assert (state.get("k"), list(state.keys()), state.get_many(["k"])) == (None, [], {})
    assert state.add("k", 2)


def test_10_expires_at_is_an_instant_in_any_zone_and_wrong_expiries_are_refused(state: State) -> None:
    ends = datetime.now(timezone(timedelta(hours=9))) + timedelta(seconds=120)
    state.set("a", 1, expires_at=ends)
    state.set("b", 1, ttl=120)
    first, second = state.entry("a"), state.entry("b")
    assert first is not None
    assert second is not None
    assert first.expires_at == ends
    assert second.expires_at is not None
    assert abs(second.expires_at - ends) < timedelta(seconds=60)
    wrong: list[dict[str, Any]] = [
        {"expires_at": datetime(2030, 1, 1)},
        {"ttl": 0},
        {"ttl": -1},
        {"ttl": True},
        {"ttl": 1, "expires_at": ends},
    ]
    for options in wrong:
        with pytest.raises(ValueError, match=r"ttl|expires_at"):
            state.set("c", 1, **options)
    state.set("a", 2, expires_at=datetime.now(timezone.utc) - timedelta(hours=1))
    assert (state.get("a"), state.get("c")) == (None, None)


def test_11_a_set_without_ttl_drops_it_and_touch_shortens_persists_and_creates_nothing(state: State) -> None:
    def ends() -> datetime | None:
        entry = state.entry("k")
        assert entry is not None
        return entry.expires_at

    state.set("k", 1, ttl=60)
    assert ends() is not None
    state.set("k", 1)
    assert ends() is None
    assert state.touch("k", ttl=60)
    assert ends() is not None
    assert state.touch("k")
    assert ends() is None
    assert state.touch("k", ttl=0.2)
    time.sleep(0.3)
    assert (state.get("k"), state.touch("k", ttl=9), state.entry("k")) == (None, False, None)


def test_12_a_purge_of_many_ended_keys_is_bounded_and_disturbs_nobody(state: State, place: Place) -> None:
    ended = 10_000 if os.environ.get("STACKSTATE_TEST_LONG") else 1_000
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: state.set(f"ended:{number}", number, ttl=0.001), range(ended)))
    for number in range(50):
        state.set(f"live:{number}", number)
    slowest, stop = [0.0], threading.Event()

    def write() -> None:
        while not stop.is_set():
            each = Stopwatch()
            state.set("written", True)
            slowest[0] = max(slowest[0], each.seconds)

    writer = threading.Thread(target=write)
    writer.start()
    watch = Stopwatch()
    place.store.purge(limit=300)
    took = watch.seconds
    while place.store.purge(limit=1000):
        pass
    stop.set()
    writer.join()
    assert took < 5
    assert slowest[0] < 1
    assert len(state.keys("live:")) == 50
    assert list(state.keys("ended:")) == []


# -- counters ------------------------------------------------------------------------------------------------------


def _count(state: State, number: int, times: int) -> list[int]:
    return [state.increment("n") for _ in range(times)]


def test_13_increments_of_8_processes_are_all_distinct_and_none_is_lost(state: State, place: Place) -> None:
    times = 1_000 if os.environ.get("STACKSTATE_TEST_LONG") else 150
    numbers = [number for found in in_processes(place, 8, _count, times) for number in found]
    assert sorted(numbers) == list(range(1, 8 * times + 1))
    assert state.count("n") == 8 * times


def _go(call: Callable[[], object]) -> bool:
    try:
        call()
    except CounterRange:
        return False
    return True


def test_14_a_ceiling_lets_exactly_five_through_and_a_floor_likewise(place: Place) -> None:
    state = place.state("1")
    with ThreadPoolExecutor(10) as pool:
        assert sum(pool.map(lambda _: _go(lambda: state.increment("n", ceiling=5)), range(20))) == 5
        assert state.count("n") == 5
        assert sum(pool.map(lambda _: _go(lambda: state.decrement("n", floor=0)), range(20))) == 5
    assert state.count("n") == 0


def test_15_a_counter_stays_within_int64_and_counters_and_values_are_told_apart(state: State) -> None:
    state.set("n", 2**63 - 1)
    with pytest.raises(CounterRange):
        state.increment("n")
    assert state.get("n") == 2**63 - 1
    state.set("text", "5")
    with pytest.raises(NotACounter):
        state.increment("text")
    assert state.get("text") == "5"
    state.increment("c")
    state.set("c", "text")  # a set replaces whatever was there
    assert state.get("c") == "text"


def _count_up(state: State, number: int, times: int) -> int:
    return sum(1 for _ in range(times) if state.increment("n"))


def test_16_reset_against_4_incrementing_processes_loses_nothing(state: State, place: Place) -> None:
    taken, done = 0, threading.Event()

    def reset() -> None:
        nonlocal taken
        while not done.is_set():
            taken += state.reset("n")

    resetter = threading.Thread(target=reset)
    resetter.start()
    added = sum(in_processes(place, 4, _count_up, 150))
    done.set()
    resetter.join()
    assert taken + state.count("n") == added == 600


def _pass_through(state: State, number: int, name: str, seconds: float) -> int:
    passed, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        pace = state.throttle(name, 50, 1, burst=10)
        passed += pace.ok
        if not pace.ok:
            time.sleep(0.002)
    return passed


def test_17_throttle_50_per_s_burst_10_in_4_processes_for_3_s_passes_150_to_165(state: State, place: Place) -> None:
    # On a machine that is busy nobody may ask within the 0.2 s of the burst, and it lapses: it is measured again then.
    for name in ("api", "again", "and again", "once more"):
        passed = sum(in_processes(place, 4, _pass_through, name, 3.0))
        assert passed <= 165
        if passed >= 150:
            break
    assert passed >= 150
    refused = state.throttle("single", 5, 1)
    while refused.ok:
        refused = state.throttle("single", 5, 1)
    time.sleep(refused.retry_after)
    assert state.throttle("single", 5, 1).ok


# -- compare-and-set -----------------------------------------------------------------------------------------------


def _update(state: State, number: int, times: int) -> None:
    for _ in range(times):
        state.update("n", lambda value: value + 1, 0)


def test_18_updates_of_4_processes_lose_nothing_and_a_version_never_comes_again(state: State, place: Place) -> None:
    times = 200 if os.environ.get("STACKSTATE_TEST_LONG") else 50
    in_processes(place, 4, _update, times)
    assert state.get("n") == 4 * times
    version = state.set("k", "a")
    state.delete("k")
    state.set("k", "a")
    with pytest.raises(VersionConflict):
        state.set("k", "b", if_version=version)


def _add(state: State, number: int) -> bool:
    return state.add("k", number)


def test_19_of_16_processes_that_add_at_once_exactly_one_finds_the_key_absent(state: State, place: Place) -> None:
    won = in_processes(place, 16, _add)
    assert sum(won) == 1
    assert state.get("k") == won.index(True)


# -- locks ---------------------------------------------------------------------------------------------------------


def _write_sections(state: State, number: int, path: str, times: int) -> None:
    for _ in range(times):
        with state.lock("l", ttl=30, wait=60) as lock, open(path, "a", buffering=1) as journal:
            journal.write(f"start {lock.fence}\n")
            journal.write(f"end {lock.fence}\n")


def test_20_sections_of_4_processes_over_one_lock_never_interleave(place: Place, tmp_path: Path) -> None:
    path, times = tmp_path / "journal", 200 if os.environ.get("STACKSTATE_TEST_LONG") else 30
    in_processes(place, 4, _write_sections, str(path), times)
    lines = [line.split() for line in path.read_text().splitlines()]
    assert len(lines) == 8 * times
    assert all(
        one == ["start", other[1]] and other[0] == "end" for one, other in zip(lines[::2], lines[1::2], strict=True)
    )
    fences = [int(fence) for what, fence in lines if what == "start"]
    assert sorted(set(fences)) == fences


def _hold(place: Place, seconds: float) -> None:
    state = place.state("holder")
    lock = state.lock("l", ttl=5)
    lock.acquire()
    state.set("holding", lock.fence)
    time.sleep(seconds)
    refused = []
    for name, call in (("check", lock.check), ("set", lambda: state.set("guarded", "stale", fence=lock))):
        try:
            call()
        except LockLost:
            refused.append(name)
    try:
        lock.release()
    except LockLost:
        refused.append("release")
    state.set("refused", refused)


def test_21_a_killed_holder_is_passed_over_after_its_ttl_and_not_before(shared_place: Place) -> None:
    state = shared_place.state("next")
    holder = SPAWN.Process(target=_hold, args=(shared_place, 60))
    holder.start()
    fence = wait_for(lambda: state.get("holding"), timeout=20, message="the holder to hold")
    holder.kill()
    holder.join()
    info = state.lock_info("l")
    assert info is not None
    with pytest.raises(LockBusy):
        state.lock("l").__enter__()
    assert info.expires_at is not None
    left = (info.expires_at - datetime.now(timezone.utc)).total_seconds()
    with state.lock("l", wait=max(0.0, left) + 0.5) as lock:
        assert lock.fence > fence


def test_22_a_holder_stopped_beyond_its_ttl_is_refused_and_frees_nothing(shared_place: Place) -> None:
    state = shared_place.state("next")
    state.set("guarded", "fresh")
    holder = SPAWN.Process(target=_hold, args=(shared_place, 1.0))
    holder.start()
    wait_for(lambda: state.get("holding"), timeout=20, message="the holder to hold")
    os.kill(holder.pid or 0, signal.SIGSTOP)
    with state.lock("l", ttl=30, wait=8) as lock:
        os.kill(holder.pid or 0, signal.SIGCONT)
        holder.join(20)
        assert state.get("refused") == ["check", "set", "release"]
        lock.check()
    assert state.get("guarded") == "fresh"


def test_23_fences_grow_over_every_way_a_lock_ends_and_a_restart_and_a_purge(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_stackstate.holding.LINGER", 1)  # microseconds, so that there is something to purge
    fences, purged = [], 0
    for way in range(100):
        state = place.state(f"run-{way}")
        lock = state.lock("l", ttl=0.02 if way % 4 == 2 else 30, renew=False)
        assert lock.acquire()
        fences.append(lock.fence)
        if way % 4 == 0:
            lock.release()
        elif way % 4 == 1:
            state.force_release("l")
        elif way % 4 == 2:
            time.sleep(0.03)
        else:
            lock.release()
            time.sleep(0.002)
            while done := place.store.purge():
                purged += done
            place.store.close()
    assert sorted(set(fences)) == fences
    assert purged > 0 or place.url.startswith(("redis", "sentinel"))  # which forget by themselves


def test_24_the_same_run_may_nest_a_lock_and_a_thread_without_its_context_may_not(place: Place) -> None:
    state = place.state("1")
    with state.lock("l", ttl=30):
        with state.lock("l", ttl=30):
            pass
        with ThreadPoolExecutor(1) as pool:
            assert not pool.submit(lambda: place.state(None).lock("l").acquire()).result()
        assert state.lock_info("l") is not None
    assert state.lock_info("l") is None


def test_29_wrong_lock_options_are_refused_and_info_and_force_release_work(place: Place) -> None:
    state = place.state("1")
    for options in ({"ttl": 0}, {"ttl": True}, {"ttl": 4}):
        with pytest.raises(ValueError, match="ttl"):
            state.lock("l", **options)
    lock = state.lock("l", ttl=30)
    lock.acquire()
    info = state.lock_info("l")
    assert info is not None
    assert (info.pid, info.fence, info.run_id) == (os.getpid(), lock.fence, "1")
    assert info.host
    assert info.expires_at is not None
    assert state.force_release("l")
    assert place.state("2").lock("l").acquire()
    with pytest.raises(LockLost):
        lock.release()


# -- processes -----------------------------------------------------------------------------------------------------


def test_30_a_store_used_in_the_parent_works_in_the_children_it_forks(shared_place: Place) -> None:
    state = shared_place.state("parent")
    state.increment("n")
    children = []
    for _ in range(4):
        child = os.fork()
        if not child:
            code = 1
            try:
                code = 0 if [state.increment("n") for _ in range(100)][-1] > 100 else 2
            except StackStateError as error:
                print(error)
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert state.count("n") == 401
