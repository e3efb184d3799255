"""A run's record is the same whatever the order in which its facts arrive."""

from __future__ import annotations

import itertools
import time
from dataclasses import FrozenInstanceError, fields
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

import pytest

from celery_stackstate import facts
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.facts import Stamp
from celery_stackstate.latest import Latest
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import Redactor
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import FAILURE, LOST, RECEIVED, RETRY, SUCCESS, Run
from celery_stackstate.runs import Runs
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store
from tests.waiting import wait_for

REDACTOR = Redactor(("password",), limit=65_536)
FACTS = RunFacts(task="shop.import", queue="celery", created=1_700_000_000_000_000)


def keep(_: str) -> float:
    return 3600.0


def stamp(epoch: int, waits: int = 0) -> Stamp:
    return Stamp(first=1_700_000_000_000_000, at=1_700_000_000_000_000, epoch=epoch, host="web", waits=waits)


def queued(run_id: str, epoch: int, retries: int = 0) -> RunWrite:
    data = {"args": [1]} if not retries else {}
    return facts.queued(run_id, FACTS, stamp(epoch), retries=retries, eta=None, data=data, keep=keep)


def received(run_id: str, epoch: int, retries: int = 0) -> RunWrite:
    return facts.received(run_id, FACTS, epoch, worker="w1", retries=retries, eta=None, keep=keep)


def attempt(run_id: str, epoch: int, status: str | None, *, retries: int = 0, **data: Any) -> list[RunWrite]:
    """Return the writes of one attempt: its start, and its end if it has one."""
    delivery = Delivery("w1", "boot", 7, retries, False, None, None)
    opened = OpenAttempt(run_id, FACTS, epoch, delivery, redactor=REDACTOR, keep=keep, limits=LogLimits())
    writes = [opened.take()]
    if status is not None:
        opened.end(status, **data)
        writes.append(opened.take())
    return [write for write in writes if write is not None]


def read(store: Store, run_id: str) -> Run:
    run = Runs(store).get(run_id)
    assert run is not None
    return run


def scenarios(run_id: str) -> dict[str, tuple[list[RunWrite], str, list[str]]]:
    """Return facts, the status they add up to, and the statuses of the attempts."""
    return {
        "success": (
            [queued(run_id, 10), received(run_id, 10), *attempt(run_id, 11, SUCCESS, result=1)],
            SUCCESS,
            [SUCCESS],
        ),
        "not begun": ([queued(run_id, 10), received(run_id, 10)], RECEIVED, []),
        "waiting for its retry": (
            [queued(run_id, 10), *attempt(run_id, 11, RETRY), queued(run_id, 12, 1), received(run_id, 12, 1)],
            RETRY,
            [RETRY],
        ),
        "failed after a retry": (
            [queued(run_id, 10), *attempt(run_id, 11, RETRY), queued(run_id, 12, 1), *attempt(run_id, 13, FAILURE)],
            FAILURE,
            [RETRY, FAILURE],
        ),
        "running again after it was lost": (
            [queued(run_id, 10), *attempt(run_id, 11, LOST), *attempt(run_id, 15, None)],
            "STARTED",
            [LOST, "STARTED"],
        ),
        "the first of two attempts succeeded": (
            [queued(run_id, 10), *attempt(run_id, 11, SUCCESS), *attempt(run_id, 15, None)],
            SUCCESS,
            [SUCCESS, "STARTED"],
        ),
        "asked for again under its id after it succeeded": (
            [queued(run_id, 10), *attempt(run_id, 11, SUCCESS), queued(run_id, 20), *attempt(run_id, 21, FAILURE)],
            SUCCESS,
            [SUCCESS, FAILURE],
        ),
        "one failed while a later one runs": (
            [queued(run_id, 10), *attempt(run_id, 11, FAILURE), *attempt(run_id, 15, None)],
            "STARTED",
            [FAILURE, "STARTED"],
        ),
    }


@pytest.mark.parametrize("name", scenarios("x"))
def test_facts_in_any_order_make_one_record(name: str) -> None:
    store = open_store("memory://")
    writes, status, attempts = scenarios("template")[name]
    for order in itertools.islice(itertools.permutations(writes), 200):
        run_id = uuid4().hex
        for write in order:
            store.append([RunWrite(run_id, write.rank, write.facts, write.standing, write.events, write.logs)])
        run = read(store, run_id)
        assert (run.status, [one.status for one in run.attempts]) == (status, attempts)
        assert run.args == [1]


