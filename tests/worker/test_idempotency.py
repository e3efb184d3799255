"""Idempotency keys with real workers, real brokers and real crashes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import partial
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group
from kombu.exceptions import OperationalError
from pytest_celery import CeleryTestBroker, CeleryTestWorker

from celery_stackstate import (
    ConfigurationError,
    DuplicateRun,
    IdempotencyConflict,
    InvalidKey,
    NotSerializable,
    StackState,
)
from tests.databases import SilentProxy
from tests.nodes import StartWorker
from tests.services import HOST, RedisServer
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import (
    in_another_process,
    key_state,
    messages,
    notes,
    push,
    record,
    run_of,
    wait_for_note,
)

BOTH = pytest.mark.worker(broker=None)
SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_keys", conf=SHORT, broker="redis")


def settled(app: Celery, key: str, task: str, state: str, node: Any = None) -> None:
    wait_for(lambda: key_state(app, key, task) == state, message=f"the key to be {state}", node=node)


def has_event(app: Celery, run_id: str, name: str, node: Any = None) -> None:
    runs = StackState.of(app).runs
    wait_for(lambda: name in [event.name for event in runs.events(run_id)], message=f"the event {name!r}", node=node)


# -- one key, one run ----------------------------------------------------------------------------------------------


@BOTH
def test_duplicates_get_the_first_runs_id_and_its_result(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given a duplicate before the run, and one after it
    first = tasks.charge.apply_async((5,), idempotency_key="order:1")
    second = tasks.charge.apply_async((5,), idempotency_key="order:1")
    assert first.get(timeout=10) == "5 EUR"
    settled(app, "order:1", tasks.charge.name, "SUCCEEDED")
    third = tasks.charge.apply_async((5,), idempotency_key="order:1")

    # then
    assert (first.created, second.created, third.created) == (True, False, False)
    assert {first.id} == {second.id, third.id}
    assert third.get(timeout=1) == "5 EUR"
    time.sleep(0.5)
    assert [first.id] == [one["id"] for one in notes(app, "charge")]


def test_the_worker_claims_the_run_before_its_body(celery_worker: CeleryTestWorker, tasks: ModuleType) -> None:
    seen = tasks.own_record.apply_async(("k",), idempotency_key="k").get(timeout=10)
    assert {"state": "RUNNING", "pid": True, "worker": celery_worker.hostname()} == seen


@BOTH
def test_without_a_worker_the_same_call_twice_is_one_message(app: Celery, tasks: ModuleType) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="order:1")
    second = tasks.charge.apply_async((5,), idempotency_key="order:1")
    assert (first.id, False) == (second.id, second.created)
    assert [first.id] == [message.headers["id"] for message in messages(app)]


def test_another_payload_under_the_key_is_an_error_that_names_both(app: Celery, tasks: ModuleType) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="order:1")

    with pytest.raises(IdempotencyConflict) as caught:
        tasks.charge.apply_async((6,), idempotency_key="order:1")

    error = caught.value
    assert ("order:1", first.id) == (error.key, error.task_id)
    assert error.stored_fingerprint != error.given_fingerprint
    for part in ("order:1", first.id, error.stored_fingerprint[:12], error.given_fingerprint[:12]):
        assert part in str(error)
    assert len(messages(app)) == 1
    assert not tasks.charge.apply_async((5,), idempotency_key="order:1").created


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((5, "EUR"), {}), ((5,), {"currency": "EUR"}), ((), {"amount": 5}), ((), {"currency": "EUR", "amount": 5})],
)
def test_one_request_has_many_spellings(
    app: Celery, tasks: ModuleType, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="order:1")
    again = tasks.charge.apply_async(args, kwargs, idempotency_key="order:1")
    assert (first.id, False) == (again.id, again.created)
    assert len(messages(app)) == 1


def test_on_duplicate_raise_names_the_run(app: Celery, tasks: ModuleType) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="order:1", on_duplicate="raise")
    with pytest.raises(DuplicateRun, match=first.id) as caught:
        tasks.charge.apply_async((5,), idempotency_key="order:1", on_duplicate="raise")
    assert (first.id, "order:1") == (caught.value.task_id, caught.value.key)


def test_the_same_key_on_two_tasks_is_two_keys_unless_its_scope_is_the_app(app: Celery, tasks: ModuleType) -> None:
    apart = [task.apply_async((5,), idempotency_key="k") for task in (tasks.charge, tasks.refund)]
    assert [one.created for one in apart] == [True, True]
    assert apart[0].id != apart[1].id

    first = tasks.charge.apply_async((5,), idempotency_key="k", idempotency_scope="app")
    assert first.created
    assert first.id not in {one.id for one in apart}
    with pytest.raises(IdempotencyConflict, match=tasks.charge.name):
        tasks.refund.apply_async((5,), idempotency_key="k", idempotency_scope="app")
    assert not tasks.charge.apply_async((5,), idempotency_key="k", idempotency_scope="app").created
    assert len(messages(app)) == 3


def test_a_task_sent_by_name_has_the_same_key(app: Celery, tasks: ModuleType) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="k")
    again = app.send_task(tasks.charge.name, (5,), idempotency_key="k")
    assert (first.id, False) == (again.id, again.created)
    signature = app.signature(tasks.charge.name, (5,))
    assert first.id == signature.apply_async(idempotency_key="k").id
    assert len(messages(app)) == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_publish_lease": 60})  # twenty processes may need seconds to publish
def test_twenty_processes_at_once_publish_one_message(app: Celery, tasks: ModuleType) -> None:
    # given
    forked = multiprocessing.get_context("fork")
    barrier, answers = forked.Barrier(20), forked.Queue()

    def call() -> None:
        barrier.wait(20)
        result = tasks.charge.apply_async((5,), idempotency_key="order:1")
        answers.put((result.id, result.created))

    # when
    processes = [forked.Process(target=call) for _ in range(20)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=30) for _ in processes]
    for process in processes:
        process.join(10)

    # then
    assert len({run_id for run_id, _ in got}) == 1
    assert sorted(created for _, created in got) == [False] * 19 + [True]
    assert [got[0][0]] == [message.headers["id"] for message in messages(app)]


def test_a_retry_that_was_published_without_an_exception_runs_under_the_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    tasks.goes_on_quietly.apply_async(idempotency_key="k")
    wait_for(lambda: len(notes(app, "goes on")) == 2, message="the retry", node=celery_worker)
    settled(app, "k", tasks.goes_on_quietly.name, "SUCCEEDED", celery_worker)
    assert [note["retries"] for note in notes(app, "goes on")] == [0, 1]
    found = record(app, "k", tasks.goes_on_quietly.name)
    assert found is not None
    assert found.result == "1"


@BOTH
def test_the_options_never_reach_the_broker(app: Celery, tasks: ModuleType) -> None:
    # when
    result = tasks.charge.apply_async(
        (5,),
        priority=3,
        idempotency_key="order:1",
        idempotency_ttl=60,
        idempotency_scope="app",
        idempotency_on_failure="keep",
        on_duplicate="raise",
    )

    # then there is one header of ours, with the ticket in it, and nothing else
    (message,) = messages(app)
    plain = tasks.charge.apply_async((5,), priority=3)
    bare = next(one for one in messages(app) if one.headers["id"] == plain.id)
    assert set(bare.headers) == set(message.headers)
    assert set(bare.properties) == set(message.properties)
    assert (
        bare.payload
        == message.payload
        == [[5], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    )
    assert message.headers["stackstate"]["ticket"]["key"] == "order:1"
    assert result.id == message.headers["id"] == message.properties["correlation_id"]
    assert not {
        name for name in (*message.headers, *message.properties) if "idempotency" in name or "duplicate" in name
    }


WRONG = [
    ({"idempotency_key": ""}, InvalidKey, "must not be empty"),
    ({"idempotency_key": "a\nb"}, InvalidKey, "control character"),
    ({"idempotency_key": "a\0b"}, InvalidKey, "control character"),
    ({"idempotency_key": " a"}, InvalidKey, "blank"),
    ({"idempotency_key": "\ud800"}, InvalidKey, "surrogate"),
    ({"idempotency_key": "x" * 1025}, InvalidKey, "1,024"),
    ({"idempotency_key": 7}, InvalidKey, "must be a str"),
    ({"idempotency_key": "k", "on_duplicate": "drop"}, ConfigurationError, "'return' or 'raise'"),
    ({"idempotency_key": "k", "idempotency_scope": "tenant"}, ConfigurationError, "'task' or 'app'"),
    ({"idempotency_key": "k", "idempotency_on_failure": "retry"}, ConfigurationError, "'release' or 'keep'"),
    ({"idempotency_key": "k", "idempotency_ttl": -1}, ValueError, "more than 0"),
    ({"idempotency_key": "k", "idempotency_ttl": "1"}, ValueError, "number of seconds"),
    ({"idempotency_ttl": 60}, ConfigurationError, "without an idempotency_key"),
    ({"idempotency_key": "k", "idempotency_tll": 60}, ConfigurationError, "idempotency_ttl"),
]


@pytest.mark.parametrize(("options", "error", "says"), WRONG, ids=[str(options)[:60] for options, _, _ in WRONG])
def test_a_wrong_option_is_a_clear_error_and_nothing_happens(
    app: Celery, tasks: ModuleType, options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        tasks.charge.apply_async((5,), **options)
    assert messages(app) == []
    assert tasks.charge.apply_async((5,), idempotency_key="k").created


@pytest.mark.parametrize("argument", [object(), {1, 2}.__iter__(), b"\xff".__class__])
def test_arguments_that_cannot_be_sent_reserve_nothing(app: Celery, tasks: ModuleType, argument: Any) -> None:
    with pytest.raises(NotSerializable, match="charge"):
        tasks.charge.apply_async((argument,), idempotency_key="k")
    assert messages(app) == []
    assert record(app, "k", tasks.charge.name) is None


def test_a_wrong_argument_list_reserves_nothing(app: Celery, tasks: ModuleType) -> None:
    with pytest.raises(TypeError):
        tasks.charge.apply_async((1, 2, 3, 4), idempotency_key="k")
    assert messages(app) == []
    assert record(app, "k", tasks.charge.name) is None


# -- canvas: more of it in test_canvas.py --------------------------------------------------------------------------


def keyed(tasks: ModuleType) -> dict[str, Any]:
    charge, member = tasks.charge, tasks.charge.s(1).set(idempotency_key="k")
    return {
        "a group": lambda: group(charge.s(1), charge.s(2)).apply_async(idempotency_key="k"),
        "a group's member": lambda: group(member, charge.s(2)).apply_async(),
        "a chord": lambda: chord([charge.s(1), charge.s(2)], charge.s()).apply_async(idempotency_key="k"),
        "a chord's member": lambda: chord([member, charge.s(2)], charge.s()).apply_async(),
        "a chord's body": lambda: chord([charge.s(1)], charge.s().set(idempotency_key="k")).apply_async(),
        "a chain": lambda: chain(charge.s(1), charge.s()).apply_async(idempotency_key="k"),
        "a chain's first": lambda: chain(member, charge.s()).apply_async(),
        "a chain's second": lambda: chain(charge.s(2), charge.s().set(idempotency_key="k")).apply_async(),
        "a chain's group": lambda: chain(member, group(charge.si(3), charge.si(4)), charge.si(4)).apply_async(),
    }


#: Which keys are reserved when it is published; those of later parts are when they are.
KEYED = [
    *(("a group", ["k/0", "k/1"]), ("a group's member", ["k"]), ("a chord", ["k/0", "k/1"])),
    *(("a chord's member", ["k"]), ("a chord's body", []), ("a chain", ["k"]), ("a chain's first", ["k"])),
    *(("a chain's second", []), ("a chain's group", ["k"])),
]


@pytest.mark.parametrize(("where", "reserved"), KEYED)
def test_a_canvas_reserves_its_keys_and_its_duplicate_has_messages_of_its_own_that_follow(
    app: Celery, tasks: ModuleType, where: str, reserved: list[str]
) -> None:
    # when
    publish = keyed(tasks)[where]
    first, second = publish(), publish()

    # then
    sent = messages(app)
    assert first.id != second.id
    assert len({message.headers["id"] for message in sent}) == len(sent)
    assert reserved == [one.key for one in StackState.of(app).idempotency.list(task=tasks.charge.name).items]
    for part in ("ticket", "follow"):
        carried = [message.headers["stackstate"].get(part) for message in sent]
        assert reserved == sorted(ticket["key"] for ticket in carried if ticket)


@pytest.mark.parametrize("where", ["map", "starmap", "chunks"])
def test_a_key_on_tasks_that_are_called_without_being_published_is_refused_loudly_and_reserves_nothing(
    app: Celery, tasks: ModuleType, where: str
) -> None:
    calls = {"map": ([1, 2],), "starmap": ([(1,), (2,)],), "chunks": ([(1,), (2,)], 1)}
    with pytest.raises(ConfigurationError, match="idempotency_key"):
        getattr(tasks.charge, where)(*calls[where]).apply_async(idempotency_key="k")
    assert messages(app) == []
    for scope in (tasks.charge.name, "celery.map", "celery.starmap"):
        assert record(app, "k", scope) is None


# -- retries and failure -------------------------------------------------------------------------------------------


@BOTH
def test_retries_pass_and_duplicates_between_the_attempts_get_one_id(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when it is called again between its attempts
    first = tasks.flaky.apply_async((2,), idempotency_key="k")
    again = []
    for attempts in (1, 2):
        wait_for_note(app, "flaky", count=attempts, node=celery_worker)
        again += [tasks.flaky.apply_async((2,), idempotency_key="k") for _ in range(2)]

    # then every attempt is made, once
    assert first.get(timeout=10) == "at last"
    settled(app, "k", tasks.flaky.name, "SUCCEEDED")
    assert {(first.id, False)} == {(one.id, one.created) for one in again}
    assert [(first.id, 0), (first.id, 1), (first.id, 2)] == [(one["id"], one["retries"]) for one in notes(app, "flaky")]


def test_a_retry_with_other_arguments_is_no_conflict(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.halving.apply_async((8,), idempotency_key="k")
    wait_for_note(app, "halving", count=2)
    assert tasks.halving.apply_async((8,), idempotency_key="k").id == first.id
    assert first.get(timeout=10) == 1
    assert [one["number"] for one in notes(app, "halving")] == [8, 4, 2, 1]
    settled(app, "k", tasks.halving.name, "SUCCEEDED")


def test_the_final_failure_releases_the_key(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    first = tasks.fail.apply_async(("once",), idempotency_key="k")
    with pytest.raises(ValueError, match="once"):
        first.get(timeout=10)
    settled(app, "k", tasks.fail.name, "FAILED")

    # when; other arguments are no conflict, the key is free
    second = tasks.fail.apply_async(("twice",), idempotency_key="k")

    # then
    assert (second.created, second.id != first.id) == (True, True)
    with pytest.raises(ValueError, match="twice"):
        second.get(timeout=10)
    assert len(notes(app, "fail")) == 2


def test_exhausted_retries_release_the_key(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    first = tasks.flaky.apply_async((9,), idempotency_key="k")
    with pytest.raises(tasks.Flaky):
        first.get(timeout=10)
    settled(app, "k", tasks.flaky.name, "FAILED")
    assert len(notes(app, "flaky")) == 4
    assert tasks.flaky.apply_async((0,), idempotency_key="k").get(timeout=10) == "at last"


def test_on_failure_keep_keeps_the_failed_run(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    first = tasks.fail.apply_async(("once",), idempotency_key="k", idempotency_on_failure="keep")
    with pytest.raises(ValueError, match="once"):
        first.get(timeout=10)
    settled(app, "k", tasks.fail.name, "FAILED")

    again = tasks.fail.apply_async(("once",), idempotency_key="k", idempotency_on_failure="keep")

    assert (first.id, False) == (again.id, again.created)
    with pytest.raises(ValueError, match="once"):
        again.get(timeout=1)
    assert len(notes(app, "fail")) == 1


@pytest.mark.parametrize("how", ["ignore", "reject"])
def test_a_run_that_ends_without_a_result_closes_its_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    first = tasks.give_up.apply_async((how,), idempotency_key="k")
    settled(app, "k", tasks.give_up.name, "FAILED", celery_worker)
    second = tasks.give_up.apply_async((how,), idempotency_key="k")
    assert (second.created, second.id != first.id) == (True, True)
    wait_for_note(app, "give_up", count=2)


def test_a_run_that_exits_its_process_can_be_called_again(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    tasks.give_up.apply_async(("exit",), idempotency_key="k")
    wait_for_note(app, "give_up")
    wait_for(lambda: tasks.give_up.apply_async(("exit",), idempotency_key="k").created, message="the key to be free")
    wait_for_note(app, "give_up", count=2)


def test_a_result_that_cannot_be_stored_leaves_no_open_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    tasks.objects.apply_async(idempotency_key="k")
    wait_for(lambda: key_state(app, "k", tasks.objects.name) in ("SUCCEEDED", "FAILED"), message="the key to be closed")


def test_a_copy_of_a_success_whose_result_could_not_be_kept_runs_nothing_and_says_so(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    result = tasks.objects.apply_async(idempotency_key="k", ignore_result=True)
    (copy,) = messages(app)
    worker = start_worker()
    settled(app, "k", tasks.objects.name, "SUCCEEDED", worker)

    # when
    push(app, copy)

    # then
    has_event(app, result.id, "dropped", worker)
    said = f"objects[{result.id}] has succeeded, but its result could not be kept"
    wait_for(lambda: said in worker.logs(), message="the warning", node=worker)


def test_the_key_is_free_when_its_ttl_has_passed_since_the_end(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given a run that begins later than its key's ttl
    first = tasks.charge.apply_async((5,), idempotency_key="k", idempotency_ttl=1, countdown=2)
    time.sleep(1.3)
    assert not tasks.charge.apply_async((5,), idempotency_key="k", idempotency_ttl=1).created

    # when
    first.get(timeout=10)
    assert not tasks.charge.apply_async((5,), idempotency_key="k", idempotency_ttl=1).created
    time.sleep(1.1)
    second = tasks.charge.apply_async((6,), idempotency_key="k", idempotency_ttl=1)

    # then
    assert (second.created, second.id != first.id) == (True, True)
    assert second.get(timeout=10) == "6 EUR"


def test_arguments_that_the_body_changes_and_that_the_message_changes_close_the_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given a list, a tuple, a UUID and a datetime
    stamps = ((1, 2), UUID(int=7), datetime(2026, 1, 2, tzinfo=timezone.utc))
    first = tasks.mutate.apply_async(([1], *stamps), idempotency_key="k")
    assert first.get(timeout=10) == [1, 99]
    settled(app, "k", tasks.mutate.name, "SUCCEEDED")

    again = tasks.mutate.apply_async(([1], *stamps), idempotency_key="k")
    assert (first.id, False) == (again.id, again.created)


def test_an_error_of_the_library_in_a_body_leaves_the_worker_up(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    held = tasks.charge.apply_async((1,), idempotency_key="held", countdown=30)
    result = tasks.duplicate_inside.delay("held")
    with pytest.raises(DuplicateRun, match=held.id):
        result.get(timeout=10)
    assert tasks.refund.delay(1).get(timeout=10) == "refunded 1"


# -- crashes of the producer ---------------------------------------------------------------------------------------

KILLED = """
import os, signal
from celery import signals
from tests.worker import app_keys
signals.{signal}.connect(lambda **_: os.kill(os.getpid(), signal.SIGKILL), weak=False)
app_keys.charge.apply_async((5,), idempotency_key="k")
"""


def test_a_producer_killed_before_publishing_blocks_the_key_for_its_lease(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    assert in_another_process(KILLED.format(signal="before_task_publish")).returncode == -9
    assert messages(app) == []
    held = record(app, "k", tasks.charge.name)
    assert held is not None

    # when it is called within the reservation's lease, and after it
    early = tasks.charge.apply_async((5,), idempotency_key="k")
    assert (held.ticket.task_id, False) == (early.id, early.created)
    time.sleep(1.1)
    late = tasks.charge.apply_async((5,), idempotency_key="k")

    # then
    assert (held.ticket.task_id, True) == (late.id, late.created)
    start_worker()
    assert late.get(timeout=10) == "5 EUR"
    settled(app, "k", tasks.charge.name, "SUCCEEDED")
    assert len(notes(app, "charge")) == 1


@BOTH
def test_a_producer_killed_after_publishing_is_run_once_however_often_it_is_repeated(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    assert in_another_process(KILLED.format(signal="after_task_publish")).returncode == -9
    (message,) = messages(app)

    # when the call is repeated after the lease, a second copy is published
    time.sleep(1.1)
    again = tasks.charge.apply_async((5,), idempotency_key="k")
    assert message.headers["id"] == again.id
    assert len(messages(app)) == 2

    # then they meet at the claim
    worker = start_worker(concurrency=2)
    assert again.get(timeout=10) == "5 EUR"
    ended = (f"{again.id}] succeeded", f"{again.id}] ignored")
    wait_for(lambda: sum(map(worker.logs().count, ended)) == 2, message="both to end", node=worker)
    assert len(notes(app, "charge")) == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_publish_lease": 60})
def test_a_broker_that_is_down_at_the_call_does_not_hold_the_key(
    celery_broker: CeleryTestBroker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    celery_broker.kill("SIGKILL")
    with pytest.raises((OperationalError, OSError)):
        tasks.charge.apply_async((5,), idempotency_key="k", retry=False)
    first = record(app, "k", tasks.charge.name)
    assert first is not None

    # when
    celery_broker.restart()
    result = tasks.charge.apply_async((5,), idempotency_key="k")

    # then
    assert (True, first.ticket.task_id) == (result.created, result.id)
    start_worker()
    assert result.get(timeout=10) == "5 EUR"
    assert len(notes(app, "charge")) == 1


# -- copies and crashes of the consumer ----------------------------------------------------------------------------


@BOTH
def test_the_same_message_twice_is_one_body_and_one_callback(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    result = tasks.charge.apply_async((5,), idempotency_key="k", link=tasks.link_target.s())
    (message,) = messages(app)
    push(app, message)

    # when; one after the other
    worker = start_worker(concurrency=1)
    has_event(app, result.id, "dropped", worker)

    # then
    assert result.get(timeout=10) == "5 EUR"
    assert len(notes(app, "charge")) == 1
    assert len(run_of(app, result.id, status="SUCCESS").attempts) == 1
    wait_for_note(app, "link_target")
    time.sleep(0.5)
    assert [one["result"] for one in notes(app, "link_target")] == ["5 EUR"]


@pytest.mark.parametrize(("name", "says"), [("gated", "goes back"), ("gated_early", "it is dropped")])
def test_a_copy_that_cannot_be_sent_again_leaves_the_live_run_alone(
    celery_broker: CeleryTestBroker, app: Celery, tasks: ModuleType, start_worker: StartWorker, name: str, says: str
) -> None:
    # given a run that goes on, and a copy of its message that has not come to its guard
    task = getattr(tasks, name)
    result = task.apply_async((5, 2), idempotency_key="k", link_error=tasks.link_target.si("failed"))
    push(app, messages(app)[0])
    worker = start_worker(concurrency=2)
    wait_for_note(app, "delivered", count=2, node=worker)
    settled(app, "k", task.name, "RUNNING", worker)

    # when
    celery_broker.kill("SIGKILL")
    app.backend.client.rpush("go", "now")

    # then
    wait_for(lambda: says in worker.logs(), message=f"{says!r} in the log", node=worker)
    assert result.get(timeout=20) == "done"
    settled(app, "k", task.name, "SUCCEEDED", worker)
    assert [attempt.status for attempt in run_of(app, result.id, status="SUCCESS").attempts] == ["SUCCESS"]
    assert len(notes(app, "gated")) == 1
    celery_broker.restart()


@BOTH
@pytest.mark.worker(concurrency=1)
def test_a_killed_workers_run_is_a_duplicate_until_its_lease_lapses_and_then_runs_again(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given; acknowledged early, so that the message is gone
    first = tasks.slow.apply_async((1,), idempotency_key="k")
    wait_for_note(app, "slow")
    celery_worker.kill("SIGKILL")

    # when
    early = tasks.slow.apply_async((1,), idempotency_key="k")
    assert (first.id, False) == (early.id, early.created)
    late = wait_for(lambda: _created(tasks.slow, (1,)), timeout=4, message="the worker's lease to lapse")

    # then
    assert late.id == first.id
    start_worker()
    assert late.get(timeout=10) == "slow"
    settled(app, "k", tasks.slow.name, "SUCCEEDED")
    assert len(notes(app, "slow")) == 2
    run = run_of(app, first.id, status="SUCCESS")
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]


def _created(task: Any, args: tuple[Any, ...]) -> Any:
    result = task.apply_async(args, idempotency_key="k")
    return result if result.created else None


@BOTH
@pytest.mark.worker(concurrency=1)
def test_a_killed_workers_message_is_redelivered_under_one_id(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    result = tasks.slow_first.apply_async((60,), idempotency_key="k")
    wait_for_note(app, "slow_first")

    # when
    celery_worker.kill("SIGKILL")
    celery_worker.restart()

    # then
    assert result.get(timeout=20) == "done"
    settled(app, "k", tasks.slow_first.name, "SUCCEEDED")
    assert [result.id] * 2 == [one["id"] for one in notes(app, "slow_first")]
    assert tasks.slow_first.apply_async((60,), idempotency_key="k").id == result.id
    run = run_of(app, result.id, status="SUCCESS")
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]


def test_a_killed_child_is_followed_by_the_redelivery(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.crash_once.apply_async(idempotency_key="k")
    assert result.get(timeout=15) == "survived"
    settled(app, "k", tasks.crash_once.name, "SUCCEEDED")
    assert [result.id] * 2 == [one["id"] for one in notes(app, "crash_once")]


@BOTH
@pytest.mark.worker(conf={**SHORT, "stackstate_max_deliveries": 3})
def test_a_task_that_always_kills_its_child_stops_with_a_reason(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.poison.apply_async(idempotency_key="k")
    with pytest.raises(Exception, match="begun 3 times"):
        result.get(timeout=25)
    run = run_of(app, result.id, status="FAILURE")
    assert run.error is not None
    assert "stackstate_max_deliveries" in run.error
    settled(app, "k", tasks.poison.name, "FAILED")
    assert len(notes(app, "poison")) == 3


@pytest.mark.worker(concurrency=1)
@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_run_that_never_began_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    # given a run that waits behind another one
    tasks.slow.delay(1.5)
    wait_for_note(app, "slow")
    options = {"expires": 1} if how == "expired" else {}
    first = tasks.charge.apply_async((5,), idempotency_key="k", **options)
    if how == "revoked":
        app.control.revoke(first.id)

    # when
    settled(app, "k", tasks.charge.name, "FAILED", celery_worker)
    second = tasks.charge.apply_async((5,), idempotency_key="k")

    # then
    assert (second.created, second.id != first.id) == (True, True)
    assert second.get(timeout=10) == "5 EUR"
    assert [second.id] == [one["id"] for one in notes(app, "charge")]


def test_a_message_that_expired_before_its_receipt_leaves_the_key_usable(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    first = tasks.charge.apply_async((5,), idempotency_key="k", expires=0.2)
    time.sleep(0.4)
    worker = start_worker()
    settled(app, "k", tasks.charge.name, "FAILED", worker)
    second = tasks.charge.apply_async((5,), idempotency_key="k")
    assert (second.created, second.id != first.id) == (True, True)
    assert second.get(timeout=10) == "5 EUR"


def test_a_terminated_run_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.slow.apply_async((60,), idempotency_key="k")
    wait_for_note(app, "slow")
    app.control.revoke(first.id, terminate=True)
    settled(app, "k", tasks.slow.name, "FAILED", celery_worker)
    second = tasks.slow.apply_async((0,), idempotency_key="k")
    assert (second.created, second.id != first.id) == (True, True)
    assert second.get(timeout=10) == "slow"


@pytest.mark.parametrize("how", ["kill", "time out"])
def test_a_run_whose_child_is_gone_for_good_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    # given a message that was acknowledged early
    options = {"time_limit": 1} if how == "time out" else {}
    first = tasks.slow.apply_async((60,), idempotency_key="k", **options)
    child = wait_for_note(app, "slow")["pid"]
    if how == "kill":
        time.sleep(0.4)  # a start is written when the attempt has outlived 100 ms
        os.kill(child, signal.SIGKILL)

    # when
    settled(app, "k", tasks.slow.name, "FAILED", celery_worker)
    second = tasks.slow.apply_async((0,), idempotency_key="k")

    # then
    assert (second.created, second.id != first.id) == (True, True)
    assert second.get(timeout=10) == "slow"
    assert [attempt.status for attempt in run_of(app, first.id, status="FAILURE").attempts] == ["FAILURE"]


@pytest.mark.parametrize("pool", [pytest.param(p, marks=pytest.mark.worker(pool=p)) for p in ("threads", "solo")])
def test_keys_hold_in_the_other_pools(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str
) -> None:
    first = tasks.flaky.apply_async((1,), idempotency_key="k")
    push_after = tasks.charge.apply_async((5,), idempotency_key="k")
    assert not tasks.flaky.apply_async((1,), idempotency_key="k").created
    assert first.get(timeout=10) == "at last"
    assert push_after.get(timeout=10) == "5 EUR"
    settled(app, "k", tasks.flaky.name, "SUCCEEDED")
    assert len(notes(app, "flaky")) == 2
    assert tasks.own_record.apply_async(("own",), idempotency_key="own").get(timeout=10)["pid"]


# -- the store ------------------------------------------------------------------------------------------------------


class TestOverRedis:
    """The keys are in a Redis of the test's own, which can be stopped."""

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    def test_an_acknowledged_run_fails_where_neither_store_nor_broker_takes_it(
        self,
        celery_broker: CeleryTestBroker,
        celery_worker: CeleryTestWorker,
        app: Celery,
        tasks: ModuleType,
        store_server: RedisServer,
    ) -> None:
        result = tasks.gated_early.apply_async((0, 1), idempotency_key="k")
        wait_for_note(app, "delivered", node=celery_worker)
        store_server.stop()
        celery_broker.kill("SIGKILL")
        app.backend.client.rpush("go", "now")
        with pytest.raises(OperationalError):
            result.get(timeout=20)
        assert "It was acknowledged, so it fails" in celery_worker.logs()
        celery_broker.restart()
        store_server.start()
        settled(app, "k", tasks.gated_early.name, "FAILED", celery_worker)
        assert tasks.gated_early.apply_async((0, 9), idempotency_key="k").created
        assert notes(app, "gated") == []

    @pytest.mark.worker(conf={**SHORT, "stackstate_worker_lease": 30, "stackstate_store_timeout": 1})
    def test_a_store_that_is_down_at_the_end_is_repaired_when_it_is_back(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_server: RedisServer
    ) -> None:
        # given
        result = tasks.slow.apply_async((1.5,), idempotency_key="k", link_error=tasks.link_target.si("failed"))
        wait_for_note(app, "slow")
        store_server.stop()

        # then the run succeeds without it
        assert result.get(timeout=10) == "slow"
        assert result.state == "SUCCESS"

        # and its record follows
        store_server.start()
        settled(app, "k", tasks.slow.name, "SUCCEEDED", celery_worker)
        run_of(app, result.id, status="SUCCESS", node=celery_worker)
        assert notes(app, "link_target") == []
        assert not tasks.slow.apply_async((1.5,), idempotency_key="k").created

    @pytest.mark.worker(conf={**SHORT, "stackstate_store_timeout": 1})
    def test_a_store_that_is_down_at_the_start_postpones_the_run(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_server: RedisServer
    ) -> None:
        result = tasks.charge.apply_async((5,), idempotency_key="k", countdown=1)
        store_server.stop()
        time.sleep(2)
        assert notes(app, "charge") == []
        store_server.start()
        assert result.get(timeout=15) == "5 EUR"
        assert run_of(app, result.id, status="SUCCESS", node=celery_worker).retries == 0
        assert len(notes(app, "charge")) == 1

    @pytest.mark.worker(conf={**SHORT, "stackstate_store_timeout": 1})
    def test_a_store_that_is_down_at_the_call_publishes_nothing(
        self, app: Celery, tasks: ModuleType, store_server: RedisServer
    ) -> None:
        from celery_stackstate import StoreUnavailable

        store_server.stop()
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable):
            tasks.charge.apply_async((5,), idempotency_key="k")
        assert watch.seconds < 3
        assert messages(app) == []
        store_server.start()
        assert tasks.charge.apply_async((5,), idempotency_key="k").created


