"""Facts come from publishers, workers, their children and the reaper, in any order: the record is the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st

from celery_stackstate import facts
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.facts import Stamp
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import Redactor
from celery_stackstate.records import FAILURE, IGNORED, LOST, REJECTED, RETRY, REVOKED, SUCCESS, Event, LogLine, Run
from celery_stackstate.runs import Runs
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunWrite, Store, StoredEvent

REDACTOR = Redactor(("password",), limit=65_536)
FACTS = RunFacts(task="shop.import", queue="celery", origin="user:7", host="web-1", created=1_700_000_000_000_000)
ENDINGS = (None, SUCCESS, FAILURE, RETRY, LOST, IGNORED, REJECTED)


def keep(status: str) -> float:
    return 3600.0 if status == SUCCESS else 7200.0


@st.composite
def lives(draw: st.DrawFn) -> list[RunWrite]:
    """Draw what all processes tell of one run: its messages, their deliveries, attempts, and verdicts from outside."""
    writes: list[RunWrite] = []
    epoch = 1_700_000_000_000
    for retries in range(draw(st.integers(1, 4))):
        epoch += draw(st.integers(1, 50))
        stamp = Stamp(first=FACTS.created or 0, at=epoch * 1000, epoch=epoch, host="web-1")
        asked = {"args": [1], "host": "web-1"} if not retries else {}
        writes.append(facts.queued("r", FACTS, stamp, retries=retries, eta=None, data=asked, keep=keep))
        for worker in draw(st.lists(st.sampled_from(["w1", "w2"]), max_size=2)):
            delivered = facts.received("r", FACTS, epoch, worker=worker, retries=retries, eta=None, keep=keep)
            writes.append(delivered)
            if draw(st.booleans()):
                epoch += 1
                writes += draw(attempts(worker, epoch, retries))
        if draw(st.integers(0, 4)) == 0:
            told = {"error_type": "Revoked", "error": "it was revoked"}
            writes.append(facts.ended("r", FACTS, epoch, REVOKED, worker="w1", keep=keep, data=told))
    return [at_time(write, number) for number, write in enumerate(writes)]


@st.composite
def attempts(draw: st.DrawFn, worker: str, epoch: int, retries: int) -> list[RunWrite]:
    """Draw what is told of one attempt, by itself in one or more pieces, by the parent, and by the reaper."""
    delivery = Delivery(worker, "boot", 7, retries, draw(st.booleans()), None, None)
    opened = OpenAttempt("r", FACTS, epoch, delivery, redactor=REDACTOR, keep=keep, limits=LogLimits())
    writes = []
    for number in range(draw(st.integers(0, 3))):
        opened.note(f"note {number}", {"n": number})
        opened.log(at=epoch * 1000 + number, level=20, logger="shop", message=f"line {number}")
        opened.progress(number, 3, None)
        if draw(st.booleans()):
            writes.append(opened.take())
    status = draw(st.sampled_from(ENDINGS))
    if status is not None:
        opened.end(status, error_type="Error" if status == FAILURE else None, error="wrong", result=epoch)
    writes.append(opened.take())
    for verdict in draw(st.lists(st.sampled_from([LOST, FAILURE]), max_size=2)):
        told = {"error_type": "Told", "error": f"{verdict} from outside"}
        writes.append(
            facts.ended("r", FACTS, epoch, verdict, execution=opened.execution, worker=worker, keep=keep, data=told)
        )
    return [write for write in writes if write is not None]


def at_time(write: RunWrite, number: int) -> RunWrite:
    """Return the write with times of its own, as they are apart in life: `number` milliseconds from a begin."""
    at = 1_700_000_000_000_000 + 1000 * number

    def moved(event: StoredEvent, offset: int) -> StoredEvent:
        return replace(event, at=at + offset)

    standing = write.standing
    if standing is not None:
        finished = None if standing.finished is None else at
        standing = replace(standing, finished=finished, forget=at + 3_600_000_000)
    return replace(write, standing=standing, events=[moved(event, offset) for offset, event in enumerate(write.events)])


def record(store: Store, writes: list[RunWrite]) -> tuple[Run | None, list[Event], list[LogLine]]:
    """Return everything that can be read of the run when its facts arrived in this order."""
    run_id = uuid4().hex
    for write in writes:
        store.append([replace(write, run_id=run_id)])
    runs = Runs(store)
    run = runs.get(run_id)
    events, lines = runs.events(run_id), runs.logs(run_id)
    store.remove_runs([run_id])
    return (None if run is None else replace(run, id="r", root_id="r")), events, lines


def check(store: Store, writes: list[RunWrite], shuffled: Callable[[list[RunWrite]], list[RunWrite]]) -> None:
    expected = record(store, writes)
    assert record(store, shuffled(writes)) == expected
    assert record(store, [*shuffled(writes), *shuffled(writes)]) == expected, "telling a fact again changes nothing"


@settings(max_examples=300, deadline=None)
@given(lives(), st.randoms(use_true_random=False))
def test_any_order_makes_one_record(writes: list[RunWrite], random: st.DataObject) -> None:
    check(open_store("memory://"), writes, lambda given: random.sample(given, len(given)))  # type: ignore[attr-defined]


def test_a_store_merges_as_the_rules_say(store: Store) -> None:
    @settings(max_examples=25, deadline=None)
    @given(lives(), st.randoms(use_true_random=False))
    def any_order(writes: list[RunWrite], random: st.DataObject) -> None:
        check(store, writes, lambda given: random.sample(given, len(given)))  # type: ignore[attr-defined]

    any_order()


@settings(max_examples=300, deadline=None)
@given(lives())
def test_what_ended_says_so_and_only_that(writes: list[RunWrite]) -> None:
    run, events, _ = record(open_store("memory://"), writes)
    assert run is not None
    succeeded = {event.execution for event in events if event.name == "success"}
    assert (run.status == SUCCESS) is bool(succeeded), "a success is never covered, and never made up"
    for attempt in run.attempts:
        said = {event.name for event in events if event.execution == attempt.execution}
        assert (attempt.status == "STARTED") is not bool(
            said & {"success", "failure", "retry", "lost", "ignored", "rejected"}
        )
        if "success" in said:
            assert attempt.status == SUCCESS, "a late success corrects what was said in its absence"
    assert json.dumps(run.args) == "[1]"