def test_a_late_success_corrects_an_attempt_thought_lost(store: Store) -> None:
    delivery = Delivery("w1", "boot", 7, 0, False, None, None)
    opened = OpenAttempt("r", FACTS, 11, delivery, redactor=REDACTOR, keep=keep, limits=LogLimits())
    start = opened.take()
    assert start is not None
    lost = facts.ended("r", FACTS, 11, LOST, execution=opened.execution, keep=keep, data={"error_type": "Lost"})
    store.append([start, lost])
    assert read(store, "r").status == LOST
    opened.end(SUCCESS, result="late")
    late = opened.take()
    assert late is not None
    store.append([late])
    run = read(store, "r")
    assert (run.status, run.result, [one.status for one in run.attempts]) == (SUCCESS, "late", [SUCCESS])


def test_whoever_takes_a_lost_run_up_does_not_move_the_moment_of_its_loss(store: Store) -> None:
    (start,) = attempt("r", 11, None)
    began = start.events[0]

    def lost(seconds: int) -> RunWrite:
        at = began.at + seconds * 1_000_000
        told = {"error_type": "Lost", "error": "gone"}
        return facts.ended("r", FACTS, 11, LOST, execution=began.execution, at=at, keep=keep, data=told)

    store.append([queued("r", 10), start, lost(30)])
    store.append([lost(86_400)])
    assert [(one.status, one.runtime) for one in read(store, "r").attempts] == [(LOST, 30.0)]


def test_clocks_that_disagree_do_not_turn_the_order_around() -> None:
    ahead = facts.next_epoch(facts.next_epoch() + 3_600_000)
    assert facts.rank("STARTED", facts.next_epoch(ahead)) > facts.rank("QUEUED", ahead)


def test_progress_is_written_as_the_latest_only(store: Store) -> None:
    opened = OpenAttempt(
        "r", FACTS, 11, Delivery("w", "b", 1, 0, False, None, None), redactor=REDACTOR, keep=keep, limits=LogLimits(2)
    )
    for done in range(1000):
        opened.progress(done, 1000, "password=x")
    opened.log(at=1, level=20, logger="shop", message="one")
    opened.log(at=2, level=20, logger="shop", message="two")
    opened.log(at=3, level=20, logger="shop", message="three")
    opened.end(SUCCESS)
    write = opened.take()
    assert write is not None
    store.append([write])
    run = read(store, "r")
    assert run.progress is not None
    assert (run.progress.done, run.progress.total, "=x" in str(run.progress.message)) == (999, 1000, False)
    assert [event.name for event in Runs(store).events("r")] == ["started", "progress", "success"]
    lines = [line.message for line in Runs(store).logs("r")]
    assert (lines, run.attempts[0].omitted_lines) == (["two", "three"], 1)


def test_what_is_handed_out_is_frozen_and_its_times_are_aware_and_in_utc(store: Store) -> None:
    for write in [queued("r", 10), received("r", 10), *attempt("r", 11, SUCCESS)]:
        store.append([write])
    runs = Runs(store)
    run = read(store, "r")
    found: list[Any] = [run, *run.attempts, *runs.list(), *runs.events("r"), runs.counts()]
    moments = [value for one in found for item in fields(one) if isinstance(value := getattr(one, item.name), datetime)]
    assert len(moments) > 10
    assert {moment.tzinfo for moment in moments} == {timezone.utc}
    for one in found:
        with pytest.raises(FrozenInstanceError):
            setattr(one, fields(one)[0].name, None)


def test_the_progress_of_a_run_that_goes_on_is_written_about_once_a_second() -> None:
    store = open_store("memory://")
    opened = OpenAttempt(
        "r", FACTS, 11, Delivery("w", "b", 1, 0, False, None, None), redactor=REDACTOR, keep=keep, limits=LogLimits()
    )
    recorder, said_at = Recorder(store), [time.monotonic()]
    recorder.begin(opened)
    while (took := time.monotonic() - said_at[0]) < 2.7:
        opened.progress(len(said_at), None, None)
        said_at.append(time.monotonic())
        time.sleep(0.001)
    recorder.stop()
    said = [event for event in Runs(store).events("r") if event.name == "progress"]
    assert 3 <= len(said) <= took + 2, "at 0.1 s, and a second after each"
    assert len(said_at) > 50 * len(said)
    pauses = [(after.at - before.at).total_seconds() for before, after in itertools.pairwise(said[:3])]
    stalled = max(
        after - before for before, after in itertools.pairwise(said_at)
    )  # a busy machine: nothing newer to say
    assert min(pauses) >= 0.98 - stalled


