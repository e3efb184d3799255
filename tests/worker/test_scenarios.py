"""The idempotency half of the scenarios, each with real workers and named after its sentence.

They run on two pairs of broker and store, on all pairs with STACKSTATE_TEST_LONG=1. What is left out here is
elsewhere: 14 and 15 in test_idempotency.py, 20 and 21 in test_crash_windows.py, 31 (beat) in
test_beat.py, 34 in test_transactions.py.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from itertools import product
from threading import Barrier
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group, version_info
from pytest_celery import CeleryTestWorker

from celery_stackstate import ConfigurationError, DuplicateRun, IdempotencyConflict, StackState
from tests.nodes import StartWorker
from tests.waiting import wait_for
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
from tests.worker.test_idempotency import KILLED, SHORT, settled

PAIRS = [("redis", "redis"), ("rabbitmq", "postgresql")]
if os.environ.get("STACKSTATE_TEST_LONG"):
    PAIRS = list(product(("redis", "rabbitmq"), ("sqlite", "redis", "postgresql", "mysql")))

pytestmark = [
    pytest.mark.worker(app="tests.worker.app_keys", conf=SHORT),
    pytest.mark.parametrize(("celery_broker", "worker_store"), PAIRS, indirect=True),
]


def call(tasks: ModuleType, amount: int = 5, **options: Any) -> Any:
    return tasks.charge.apply_async((amount,), **{"idempotency_key": "k", **options})


def test_01_the_same_key_twice_without_a_worker_is_one_message(app: Celery, tasks: ModuleType) -> None:
    first, second = call(tasks), call(tasks)
    assert (first.id, True, False) == (second.id, first.created, second.created)
    assert [first.id] == [message.headers["id"] for message in messages(app)]


def _call_at_once(name: str, threads: int, barrier: Any, answers: Any) -> None:
    module = importlib.import_module(name)
    module.app.finalize()  # Celery's lazy tasks are not made for threads that meet at the first use
    together = Barrier(threads)

    def call_it(_: int) -> None:
        try:
            together.wait(30)
            result = module.charge.apply_async((5,), idempotency_key="k")
            answers.put((result.id, result.created))
        except Exception as error:
            answers.put((repr(error), False))

    barrier.wait(60)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call_it, range(threads)))


@pytest.mark.worker(conf={"stackstate_store_timeout": 30})  # and leases by default: a hundred callers are slow
@pytest.mark.parametrize(("processes", "threads"), [(20, 5), (1, 100)])
def test_02_a_hundred_callers_at_once_in_twenty_processes_or_one_make_one_message(
    app: Celery, tasks: ModuleType, processes: int, threads: int
) -> None:
    if processes > 1:  # a server takes about a hundred connections, and other tests run beside this one
        app.conf.stackstate_url = app.conf.stackstate_url.replace("pool_size=3", "pool_size=1")
    forked = multiprocessing.get_context("fork")
    barrier, answers = forked.Barrier(processes), forked.Queue()
    arguments = (tasks.__name__, threads, barrier, answers)
    callers = [forked.Process(target=_call_at_once, args=arguments) for _ in range(processes)]
    for caller in callers:
        caller.start()
    got = [answers.get(timeout=60) for _ in range(processes * threads)]
    for caller in callers:
        caller.join(10)
    assert len({run_id for run_id, _ in got}) == 1, got
    assert sum(created for _, created in got) == 1
    assert len(messages(app)) == 1


def test_03_another_payload_is_a_typed_error_and_is_counted(app: Celery, tasks: ModuleType) -> None:
    first = call(tasks)
    with pytest.raises(IdempotencyConflict):
        call(tasks, 6)
    assert [first.id] == [message.headers["id"] for message in messages(app)]

    def counted() -> int:
        events = StackState.of(app).runs.events(first.id)
        return sum(event.data["count"] for event in events if event.name == "mismatch")

    wait_for(lambda: counted() == 1, message="one mismatch on the timeline")


def test_04_arguments_by_position_by_name_and_by_default_are_the_same(app: Celery, tasks: ModuleType) -> None:
    spelled: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((5,), {}),
        ((5, "EUR"), {}),
        ((), {"amount": 5}),
        ((5,), {"currency": "EUR"}),
    ]
    ids = {tasks.charge.apply_async(args, kwargs, idempotency_key="k").id for args, kwargs in spelled}
    assert len(ids) == len(messages(app)) == 1


def test_05_the_same_key_of_two_tasks_and_in_two_environments_is_two_keys(app: Celery, tasks: ModuleType) -> None:
    ids = {call(tasks).id, tasks.refund.apply_async((5,), idempotency_key="k").id}
    extension = StackState.of(app)
    app.conf.stackstate_prefix = f"{app.conf.stackstate_prefix}-other"
    for name in ("settings", "store", "idempotency", "key_protocol"):
        extension.__dict__.pop(name, None)
    ids.add(call(tasks).id)
    assert len(ids) == len(messages(app)) == 3


def test_06_07_a_key_gives_the_stored_result_in_its_retention_and_a_new_run_after_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = call(tasks, idempotency_ttl=2)
    assert first.get(timeout=10) == "5 EUR"
    settled(app, "k", tasks.charge.name, "SUCCEEDED")
    again = call(tasks, idempotency_ttl=2)
    assert (first.id, False, "5 EUR") == (again.id, again.created, again.get(timeout=5))
    time.sleep(2.1)
    later = call(tasks, 6, idempotency_ttl=2)
    assert (later.created, later.id != first.id, later.get(timeout=10)) == (True, True, "6 EUR")
    assert [note["amount"] for note in notes(app, "charge")] == [5, 6]


def test_08_a_final_failure_releases_the_key_or_keeps_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    for policy in ("release", "keep"):
        options = {"idempotency_key": policy, "idempotency_on_failure": policy}
        first = tasks.fail.apply_async(("once",), **options)
        with pytest.raises(ValueError, match="once"):
            first.get(timeout=10)
        settled(app, policy, tasks.fail.name, "FAILED")
        again = tasks.fail.apply_async(("once",), **options)
        assert (policy == "release") == again.created == (again.id != first.id)
        with pytest.raises(ValueError, match="once"):
            again.get(timeout=10)
    assert len(notes(app, "fail")) == 3


def test_09_duplicates_between_the_attempts_of_a_run_get_its_id_and_every_retry_is_made(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.flaky.apply_async((3,), idempotency_key="k")
    ids = set()
    for count in (1, 2, 3):
        wait_for_note(app, "flaky", count=count, node=celery_worker)
        ids.add(tasks.flaky.apply_async((3,), idempotency_key="k").id)
    assert first.get(timeout=10) == "at last"
    assert ids == {first.id}
    assert [note["retries"] for note in notes(app, "flaky")] == [0, 1, 2, 3]
    settled(app, "k", tasks.flaky.name, "SUCCEEDED")


def test_10_a_retry_with_other_arguments_is_no_mismatch(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    assert tasks.halving.apply_async((4,), idempotency_key="k").get(timeout=10) == 1
    assert [note["number"] for note in notes(app, "halving")] == [4, 2, 1]


NO_BROKER = """
import os
os.environ["STACKSTATE_TEST_BROKER"] = "amqp://127.0.0.1:1//"
from kombu.exceptions import OperationalError
from tests.worker import app_keys
try:
    app_keys.charge.apply_async((5,), idempotency_key="k", retry=False)
