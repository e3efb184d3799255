"""self.state: values, TTL, counters, compare-and-set, scopes, listing."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from enum import Enum
from typing import Any

import pytest

from celery_stackstate.errors import (
    ConfigurationError,
    CounterRange,
    InvalidExpiry,
    InvalidKey,
    NotACounter,
    NotInARun,
    NotSerializable,
    ValueTooLarge,
    VersionConflict,
)
from celery_stackstate.keys import STATE, pack
from celery_stackstate.state import State
from celery_stackstate.stores.base import Store
from tests.nouns.conftest import LIMIT, state_of

SOON = 1.0


# -- values --------------------------------------------------------------------------------------------------------


def test_an_absent_key_gives_the_default_and_a_stored_none_does_not(state: State) -> None:
    assert state.get("k") is None
    assert state.get("k", 7) == 7
    state.set("k", None)
    assert state.get("k", 7) is None
    entry = state.entry("k")
    assert entry is not None
    assert (entry.key, entry.value, entry.expires_at) == ("k", None, None)


def test_set_returns_the_version_that_entry_shows(state: State) -> None:
    version = state.set("k", "v")
    entry = state.entry("k")
    assert entry is not None
    assert entry.version == version
    assert state.set("k", "w") > version


def test_get_many_gives_those_present(state: State) -> None:
    state.set("a", 1)
    state.set("b", [2])
    assert state.get_many(["a", "b", "c"]) == {"a": 1, "b": [2]}
    assert state.get_many([]) == {}


def test_a_refused_value_leaves_the_old_one(state: State) -> None:
    state.set("k", "old")
    with pytest.raises(NotSerializable, match=r"'k' was not set: value\['a'\]\[1\] is a set"):
        state.set("k", {"a": [1, {2}]})
    with pytest.raises(ValueTooLarge, match="stackstate_max_value_bytes"):
        state.set("k", "x" * 1_048_576)
    assert state.get("k") == "old"


def test_a_value_of_exactly_the_limit_in_bytes_passes_and_one_more_does_not(state: State) -> None:
    state.set("k", "é" * ((LIMIT - 2) // 2))
    with pytest.raises(ValueTooLarge) as caught:
        state.set("k", "é" * ((LIMIT - 2) // 2) + "x")
    assert (caught.value.size, caught.value.limit) == (LIMIT + 1, LIMIT)


@pytest.mark.parametrize("key", ["", "x" * 1025, "é" * 513, "a\x00b", "k ", " k", "a\nb", 7, None, b"k", "\ud800"])
def test_a_key_that_cannot_be_one_is_refused(state: State, key: Any) -> None:
    for call in (state.get, state.pop, state.increment, state.lock, state.entry, state.delete):
        with pytest.raises(InvalidKey):
            call(key)
    assert list(state.keys()) == []


def test_keys_differ_by_every_byte(state: State) -> None:
    keys = ["Abc", "abc", "Äbc", "a:b", "a|b", "{x}", "a%", "a_", "x" * 1024]
    for number, key in enumerate(keys):
        state.set(key, number)
    assert state.get_many(keys) == dict(zip(keys, range(len(keys)), strict=True))


def test_a_key_is_apart_in_every_scope(store: Store) -> None:
    first, second = state_of(store, "1", task="a"), state_of(store, "2", task="b")
    places = [first, first.task, second.task, first.run, second.run, first.scope("x"), first.scope("y")]
    for number, place in enumerate(places):
        place.set("k", number)
    assert [place.get("k") for place in places] == list(range(7))
    assert first.run.clear() == 1
    assert [place.get("k") for place in places] == [0, 1, 2, None, 4, 5, 6]


def test_a_run_scope_is_the_same_seen_from_outside_and_ends_with_the_run_retention(store: Store) -> None:
    state_of(store, "1").run.set("k", "v")
    outside = state_of(store, None)
    entry = outside.for_run("1").entry("k")
    assert entry is not None
    assert entry.expires_at is not None
    assert timedelta(seconds=3590) < entry.expires_at - datetime.now(timezone.utc) <= timedelta(seconds=3601)
    with pytest.raises(NotInARun, match="for_run"):
        _ = outside.run


def test_each_write_to_a_run_scope_prolongs_it_and_an_explicit_ttl_counts_as_elsewhere(store: Store) -> None:
    run = state_of(store, "1").run

    def left(key: str) -> float:
        entry = run.entry(key)
        assert entry is not None
        assert entry.expires_at is not None
        return (entry.expires_at - datetime.now(timezone.utc)).total_seconds()

    for write in (lambda: run.set("k", 1), lambda: run.increment("k"), lambda: run.touch("k")):
        run.set("k", 1, ttl=60)
        write()
        assert 3500 < left("k") <= 3601
    run.update("u", lambda _: 1)
    assert run.add("a", 1)
    assert min(left("u"), left("a")) > 3500
    run.increment("n", ttl=60)
    run.increment("n", ttl=600)
    assert left("n") <= 61


# -- TTL -----------------------------------------------------------------------------------------------------------


def test_a_key_ends_with_its_ttl_and_can_be_added_again(state: State) -> None:
    state.set("k", "v", ttl=SOON)
    assert state.get("k") == "v"
    time.sleep(SOON + 0.1)
    assert state.get("k") is None
    assert list(state.keys()) == []
    assert state.get_many(["k"]) == {}
    assert state.add("k", "again")


def test_expires_at_is_an_instant_in_any_zone(state: State) -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    ends = datetime.now(zone) + timedelta(seconds=60)
    state.set("k", "v", expires_at=ends)
    entry = state.entry("k")
    assert entry is not None
    assert entry.expires_at == ends


def test_an_expires_at_that_has_passed_leaves_the_key_absent(state: State) -> None:
    state.set("k", "old")
    state.set("k", "v", expires_at=datetime.now(timezone.utc) - timedelta(seconds=5))
    assert state.get("k") is None


@pytest.mark.parametrize("ttl", [0, -1, True, "5", float("nan"), float("inf"), 1e12])
def test_a_wrong_ttl_is_refused_before_anything_changes(state: State, ttl: Any) -> None:
    for call in (state.set, state.add):
        with pytest.raises(InvalidExpiry):
            call("k", 1, ttl=ttl)
    with pytest.raises(InvalidExpiry):
        state.increment("k", ttl=ttl)
    assert state.get("k") is None


def test_a_naive_expires_at_and_two_expiries_are_refused(state: State) -> None:
    with pytest.raises(InvalidExpiry, match="time zone"):
        state.set("k", 1, expires_at=datetime(2030, 1, 1))
    with pytest.raises(InvalidExpiry, match="not both"):
        state.set("k", 1, ttl=1, expires_at=datetime.now(timezone.utc))
    with pytest.raises(ValueError, match="expires_at must be a datetime"):
        state.set("k", 1, expires_at=12)  # type: ignore[arg-type]
    assert state.get("k") is None


def test_a_set_without_ttl_drops_the_old_one(state: State) -> None:
    state.set("k", 1, ttl=60)
    state.set("k", 2)
    entry = state.entry("k")
    assert entry is not None
    assert entry.expires_at is None


def test_touch_shortens_persists_and_makes_nothing(state: State) -> None:
    state.set("k", "v", ttl=60)
    assert state.touch("k")
    entry = state.entry("k")
    assert entry is not None
    assert entry.expires_at is None
    assert state.touch("k", ttl=SOON)
    time.sleep(SOON + 0.1)
    assert state.get("k") is None
    assert not state.touch("k", ttl=5)
    assert state.entry("k") is None


# -- compare-and-set -----------------------------------------------------------------------------------------------


def test_if_version_refuses_a_key_that_was_deleted_and_made_again(state: State) -> None:
    version = state.set("k", "a")
    state.delete("k")
    state.set("k", "a")
    with pytest.raises(VersionConflict, match=f"if_version is {version}"):
        state.set("k", "b", if_version=version)
    assert state.get("k") == "a"
    with pytest.raises(VersionConflict, match="absent"):
        state.set("other", "b", if_version=version)


def test_of_many_adds_one_wins(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda number: state_of(store, str(number)).add("k", number), range(16)))
    assert sorted(won) == [False] * 15 + [True]
    assert state_of(store).get("k") == won.index(True)


def test_updates_lose_nothing(store: Store) -> None:
    def work(_: int) -> None:
        state = state_of(store)
        for _ in range(25):
            state.update("k", lambda value: {"n": value["n"] + 1}, {"n": 0})

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert state_of(store).get("k") == {"n": 100}


def test_pop_gives_the_value_to_one(store: Store) -> None:
    state_of(store).set("k", "v")
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: state_of(store).pop("k", "none"), range(8)))
    assert sorted(got) == ["none"] * 7 + ["v"]


def test_delete_counts_and_heeds_the_version(state: State) -> None:
    version = state.set("a", 1)
    state.set("b", 1)
    assert state.delete("a", "b", "c", if_version=version) == 1
    assert state.delete("a", "b", "c") == 1


# -- counters ------------------------------------------------------------------------------------------------------


def test_counters_begin_at_zero_and_count_both_ways(state: State) -> None:
    assert state.count("k") == 0
    assert state.increment("k") == 1
    assert state.increment("k", 5) == 6
    assert state.decrement("k", 2) == 4
    assert state.count("k") == state.get("k") == 4


def test_a_ceiling_lets_exactly_so_many_through(store: Store) -> None:
    def take(_: int) -> bool:
        try:
            state_of(store).increment("k", ceiling=5)
        except CounterRange:
            return False
        return True

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(take, range(20))) == 5
    assert state_of(store).count("k") == 5
    with pytest.raises(CounterRange, match="would leave its range"):
        state_of(store).decrement("k", 6, floor=0)


def test_a_counter_stays_within_int64(state: State) -> None:
    state.increment("k", 2**63 - 1)
    with pytest.raises(CounterRange):
        state.increment("k")
    assert state.count("k") == 2**63 - 1


def test_a_value_is_no_counter_but_an_int_is_one(state: State) -> None:
    state.set("text", "5")
    for call in (state.increment, state.count, state.reset):
        with pytest.raises(NotACounter, match="'text'"):
            call("text")
    state.set("number", 5)
    assert state.increment("number") == 6


def test_a_counters_ttl_counts_from_its_creation(state: State) -> None:
    state.increment("k", ttl=SOON)
    state.increment("k", ttl=60)
    time.sleep(SOON + 0.1)
    assert state.count("k") == 0


@pytest.mark.parametrize("by", [1.5, True, "1", None])
def test_only_whole_numbers_are_counted(state: State, by: Any) -> None:
    with pytest.raises(CounterRange, match="must be an int"):
        state.increment("k", by)
    with pytest.raises(CounterRange, match="must be an int"):
        state.decrement("k", by)
    assert state.count("k") == 0


def test_reset_loses_no_increment(store: Store) -> None:
    def add(_: int) -> None:
        for _ in range(50):
            state_of(store).increment("k")

    taken = 0
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(add, number) for number in range(4)]
        while not all(job.done() for job in jobs):
            taken += state_of(store).reset("k")
    assert taken + state_of(store).count("k") == 200


# -- listing -------------------------------------------------------------------------------------------------------


def test_keys_are_paged_in_order_by_prefix(state: State) -> None:
    for name in ("b:2", "a:1", "b:10", "b:1", "c", "B:1"):
        state.set(name, name)
    assert list(state.keys("b:")) == ["b:1", "b:10", "b:2"]
    page = state.keys(limit=4)
    assert (list(page), page.next) == (["B:1", "a:1", "b:1", "b:10"], "b:10")
    rest = state.keys(limit=4, after=page.next)
    assert (list(rest), rest.next) == (["b:2", "c"], None)


def test_items_carry_values_and_clear_removes_by_prefix(state: State) -> None:
    state.set("a:1", [1])
    state.increment("a:2")
    state.set("b", 3)
    assert [(entry.key, entry.value) for entry in state.items("a:")] == [("a:1", [1]), ("a:2", 1)]
    assert state.clear("a:") == 2
    assert list(state.keys()) == ["b"]


# -- wrong arguments, and what others do meanwhile -----------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, True, "x", 1.5, None])
def test_a_wrong_limit_is_refused(state: State, limit: Any) -> None:
    state.set("k", 1)
    for call in (state.keys, state.items):
        with pytest.raises(ValueError, match="limit must be a whole number, 1 or more"):
            call(limit=limit)
    assert tuple(state.keys(limit=10**12)) == ("k",)


class Place(str, Enum):
    EU = "eu"


def test_a_member_of_an_enum_is_the_key_scope_or_lock_of_its_value(state: State) -> None:
    state.scope(Place.EU).set(Place.EU, 1)
    assert state.scope("eu").get("eu") == 1
    with state.scope(Place.EU).lock(Place.EU):
        assert state.scope("eu").lock_info("eu") is not None


def test_an_update_keeps_the_ttl_unless_it_gives_one(state: State) -> None:
    assert state.update("k", lambda _: 1, ttl=60) == 1
    before = state.entry("k")
    assert state.update("k", lambda n: n + 1) == 2
    after = state.entry("k")
    assert before is not None
    assert after is not None
    assert before.expires_at is not None
    assert after.expires_at == before.expires_at
    state.update("k", lambda n: n + 1, ttl=600)
    later = state.entry("k")
    assert later is not None
    assert later.expires_at is not None
    assert later.expires_at > before.expires_at
    state.update("none", lambda _: 1)
    assert state.update("none", lambda n: n + 1) == 2
    none = state.entry("none")
    assert none is not None
    assert none.expires_at is None


@pytest.mark.parametrize("prefix", [None, 5, "\ud800", "a\x00", "x" * 1025])
def test_a_wrong_prefix_is_refused_and_nothing_is_cleared(state: State, prefix: Any) -> None:
    state.set("k", 1)
    for call in (state.keys, state.items, state.clear):
        with pytest.raises(InvalidKey, match="prefix"):
            call(prefix)
    assert state.get("k") == 1


def test_a_prefix_may_end_with_a_blank(state: State) -> None:
    state.set("a b", 1)
    state.set("ab", 2)
    assert tuple(state.keys("a ")) == ("a b",)
    assert state.clear("a ") == 1


def test_a_value_that_cannot_be_read_here_is_named_and_keeps_no_other_from_being_listed(
    store: Store, state: State
) -> None:
    state.set("a", 1)
    foreign = b'{"$type":"datetime","is":"2026-01-01T00:00:00","zone":"Mars/Base","fold":0}'
    store.put(pack(STATE, "", "z"), foreign)
    assert tuple(state.keys()) == ("a", "z")
    for call in (lambda: state.get("z"), lambda: state.get_many(["a", "z"]), state.items, lambda: state.pop("z")):
        with pytest.raises(ConfigurationError, match=r"'z': .*Mars/Base"):
            call()
    found = store.get(pack(STATE, "", "z"))
    assert found is not None
    assert found.value == foreign


def test_many_are_deleted_at_once(state: State) -> None:
    for number in range(250):
        state.set(f"k{number}", number)
    assert state.delete(*[f"k{number}" for number in range(249)], "never") == 249
    assert tuple(state.keys()) == ("k249",)
    version = state.set("a", 1)
    assert state.delete("a", "k249", if_version=version) == 1
    assert state.clear() == 1


def test_a_clear_ends_though_keys_are_set_behind_it(store: Store, state: State) -> None:
    for number in range(600):
        state.set(f"k{number:03}", number)
    scan = store.scan
    found: list[int] = []

    def scan_and_set(*args: Any, **options: Any) -> Any:
        entries = scan(*args, **options)
        found.append(len(entries))
        state.set("behind", len(found))
        return entries

    store.scan = scan_and_set  # type: ignore[method-assign]
    assert state.clear() == 600
    assert found == [500, 100, 0]
    del store.scan
    assert state.get("behind") == 3


def test_a_counter_that_became_a_value_meanwhile_is_put_back(store: Store, state: State) -> None:
    state.increment("n", 5)
    get = store.get

    def get_and_set(key: bytes) -> Any:
        found = get(key)
        store.put(key, b'"text"')
        return found

    store.get = get_and_set  # type: ignore[method-assign]
    with pytest.raises(NotACounter):
        state.reset("n")
    del store.get
    assert state.get("n") == "text"