def test_what_was_said_last_is_written_though_nothing_is_said_after_it() -> None:
    store = open_store("memory://")
    opened = OpenAttempt(
        "r", FACTS, 11, Delivery("w", "b", 1, 0, False, None, None), redactor=REDACTOR, keep=keep, limits=LogLimits()
    )
    recorder = Recorder(store)
    recorder.begin(opened)

    def written() -> float | None:
        run = Runs(store).get("r")
        return None if run is None or run.progress is None else run.progress.done

    opened.progress(1, 4, "item 1")
    wait_for(lambda: written() == 1, message="the first")
    opened.progress(4, 4, "merging")
    wait_for(lambda: written() == 4, timeout=3, message="the last")
    recorder.stop()


def test_of_a_long_run_the_latest_is_written_every_ten_seconds() -> None:
    second = 1_000_000
    latest, taken = Latest(), []
    for at in range(600, 640):
        latest.say(at * second, {"done": at})
        taken.append(latest.take(0, at * second + 5, at_once=False))
    latest.say(639 * second, {"done": "last"})
    taken += [latest.take(0, at * second, at_once=False) for at in range(640, 660)]
    assert [said[1]["done"] for said in taken if said is not None] == [600, 610, 620, 630, "last"]


def test_a_debounced_run_shows_the_payload_that_its_body_got(store: Store) -> None:
    asked = facts.event("queued:1", "queued", at=1, args=["cut…"], kwargs={}, payload_truncated=True)
    got = facts.event("debounced:e", facts.DEBOUNCED, execution="e", at=2, args=["last"], kwargs={"n": 1})
    store.append([RunWrite("r", 1, standing=RunStanding(status="QUEUED"), events=[asked, got])])
    run = read(store, "r")
    assert (run.args, run.kwargs, run.payload_truncated) == (["last"], {"n": 1}, False)


def test_details_that_were_stored_as_a_text_are_details() -> None:
    store = open_store("memory://")
    store.append(
        [RunWrite("r", 1, events=[facts.event("note:e:1", "report", custom=True, data="too much… (9 bytes)")])]
    )
    assert [event.data for event in Runs(store).events("r")] == [{"data": "too much… (9 bytes)"}]


def test_a_list_tells_how_far_its_runs_are(store: Store) -> None:
    opened = OpenAttempt(
        "r", FACTS, 11, Delivery("w", "b", 1, 0, False, None, None), redactor=REDACTOR, keep=keep, limits=LogLimits(2)
    )
    for done, told in ((1, None), (2, SUCCESS)):
        opened.progress(done, 2, "password=x " + "row " * 100)
        if told is not None:
            opened.end(told)
        write = opened.take()
        assert write is not None
        store.append([write])
        (listed,) = Runs(store).list()
        assert listed.progress is not None
        assert (listed.detailed, listed.progress.done, listed.progress.total) == (False, done, 2)
        assert "=x" not in str(listed.progress.message)
        assert len(str(listed.progress.message)) <= 100
        assert read(store, "r").progress.at == listed.progress.at  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[1, 2]", '["x", null, null, 1]', "[NaN, 1, null, 1]", "[1, true, null, 1]"]
)
def test_a_summary_that_holds_no_progress_is_none(store: Store, text: str) -> None:
    store.append([RunWrite("r", 1, FACTS, RunStanding(progress=text))])
    (listed,) = Runs(store).list()
    assert listed.progress is None


def test_a_page_of_runs_follows_the_one_before(store: Store) -> None:
    for number in range(5):
        created = RunFacts(task="t", created=1_700_000_000_000_000 + number // 2)
        store.append([facts.queued(f"r{number}", created, stamp(1), retries=0, eta=None, data={}, keep=keep)])
    runs = Runs(store)
    first = runs.list(limit=3)
    second = runs.list(limit=3, after=first.next)
    assert [run.id for run in (*first, *second)] == ["r4", "r3", "r2", "r1", "r0"]
    assert second.next is None
    assert runs.count() == 5
    with pytest.raises(ValueError, match="not a status"):
        runs.list(status="BROKEN")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="after="):
        runs.list(after="nonsense")
