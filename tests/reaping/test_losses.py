"""Which runs of which workers are lost, and what makes up for it."""

from __future__ import annotations

import time

import pytest

from celery_stackstate import StackState, StateTask, liveness
from celery_stackstate.facts import Stamp, now_micros
from celery_stackstate.header import HEADER
from celery_stackstate.liveness import Lease
from celery_stackstate.records import FAILURE, LOST, RECEIVED, RETRY, REVOKED, STARTED, SUCCESS
from celery_stackstate.stores.base import RunWrite, Store
from celery_stackstate.worker import copies
from celery_stackstate.worker.copies import MOST, ROUNDS, Copies
from celery_stackstate.worker.ending import Ending
from celery_stackstate.worker.losses import Census
from celery_stackstate.worker.reaper import Reaper
from tests.reaping.world import (
    DEAD,
    DEAD_TOO,
    EPOCH,
    GONE,
    HOUR,
    LIVE,
    ME,
    NAMELESS,
    OTHER,
    PID,
    SECOND,
    STOPPED,
    ended,
    queued,
    received,
    run,
    started,
)

# -- who is dead ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("holders", "lost"),
    [
        ([DEAD], True),
        ([DEAD, DEAD_TOO], True),
        ([STOPPED, DEAD], True),
        ([LIVE], False),
        ([NAMELESS], False),
        ([DEAD, LIVE], False),
        ([LIVE, DEAD], False),
        ([DEAD, STOPPED], False),
        ([STOPPED], False),
    ],
)
@pytest.mark.parametrize("retries", [0, 1])
def test_a_message_is_lost_with_the_last_who_had_it(
    extension: StackState, store: Store, the_reaper: Reaper, holders: list[Lease], lost: bool, retries: int
) -> None:
    store.append([queued("r", retries=retries)])
    for holder in holders:
        store.append([received("r", holder, retries=retries)])
        time.sleep(0.001)
    before = run(extension).status
    for _ in range(2):
        the_reaper.round()
        found = run(extension)
        assert found.status == (LOST if lost else before)
        assert (found.attempts, found.retries) == ((), retries)
        assert [event.name for event in extension.runs.events("r")].count("lost") == lost


def test_a_message_is_lost_once_also_where_that_is_outranked(store: Store, the_reaper: Reaper) -> None:
    # given clocks by which the attempt before seems to end when its retry was sent
    store.append([ended("r", DEAD, RETRY, epoch=EPOCH), received("r", DEAD, retries=1)])
    for _ in range(3):
        the_reaper.round()
    found = store.run("r")
    assert found is not None
    assert (found[0].standing.status, [event.name for event in found[1]]) == (RETRY, ["retry", "received", "lost"])


@pytest.mark.parametrize("clock", [-HOUR, 0, HOUR])
@pytest.mark.parametrize(
    ("lease", "pid", "after_list", "lost"),
    [
        (LIVE, PID, -60 * SECOND, False),
        (LIVE, PID, 60 * SECOND, False),
        (LIVE, GONE, -60 * SECOND, True),
        (LIVE, GONE, 60 * SECOND, False),
        (DEAD, PID, -60 * SECOND, True),
        (DEAD, PID, 60 * SECOND, True),
        (STOPPED, PID, -60 * SECOND, True),
        (NAMELESS, PID, -60 * SECOND, False),
    ],
)
def test_an_attempt_is_lost_with_its_process_or_its_worker_whatever_the_clock_of_its_host(
    extension: StackState,
    store: Store,
    the_reaper: Reaper,
    clock: int,
    lease: Lease,
    pid: int,
    after_list: int,
    lost: bool,
) -> None:
    listed = now_micros() + clock
    liveness.renew(store, LIVE, seconds=60, pids=[PID], before=0, listed=listed)
    store.append([started("r", lease, pid=pid, at=listed + after_list)])
    the_reaper.round()
    found = run(extension)
    expected = LOST if lost else STARTED
    assert ([attempt.status for attempt in found.attempts], found.status) == ([expected], expected)


def test_a_worker_that_begins_after_the_leases_were_read_is_not_dead(extension: StackState, store: Store) -> None:
    census = Census(store, liveness.living(store))
    liveness.renew(store, OTHER, seconds=60, pids=[PID], before=0, listed=now_micros())
    assert [census.is_gone(lease) for lease in (OTHER, DEAD, LIVE)] == [False, True, False]


def test_what_was_remembered_of_a_run_is_read_again_before_it_is_lost(
    extension: StackState, store: Store, the_reaper: Reaper
) -> None:
    # given two open attempts, of which the history's summary shows the later one
    store.append([started("r", LIVE, at=now_micros() - HOUR), started("r", OTHER, epoch=EPOCH + 5)])
    liveness.renew(store, OTHER, seconds=60, pids=[PID], before=0, listed=now_micros() + HOUR)
    the_reaper.round()

    # when the other one ends, and then its worker
    store.append([ended("r", LIVE, FAILURE)])
    store.remove(LIVE.key)
    the_reaper.round()

    # then
    found = run(extension)
    assert ([attempt.status for attempt in found.attempts], found.status) == ([FAILURE, STARTED], STARTED)
    assert "lost" not in [event.name for event in extension.runs.events("r")]


