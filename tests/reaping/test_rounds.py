"""What a round of the reaper costs, whose turn it is, and what it leaves to the next."""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from celery_stackstate import StackState, liveness
from celery_stackstate.facts import now_micros
from celery_stackstate.liveness import Lease
from celery_stackstate.records import LOST, RECEIVED, RETRY, STARTED, SUCCESS
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store
from celery_stackstate.worker import copies, reaper
from celery_stackstate.worker.reaper import Reaper
from celery_stackstate.worker.renewals import Renewals
from tests.reaping.world import (
    DEAD,
    EPOCH,
    HOUR,
    LIVE,
    ME,
    PID,
    Counting,
    append,
    ended,
    enrol,
    queued,
    received,
    run,
    started,
    statuses,
)

# -- what a round costs --------------------------------------------------------------------------------------------
from tests.waiting import Stopwatch


def round_of(extension: StackState, the_reaper: Reaper) -> tuple[Counter[str], float]:
    """Do a round; return how often it called which verb, and how long it took."""
    store, counting = extension.store, Counting(extension.store)
    extension.__dict__.update(store=counting, runs_store=counting)
    watch = Stopwatch()
    the_reaper.round()
    seconds = watch.seconds
    extension.__dict__.update(store=store, runs_store=store)
    return counting.calls, seconds