except OperationalError:
    print("down")
"""


def test_11_a_broker_that_was_down_at_the_call_does_not_hold_the_key(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given; nobody can tell a broker that refuses from one whose answer is lost
    assert in_another_process(NO_BROKER).stdout == "down\n"
    left = record(app, "k", tasks.charge.name)
    assert left is not None
    assert (left.state, left.abandoned) == ("RESERVED", True)

    # when
    with pytest.raises(IdempotencyConflict, match=r"may never have been published.*idempotency\.reset"):
        call(tasks, 6)
    result = call(tasks)

    # then
    assert left.ticket.task_id == result.id
    start_worker()
    assert (result.created, result.get(timeout=10)) == (True, "5 EUR")
    assert len(notes(app, "charge")) == 1


def test_12_a_producer_killed_before_publishing_is_followed_by_the_next_call(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    assert in_another_process(KILLED.format(signal="before_task_publish")).returncode == -signal.SIGKILL
    held = record(app, "k", tasks.charge.name)
    assert held is not None
    result = wait_for(lambda: _if_created(call(tasks)), timeout=2, message="the reservation's lease to end")
    assert held.ticket.task_id == result.id
    start_worker()
    assert result.get(timeout=10) == "5 EUR"
    assert len(notes(app, "charge")) == 1


def _if_created(result: Any) -> Any:
    return result if result.created else None


def test_13_a_producer_killed_after_publishing_has_published(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    assert in_another_process(KILLED.format(signal="after_task_publish")).returncode == -signal.SIGKILL
    time.sleep(1.1)
    result = call(tasks)
    assert {result.id} == {message.headers["id"] for message in messages(app)}
    start_worker()
    assert result.get(timeout=10) == "5 EUR"
    time.sleep(0.5)
    assert len(notes(app, "charge")) == 1


@pytest.mark.worker(concurrency=1)
def test_16_a_child_that_is_killed_leaves_the_key_usable(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.slow.apply_async((60,), idempotency_key="k")
    child = wait_for_note(app, "slow")["pid"]
    os.kill(child, signal.SIGKILL)
    settled(app, "k", tasks.slow.name, "FAILED", celery_worker)
    assert run_of(app, first.id, status="FAILURE").error is not None
    assert tasks.slow.apply_async((0,), idempotency_key="k").get(timeout=10) == "slow"


@pytest.mark.worker(concurrency=1)
def test_17_a_worker_that_is_killed_with_late_acknowledgement_is_followed_by_the_redelivery(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.slow_first.apply_async((60,), idempotency_key="k")
    wait_for_note(app, "slow_first")
    celery_worker.kill("SIGKILL")
    celery_worker.restart()
    assert first.get(timeout=20) == "done"
    settled(app, "k", tasks.slow_first.name, "SUCCEEDED")
    assert [first.id] * 2 == [note["id"] for note in notes(app, "slow_first")]


@pytest.mark.worker(concurrency=1)
def test_18_a_worker_that_is_killed_with_early_acknowledgement_leaves_a_lost_run_to_take_up(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    first = tasks.early_slow_first.apply_async((60,), idempotency_key="k")
    wait_for_note(app, "early_slow_first")
    run_of(app, first.id, status="STARTED")
    celery_worker.kill("SIGKILL")
    start_worker()
    run_of(app, first.id, status="LOST", timeout=8)
    again = tasks.early_slow_first.apply_async((60,), idempotency_key="k")
    assert (first.id, "done") == (again.id, again.get(timeout=10))


@pytest.mark.worker(concurrency=1)
def test_19_the_same_raw_message_twice_is_one_body_and_one_callback(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = call(tasks, link=tasks.link_target.s())
    push(app, messages(app)[0])
    start_worker()
    assert result.get(timeout=10) == "5 EUR"
    wait_for(lambda: "dropped" in events(app, result.id), message="the copy to be dropped")
    wait_for_note(app, "link_target")
    time.sleep(0.5)
    assert (len(notes(app, "charge")), len(notes(app, "link_target"))) == (1, 1)


def events(app: Celery, run_id: str) -> list[str]:
    return [event.name for event in StackState.of(app).runs.events(run_id)]


def test_22_a_countdown_longer_than_the_ttl_does_not_end_the_key(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = call(tasks, countdown=2, idempotency_ttl=1)
    time.sleep(1.3)
    assert not call(tasks, idempotency_ttl=1).created
    assert first.get(timeout=10) == "5 EUR"
    assert len(notes(app, "charge")) == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_max_deliveries": 2})
def test_23_a_task_that_kills_its_process_stops_with_a_reason(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.poison.apply_async(idempotency_key="k")
    with pytest.raises(Exception, match="begun 2 times"):
        result.get(timeout=25)
    assert len(notes(app, "poison")) == 2


@pytest.mark.worker(concurrency=1)
def test_24_revoked_expired_and_terminated_runs_leave_the_key_usable_on_the_same_worker(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given two that wait behind a third
    ahead = tasks.slow.apply_async((60,), idempotency_key="terminated")
    wait_for_note(app, "slow")
    revoked, expired = call(tasks, idempotency_key="revoked"), call(tasks, idempotency_key="expired", expires=0.5)
    waiting = call(tasks, idempotency_key="eta", countdown=3)
    for result in (revoked, waiting):
        app.control.revoke(result.id)
    time.sleep(0.6)

    # when
    app.control.revoke(ahead.id, terminate=True)

    # then
    settled(app, "terminated", tasks.slow.name, "FAILED", celery_worker)
    for key, before in (("revoked", revoked), ("expired", expired), ("eta", waiting)):
        settled(app, key, tasks.charge.name, "FAILED", celery_worker)
        again = call(tasks, idempotency_key=key)
        assert (again.created, again.id != before.id, again.get(timeout=10)) == (True, True, "5 EUR")


#: How runs end: the task, its arguments and options; the note of the body that must have begun; the state of the key.
ENDINGS: dict[str, tuple[str, tuple[Any, ...], dict[str, Any], str, str]] = {
    "ignore": ("give_up", ("ignore",), {}, "give_up", "FAILED"),
    "reject": ("give_up", ("reject",), {}, "give_up", "FAILED"),
    "reject what was acknowledged": ("give_up", ("requeue",), {}, "give_up", "FAILED"),
    "exit": ("give_up", ("exit",), {}, "give_up", "FAILED"),
    "replace": ("replacing", (0.1,), {}, "slow_part", "SUCCEEDED"),
    "time out": ("slow", (60,), {"time_limit": 1}, "slow", "FAILED"),
    "soft time out": ("slow", (60,), {"soft_time_limit": 1}, "slow", "FAILED"),
    "soft time out, swallowed": ("patient", (60,), {"soft_time_limit": 1}, "patient", "SUCCEEDED"),
    "unserialisable": ("objects", (), {}, "objects", "FAILED"),
}
#: Before Celery 5.7 nobody says of a process that left by itself that it had a run: the run is then to be taken up.
EXIT_IS_TOLD = version_info[:2] >= (5, 7)


@pytest.mark.parametrize("how", ENDINGS)
def test_25_however_a_run_ends_its_record_does(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    name, args, options, noted, state = ENDINGS[how]
    task, taken_up = getattr(tasks, name), how == "exit" and not EXIT_IS_TOLD
    first = task.apply_async(args, idempotency_key="k", **options)
    wait_for_note(app, noted, node=celery_worker)
    if taken_up:
        wait_for(lambda: is_interrupted(app, task), message="the run to be given up", node=celery_worker)
    else:
        settled(app, "k", task.name, state, celery_worker)
    time.sleep(0.3)
    assert key_state(app, "k", task.name) == ("RESERVED" if taken_up else state)
    again = task.apply_async(args, idempotency_key="k", **options)
    assert (again.created, again.id == first.id) == (state == "FAILED", state == "SUCCEEDED" or taken_up)


def is_interrupted(app: Celery, task: Any) -> bool:
    """Return whether the run of the key was begun, and nobody goes on with it."""
    found = record(app, "k", task.name)
    return found is not None and found.abandoned and found.deliveries == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_start_deadline": 2})
def test_26_a_purged_queue_leaves_the_key_usable_after_the_deadline_and_reset_at_once(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    first, other = call(tasks), call(tasks, idempotency_key="other")
    assert app.control.purge() == 2
    assert StackState.of(app).idempotency.reset("other", task=tasks.charge.name)
    assert call(tasks, idempotency_key="other").id != other.id
    assert not call(tasks).created
    again = wait_for(lambda: _if_created(call(tasks)), timeout=4, message="the deadline")
    assert first.id == again.id
    start_worker()
    assert again.get(timeout=10) == "5 EUR"


def test_27_arguments_that_the_body_or_the_message_changes_close_the_record(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    arguments = ([1], (1, 2), UUID(int=7), datetime(2026, 1, 2, tzinfo=timezone.utc))
    first = tasks.mutate.apply_async(arguments, idempotency_key="k")
    assert first.get(timeout=10) == [1, 99]
    settled(app, "k", tasks.mutate.name, "SUCCEEDED")
    assert tasks.mutate.apply_async(([1], *arguments[1:]), idempotency_key="k").id == first.id


def test_28_a_chord_with_a_duplicate_of_a_running_run_and_an_inner_duplicate(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    running = tasks.times_ten.apply_async((1, 1.0), idempotency_key="one")
    one, two = (
        tasks.times_ten.s(1, 1.0).set(idempotency_key="one"),
        tasks.times_ten.s(2).set(idempotency_key="two"),
    )
    result = chord([two, one, tasks.times_ten.s(3), two.clone()], tasks.total.s()).apply_async()
    assert result.get(timeout=20) == [20, 10, 30, 20]
    assert running.get(timeout=5) == 10
    assert sorted(note["number"] for note in notes(app, "times_ten")) == [1, 2, 3]
    assert len(notes(app, "total")) == 1


def test_29_two_chains_that_share_their_first_step_both_go_on(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.times_ten.s(1, 0.5).set(idempotency_key="one")
    results = [chain(first.clone(), tasks.plus.s(number)).apply_async() for number in (1, 2)]
    assert [result.get(timeout=15) for result in results] == [11, 12]
    assert len(notes(app, "times_ten")) == 1


def test_30_a_group_with_duplicates_ends_and_a_key_for_all_does_not_merge_them(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    same = group(tasks.times_ten.s(3).set(idempotency_key="three") for _ in range(2)).apply_async()
    # Celery 5.5 may miss a result of a group that comes while it begins to listen.
    wait_for(same.ready, timeout=15, message="both members", node=celery_worker)
    assert same.get(timeout=15) == [30, 30]
    assert len(notes(app, "times_ten")) == 1
    siblings = chord([tasks.times_ten.s(1), tasks.times_ten.s(1)], tasks.total.s())
    for _ in range(2):
        assert siblings.apply_async(idempotency_key="all").get(timeout=15) == [10, 10]
    assert len(notes(app, "times_ten")) == 3
    assert len(notes(app, "total")) == 1


def test_31_by_name_a_key_counts_or_is_refused(app: Celery, tasks: ModuleType) -> None:
    first = call(tasks)
    by_name = app.send_task(tasks.charge.name, (5,), idempotency_key="k")
    signature = app.signature(tasks.charge.name, (5,)).apply_async(idempotency_key="k")
    assert {first.id} == {by_name.id, signature.id}
    unknown = [app.send_task("nobody.knows", (1,), idempotency_key="k").id for _ in range(2)]
    assert unknown[0] == unknown[1]
    for refused in (tasks.charge.map([1]), tasks.charge.starmap([(1,)])):
        with pytest.raises(ConfigurationError):
            refused.apply_async(idempotency_key="k")
    assert len(messages(app)) == 2


def test_32_what_is_only_called_leaves_the_queued_run_of_its_key_alone(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    queued = call(tasks)
    before = record(app, "k", tasks.charge.name)
    assert tasks.charge(5) == "5 EUR"
    assert tasks.charge.apply((5,), idempotency_key="k").get() == "5 EUR"
    app.conf.task_always_eager = True
    assert (call(tasks).get(), call(tasks).created) == ("5 EUR", True)
    app.conf.task_always_eager = False
    assert before == record(app, "k", tasks.charge.name)
    assert [queued.id] == [message.headers["id"] for message in messages(app)]
    start_worker()
    assert queued.get(timeout=10) == "5 EUR"
    settled(app, "k", tasks.charge.name, "SUCCEEDED")


def test_33_the_librarys_errors_pass_the_result_backend_and_the_worker_stays_up(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    held = tasks.charge.apply_async((1,), idempotency_key="held", countdown=30)
    with pytest.raises(DuplicateRun, match=held.id):
        tasks.duplicate_inside.delay("held").get(timeout=10)
    assert tasks.refund.delay(1).get(timeout=10) == "refunded 1"


@pytest.mark.parametrize("key", ["k" * 256, "é" * 512, "😀" * 256], ids=["256 bytes", "1024 bytes", "256 pictures"])
def test_long_keys_count_from_call_to_end(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, key: str
) -> None:
    other = key[:-1] + "x"
    results = [call(tasks, idempotency_key=one) for one in (key, other, key)]
    assert [result.created for result in results] == [True, True, False]
    assert [result.get(timeout=10) for result in results] == ["5 EUR"] * 3
    for one in (key, other):
        settled(app, one, tasks.charge.name, "SUCCEEDED", celery_worker)
        assert not call(tasks, idempotency_key=one).created
    assert len(notes(app, "charge")) == 2
    assert {key, other} == {one.key for one in StackState.of(app).idempotency.list(task=tasks.charge.name)}


def test_35_after_a_reset_the_queued_message_does_nothing_and_a_new_one_runs(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    old = call(tasks)
    assert StackState.of(app).idempotency.reset("k", task=tasks.charge.name)
    new = call(tasks)
    start_worker()
    assert new.get(timeout=10) == "5 EUR"
    wait_for(lambda: "dropped" in events(app, old.id), message="the old message to be dropped")
    assert [new.id] == [note["id"] for note in notes(app, "charge")]
