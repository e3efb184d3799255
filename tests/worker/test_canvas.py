"""Idempotency keys in chains, groups and chords, with real workers: what follows a run, and what leads it."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, Task, chain, chord, group
from celery.exceptions import ChordError
from pytest_celery import CeleryTestWorker

from celery_stackstate import ConfigurationError, IdempotencyConflict, LeaderFailed, StackState, StoreUnavailable
from celery_stackstate.facts import now_micros
from celery_stackstate.key_record import Ticket
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import wait_for
from tests.worker.probes import key_state, messages, notes, push, record, run_of, wait_for_note

BOTH = pytest.mark.worker(broker=None)
SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_canvas", conf=SHORT, broker="redis")


def numbers(app: Celery, name: str = "double") -> list[int]:
    return [one["number"] for one in notes(app, name)]


def ended(result: Any, node: Any, timeout: float = 15) -> str:
    """Wait until the result backend has an outcome."""
    wait_for(result.ready, timeout=timeout, message=f"{result.id} to end", node=node)
    return str(result.state)


def followers(app: Celery) -> list[Any]:
    return [one for one in messages(app) if "follow" in one.headers["stackstate"]]


def wait_for_event(app: Celery, run_id: str, name: str, node: Any) -> None:
    runs = StackState.of(app).runs
    wait_for(lambda: name in [one.name for one in runs.events(run_id)], message=f"the event {name!r}", node=node)


# -- chains --------------------------------------------------------------------------------------------------------


@BOTH
def test_two_chains_that_share_their_first_step_both_run_on(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    shared = tasks.double.s(5, 0.5).set(idempotency_key="k")
    one, other = chain(shared, tasks.add.s(1)).apply_async(), chain(shared, tasks.add.s(2)).apply_async()

    # then
    assert [one.get(timeout=10), other.get(timeout=10)] == [11, 12]
    assert [one.parent.get(timeout=1), other.parent.get(timeout=1)] == [10, 10]
    assert numbers(app) == [5]

    # and what followed has a run of its own in the history, which the key finds
    run = run_of(app, other.parent.id, status="SUCCESS", node=celery_worker)
    assert (run.key, run.result, [attempt.status for attempt in run.attempts]) == ("k", 10, ["SUCCESS"])
    found = StackState.of(app).runs.list(key="k").items
    assert {one.parent.id, other.parent.id} == {run.id for run in found}
    events = [event.name for event in StackState.of(app).runs.events(other.parent.id)]
    assert "followed" in events


def test_a_chain_follows_a_run_that_ended_long_ago(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    tasks.double.apply_async((5,), idempotency_key="k").get(timeout=10)
    wait_for(lambda: key_state(app, "k", tasks.double.name) == "SUCCEEDED", message="the first to end")

    # then immutable steps run on as well
    again = tasks.double.si(5).set(idempotency_key="k")
    assert chain(again, tasks.add.s(1)).apply_async().get(timeout=10) == 11
    assert chain(again, tasks.add.si(1, 2)).apply_async().get(timeout=10) == 3
    assert chain(tasks.nothing.si(), again, tasks.add.si(3, 4)).apply_async().get(timeout=10) == 7
    assert numbers(app) == [5]


def test_a_key_on_a_later_step_counts_when_that_step_is_published(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    second = tasks.add.s(1).set(idempotency_key="k")
    first = chain(tasks.double.s(5), second, tasks.add.s(100)).apply_async()
    assert first.get(timeout=10) == 111

    # when the arguments are the same, and when they are others
    again = chain(tasks.double.s(5), second, tasks.add.s(200)).apply_async()
    conflict = chain(tasks.double.s(6), second, tasks.add.s(300)).apply_async()

    # then the part with the key fails, and what stands behind it; what stands before has succeeded
    assert again.get(timeout=10) == 211
    with pytest.raises(IdempotencyConflict, match="'k'"):
        conflict.get(timeout=10)
    steps = (conflict.parent.parent, conflict.parent, conflict)
    assert [ended(one, celery_worker) for one in steps] == ["SUCCESS", "FAILURE", "FAILURE"]
    run = run_of(app, conflict.parent.id, status="FAILURE", node=celery_worker)
    assert "other arguments" in str(run.error)
    run_of(app, conflict.parent.parent.id, status="SUCCESS", node=celery_worker)
    assert [(one["left"], one["right"]) for one in notes(app, "add")] == [(10, 1), (11, 100), (11, 200)]


def test_a_duplicate_that_is_to_raise_fails_alone(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    step = tasks.add.si(1, 1).set(idempotency_key="k", on_duplicate="raise")
    assert chain(tasks.double.s(1), step).apply_async().get(timeout=10) == 2
    again = chain(tasks.double.s(2), step).apply_async()
    assert ended(again, celery_worker) == "FAILURE"
    assert type(again.result).__name__ == "DuplicateRun"
    assert ended(again.parent, celery_worker) == "SUCCESS"
    assert len(notes(app, "add")) == 1


def test_a_key_that_cannot_be_made_of_a_result_fails_the_step_that_has_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    good, bad = (chain(first, tasks.ship.s()).apply_async() for first in (tasks.double.s(5), tasks.nothing.s()))
    assert good.get(timeout=10) == "shipped 10"
    assert ended(bad, celery_worker) == "FAILURE"
    assert type(bad.result).__name__ == "InvalidKey"
    assert ended(bad.parent, celery_worker) == "SUCCESS"


def test_a_failed_leader_fails_what_follows_it(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    shared = tasks.refuse.s("expired card", 2).set(idempotency_key="k")
    leader = shared.apply_async()

    # when
    in_chain = chain(shared, tasks.add.s(1)).apply_async()
    in_group = group(shared, tasks.double.s(1)).apply_async()
    in_chord = chord([shared, tasks.double.s(2)], tasks.total.s()).apply_async()
    alone = shared.apply_async(link_error=tasks.failed.s())

    # then with its own exception
    for result in (leader, in_chain.parent, in_chain, in_group[0], alone):
        with pytest.raises(tasks.CardRefused, match="expired card"):
            result.get(timeout=10)
    assert ended(in_chord, celery_worker) == "FAILURE"
    assert isinstance(in_chord.result, ChordError)
    assert "expired card" in str(in_chord.result)
    assert alone.id == wait_for_note(app, "failed", node=celery_worker)["id"]
    assert in_group[1].get(timeout=10) == 2
    assert len(notes(app, "refuse")) == 1
    assert [notes(app, "add"), notes(app, "total")] == [[], []]

    # and a later call begins anew
    assert shared.apply_async().created


@pytest.mark.parametrize("how", ["terminated", "timed out"])
def test_a_leader_that_is_stopped_fails_what_follows_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    # given
    shared = tasks.double.s(5, 60).set(idempotency_key="k")
    leader = shared.apply_async(time_limit=1 if how == "timed out" else None)
    wait_for_note(app, "double", node=celery_worker)
    follower = chord([shared, tasks.double.s(1)], tasks.total.s()).apply_async()

    # when
    if how == "terminated":
        app.control.revoke(leader.id, terminate=True, signal="SIGKILL")

    # then
    assert ended(follower, celery_worker) == "FAILURE"
    assert sorted(numbers(app)) == [1, 5]


# -- groups and chords ---------------------------------------------------------------------------------------------


@BOTH
def test_a_chord_with_a_duplicate_of_a_running_job_and_one_of_its_own_members(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    shared = tasks.double.s(5, 1).set(idempotency_key="k")
    plain = shared.apply_async()
    wait_for_note(app, "double", node=celery_worker)

    # when
    inner = tasks.double.s(7, 0.2).set(idempotency_key="inner")
    result = chord([tasks.double.s(1), shared, inner, inner, tasks.double.s(2)], tasks.total.s()).apply_async()

    # then
    assert result.get(timeout=15) == 2 + 10 + 14 + 14 + 4
    assert [one["numbers"] for one in notes(app, "total")] == [[2, 10, 14, 14, 4]]
    assert plain.get(timeout=1) == 10
    assert sorted(numbers(app)) == [1, 2, 5, 7]


def test_a_group_with_duplicate_members_is_complete(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    shared, other = tasks.double.s(5).set(idempotency_key="k"), tasks.double.s(6).set(idempotency_key="other")
    result = group(shared, other, shared, other, shared).apply_async()
    assert result.get(timeout=10) == [10, 12, 10, 12, 10]
    assert len({one.id for one in result}) == 5
    assert sorted(numbers(app)) == [5, 6]


@BOTH
def test_a_key_on_a_group_or_chord_merges_no_siblings_and_runs_nothing_twice(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given two that begin at once
    members = [tasks.double.s(5, 0.3), tasks.double.s(5, 0.3), tasks.double.s(6)]
    groups = [group(members).apply_async(idempotency_key="g") for _ in range(2)]
    chords = [chord(members, tasks.total.s()).apply_async(idempotency_key="c") for _ in range(2)]

    # then
    assert [one.get(timeout=10) for one in groups] == [[10, 10, 12]] * 2
    assert [one.get(timeout=15) for one in chords] == [32, 32]
    assert sorted(numbers(app)) == [5, 5, 5, 5, 6, 6]
    assert len(notes(app, "total")) == 1

    # and one that begins when they have ended
    assert group(members).apply_async(idempotency_key="g").get(timeout=10) == [10, 10, 12]
    assert chord(members, tasks.total.s()).apply_async(idempotency_key="c").get(timeout=10) == 32
    assert (len(numbers(app)), len(notes(app, "total"))) == (6, 1)
    assert {"g/0", "g/1", "g/2", "c/0", "c/1", "c/2"} == {
        one.key for one in StackState.of(app).idempotency.list(task=tasks.double.name).items
    }
    assert [one.key for one in StackState.of(app).idempotency.list(task=tasks.total.name).items] == ["c/body"]


def test_nested_canvases_are_complete(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    double, add, total = tasks.double, tasks.add, tasks.total
    shared = double.s(5, 0.3).set(idempotency_key="k")
    own = shared.clone().set(immutable=True)

    # when
    results = [
        chord([chain(shared, add.s(1)), group(shared, double.s(1)), shared], total.s()).apply_async(),
        chain(shared, group(add.s(1), add.s(2)), total.s(), add.s(1000)).apply_async(),
        group(chain(shared, add.s(1)), chord([shared, shared], total.s())).apply_async(),
        chain(double.si(2), chord([own, chain(own, add.s(3))], total.s()), add.s(7)).apply_async(),
    ]

    # then
    assert [result.get(timeout=15) for result in results] == [33, 1023, [11, 20], 30]
    assert sorted(numbers(app)) == [1, 2, 5]


def test_the_key_of_a_chords_body(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # when a body with a key is called by two chords, and by one with other results
    body = tasks.total.s().set(idempotency_key="k")
    pair = [tasks.double.s(1), tasks.double.s(2)]
    first = chord(pair, body).apply_async()
    assert first.get(timeout=10) == 6
    again = chain(chord(pair, body), tasks.add.s(1)).apply_async()
    conflict = chord([*pair, tasks.double.s(3)], body.clone().on_error(tasks.failed.s())).apply_async()

    # then
    assert again.get(timeout=10) == 7
    assert ended(conflict, celery_worker) == "FAILURE"
    assert "IdempotencyConflict" in repr(conflict.result)
    assert [sum(one.get(timeout=1) for one in conflict.parent)] == [12]
    wait_for_note(app, "failed", node=celery_worker)
    assert [one["numbers"] for one in notes(app, "total")] == [[2, 4]]


# -- callbacks -----------------------------------------------------------------------------------------------------


@BOTH
def test_callbacks_of_a_duplicate_are_called_for_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    shared = tasks.double.s(5, 0.5).set(idempotency_key="k")
    first = shared.apply_async(link=tasks.heard.s())
    again = shared.apply_async(link=[tasks.heard.s(), tasks.add.s(1)], link_error=tasks.failed.s())
    plain = shared.apply_async()

    # then
    assert (first.created, again.created, plain.created) == (True, False, False)
    assert first.id == plain.id != again.id
    assert [one.get(timeout=10) for one in (first, again, plain)] == [10, 10, 10]
    wait_for_note(app, "heard", count=2, node=celery_worker)
    wait_for_note(app, "add", node=celery_worker)
    assert [one["result"] for one in notes(app, "heard")] == [10, 10]
    assert (numbers(app), notes(app, "failed")) == ([5], [])


def test_a_key_on_a_link_fails_the_link_alone(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    link = tasks.add.s(1).set(idempotency_key="k")
    assert tasks.double.apply_async((1,), link=link).get(timeout=10) == 2
    wait_for_note(app, "add", node=celery_worker)

    # when it is called with another result
    result = tasks.double.apply_async((2,), link=[link, tasks.heard.s()])

    # then
    assert result.get(timeout=10) == 4
    wait_for_note(app, "heard", node=celery_worker)
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    runs = StackState.of(app).runs
    failed = wait_for(lambda: runs.list(task=tasks.add.name, status="FAILURE").items, message="it", node=celery_worker)
    assert result.id == failed[0].parent_id
    assert "other arguments" in str(failed[0].error)
    assert len(notes(app, "add")) == 1


def test_a_keyed_errback_is_called_once(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    errback = tasks.heard.si("an alarm").set(idempotency_key="k")
    for reason in ("one", "two"):
        with pytest.raises(tasks.CardRefused, match=reason):
            tasks.refuse.apply_async((reason,), link_error=errback).get(timeout=10)
    wait_for_note(app, "heard", node=celery_worker)
    time.sleep(0.5)
    assert len(notes(app, "heard")) == 1


# -- ids -----------------------------------------------------------------------------------------------------------


def test_a_run_with_an_id_of_its_own(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # when
    first = tasks.double.apply_async((5, 0.5), idempotency_key="k", task_id="mine")
    same = tasks.double.apply_async((5, 0.5), idempotency_key="k", task_id="mine")
    other = tasks.double.apply_async((5, 0.5), idempotency_key="k", task_id="yours")
    without = tasks.double.apply_async((5, 0.5), idempotency_key="k")

    # then
    assert [one.id for one in (first, same, other, without)] == ["mine", "mine", "yours", "mine"]
    assert [one.created for one in (first, same, other, without)] == [True, False, False, False]
    assert [app.AsyncResult(one).get(timeout=10) for one in ("mine", "yours")] == [10, 10]
    assert [one["id"] for one in notes(app, "double")] == ["mine"]


# -- retries, replacements -----------------------------------------------------------------------------------------


def test_a_leader_that_retries_is_waited_for(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    shared = tasks.flaky.s(5).set(idempotency_key="k")
    leader = chain(shared, tasks.add.s(1)).apply_async()
    wait_for_note(app, "flaky", node=celery_worker)
    result = chord([shared, shared], tasks.total.s()).apply_async()
    assert [leader.get(timeout=10), result.get(timeout=10)] == [11, 20]
    assert [one["retries"] for one in notes(app, "flaky")] == [0, 1]


@pytest.mark.worker(concurrency=4)
def test_what_replaces_a_run_keeps_its_key(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given runs that were replaced by all that there is
    expected = {"task": 10, "chain": 11, "chord": 22, "group": [10, 12], "plain": 10, "keyed": 11, "failure": None}
    shared = {how: tasks.fan_out.s(how, 5).set(idempotency_key=how) for how in expected}
    leaders = {how: chain(one, tasks.heard.s()).apply_async() for how, one in shared.items()}
    wait_for_note(app, "fan_out", count=len(expected), node=celery_worker)

    # when they are called again while that runs
    again = {how: one.apply_async() for how, one in shared.items()}
    followers = {how: chain(one, tasks.heard.s()).apply_async() for how, one in shared.items()}

    # then
    for how, wanted in expected.items():
        assert (again[how].id, again[how].created) == (leaders[how].parent.id, False)
        outcome = "FAILURE" if how == "failure" else "SUCCESS"
        assert [ended(one[how], celery_worker) for one in (leaders, followers)] == [outcome, outcome], how
        assert [one[how].parent.state for one in (leaders, followers)] == [outcome, outcome], how
        if how != "failure":
            assert [one[how].parent.result for one in (leaders, followers)] == [wanted, wanted], how
        settled = partial(_is_key, app, how, tasks.fan_out.name, "FAILED" if how == "failure" else "SUCCEEDED")
        wait_for(settled, message=f"the key {how} to be settled", node=celery_worker)
    assert sorted(expected) == sorted(one["how"] for one in notes(app, "fan_out"))
    assert [how for how, one in shared.items() if one.apply_async().created] == ["failure"]


def _is_key(app: Celery, key: str, task: str, state: str) -> bool:
    return key_state(app, key, task) == state


def _counted(worker: CeleryTestWorker, lines: list[str], least: int) -> bool:
    return bool(sum(map(worker.logs().count, lines)) >= least)


def test_a_call_in_a_hook_raises_as_elsewhere(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    for _ in range(2):
        assert tasks.report.delay(5).get(timeout=10) == 5
    assert wait_for_note(app, "raised", node=celery_worker)["key"] == "hook"
    wait_for_note(app, "double", node=celery_worker)
    assert len(notes(app, "double")) == 1


# -- copies, crashes -----------------------------------------------------------------------------------------------


@BOTH
def test_the_same_message_of_a_follower_twice_is_one_callback(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    shared = tasks.double.s(5).set(idempotency_key="k")
    leader = shared.apply_async()
    follower = chain(shared, tasks.add.s(1)).apply_async()
    member = chord([shared, tasks.double.s(1)], tasks.total.s()).apply_async()
    copies = followers(app)
    assert len(copies) == 2
    for copy in copies:
        push(app, copy)

    # when
    worker = start_worker()

    # then
    assert [one.get(timeout=10) for one in (leader, follower, member)] == [10, 11, 12]
    for run_id in (copy.headers["id"] for copy in copies):
        over = [f"{run_id}] {how}" for how in ("succeeded", "ignored")]
        wait_for(partial(_counted, worker, over, 2), message="the copies to end", node=worker)
    time.sleep(2.5)  # one that was sent again has come back by then
    assert (numbers(app), len(notes(app, "add")), len(notes(app, "total"))) == ([5, 1], 1, 1)


@pytest.mark.worker(concurrency=1)
@pytest.mark.parametrize("acknowledged", ["late", "early"])
def test_a_follower_has_a_leader_published_again_whose_worker_was_killed(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker, acknowledged: str
) -> None:
    # given
    task: Task = getattr(tasks, f"{acknowledged}_first")
    shared = task.s(5).set(idempotency_key="k")
    leader = chord([shared, tasks.double.s(1)], tasks.total.s()).apply_async()
    wait_for_note(app, task.name.rpartition(".")[2])

    # when
    celery_worker.kill("SIGKILL")
    follower = chain(shared, tasks.add.s(1)).apply_async()
    start_worker(concurrency=2)

    # then
    assert [leader.get(timeout=20), follower.get(timeout=20)] == [12, 11]
    time.sleep(0.5)
    assert len(notes(app, task.name.rpartition(".")[2])) == 2
    assert len(notes(app, "total")) == 1
    run = run_of(app, leader.parent[0].id, status="SUCCESS")
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]


@pytest.mark.worker(concurrency=1)
def test_a_follower_leads_when_nobody_can_publish_the_lost_leader_again(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    shared = tasks.unkept_first.s(5).set(idempotency_key="k")
    shared.apply_async()
    wait_for_note(app, "unkept_first")
    celery_worker.kill("SIGKILL")

    # when two follow
    results = [chain(shared, tasks.add.s(n)).apply_async() for n in (1, 2)]
    start_worker(concurrency=2)

    # then one of them leads
    assert [result.get(timeout=20) for result in results] == [11, 12]
    assert len(notes(app, "unkept_first")) == 2


def test_a_follower_that_finds_the_key_free_leads(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    # given followers whose leaders' messages and records are gone
    arguments = {"flaky": (5,), "late_first": (5,), "fan_out": ("chain", 4)}
    shared = {name: getattr(tasks, name).s(*args).set(idempotency_key="k") for name, args in arguments.items()}
    for one in shared.values():
        one.apply_async()
    results = {name: chain(one, tasks.add.s(1)).apply_async() for name, one in shared.items()}
    orphans = followers(app)
    app.control.purge()
    for message in orphans:
        assert StackState.of(app).store.remove(Ticket.load(message.headers["stackstate"]["follow"]).store_key)
        push(app, message)

    # when; the first attempt of "late_first" is killed
    worker = start_worker(concurrency=2)
    assert [results[name].get(timeout=15) for name in ("flaky", "fan_out")] == [11, 10]
    wait_for_note(app, "late_first", node=worker)
    worker.kill("SIGKILL")
    start_worker()

    # then its retry, its redelivery and what replaces it do not wait for themselves
    assert results["late_first"].get(timeout=15) == 11
    for name in shared:
        settled = partial(_is_key, app, "k", getattr(tasks, name).name, "SUCCEEDED")
        wait_for(settled, message=f"the key of {name} to be settled")
    assert [len(notes(app, name)) for name in shared] == [2, 2, 1]
    assert not any(one.apply_async().created for one in shared.values())


def test_a_follower_takes_no_value_of_a_run_with_other_arguments(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a key that was freed and taken for another payload while its follower waits
    shared = tasks.double.s(5).set(idempotency_key="k")
    shared.apply_async()
    follower = chain(shared, tasks.add.s(1)).apply_async()
    assert StackState.of(app).idempotency.reset("k", task=tasks.double.name)
    other = tasks.double.apply_async((6,), idempotency_key="k")

    # then
    worker = start_worker()
    assert other.get(timeout=10) == 12
    assert ended(follower, worker) == "FAILURE"
    assert isinstance(follower.result, (IdempotencyConflict, LeaderFailed))
    assert numbers(app) == [6]


def test_a_member_that_has_lost_its_key_does_not_leave_its_chord_waiting(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given keys that were freed or went to another run before their first runs began
    keys, name = StackState.of(app).idempotency, tasks.double.name
    shared = {key: tasks.double.s(5).set(idempotency_key=key) for key in ("replaced", "reset", "freed", "expired")}
    in_chord = {key: chord([one, tasks.double.s(1)], tasks.total.s()).apply_async() for key, one in shared.items()}
    in_chain = {key: chain(one, tasks.add.s(1)).apply_async() for key, one in shared.items()}
    assert shared["replaced"].apply_async(on_duplicate="replace").created
    assert keys.reset("reset", task=name)
    assert shared["reset"].apply_async().created
    assert keys.reset("freed", task=name)
    _let_expire(app, "expired", name)

    # then the old runs do not run, and what waits for them gets another's result, or an error
    worker = start_worker()
    for key in ("replaced", "reset", "expired"):
        assert [in_chord[key].get(timeout=10), in_chain[key].get(timeout=10)] == [12, 11], key
    assert [ended(one["freed"], worker) for one in (in_chord, in_chain)] == ["FAILURE", "FAILURE"]
    assert isinstance(in_chain["freed"].parent.result, LeaderFailed)
    assert sorted(numbers(app)) == [1, 1, 1, 1, 5, 5, 5]


def _let_expire(app: Celery, key: str, task: str) -> None:
    """Let the record of a key say that its message expired two minutes ago; a broker may have dropped it."""
    found = record(app, key, task)
    assert found is not None
    ticket = replace(found.ticket, expires=now_micros() - 120_000_000)
    StackState.of(app).store.put(ticket.store_key, replace(found, ticket=ticket).dump())


# -- the store -----------------------------------------------------------------------------------------------------


class TestOverRedis:
    """The keys are in a Redis of the test's own, which can be stopped."""

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    @pytest.mark.worker(conf={**SHORT, "stackstate_worker_lease": 30, "stackstate_store_timeout": 1}, concurrency=4)
    def test_a_store_that_is_down_when_celery_publishes_what_follows_loses_nothing(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_server: RedisServer
    ) -> None:
        # given a key that another run has, for what follows
        tasks.add.apply_async((2, 1), idempotency_key="taken").get(timeout=10)
        wait_for(lambda: key_state(app, "taken", tasks.add.name) == "SUCCEEDED", message="the first to end")

        # when
        tail = tasks.add.s(1)
        results = [
            chain(tasks.double.s(5, 1.5), tail.clone().set(idempotency_key="free"), tasks.heard.s()).apply_async(),
            chain(tasks.double.s(1, 1.5), tail.clone().set(idempotency_key="taken"), tasks.heard.s()).apply_async(),
            chain(tasks.double.s(7, 1.5), tail.clone().set(idempotency_key="taken")).apply_async(),
            chord([tasks.double.s(2, 1.5)], tasks.total.s().set(idempotency_key="body")).apply_async(),
            chain(tasks.double.s(3, 1.5), tasks.watched.s()).apply_async(),
        ]
        wait_for_note(app, "double", count=4, node=celery_worker)
        store_server.stop()
        with pytest.raises(StoreUnavailable):
            tasks.double.apply_async((5,), idempotency_key="k")
        time.sleep(4)
        store_server.start()

        # then
        wait_for_note(app, "heard", count=2, node=celery_worker, timeout=25)
        assert [ended(result, celery_worker, 20) for result in results] == [
            "SUCCESS",
            "SUCCESS",
            "FAILURE",
            "SUCCESS",
            "SUCCESS",
        ]
        assert sorted(one["result"] for one in notes(app, "heard")) == [3, 11]
        assert isinstance(results[2].result, IdempotencyConflict)
        assert results[3].result == 4
        assert results[4].result == 6
        assert [(one["left"], one["right"]) for one in notes(app, "add")] == [(2, 1), (10, 1)]


# -- what a key cannot do ------------------------------------------------------------------------------------------


def test_tasks_that_run_others_in_their_body_take_no_key(app: Celery, tasks: ModuleType) -> None:
    for runs_inside in (
        lambda task: task.map([1, 2]),
        lambda task: task.starmap([(1,), (2,)]),
        lambda task: task.chunks([(1,), (2,)], 1),
    ):
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            runs_inside(tasks.double).apply_async(idempotency_key="k")
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            runs_inside(tasks.double).set(idempotency_key="k").apply_async()
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            runs_inside(tasks.ship).apply_async()  # whose attribute makes a key
    assert messages(app) == []
    assert StackState.of(app).idempotency.list().items == ()
