"""Runs go by age and by number, in bounded batches, with everything of them."""

from __future__ import annotations

import pytest

from celery_stackstate import facts
from celery_stackstate.config import Settings
from celery_stackstate.facts import now_micros
from celery_stackstate.records import FAILURE, LOST, STARTED, STATUSES, SUCCESS
from celery_stackstate.runs import Runs
from celery_stackstate.stores.base import RunFacts, RunQuery, RunStanding, RunWrite, Store, StoredEvent, StoredLog

HOUR = 3_600_000_000


def add(store: Store, name: str, status: str, *numbers: int, kept: int = HOUR) -> None:
    """Add runs, the higher the number the newer; `kept` says for how long, in microseconds."""
    now = now_micros()
    store.append(
        [
            RunWrite(
                f"{name}{number}",
                facts.rank(status, 1),
                RunFacts(task=name, created=now - HOUR + number),
                RunStanding(status, forget=now + kept),
                [StoredEvent("u", now, "queued", None, b"{}")],
                [StoredLog("x", 1, now, 20, "shop", "line")],
            )
            for number in numbers
        ]
    )


def ids(store: Store) -> set[str]:
    return {row.run_id for row in store.runs(RunQuery(limit=10_000))}


def test_the_newest_of_each_status_are_kept(store: Store) -> None:
    add(store, "ok", SUCCESS, *range(8))
    add(store, "bad", FAILURE, *range(4))
    add(store, "on", STARTED, *range(3))
    runs = Runs(store, most={SUCCESS: 3, FAILURE: 3})
    assert runs.purge() == 6
    assert ids(store) == {"ok5", "ok6", "ok7", "bad1", "bad2", "bad3", "on0", "on1", "on2"}
    assert runs.purge() == 0
    assert store.logs("ok0") == []
    assert store.run("ok0") is None


def test_failures_and_lost_runs_are_kept_longer_than_the_rest(store: Store) -> None:
    for status in STATUSES:
        known = RunFacts(task="shop", created=now_micros())
        store.append([facts.ended(status, known, 1, status, keep=Settings().retention, data={})])
    days = {
        row.run_id: round(((row.standing.forget or 0) - now_micros()) / (24 * HOUR), 2)
        for row in store.runs(RunQuery())
    }
    assert {status: 30 if status in (FAILURE, LOST) else 7 for status in STATUSES} == days


def test_a_run_that_ended_just_now_stays_so_that_no_late_fact_makes_it_anew(store: Store) -> None:
    add(store, "ok", SUCCESS, *range(4))
    now = now_micros()
    for name, finished in (("ok0", now), ("ok1", now - HOUR)):
        standing = RunStanding(SUCCESS, finished=finished, forget=now + 2 * HOUR)
        store.append([RunWrite(name, facts.rank(SUCCESS, 2), RunFacts(), standing)])
    runs = Runs(store, most={SUCCESS: 2})
    assert runs.purge() == 1
    assert ids(store) == {"ok0", "ok2", "ok3"}
    assert runs.purge() == 0


def test_age_and_number_go_together(store: Store) -> None:
    add(store, "old", SUCCESS, 0, 1, kept=-1)
    add(store, "ok", SUCCESS, 2, 3, 4)
    assert Runs(store, most={SUCCESS: 2}).purge() == 3
    assert ids(store) == {"ok3", "ok4"}


def test_a_purge_is_bounded_and_the_next_goes_on(store: Store) -> None:
    add(store, "old", SUCCESS, *range(30), kept=-1)
    add(store, "ok", SUCCESS, *range(100, 130))
    runs = Runs(store, most={SUCCESS: 10})
    done = [runs.purge(limit=15)]
    while done[-1]:
        done.append(runs.purge(limit=15))
    assert sum(done) == 50
    assert max(done) <= 15
    assert ids(store) == {f"ok{number}" for number in range(120, 130)}


def test_runs_are_deleted_by_hand_with_everything_of_them(store: Store) -> None:
    add(store, "ok", SUCCESS, 1, 2, 3)
    runs = Runs(store)
    assert runs.delete("ok1", "ok2", "unknown") == 2
    assert ids(store) == {"ok3"}
    assert (runs.get("ok1"), runs.events("ok1"), runs.logs("ok1")) == (None, [], [])
    assert runs.delete() == 0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_a_family_is_a_tree_whatever_the_order(store: Store, order: tuple[int, ...]) -> None:
    now = now_micros()
    family = [
        RunWrite("root", 16, RunFacts(task="t", created=now), RunStanding()),
        RunWrite("child", 16, RunFacts(task="t", parent_id="root", root_id="root", created=now + 1), RunStanding()),
        RunWrite("grand", 16, RunFacts(task="t", parent_id="child", root_id="root", created=now + 2), RunStanding()),
    ]
    for number in order:
        store.append([family[number]])
    store.append([RunWrite("second", 16, RunFacts(parent_id="root", root_id="root", created=now + 3), RunStanding())])
    runs = Runs(store)
    tree = runs.tree("root")
    assert tree is not None
    assert (tree.run.id, [child.run.id for child in tree.children]) == ("root", ["child", "second"])
    assert [grand.run.id for grand in tree.children[0].children] == ["grand"]
    below = runs.tree("child")
    assert below is not None
    assert (below.run.id, [child.run.id for child in below.children]) == ("child", ["grand"])
    assert [run.id for run in runs.children("root")] == ["second", "child"]
    first = runs.children("root", limit=1)
    assert [run.id for run in runs.children("root", limit=1, after=first.next)] == ["child"]
    assert runs.tree("unknown") is None


def test_a_long_chain_is_a_deep_tree(store: Store) -> None:
    now = now_micros()
    store.append(
        [RunWrite("r0", 16, RunFacts(created=now), RunStanding())]
        + [
            RunWrite(f"r{n}", 16, RunFacts(parent_id=f"r{n - 1}", root_id="r0", created=now + n), RunStanding())
            for n in range(1, 1200)
        ]
    )
    tree, depth = Runs(store).tree("r0", limit=2000), 0
    while tree is not None and tree.children:
        tree, depth = tree.children[0], depth + 1
    assert depth == 1199


def test_runs_are_found_by_who_asked_for_them(store: Store) -> None:
    now = now_micros()
    for number, (host, origin, group) in enumerate(
        [("web-1", "user:7", "g"), ("web-2", "user:7", None), ("web-1", None, "g")]
    ):
        known = RunFacts(host=host, origin=origin, group_id=group, created=now + number)
        store.append([RunWrite(f"r{number}", 16, known, RunStanding())])
    runs = Runs(store)
    assert [run.id for run in runs.list(origin="user:7")] == ["r1", "r0"]
    assert [run.id for run in runs.list(host="web-1")] == ["r2", "r0"]
    assert [run.id for run in runs.list(group="g", origin="user:7")] == ["r0"]
    assert runs.names("host") == ["web-1", "web-2"]
