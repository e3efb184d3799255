"""All state in one order, and as folders: what is there is found, and what is big costs no more than what is small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from celery_stackstate import codec
from celery_stackstate.browse import Browser, Unreadable, record_id
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.folders import MOST_COUNTED, MOST_STEPS, Folder
from celery_stackstate.keys import LOCK, STATE, pack
from celery_stackstate.stores.base import Store, StoredEntry


def put(store: Store, keys: Sequence[str], scope: str = "", value: Any = 1) -> None:
    for key in keys:
        store.put(pack(STATE, scope, key), codec.encode(value))


def shown(folders: Sequence[Folder]) -> dict[str, int | None]:
    return {folder.name: folder.count for folder in folders}


class Counting:
    """A store that counts what it is asked."""

    def __init__(self, store: Store) -> None:
        self._store, self.scans, self.entries = store, 0, 0

    def scan(self, *args: Any, **options: Any) -> list[StoredEntry]:
        found = self._store.scan(*args, **options)
        self.scans, self.entries = self.scans + 1, self.entries + len(found)
        return found


def all_pages(browser: Browser, limit: int, **place: Any) -> list[str]:
    names: list[str] = []
    after: str | None = None
    while True:
        page = browser.folders(**place, after=after, limit=limit)
        names += [folder.name for folder in page.items]
        after = page.next
        if after is None:
            return names


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, None])
def test_a_wrong_limit_is_refused(store: Store, limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be a whole number, 1 or more"):
        Browser(store).list(limit=limit)


def test_keys_are_parted_at_colons_and_slashes(store: Store) -> None:
    put(store, ["a", "a:1", "a:2:x", "a:2:y", "a/3", "b/", "a::", "ä:1"])
    browser = Browser(store)

    assert shown(browser.folders("").items) == {"a/": 1, "a:": 4, "b/": 1, "ä:": 1}
    assert shown(browser.folders("", "a:").items) == {"a:2:": 2, "a::": 1}
    assert shown(browser.folders("", "a:2:").items) == {}
    assert shown(browser.folders("", "a:2").items) == {"a:2:": 2}


def test_scopes_are_folders_of_their_own(store: Store) -> None:
    put(store, ["x", "y:1"])
    put(store, ["last"], "task:shop.mail")
    put(store, ["a", "b"], "run:1")
    put(store, ["a"], "run:10")
    browser = Browser(store)

    assert shown(browser.folders().items) == {"": 2, "run:1": 2, "run:10": 1, "task:shop.mail": 1}
    assert shown(browser.folders(prefix="run:").items) == {"run:1": 2, "run:10": 1}
    assert shown(browser.folders("run:1").items) == {}


def test_locks_are_counted_with_the_rest_or_apart(store: Store) -> None:
    put(store, ["a:1", "c:1"])
    for name in ("a:1", "a:2", "b:1"):
        store.put(pack(LOCK, "", name), b"{}")
    browser = Browser(store)

    assert shown(browser.folders("").items) == {"a:": 3, "b:": 1, "c:": 1}
    assert shown(browser.folders("", locks=True).items) == {"a:": 2, "b:": 1}
    assert shown(browser.folders("", locks=False).items) == {"a:": 1, "c:": 1}


def test_a_count_ends_where_it_would_cost(store: Store) -> None:
    put(store, [f"exactly:{number:03d}" for number in range(MOST_COUNTED)])
    put(store, [f"more:{number:03d}" for number in range(MOST_COUNTED + 1)])

    assert shown(Browser(store).folders("").items) == {"exactly:": MOST_COUNTED, "more:": None}


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_pages_of_folders_follow_each_other(store: Store, limit: int) -> None:
    put(store, [f"{letter}:{number}" for letter in "abcdefg" for number in range(3)])
    for name in ("a:x", "bb:x", "h:x"):
        store.put(pack(LOCK, "", name), b"{}")

    names = all_pages(Browser(store), limit, scope="")

    assert names == ["a:", "b:", "bb:", "c:", "d:", "e:", "f:", "g:", "h:"]


def test_big_folders_are_leapt_over() -> None:
    store = Counting(memory())
    for letter in "abcd":
        put(store._store, [f"{letter}:{number:05d}" for number in range(2000)])

    found = Browser(store).folders("")  # type: ignore[arg-type]

    assert shown(found.items) == {"a:": None, "b:": None, "c:": None, "d:": None}
    assert store.entries <= 4 * 100 * 2


def test_keys_in_no_folder_end_a_page_after_a_number_of_steps() -> None:
    store = Counting(memory())
    put(store._store, [f"{number:05d}" for number in range(5000)])
    put(store._store, ["99999:x"])

    first = Browser(store).folders("")  # type: ignore[arg-type]
    steps = store.scans

    assert (first.items, steps) == ((), 2 * MOST_STEPS - (MOST_STEPS - 1))  # one walk is through locks: one step
    assert all_pages(Browser(store), 50, scope="") == ["99999:"]  # type: ignore[arg-type]


@pytest.mark.parametrize("after", ["not base64 !", "ä", "\ud800"])
def test_a_cursor_that_is_none_is_refused(store: Store, after: str) -> None:
    with pytest.raises(ConfigurationError):
        Browser(store).folders("", after=after)


def test_one_value_that_cannot_be_read_hides_no_other(store: Store) -> None:
    store.put(pack(STATE, "", "a"), b'{"$type":"of a later release","is":1}')
    store.put(pack(STATE, "", "b"), b'{"$type":"datetime","is":"2026-01-01T00:00:00","zone":"Mars/Olympus","fold":0}')
    store.put(pack(STATE, "", "c"), b"\xff")
    store.put(pack(LOCK, "", "l"), b"[]")
    put(store, ["d"], value="seen")

    found = {record.key: record.value for record in Browser(store).list()}

    assert found["d"] == "seen"
    assert all(isinstance(found[key], Unreadable) for key in "abcl")


def test_scopes_of_one_sort_are_listed_without_the_others(store: Store) -> None:
    put(store, ["a"])
    put(store, ["b"], "run:1")
    put(store, ["c"], "task:x")

    assert [record.key for record in Browser(store).list(scopes="run:")] == ["b"]


def memory() -> Store:
    from uuid import uuid4

    from celery_stackstate.stores import open_store

    return open_store(f"memory://{uuid4().hex}", prefix="", timeout=5)


def test_several_records_are_read_at_once_by_ids_made_of_their_places(store: Store) -> None:
    put(store, ["a:1"], value="x")
    put(store, ["a:1"], scope="task:shop.import", value=7)
    browser = Browser(store)
    app_wide, of_task = record_id("", "a:1"), record_id("task:shop.import", "a:1")

    found = browser.get_many([app_wide, of_task, record_id("", "gone"), record_id("", "a:1", lock=True)])

    assert {one: record.value for one, record in found.items()} == {app_wide: "x", of_task: 7}
    assert {record.id for record in browser.list(limit=10)} == {app_wide, of_task}
    assert browser.get_many([]) == {}
