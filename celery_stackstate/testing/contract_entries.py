"""The contract of entries, a test for each sentence."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from celery_stackstate.errors import CounterRange, NotACounter
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN, Expect, Guard, GuardFailed, Store, StoredEntry
from celery_stackstate.testing.contract_base import (
    HOSTILE_KEYS,
    LONG,
    SHORT,
    ContractBase,
    Place,
    clock,
    wait_past,
)


def put(store: Store, key: bytes = b"k", value: bytes | int = b"v", **options: Any) -> StoredEntry:
    result = store.put(key, value, **options)
    assert result.applied
    assert result.entry is not None
    return result.entry


class EntryContract(ContractBase):
    """What `get`, `put` and `remove` promise."""

    def test_an_unknown_key_is_absent(self, store: Store) -> None:
        assert store.get(b"k") is None
        assert store.remove(b"k") is None

    @pytest.mark.parametrize("value", [b"", b"v", bytes(range(256)), b"x" * 1_000_000, 0, -1, INT64_MAX, INT64_MIN])
    def test_a_value_comes_back_equal_and_of_its_type(self, store: Store, value: bytes | int) -> None:
        written = put(store, b"k", value)
        entry = store.get(b"k")
        assert entry is not None
        assert (value, type(value)) == (entry.value, type(entry.value))
        assert replace(written, now=entry.now) == entry

    @pytest.mark.parametrize("key", [b"", b"k" * 2049, "text"])
    def test_a_key_has_1_to_2048_bytes(self, store: Store, key: Any) -> None:
        for call in (
            lambda: store.get(key),
            lambda: store.get_many([key]),
            lambda: store.put(key, b""),
            lambda: store.remove(key),
            lambda: store.add(key, 1),
        ):
            with pytest.raises(ValueError, match="1 to 2048 bytes"):
                call()

    def test_hostile_keys_are_all_different_keys(self, store: Store) -> None:
        for number, key in enumerate(HOSTILE_KEYS):
            put(store, key, number)
        assert list(range(len(HOSTILE_KEYS))) == [store.get(key).value for key in HOSTILE_KEYS]  # type: ignore[union-attr]

    @pytest.mark.parametrize(("value", "error"), [("text", TypeError), (True, TypeError), (1.5, TypeError)])
    def test_a_value_of_another_type_is_refused(self, store: Store, value: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            store.put(b"k", value)
        assert store.get(b"k") is None

    @pytest.mark.parametrize("value", [INT64_MAX + 1, INT64_MIN - 1])
    def test_an_integer_outside_int64_is_refused(self, store: Store, value: int) -> None:
        with pytest.raises(OverflowError):
            store.put(b"k", value)
        assert store.get(b"k") is None

    def test_prefixes_separate(self, store: Store, place: Place) -> None:
        put(store, b"k", b"mine")
        for prefix in ("", place.prefix + "x", "}" + place.prefix, place.prefix.upper()):
            other = replace(place, prefix=prefix).open()
            try:
                assert other.get(b"k") is None
                other.put(b"k", b"theirs", ttl=SHORT)
                assert put(store, b"k", b"mine").value == b"mine"
                assert [entry.key for entry in store.scan(b"k")] == [b"k"]
            finally:
                other.remove(b"k")
                other.close()

    def test_two_stores_of_one_place_see_each_other(self, store: Store, open_store: Callable[[], Store]) -> None:
        put(store)
        assert open_store().get(b"k") is not None

    def test_a_store_works_again_after_close_and_keeps_its_data(self, store: Store) -> None:
        put(store)
        store.close()
        assert store.get(b"k") is not None
        store.close()
        store.close()
        put(store)

    def test_check_answers_warnings_as_text(self, store: Store) -> None:
        assert all(isinstance(warning, str) for warning in store.check())

    def test_nothing_is_pending_at_a_store_that_is_used_and_its_server_is_a_text(self, store: Store) -> None:
        put(store)
        assert store.pending() == []
        assert isinstance(store.server(), str)

    def test_any_put_replaces_the_entry(self, store: Store) -> None:
        put(store, b"k", b"one", ttl=LONG)
        put(store, b"k", 2)
        entry = store.get(b"k")
        assert entry is not None
        assert (entry.value, entry.expires) == (2, None)

    def test_expect_absent_needs_no_live_entry(self, store: Store) -> None:
        first = put(store, expect=Expect.ABSENT)
        result = store.put(b"k", b"other", expect=Expect.ABSENT)
        assert not result.applied
        assert result.entry is not None
        assert first == replace(result.entry, now=first.now)

    def test_expect_version_needs_exactly_that_version(self, store: Store) -> None:
        first = put(store)
        second = put(store, value=b"two", expect=first.version)
        for wrong in (first.version, second.version + 1, 0, -1, 2**70):
            result = store.put(b"k", b"three", expect=wrong)
            assert not result.applied
            assert result.entry is not None
            assert second.version == result.entry.version
        assert not store.put(b"unknown", b"", expect=first.version).applied
        assert store.put(b"unknown", b"", expect=first.version).entry is None
        assert store.get(b"k").value == b"two"  # type: ignore[union-attr]

    def test_a_put_that_is_not_applied_changes_nothing(self, store: Store) -> None:
        before = put(store, ttl=LONG)
        store.put(b"k", b"other", expect=Expect.ABSENT, ttl=SHORT)
        after = store.get(b"k")
        assert after is not None
        assert before == replace(after, now=before.now)

    def test_remove_returns_the_entry_and_makes_it_absent(self, store: Store) -> None:
        written = put(store, b"k", 7, ttl=LONG)
        removed = store.remove(b"k")
        assert removed is not None
        assert written == replace(removed, now=written.now)
        assert store.get(b"k") is None
        assert store.scan(b"") == []
        assert store.remove(b"k") is None

    def test_remove_needs_the_version_it_expects(self, store: Store) -> None:
        entry = put(store)
        assert store.remove(b"k", expect=entry.version + 1) is None
        assert store.get(b"k") is not None
        assert store.remove(b"k", expect=entry.version) is not None

    def test_remove_refuses_expect_absent(self, store: Store) -> None:
        with pytest.raises(ValueError, match="absent"):
            store.remove(b"k", expect=Expect.ABSENT)

    def test_get_many_returns_the_live_entries_among_the_keys(self, store: Store) -> None:
        assert store.get_many([]) == {}
        put(store, b"a", b"1")
        put(store, b"b", 2)
        put(store, b"gone", ttl=1)
        wait_past(store, clock(store) + 1)
        found = store.get_many([b"b", b"a", b"unknown", b"gone", b"a"])
        assert {key: entry.value for key, entry in found.items()} == {b"a": b"1", b"b": 2}
        assert all(key == entry.key for key, entry in found.items())

    def test_get_many_takes_more_keys_than_one_statement(self, store: Store) -> None:
        keys = [b"many%d" % number for number in range(450)]
        for key in keys:
            put(store, key, key)
        assert set(keys) == set(store.get_many(keys))


class TimeContract(ContractBase):
    """What expiry, versions and purge promise."""

    def test_times_are_microseconds_of_one_clock(self, store: Store) -> None:
        entry = put(store)
        assert abs(entry.now - time.time() * 1_000_000) < 60_000_000
        assert entry.now == entry.updated
        later = store.get(b"k")
        assert later is not None
        assert later.now >= entry.now

    def test_ttl_counts_from_the_stores_now(self, store: Store) -> None:
        entry = put(store, ttl=LONG)
        assert entry.now + LONG == entry.expires

    def test_expires_is_absolute(self, store: Store) -> None:
        moment = clock(store) + LONG
        assert moment == put(store, expires=moment).expires
        assert moment == store.get(b"k").expires  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        "options", [{"ttl": 1, "expires": 1}, {"ttl": 0}, {"ttl": -1}, {"expires": 0}, {"expires": -5}]
    )
    def test_at_most_one_positive_expiry_is_given(self, store: Store, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"ttl|expires"):
            store.put(b"k", b"", **options)
        with pytest.raises(ValueError, match=r"ttl|expires"):
            store.add(b"k", 1, **options)
        assert store.get(b"k") is None

    def test_an_entry_lives_to_its_end_and_is_then_absent_for_every_verb(self, store: Store) -> None:
        for key, value in ((b"k", b"v"), (b"n", 7)):
            put(store, key, value, ttl=LONG)
            assert store.get(key) is not None
        end = clock(store) + SHORT
        first = put(store, b"k", b"v", expires=end)
        put(store, b"n", 7, expires=end)
        wait_past(store, end)
        assert store.get(b"k") is None
        assert store.get_many([b"k", b"n"]) == {}
        assert store.scan(b"") == []
        assert store.remove(b"k") is None
        assert not store.put(b"k", b"", expect=first.version).applied
        assert store.put(b"k", b"", expect=Expect.ABSENT).applied
        assert store.add(b"n", 1) == 1

    def test_an_entry_is_live_one_moment_before_its_end(self, store: Store) -> None:
        entry = put(store, ttl=SHORT)
        assert entry.expires is not None
        while (found := store.get(b"k")) is not None:
            assert found.now < entry.expires
            time.sleep(0.001)
        assert clock(store) >= entry.expires

    def test_a_write_whose_expires_has_passed_leaves_the_key_absent(self, store: Store) -> None:
        put(store, b"k", b"old")
        assert store.put(b"k", b"new", expires=1).applied
        assert store.get(b"k") is None
        assert store.scan(b"") == []
        assert store.add(b"c", 3, expires=1) == 3
        assert store.add(b"c", 3) == 3

    def test_a_put_without_expiry_has_none_whatever_it_had_before(self, store: Store) -> None:
        put(store, ttl=SHORT)
        entry = put(store)
        wait_past(store, entry.now + SHORT)
        store.purge()
        assert store.get(b"k") is not None
        assert [found.key for found in store.scan(b"")] == [b"k"]

    @pytest.mark.parametrize("write", ["put", "add"])
    def test_what_is_written_after_an_end_does_not_end_with_it(self, store: Store, write: str) -> None:
        ended = store.put(b"k", 1, ttl=SHORT).entry
        assert ended is not None
        wait_past(store, ended.now + SHORT + 100_000)  # a server may have dropped it by its own clock
        if write == "put":
            assert store.put(b"k", 2, expect=Expect.ABSENT).applied
        else:
            assert store.add(b"k", 2) == 2
        store.purge()
        found = store.get(b"k")
        assert found is not None
        assert (found.value, found.expires) == (2, None)
        assert [entry.key for entry in store.scan(b"")] == [b"k"]

    def test_an_expiry_in_a_far_future_is_no_error(self, store: Store) -> None:
        far: list[dict[str, Any]] = [{"ttl": 2**62}, {"expires": 2**62}, {"ttl": LONG, "linger": 2**62}]
        for options in far:
            put(store, **options)
            assert store.get(b"k") is not None

    def test_every_write_gives_a_larger_version(self, store: Store) -> None:
        versions = []
        for number in range(50):
            versions.append(put(store, value=number).version)
            store.add(b"k", 1)
            versions.append(store.get(b"k").version)  # type: ignore[union-attr]
        assert sorted(set(versions)) == versions
        assert 0 < versions[0] < versions[-1] < 2**63

    @pytest.mark.parametrize("linger", [0, LONG])
    def test_versions_grow_across_removal_expiry_and_purge(self, store: Store, linger: int) -> None:
        versions = [put(store, linger=linger).version]
        for _ in range(20):
            store.remove(b"k")
            versions.append(put(store, linger=linger).version)
        versions.append(put(store, ttl=1, linger=linger).version)
        wait_past(store, clock(store) + 1)
        versions.append(put(store, ttl=1, linger=linger).version)
        wait_past(store, clock(store) + 2000)
        while store.purge():
            pass
        versions.append(put(store, linger=linger).version)
        assert sorted(set(versions)) == versions

    def test_purge_keeps_what_lives_and_ends_at_zero(self, store: Store) -> None:
        for number in range(30):
            put(store, b"ended%d" % number, number, ttl=1)
            put(store, b"live%d" % number, number, ttl=LONG)
            put(store, b"kept%d" % number, number)
        wait_past(store, clock(store) + 5000)
        purged = 0
        while done := store.purge(limit=7):
            purged += done
        assert purged >= 30
        assert store.purge() == 0
        assert len(store.scan(b"", limit=1000)) == 60


class GuardContract(ContractBase):
    """What a guard promises."""

    def test_a_guard_lets_writes_through_while_its_entry_stands(self, store: Store) -> None:
        guard = Guard(b"lock", put(store, b"lock", ttl=LONG).version)
        assert put(store, b"k", b"v", guard=guard).value == b"v"
        assert store.add(b"c", 2, guard=guard) == 2
        assert store.put(b"k", b"w", expect=Expect.ABSENT, guard=guard).applied is False
        with pytest.raises(CounterRange):
            store.add(b"c", 2, ceiling=3, guard=guard)

    @pytest.mark.parametrize("end", ["rewritten", "removed", "made again", "ended", "unknown"])
    def test_a_guard_that_fails_changes_nothing(self, store: Store, end: str) -> None:
        guard = Guard(b"lock", put(store, b"lock", ttl=SHORT if end == "ended" else LONG).version)
        before, counter = put(store, b"k", b"v"), store.add(b"c", 5)
        if end in ("removed", "made again"):
            store.remove(b"lock")
        if end in ("rewritten", "made again"):
            put(store, b"lock")
        if end == "ended":
            wait_past(store, clock(store) + SHORT)
        if end == "unknown":
            guard = Guard(b"unknown", guard.version)
        for write in (
            lambda: store.put(b"k", b"w", guard=guard),
            lambda: store.put(b"new", b"w", expect=Expect.ABSENT, guard=guard),
            lambda: store.put(b"k", b"w", expect=before.version, guard=guard),
            lambda: store.add(b"c", 1, guard=guard),
            lambda: store.add(b"new", 1, guard=guard),
        ):
            with pytest.raises(GuardFailed):
                write()
        entry = store.get(b"k")
        assert entry is not None
        assert before == replace(entry, now=before.now)
        assert store.add(b"c", 0) == counter
        assert store.get(b"new") is None

    def test_a_key_may_guard_itself(self, store: Store) -> None:
        first = put(store, b"k", 1)
        assert store.add(b"k", 1, guard=Guard(b"k", first.version)) == 2
        with pytest.raises(GuardFailed):
            store.add(b"k", 1, guard=Guard(b"k", first.version))


class CounterContract(ContractBase):
    """What `add` promises."""

    def test_add_starts_from_zero_and_returns_the_new_integer(self, store: Store) -> None:
        assert [store.add(b"c", delta) for delta in (5, -2, 0, -10)] == [5, 3, 3, -7]
        entry = store.get(b"c")
        assert entry is not None
        assert (-7, int) == (entry.value, type(entry.value))

    def test_add_goes_on_from_an_integer_that_was_put(self, store: Store) -> None:
        put(store, b"c", 40)
        assert store.add(b"c", 2) == 42

    def test_numbers_beyond_2_to_the_53_are_exact(self, store: Store) -> None:
        put(store, b"c", 2**53)
        assert store.add(b"c", 1) == 2**53 + 1
        assert store.add(b"c", 2**61) == 2**61 + 2**53 + 1
        assert store.get(b"c").value == 2**61 + 2**53 + 1  # type: ignore[union-attr]

    @pytest.mark.parametrize(("limit", "delta"), [(INT64_MAX, 1), (INT64_MIN, -1)])
    def test_a_counter_never_leaves_int64(self, store: Store, limit: int, delta: int) -> None:
        assert store.add(b"c", limit) == limit
        before = store.get(b"c")
        with pytest.raises(CounterRange) as caught:
            store.add(b"c", delta)
        assert limit == caught.value.__dict__["value"]
        after = store.get(b"c")
        assert before is not None
        assert after is not None
        assert before == replace(after, now=before.now)
        assert store.add(b"c", -delta) == limit - delta

    @pytest.mark.parametrize(
        ("start", "delta", "bounds"),
        [
            (5, 6, {"ceiling": 10}),
            (5, -6, {"floor": 0}),
            (-5, -6, {"floor": -10}),
            (-5, 4, {"ceiling": -2}),
            (9, 1, {"ceiling": 9}),
            (2**60, 1, {"ceiling": 2**60}),
            (-(2**60), -1, {"floor": -(2**60)}),
            (0, 0, {"floor": 2**70}),
        ],
    )
    def test_a_counter_stays_between_floor_and_ceiling(
        self, store: Store, start: int, delta: int, bounds: dict[str, Any]
    ) -> None:
        put(store, b"c", start, ttl=LONG)
        before = store.get(b"c")
        with pytest.raises(CounterRange) as caught:
            store.add(b"c", delta, **bounds)
        assert start == caught.value.__dict__["value"]
        after = store.get(b"c")
        assert before is not None
        assert after is not None
        assert before == replace(after, now=before.now)

    def test_floor_and_ceiling_themselves_are_allowed(self, store: Store) -> None:
        assert store.add(b"c", 10, floor=-10, ceiling=10) == 10
        assert store.add(b"c", -20, floor=-10, ceiling=10) == -10

    def test_a_refused_add_does_not_create_the_key(self, store: Store) -> None:
        with pytest.raises(CounterRange) as caught:
            store.add(b"c", 5, ceiling=4, ttl=LONG)
        assert caught.value.__dict__["value"] == 0
        assert store.get(b"c") is None
        assert store.scan(b"") == []

    def test_a_refused_add_leaves_an_ended_key_absent(self, store: Store) -> None:
        put(store, b"c", b"bytes", ttl=1, linger=LONG)
        wait_past(store, clock(store) + 1)
        with pytest.raises(CounterRange):
            store.add(b"c", 5, ceiling=4)
        assert store.get(b"c") is None
        assert store.add(b"c", 4, ceiling=4) == 4

    def test_add_to_bytes_is_refused_and_changes_nothing(self, store: Store) -> None:
        before = put(store, b"k", b"5")
        with pytest.raises(NotACounter):
            store.add(b"k", 1)
        after = store.get(b"k")
        assert after is not None
        assert before == replace(after, now=before.now)

    @pytest.mark.parametrize("delta", [INT64_MAX + 1, INT64_MIN - 1])
    def test_a_delta_outside_int64_is_refused(self, store: Store, delta: int) -> None:
        with pytest.raises(OverflowError):
            store.add(b"c", delta)

    def test_an_expiry_counts_only_when_the_key_is_created(self, store: Store) -> None:
        store.add(b"c", 1, ttl=LONG)
        created = store.get(b"c")
        store.add(b"c", 1, ttl=SHORT)
        store.add(b"c", 1)
        entry = store.get(b"c")
        assert created is not None
        assert entry is not None
        assert created.expires is not None
        assert (3, created.expires) == (entry.value, entry.expires)
        put(store, b"forever", 1)
        store.add(b"forever", 1, ttl=1)
        assert store.get(b"forever").expires is None  # type: ignore[union-attr]

    def test_an_expiry_counts_each_time_with_prolong(self, store: Store) -> None:
        store.add(b"c", 1, ttl=SHORT, prolong=True)
        store.add(b"c", 1, ttl=LONG, prolong=True)
        entry = store.get(b"c")
        assert entry is not None
        assert entry.expires == entry.updated + LONG
        wait_past(store, entry.updated + SHORT)
        assert store.add(b"c", 1, ttl=LONG) == 3
        assert store.get(b"c").expires == entry.expires  # type: ignore[union-attr]
        store.add(b"c", 1, prolong=True)
        assert store.get(b"c").expires is None  # type: ignore[union-attr]
        with pytest.raises(CounterRange):
            store.add(b"c", 1, ceiling=4, ttl=SHORT, prolong=True)
        assert store.get(b"c").expires is None  # type: ignore[union-attr]

    def test_an_ended_counter_starts_again_with_a_new_expiry(self, store: Store) -> None:
        store.add(b"c", 5, ttl=1)
        wait_past(store, clock(store) + 1)
        assert store.add(b"c", 1, ttl=LONG) == 1
        assert store.get(b"c").expires > clock(store)  # type: ignore[union-attr, operator]


class ScanContract(ContractBase):
    """What `scan` promises."""

    def test_scan_returns_keys_in_byte_order(self, store: Store) -> None:
        for key in HOSTILE_KEYS:
            put(store, key, key)
        found = store.scan(b"")
        assert sorted(HOSTILE_KEYS) == [entry.key for entry in found]
        assert sorted(HOSTILE_KEYS) == [entry.value for entry in found]

    @pytest.mark.parametrize(
        "prefix", [b"a", b"a%", b"a_", b"a\x00", b"a\xff", b"\xff", b"\xff\xff", b"\x00", b"ab", b"zz"]
    )
    def test_scan_takes_its_prefix_literally(self, store: Store, prefix: bytes) -> None:
        for key in HOSTILE_KEYS:
            put(store, key)
        assert sorted(key for key in HOSTILE_KEYS if key.startswith(prefix)) == [e.key for e in store.scan(prefix)]

    @pytest.mark.parametrize("limit", [1, 2, 5, 100])
    def test_pages_join_to_the_whole(self, store: Store, limit: int) -> None:
        for key in HOSTILE_KEYS:
            put(store, key)
        seen: list[bytes] = []
        after: bytes | None = None
        while True:
            page = [entry.key for entry in store.scan(b"", after=after, limit=limit)]
            seen += page
            if len(page) < limit:
                break
            after = page[-1]
        assert sorted(HOSTILE_KEYS) == seen

    def test_after_may_be_no_key_and_may_lie_outside_the_prefix(self, store: Store) -> None:
        for key in (b"a1", b"a2", b"b1"):
            put(store, key)
        assert [entry.key for entry in store.scan(b"a", after=b"a")] == [b"a1", b"a2"]
        assert [entry.key for entry in store.scan(b"a", after=b"A")] == [b"a1", b"a2"]
        assert [entry.key for entry in store.scan(b"a", after=b"a1\x00")] == [b"a2"]
        assert store.scan(b"a", after=b"b") == []

    def test_fewer_than_the_limit_means_no_more_though_many_have_ended(self, store: Store) -> None:
        for number in range(300):
            put(store, b"%03d" % number, ttl=1 if number % 10 else LONG)
        wait_past(store, clock(store) + 5000)
        assert [b"%03d" % number for number in range(0, 300, 10)] == [e.key for e in store.scan(b"", limit=200)]
        assert len(store.scan(b"", limit=7)) == 7