@pytest.mark.parametrize(
    ("later", "status"),
    [
        ([started("r", LIVE, epoch=EPOCH + 9)], STARTED),
        ([started("r", DEAD), ended("r", DEAD, SUCCESS)], SUCCESS),
        ([started("r", DEAD), ended("r", DEAD, FAILURE)], FAILURE),
        ([received("r", LIVE, epoch=EPOCH + 9)], RECEIVED),
        ([queued("r")], LOST),
    ],
)
def test_whatever_is_told_later_corrects_what_was_lost(
    extension: StackState, store: Store, the_reaper: Reaper, later: list[RunWrite], status: str
) -> None:
    store.append([received("r", DEAD)])
    the_reaper.round()
    assert run(extension).status == LOST
    store.append(later)
    the_reaper.round()
    assert run(extension).status == status


@pytest.mark.parametrize("end", [SUCCESS, FAILURE])
def test_an_attempt_that_ends_after_it_was_lost_has_ended_so(
    extension: StackState, store: Store, the_reaper: Reaper, end: str
) -> None:
    store.append([started("r", DEAD)])
    the_reaper.round()
    assert run(extension).status == LOST
    store.append([ended("r", DEAD, end)])
    found = run(extension)
    assert ([attempt.status for attempt in found.attempts], found.status) == ([end], end)


# -- messages that are delivered again -----------------------------------------------------------------------------


def looked_at(the_reaper: Reaper, rounds: int) -> list[bool]:
    """Do some rounds; return of each whether the run is looked after behind it."""
    found = []
    for _ in range(rounds):
        the_reaper.round()
        found.append("r" in copies.of_this_worker.ids())
    return found


def test_a_dead_attempt_below_a_later_one_is_closed_and_a_live_one_is_not(
    extension: StackState, store: Store, the_reaper: Reaper
) -> None:
    # given a run that succeeded, with an attempt before that goes on
    before = started("r", LIVE, at=now_micros() - HOUR)
    store.append([before, started("r", ME, epoch=EPOCH + 5), ended("r", ME, SUCCESS, epoch=EPOCH + 5)])
    copies.of_this_worker.add("r")

    # then that is left alone for as long as it goes on
    assert looked_at(the_reaper, 10) == [True] * 10
    assert [attempt.status for attempt in run(extension).attempts] == [STARTED, SUCCESS]

    # and closed when its worker dies
    store.remove(LIVE.key)
    assert looked_at(the_reaper, ROUNDS) == [True] * (ROUNDS - 1) + [False]
    found = run(extension)
    assert ([attempt.status for attempt in found.attempts], found.status) == ([LOST, SUCCESS], SUCCESS)


def test_the_workers_own_attempt_is_not_waited_for(store: Store, the_reaper: Reaper) -> None:
    store.append([started("r", ME, at=now_micros() - HOUR)])
    copies.of_this_worker.add("r")
    assert looked_at(the_reaper, ROUNDS) == [True] * (ROUNDS - 1) + [False]


def test_an_attempt_of_the_worker_itself_whose_process_is_gone_is_closed(
    extension: StackState, store: Store, the_reaper: Reaper
) -> None:
    end = ended("r", ME, SUCCESS, epoch=EPOCH + 5)
    store.append([started("r", ME, pid=GONE), started("r", ME, epoch=EPOCH + 5), end])
    copies.of_this_worker.add("r")
    assert looked_at(the_reaper, 10) == [True] * 10, "its process may be too new for the list"
    liveness.renew(store, ME, seconds=60, pids=[PID], before=0, listed=now_micros() + 10 * SECOND)
    the_reaper.round()
    assert [attempt.status for attempt in run(extension).attempts] == [LOST, SUCCESS]


def test_so_many_copies_are_remembered_the_newest() -> None:
    found = Copies()
    for number in range(MOST + 10):
        found.add(str(number))
    assert (found.ids()[0], found.ids()[-1], len(found.ids())) == ("10", str(MOST + 9), MOST)
    found.looked_at("10", undecided=True)
    assert found.ids()[-1] == "10"


# -- what a parent says of a delivery ------------------------------------------------------------------------------


@pytest.mark.parametrize(("epoch", "status"), [(EPOCH - 10, STARTED), (EPOCH + 1, REVOKED)])
def test_the_end_of_a_delivery_closes_no_attempt_of_an_earlier_message(
    extension: StackState, store: Store, epoch: int, status: str
) -> None:
    @extension.app.task(name="t", base=StateTask, shared=False)
    def task() -> None: ...

    store.append([queued("r", epoch=EPOCH - 20), started("r", LIVE, epoch=epoch), queued("r")])
    stamp = Stamp(now_micros(), now_micros(), EPOCH)
    message = {"id": "r", "task": "t", "hostname": LIVE.worker, HEADER: {"id": "r", "stamp": stamp.dump()}}
    Ending(extension.app.tasks["t"], "r", REVOKED, {}, request=None, message=message).record(extension)
    found = run(extension)
    assert (found.status, [attempt.status for attempt in found.attempts]) == (REVOKED, [status])