@pytest.mark.worker(broker="redis")
@pytest.mark.parametrize("amount", [-1, 0])
def test_a_run_that_a_hook_ends_before_its_body_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, amount: int
) -> None:
    first = tasks.hooked.apply_async((amount,), idempotency_key="k")
    settled(app, "k", tasks.hooked.name, "FAILED", celery_worker)
    again = tasks.hooked.apply_async((amount,), idempotency_key="k")
    assert again.created
    assert again.id != first.id


@pytest.mark.worker(broker="redis")
def test_what_replaces_a_task_keeps_its_key(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    first = tasks.replacing.apply_async((1.0,), idempotency_key="k")
    wait_for_note(app, "slow_part", node=celery_worker)
    again = tasks.replacing.apply_async((1.0,), idempotency_key="k")
    assert (again.id, again.created) == (first.id, False)
    assert first.get(timeout=10) == "replaced"
    settled(app, "k", tasks.replacing.name, "SUCCEEDED", celery_worker)
    assert len(notes(app, "slow_part")) == 1


@pytest.mark.worker(broker="redis")
def test_a_message_with_headers_within_its_headers_as_tracers_make_them_keeps_its_key(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given two deliveries of one message
    traced = {"headers": {"traceparent": "00-1-2-01"}}
    result = tasks.charge.apply_async((5,), idempotency_key="k", headers=traced)
    (message,) = messages(app)
    push(app, message)

    # when
    worker = start_worker()

    # then
    assert result.get(timeout=10) == "5 EUR"
    settled(app, "k", tasks.charge.name, "SUCCEEDED", worker)
    wait_for(lambda: not messages(app), message="both to be taken", node=worker)
    assert len(notes(app, "charge")) == 1
    assert traced == {"headers": {"traceparent": "00-1-2-01"}}


def test_a_retry_with_headers_of_its_own_keeps_its_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.retry_with_headers.apply_async(idempotency_key="k")
    assert result.get(timeout=10) == "done"
    settled(app, "k", tasks.retry_with_headers.name, "SUCCEEDED", celery_worker)
    assert not tasks.retry_with_headers.apply_async(idempotency_key="k").created
    assert len(notes(app, "retry_with_headers")) == 2


@pytest.mark.worker(broker="redis")
def test_a_task_that_the_worker_does_not_have_fails_and_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    StackState(app)  # by name alone nothing attaches it
    first = app.send_task("nobody.knows", (1,), idempotency_key="k")
    run = run_of(app, first.id, status="FAILURE", node=celery_worker)
    assert "has no task 'nobody.knows'" in str(run.error)
    settled(app, "k", "nobody.knows", "FAILED", celery_worker)
    assert app.send_task("nobody.knows", (1,), idempotency_key="k").created


@pytest.mark.worker(conf={**SHORT, "stackstate_worker_lease": 30, "stackstate_store_timeout": 20}, concurrency=1)
class TestATimeLimitInTheClaim:
    """Its write has arrived, but the answer does not come; the process lives on, and so does its lease."""

    @pytest.fixture
    def proxy(self, store_server: RedisServer) -> Iterator[SilentProxy]:
        proxy = SilentProxy(HOST, store_server.port)
        yield proxy
        proxy.close()

    @pytest.fixture
    def worker_store(self, proxy: SilentProxy) -> str:
        return f"redis://{HOST}:{proxy.port}"

    def test_leaves_the_key_free(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, proxy: SilentProxy
    ) -> None:
        # given
        assert tasks.charge.apply_async((1,), idempotency_key="before").get(timeout=10) == "1 EUR"
        charge = partial(tasks.charge.apply_async, (5,), idempotency_key="k")

        # when
        proxy.after = b'"RUNNING"'
        first = charge(soft_time_limit=1)

        # then
        run_of(app, first.id, status="FAILURE", timeout=15, node=celery_worker)
        assert proxy.after is None
        settled(app, "k", tasks.charge.name, "FAILED", celery_worker)
        again = charge()
        assert (again.created, again.id != first.id, again.get(timeout=10)) == (True, True, "5 EUR")
        assert len(notes(app, "charge")) == 2