class TestABacklog:
    """A hundred thousand runs in queues, and ten thousand in a worker that lives."""

    @pytest.fixture(autouse=True)
    def time_to_fill_the_store(self, extension: StackState, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let no turn lapse and no upkeep be due between the first round and the next, on any machine."""
        extension.app.conf.update(stackstate_worker_lease=3600)
        monkeypatch.setattr(reaper, "COUNT_PAUSE", 3600)
        monkeypatch.setattr(reaper, "PURGE_PAUSE", 3600)

    @pytest.fixture(params=["sqlite", "redis"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> str:
        if request.param == "redis":
            found: str = request.getfixturevalue("redis_url")
            return found
        return f"sqlite:///{tmp_path}/stackstate.sqlite3"

    def test_a_round_costs_nothing_by_what_waits_and_little_by_who_is_dead(
        self, extension: StackState, store: Store, the_reaper: Reaper
    ) -> None:
        # given what a round takes in a place without runs
        the_reaper.round()
        empty, _ = round_of(extension, the_reaper)
        assert sum(empty.values()) <= 12, empty

        # when
        append(store, (queued(f"queued-{number}") for number in range(100_000)))
        append(store, (received(f"received-{number}", LIVE) for number in range(10_000)))
        append(store, (ended(f"over-{number}", DEAD, SUCCESS) for number in range(2_000)))

        # then
        calls, seconds = round_of(extension, the_reaper)
        assert calls == empty
        assert seconds < 0.5

        # and what somebody has left there is found among it all
        store.append([received("left", DEAD), started("begun", DEAD)])
        calls, seconds = round_of(extension, the_reaper)
        assert calls - empty == Counter(run=2, append=2)
        assert seconds < 0.5
        assert [run(extension, name).status for name in ("left", "begun")] == [LOST, LOST]
        assert calls["runs"] == empty["runs"]

    def test_the_runs_of_the_living_are_read_once(
        self, extension: StackState, store: Store, the_reaper: Reaper
    ) -> None:
        # given more of them than a page holds, begun before their processes were listed
        append(store, (started(f"long-{n}", LIVE, at=now_micros() - HOUR, epoch=EPOCH + n) for n in range(700)))
        assert round_of(extension, the_reaper)[0]["run"] == 700

        # when
        calls, seconds = round_of(extension, the_reaper)

        # then
        assert (calls["run"], calls["runs"]) == (0, 4)
        assert seconds < 0.5

        # and one that began again is read again; one that began just now need not be
        store.append([started("long-1", LIVE, at=now_micros() - HOUR, epoch=EPOCH + 10_000)])
        store.append([started("new", LIVE)])
        assert round_of(extension, the_reaper)[0]["run"] == 1


def test_what_a_round_has_no_time_for_the_next_ones_do(
    extension: StackState, store: Store, the_reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given many runs of a dead worker, and as many of one that lives under its name
    monkeypatch.setattr(reaper, "BUDGET", 0.01)
    again = Lease(DEAD.worker, "9")
    append(store, (received(f"{n}", (DEAD, again)[n % 2]) for n in range(1_200)))
    append(store, (received(f"retry-{n}", DEAD, retries=1) for n in range(200)))
    append(store, (started(f"begun-{n}", DEAD, at=now_micros() - HOUR) for n in range(600)))
    liveness.renew(store, again, seconds=60, pids=[PID], before=0, listed=now_micros())

    # when
    rounds, left = 0, {RECEIVED: 1_200, RETRY: 200, STARTED: 600}
    while left != {LOST: 1_400, RECEIVED: 600} and rounds < 100:
        the_reaper.round()
        rounds, left = rounds + 1, statuses(store)

    # then
    assert left == {LOST: 1_400, RECEIVED: 600}
    assert rounds > 2


# -- whose turn it is ----------------------------------------------------------------------------------------------


def test_one_worker_has_the_turn_until_it_resigns(extension: StackState, store: Store) -> None:
    # given
    first, second = Reaper(extension, ME), Reaper(extension, LIVE)
    first.round()
    store.append([received("r", DEAD)])

    # then
    second.round()
    assert run(extension).status == RECEIVED
    first.resign()
    second.round()
    assert run(extension).status == LOST
    store.append([received("other", DEAD)])
    first.round()
    assert run(extension, "other").status == RECEIVED


def test_nobody_is_judged_while_the_store_is_not_steady(extension: StackState, store: Store) -> None:
    # given
    steady: list[bool] = []
    mine = Reaper(extension, ME, lambda: bool(steady))
    forgotten = RunWrite("old", 1, RunFacts(task="t"), RunStanding(SUCCESS, forget=1))
    store.append([received("r", DEAD), started("begun", DEAD), started("copy", DEAD), forgotten])
    copies.of_this_worker.add("copy")

    # then
    mine.round()
    assert [run(extension, name).status for name in ("r", "begun", "copy")] == [RECEIVED, STARTED, STARTED]
    assert extension.runs.get("old") is None, "what is to be purged is nobody's loss"
    steady.append(True)
    mine.round()
    assert [run(extension, name).status for name in ("r", "begun", "copy")] == [LOST, LOST, LOST]


def test_a_purge_goes_on_until_nothing_is_left(
    extension: StackState, the_reaper: Reaper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "PURGE_LIMIT", 10)
    for number in range(35):
        extension.store.put(b"ended %d" % number, b"", ttl=1)
    time.sleep(0.01)
    the_reaper.round()
    assert extension.store.purge() == 0


def test_a_purge_comes_once_a_minute(extension: StackState, the_reaper: Reaper) -> None:
    the_reaper.round()
    assert "purge" not in round_of(extension, the_reaper)[0]


def test_renewals_are_steady_when_none_was_late_for_a_while() -> None:
    # given a lease of 30 s, and calls of up to 5 s
    times = [0.0]
    renewals = Renewals(lease=30, timeout=5, clock=lambda: times[0])

    def after(seconds: float, *, renewed: bool | None = None) -> bool:
        times[0] += seconds
        if renewed is not None:
            (renewals.succeeded if renewed else renewals.failed)()
        return renewals.are_steady()

    assert renewals.settling == 7
    assert not after(0)
    # given the first one
    assert [after(0, renewed=True), after(6.9), after(0.1)] == [False, False, True]
    assert [after(3, renewed=True), after(10, renewed=True), after(17.9)] == [True, True, True]
    # when the next one is late
    assert [after(0.2), after(0, renewed=True), after(6.9), after(0.2)] == [False, False, False, True]
    # when one fails
    assert [after(2, renewed=False), after(1, renewed=True), after(6.9), after(0.2)] == [False, False, False, True]


def test_a_short_lease_shortens_what_a_worker_waits_for_the_others() -> None:
    assert Renewals(lease=2, timeout=5).settling == 1


# -- workers() -----------------------------------------------------------------------------------------------------


def test_the_roll_says_who_lives_in_two_calls(extension: StackState, store: Store) -> None:
    counting = Counting(store)
    extension.__dict__["store"] = counting
    found = [(one.hostname, one.boot, one.live) for one in extension.workers()]
    dead = [(DEAD.worker, "1", False), (DEAD.worker, "2", False)]
    assert found == [*dead, (LIVE.worker, "1", True), (ME.worker, "1", True)]
    assert counting.calls == {"scan": 2}
    assert {os.uname().nodename} == {one.host for one in extension.workers()}


def test_a_dead_worker_that_comes_back_stays_on_the_roll(extension: StackState, store: Store) -> None:
    (entry,) = [one for one in liveness.roll(store) if one.lease == DEAD]
    enrol(store, DEAD)
    liveness.strike_off(store, entry)
    assert DEAD in [one.lease for one in liveness.roll(store)]
    (entry,) = [one for one in liveness.roll(store) if one.lease == DEAD]
    liveness.strike_off(store, entry)
    assert DEAD not in [one.lease for one in liveness.roll(store)]
