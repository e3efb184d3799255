"""The contract of `put_and_append`, `put_all` and `remove_all`, a test for each sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_stackstate.stores.base import Expect, Put, PutResult, RunFacts, RunStanding, RunWrite, Store, StoredLog
from celery_stackstate.testing.contract_base import LONG, ContractBase
from celery_stackstate.testing.contract_seeds import T, event, events_of, line, row_of

A_WRITE = RunWrite("r", 1, RunFacts(task="t", created=T), RunStanding("STARTED"), [event("u")], [line("e", 1, T)])


def assert_all_or_nothing(store: Store, result: PutResult) -> None:
    """Assert that the write was appended if the answer says so, and not at all if it does not."""
    found = store.run("r")
    assert (found is not None) is result.appended
    assert (store.logs("r") != []) is result.appended


class TogetherContract(ContractBase):
    """What `put_and_append`, `put_all` and `remove_all` promise."""

    def test_it_puts_as_put_does(self, store: Store) -> None:
        result = store.put_and_append(b"k", b"v", [A_WRITE], expect=Expect.ABSENT, ttl=LONG)
        assert result.applied
        assert result.entry is not None
        found = store.get(b"k")
        assert found is not None
        assert result.entry == replace(found, now=result.entry.now)
        assert (found.value, found.expires) == (b"v", found.updated + LONG)

    def test_what_is_appended_is_as_append_does_it(self, store: Store) -> None:
        result = store.put_and_append(b"k", b"v", [A_WRITE, replace(A_WRITE, run_id="s")])
        assert_all_or_nothing(store, result)
        if not result.appended:
            store.append([A_WRITE, replace(A_WRITE, run_id="s")])
        assert (row_of(store).standing, row_of(store).facts) == (A_WRITE.standing, A_WRITE.facts)
        assert events_of(store) == list(A_WRITE.events)
        assert store.logs("r") == [StoredLog("e", 1, T, 20, "logger", "m")]
        assert events_of(store, "s") == list(A_WRITE.events)

    def test_a_run_that_is_there_is_merged(self, store: Store) -> None:
        store.append([replace(A_WRITE, rank=2, standing=RunStanding("SUCCESS"), events=[event("w", T + 1)])])
        result = store.put_and_append(b"k", 7, [A_WRITE])
        assert row_of(store).standing.status == "SUCCESS"
        assert [found.uid for found in events_of(store)] == (["u", "w"] if result.appended else ["w"])

    @pytest.mark.parametrize("wrong", [Expect.ABSENT, 1])
    def test_where_it_is_not_applied_nothing_is_appended(self, store: Store, wrong: Expect | int) -> None:
        before = store.put(b"k", b"other").entry
        result = store.put_and_append(b"k", b"v", [A_WRITE], expect=wrong)
        assert (result.applied, result.appended) == (False, False)
        assert before is not None
        assert result.entry is not None
        assert before == replace(result.entry, now=before.now)
        assert store.run("r") is None
        assert store.logs("r") == []

    def test_a_version_is_expected_as_by_put(self, store: Store) -> None:
        first = store.put(b"k", b"one").entry
        assert first is not None
        result = store.put_and_append(b"k", b"two", [A_WRITE], expect=first.version)
        assert result.applied
        assert result.entry is not None
        assert result.entry.version > first.version
        assert_all_or_nothing(store, result)

    def test_a_write_that_append_refuses_changes_nothing(self, store: Store) -> None:
        refused = replace(A_WRITE, run_id="r" * 256)
        try:
            result = store.put_and_append(b"k", b"v", [A_WRITE, refused])
        except ValueError:
            assert store.get(b"k") is None
        else:
            assert not result.appended
        assert store.run("r") is None

    def test_without_writes_it_is_put(self, store: Store) -> None:
        assert store.put_and_append(b"k", b"v", []).applied
        assert store.get(b"k") is not None

    # -- put_all ---------------------------------------------------------------------------------------------------

    def test_several_are_put_each_as_expected(self, store: Store) -> None:
        first = store.put(b"a", b"old").entry
        store.put(b"b", b"old")
        store.put(b"c", b"old")
        assert first is not None
        store.put_all(
            [
                Put(b"d", 4, expect=Expect.ABSENT),
                Put(b"c", b"new"),
                Put(b"b", b"new", expect=Expect.ABSENT),
                Put(b"a", b"new", expect=first.version),
                Put(b"e", b"new", expect=first.version),
            ]
        )
        assert {entry.key: entry.value for entry in store.scan(b"")} == {
            b"a": b"new",
            b"b": b"old",
            b"c": b"new",
            b"d": 4,
        }
        now = store.get(b"a")
        assert now is not None
        assert now.version > first.version

    def test_putting_several_again_puts_those_that_are_still_as_expected(self, store: Store) -> None:
        first = store.put(b"a", 1).entry
        assert first is not None
        puts = [Put(b"a", 2, expect=first.version), Put(b"b", 2, expect=Expect.ABSENT)]
        store.put_all(puts)
        store.put(b"a", 3)
        store.remove(b"b")
        store.put_all(puts)
        assert {entry.key: entry.value for entry in store.scan(b"")} == {b"a": 3, b"b": 2}

    def test_many_are_put(self, store: Store) -> None:
        store.put_all([Put(b"k%03d" % number, number) for number in range(250)])
        store.put_all([])
        assert list(range(250)) == [entry.value for entry in store.scan(b"k", limit=1000)]

    @pytest.mark.parametrize("wrong", [Put(b"", b"v"), Put(b"k", 2**63), Put(b"k", True)])
    def test_one_that_cannot_be_put_keeps_all_back(self, store: Store, wrong: Put) -> None:
        with pytest.raises((ValueError, TypeError, OverflowError)):
            store.put_all([Put(b"a", b"v"), wrong])
        assert store.scan(b"") == []

    # -- remove_all ------------------------------------------------------------------------------------------------

    def test_several_are_removed_and_counted_once(self, store: Store) -> None:
        for key in (b"a", b"b", b"c"):
            store.put(key, key)
        store.put(b"ended", b"", expires=1)
        assert store.remove_all([b"c", b"a", b"a", b"ended", b"never"]) == 2
        assert [entry.key for entry in store.scan(b"")] == [b"b"]
        assert store.remove_all([]) == 0

    def test_many_are_removed(self, store: Store) -> None:
        keys = [b"k%03d" % number for number in range(250)]
        store.put_all([Put(key, 1) for key in keys])
        assert store.remove_all(keys[:-1]) == 249
        assert [entry.key for entry in store.scan(b"k")] == keys[-1:]

    def test_those_that_are_not_as_expected_stay(self, store: Store) -> None:
        first = store.put(b"a", 1).entry
        store.put(b"b", 1)
        assert first is not None
        for key in (b"b", b"c"):
            store.put(key, 2)
        assert store.remove_all([b"a", b"b", b"c"], expect=first.version) == 1
        assert [entry.key for entry in store.scan(b"")] == [b"b", b"c"]

    def test_a_key_that_was_removed_with_others_gets_a_larger_version(self, store: Store) -> None:
        before = store.put(b"a", 1, linger=LONG).entry
        store.put(b"b", 1)
        assert store.remove_all([b"a", b"b"]) == 2
        after = store.put(b"a", 1).entry
        assert before is not None
        assert after is not None
        assert after.version > before.version

    @pytest.mark.parametrize(("wrong", "expect"), [(b"", Expect.ANY), (b"k", Expect.ABSENT), (b"k", "any")])
    def test_one_that_cannot_be_removed_keeps_all(self, store: Store, wrong: bytes, expect: Expect) -> None:
        store.put(b"a", 1)
        with pytest.raises((ValueError, TypeError)):
            store.remove_all([b"a", wrong], expect=expect)
        assert store.get(b"a") is not None
