"""What a task says of idempotency by its attributes, with real workers: keys, debounce, single execution, rerun."""

from __future__ import annotations

import signal
import time
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError
from pytest_celery import CeleryTestWorker

from celery_stackstate import (
    DuplicateRun,
    IdempotencyConflict,
    InvalidKey,
    NotInARun,
    StackState,
)
from celery_stackstate.key_record import store_key
from celery_stackstate.keys import ONE_RUN
from celery_stackstate.payload import REDACTED
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import in_another_process, messages, notes, push, run_of, wait_for_note

BOTH = pytest.mark.worker(broker=None)
SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_features", conf=SHORT, broker="redis")


def names(app: Celery, run_id: str) -> list[str]:
    return [event.name for event in StackState.of(app).runs.events(run_id)]


# -- keys ----------------------------------------------------------------------------------------------------------


@BOTH
def test_a_format_string_makes_the_key_of_every_call(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first, again, other = tasks.ship.delay(7), tasks.ship.delay(order=7), tasks.ship.delay(8)
    assert [one.created for one in (first, again, other)] == [True, False, True]
    assert first.id == again.id != other.id
    assert again.get(timeout=10) == "shipped 7"
    other.get(timeout=10)
    assert sorted([7, 8]) == sorted(one["order"] for one in notes(app, "ship"))
    with pytest.raises(IdempotencyConflict, match="order:7"):
        tasks.ship.delay(7, "in a hurry")


def test_a_call_overrides_what_the_task_says(app: Celery, tasks: ModuleType) -> None:
    first = tasks.ship.delay(7)
    other = tasks.ship.apply_async((7,), idempotency_key="mine")
    without = [tasks.ship.apply_async((7,), idempotency_key=None) for _ in range(2)]
    assert len({first.id, other.id, *(one.id for one in without)}) == 4
    with pytest.raises(DuplicateRun):
        tasks.ship.apply_async((7,), on_duplicate="raise")
    assert len(messages(app)) == 4


def test_an_argument_that_the_key_needs_and_is_empty_is_refused(app: Celery, tasks: ModuleType) -> None:
    for missing in (None, ""):
        with pytest.raises(InvalidKey, match="needs the argument 'order'"):
            tasks.ship.delay(missing)
    assert messages(app) == []


def test_a_function_makes_the_key_and_none_is_no_key(app: Celery, tasks: ModuleType) -> None:
    assert [tasks.by_function.delay(1, trace=trace).created for trace in ("a", "a")] == [True, False]
    assert tasks.by_function.delay(0).id != tasks.by_function.delay(0).id
    assert len(messages(app)) == 3


def test_a_fingerprint_leaves_out_what_differs_at_each_request(app: Celery, tasks: ModuleType) -> None:
    first = tasks.volatile.delay(1, at=time.time())
    assert first.id == tasks.volatile.delay(1, at=time.time() + 1).id
    assert len(messages(app)) == 1


def test_a_task_sent_by_name_has_the_key_of_its_attribute(app: Celery, tasks: ModuleType) -> None:
    first = tasks.ship.delay(7)
    assert first.id == app.send_task(tasks.ship.name, (7,)).id
    assert len(messages(app)) == 1


@BOTH
def test_a_parents_retry_does_not_start_its_children_again(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    one, other = tasks.parent.delay(2), tasks.parent.delay(0)
    assert one.get(timeout=10) == [False, False]
    assert other.get(timeout=10) == [True, True]
    wait_for(lambda: len(notes(app, "child")) == 4, message="four children")
    time.sleep(0.3)
    assert sorted(note["number"] for note in notes(app, "child")) == [1, 1, 2, 2]


def test_the_parent_of_what_an_applied_task_starts_is_the_run_in_whose_body_it_is(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    run_of(app, tasks.parent_by_helper.delay().id, status="SUCCESS", node=celery_worker)
    assert [one["created"] for one in notes(app, "parent")] == [True, False]


def test_outside_of_a_run_there_is_no_parent_to_have_a_key_in(app: Celery, tasks: ModuleType) -> None:
    with pytest.raises(NotInARun, match="idempotency_scope='run'"):
        tasks.child.delay(1)
    assert messages(app) == []


def test_keys_are_listed_page_by_page(app: Celery, tasks: ModuleType) -> None:
    keys = StackState.of(app).idempotency
    for order in range(5):
        tasks.ship.delay(order + 1)
    tasks.plain.apply_async((1,), idempotency_key="app-wide", idempotency_scope="app")

    wait_for(lambda: {"PUBLISHED"} == {one.state for one in keys.list()}, message="the confirmations")
    page = keys.list(task=tasks.ship.name, prefix="order:", limit=3)
    rest = keys.list(task=tasks.ship.name, prefix="order:", limit=3, after=page.next)

    assert [f"order:{number}" for number in range(1, 6)] == [one.key for one in (*page, *rest)]
    assert rest.next is None
    assert [one.key for one in keys.list(task="")] == ["app-wide"]
    assert len(keys.list()) == 6


# -- on_duplicate="replace" ----------------------------------------------------------------------------------------


@BOTH
def test_a_request_replaces_one_that_has_not_begun(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    # given
    first = tasks.plain.apply_async((1,), idempotency_key="k")
    second = tasks.plain.apply_async((2,), idempotency_key="k", on_duplicate="replace")
    assert (second.created, second.id != first.id) == (True, True)

    # then the first message does nothing
    start_worker()
    assert second.get(timeout=10) == 2
    wait_for(lambda: "dropped" in names(app, first.id), message="the first message to be dropped")
    assert [one["number"] for one in notes(app, "plain")] == [2]
    replaced = run_of(app, first.id, status="REVOKED")
    assert (replaced.replaced_by, second.id in str(replaced.error)) == (second.id, True)
    assert run_of(app, second.id, status="SUCCESS").replaced_by is None

    # and what has begun is not replaced
    with pytest.raises(DuplicateRun, match="cannot be replaced"):
        tasks.plain.apply_async((3,), idempotency_key="k", on_duplicate="replace")


# -- debounce ------------------------------------------------------------------------------------------------------


@BOTH
def test_of_debounced_requests_the_last_payload_is_run_once_it_is_quiet(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    began = time.time()
    results = []
    for text in ("a", "ab", "abc"):
        results.append(tasks.index.delay(1, text))
        time.sleep(0.4)

    # then
    assert [one.created for one in results] == [True, False, False]
    assert len({one.id for one in results}) == 1
    assert results[0].get(timeout=10) == "abc"
    (done,) = notes(app, "index")
    assert done["at"] - began >= 0.8 + 1.5 - 0.1
    assert (done["args"], done["kwargs"]) == ([1, "abc"], {})
    assert run_of(app, results[0].id, status="SUCCESS").key == "index:1"

    # and a request after its begin begins another run
    later = tasks.index.delay(1, "new")
    assert (later.created, later.id != results[0].id) == (True, True)
    assert later.get(timeout=10) == "new"


def test_a_debounced_run_begins_at_the_latest_after_the_longest_wait(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    watch, began = Stopwatch(), time.time()
    while not notes(app, "index") and time.time() < began + 8:
        tasks.index.delay(1, f"{time.time() - began:.1f}")
        time.sleep(0.3)
    assert 2.9 <= notes(app, "index")[0]["at"] - began <= 5 + watch.late
    assert float(notes(app, "index")[0]["text"]) > 2


def test_a_request_while_the_debounced_run_goes_on_is_not_lost(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.fragile_index.delay(1, "one")
    wait_for_note(app, "fragile_index")
    second = tasks.fragile_index.delay(1, "two")
    assert second.created
    assert (first.get(timeout=10), second.get(timeout=10)) == ("one", "two")
    assert sorted(note["text"] for note in notes(app, "fragile_index")) == ["one", "one", "two", "two"]


def test_of_a_debounced_run_the_last_payload_is_recorded_redacted_and_run_again(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.sign_in.delay(1, "hunter1")
    tasks.sign_in.delay(user=1, password="hunter2")
    assert first.get(timeout=10) == "in"
    run = run_of(app, first.id, status="SUCCESS")
    assert (run.args, run.kwargs) == ([], {"user": 1, "password": REDACTED})
    again = StackState.of(app).rerun(first.id)
    assert run_of(app, again.id, status="SUCCESS").kwargs == {"user": 1, "password": REDACTED}
    assert [one["password"] for one in notes(app, "sign_in")] == ["hunter2", "hunter2"]
    told = str([StackState.of(app).runs.events(run_id) for run_id in (first.id, again.id)])
    assert "hunter" not in told


def test_a_debounced_runs_retry_has_the_last_payload(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.fragile_index.delay(1, "a")
    tasks.fragile_index.delay(1, "b")
    assert first.get(timeout=10) == "b"
    assert [note["text"] for note in notes(app, "fragile_index")] == ["b", "b"]


def test_a_debounced_message_that_is_delivered_twice_is_one_run(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    first = tasks.index.delay(1, "a")
    tasks.index.delay(1, "b")
    push(app, messages(app)[0])
    start_worker(concurrency=2)
    assert first.get(timeout=10) == "b"
    time.sleep(3)
    assert [note["text"] for note in notes(app, "index")] == ["b"]


def test_a_reset_drops_a_debounced_run(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    first = tasks.index.delay(1, "a")
    assert StackState.of(app).idempotency.reset("index:1", task=tasks.index.name)
    second = tasks.index.delay(1, "b")
    assert second.created
    assert second.get(timeout=10) == "b"
    wait_for(lambda: "dropped" in names(app, first.id), message="the first to be dropped")
    assert [note["text"] for note in notes(app, "index")] == ["b"]


# -- single_execution ----------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.worker(concurrency=2)
def test_a_message_without_a_key_that_is_delivered_twice_is_run_once_at_a_time_and_once(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = tasks.single.delay(1)
    for _ in range(2):
        push(app, messages(app)[0])
    start_worker()
    assert result.get(timeout=10) == "single"
    time.sleep(3)
    assert [result.id] == [note["id"] for note in notes(app, "single")]


def test_another_run_of_an_id_is_another_execution(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    for count in (1, 2):
        tasks.single.apply_async((0,), task_id="daily")
        wait_for_note(app, "single-end", count=count, node=celery_worker)
        run_of(app, "daily", status="SUCCESS", node=celery_worker)


@BOTH
@pytest.mark.worker(concurrency=1)
def test_a_single_execution_is_taken_over_when_its_worker_is_killed(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.single.delay(1)
    wait_for_note(app, "single")
    celery_worker.kill("SIGKILL")
    celery_worker.restart()
    assert result.get(timeout=20) == "single"
    assert len(notes(app, "single")) == 2
    assert len(notes(app, "single-end")) == 1


# -- lost_policy="rerun" -------------------------------------------------------------------------------------------


@pytest.mark.worker(concurrency=2)
def test_a_copy_that_waits_for_a_run_is_no_other_run_though_its_publisher_lacks_the_extension(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    done = in_another_process(
        "import os; from celery import Celery\n"
        "app = Celery(broker=os.environ['STACKSTATE_TEST_BROKER'])\n"
        f"app.conf.task_default_queue = {app.conf.task_default_queue!r}\n"
        "app.send_task('tests.worker.app_features.patient', (1.5,), task_id='plain')\n"
    )
    assert done.returncode == 0, done.stderr
    push(app, messages(app)[0])

    # when
    worker = start_worker()
    wait_for(lambda: "[plain] ignored" in worker.logs(), message="the copy to wait", node=worker)
    run_of(app, "plain", status="SUCCESS", node=worker)
    time.sleep(3)

    # then
    assert [note["id"] for note in notes(app, "patient")] == ["plain"]


@BOTH
@pytest.mark.parametrize("key", [None, "k"])
def test_a_run_whose_child_is_killed_comes_back_under_its_id(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, key: str | None
) -> None:
    result = tasks.survivor.apply_async((2,), idempotency_key=key)
    wait_for_note(app, "survivor", count=2, node=celery_worker)
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]
    wait_for(lambda: result.state == "SUCCESS", message="the result")
    assert [result.id] * 2 == [note["id"] for note in notes(app, "survivor")]


@BOTH
def test_a_run_whose_whole_worker_is_killed_comes_back_at_another(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given; acknowledged early, so that the message is gone
    result = tasks.survivor.delay(2, "wait")
    wait_for_note(app, "survivor")
    celery_worker.kill("SIGKILL")

    # when
    other = start_worker()

    # then
    assert result.get(timeout=15) == "survived"
    run = run_of(app, result.id, status="SUCCESS", node=other)
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]


def test_a_run_that_kills_its_child_each_time_fails_in_the_end(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.survivor.delay(9)
    run = run_of(app, result.id, status="FAILURE", timeout=25, node=celery_worker)
    assert "begun 3 times" in str(run.error)
    assert len(notes(app, "survivor")) == 3


def by_name(app: Celery) -> Celery:
    """Return an app that sends to the workers of `app` and knows none of its tasks."""
    web = Celery("web", broker=app.conf.broker_url, backend=app.conf.result_backend, set_as_current=False)
    settings = {name: value for name, value in app.conf.items() if name.startswith("stackstate_")}
    web.conf.update(task_default_queue=app.conf.task_default_queue, **settings)
    StackState(web)
    for name in [name for name in web.tasks if not name.startswith("celery.")]:
        web.tasks.unregister(name)
    return web


@pytest.mark.parametrize("key", [None, "k"])
def test_what_the_task_says_of_lost_runs_counts_for_those_sent_by_name(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, key: str | None
) -> None:
    web = by_name(app)
    back = web.send_task(tasks.survivor.name, (2,), {"how": "child"}, idempotency_key=key)
    run = run_of(app, back.id, status="SUCCESS", node=celery_worker)
    assert [attempt.status for attempt in run.attempts] == ["LOST", "SUCCESS"]
    assert [back.id] * 2 == [note["id"] for note in notes(app, "survivor")]
    poison = web.send_task(tasks.survivor.name, (9,), idempotency_key=key and "other")
    run = run_of(app, poison.id, status="FAILURE", timeout=25, node=celery_worker)
    assert "begun 3 times" in str(run.error)


def test_an_id_that_is_sent_by_name_again_is_a_run_each_time(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    web = by_name(app)
    for count in (1, 2):
        web.send_task(tasks.survivor.name, (0,), task_id="nightly")
        wait_for_note(app, "survivor", count=count, node=celery_worker)
        settled = lambda: (state := record_of_one(app, "nightly")) and state.state == "SUCCEEDED"  # noqa: E731
        wait_for(settled, message="the run's record to end")


def record_of_one(app: Celery, run_id: str) -> Any:
    """Return the record of a run that has no key."""
    return StackState.of(app).key_protocol.record(store_key(ONE_RUN, run_id))


@pytest.mark.worker(conf={**SHORT, "stackstate_start_deadline": 2})
def test_a_run_that_the_broker_forgot_comes_back(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    result = tasks.survivor.delay(0)
    app.control.purge()
    start_worker()
    assert result.get(timeout=15) == "survived"
    assert len(notes(app, "survivor")) == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_start_deadline": 2})
def test_a_run_that_repeats_another_comes_back_as_well(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    first = tasks.kept.delay(1)
    app.control.purge()
    again = StackState.of(app).rerun(first.id)
    app.control.purge()
    start_worker()
    assert [result.get(timeout=15) for result in (first, again)] == [1, 1]
    run = run_of(app, again.id, status="SUCCESS")
    assert (run.rerun_of, run.key) == (first.id, None)
    assert len(notes(app, "kept")) == 2


def test_a_producer_that_is_killed_before_it_publishes_has_asked_for_the_run(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    code = (
        "import os, signal\n"
        "from celery import signals\n"
        "from tests.worker import app_features\n"
        "signals.before_task_publish.connect(lambda **_: os.kill(os.getpid(), signal.SIGKILL), weak=False)\n"
        "app_features.survivor.delay(0)\n"
    )
    assert in_another_process(code).returncode == -signal.SIGKILL
    assert messages(app) == []
    start_worker()
    wait_for_note(app, "survivor", timeout=10)


def test_by_default_a_killed_workers_run_is_marked_as_lost(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a run without a key, acknowledged early
    result = tasks.slow.delay(60)
    wait_for_note(app, "slow")
    run_of(app, result.id, status="STARTED")
    celery_worker.kill("SIGKILL")

    # when
    start_worker()

    # then
    run = run_of(app, result.id, status="LOST", timeout=10)
    assert "nobody is left who runs it" in str(run.error)
    assert len(notes(app, "slow")) == 1


def test_a_live_run_is_never_marked(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.slow.delay(6)
    assert result.get(timeout=15) == "slow"
    assert "lost" not in names(app, result.id)


# -- results -------------------------------------------------------------------------------------------------------

NO_BACKEND = pytest.mark.worker(conf={**SHORT, "task_ignore_result": True})


@NO_BACKEND
def test_a_duplicate_gets_the_result_that_no_backend_keeps(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.forgetful.apply_async((1,), idempotency_key="k")
    again = tasks.forgetful.apply_async((1,), idempotency_key="k")
    assert again.get(timeout=10) == {"number": 1} == first.get(timeout=10)
    assert (again.state, again.successful()) == ("SUCCESS", True)
    failed = tasks.fails.apply_async(("oh",), idempotency_key="k", idempotency_on_failure="keep", ignore_result=True)
    with pytest.raises(ValueError, match="oh"):
        tasks.fails.apply_async(("oh",), idempotency_key="k", idempotency_on_failure="keep").get(timeout=10)
    wait_for(failed.failed, message="the failure")


def test_without_any_backend_results_of_keyed_runs_are_read_from_their_keys(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    code = (
        "import os; os.environ['STACKSTATE_TEST_BACKEND'] = 'disabled://'\n"
        "from tests.worker import app_features as app\n"
        "assert [app.ship.delay(3).get(timeout=10) for _ in range(2)] == ['shipped 3'] * 2\n"
        "slow = app.slow.apply_async((30,), idempotency_key='k')\n"
        "from celery.exceptions import TimeoutError\n"
        "try: slow.get(timeout=0.5)\n"
        "except TimeoutError: print(slow.state, slow.ready())\n"
    )
    done = in_another_process(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() in (["STARTED", "False"], ["PENDING", "False"])


def test_a_wait_for_a_result_ends_with_its_timeout(app: Celery, tasks: ModuleType) -> None:
    result = tasks.forgetful.apply_async((1,), idempotency_key="k")
    with pytest.raises(CeleryTimeoutError):
        result.get(timeout=0.3)


# -- duplicates in the history --------------------------------------------------------------------------------------


def test_duplicates_and_conflicts_are_on_the_runs_timeline(app: Celery, tasks: ModuleType) -> None:
    first = tasks.plain.apply_async((1,), idempotency_key="k")
    for _ in range(20):
        tasks.plain.apply_async((1,), idempotency_key="k")
    with pytest.raises(IdempotencyConflict):
        tasks.plain.apply_async((2,), idempotency_key="k")

    def counted(name: str) -> int:
        events = StackState.of(app).runs.events(first.id)
        return sum(event.data["count"] for event in events if event.name == name)

    wait_for(lambda: (counted("duplicate"), counted("mismatch")) == (20, 1), message="20 duplicates and a conflict")
    assert len(names(app, first.id)) < 15


# -- outage --------------------------------------------------------------------------------------------------------


class TestOutage:
    """The keys are in a Redis of the test's own, which can be stopped."""

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    @pytest.mark.worker(conf={**SHORT, "stackstate_store_timeout": 1, "stackstate_publish_outage": "publish"})
    def test_a_key_that_could_not_be_reserved_is_decided_by_the_worker(
        self, app: Celery, tasks: ModuleType, start_worker: StartWorker, store_server: RedisServer
    ) -> None:
        # given
        store_server.stop()
        results = [tasks.plain.apply_async((1,), idempotency_key="k") for _ in range(2)]
        assert [one.created for one in results] == [True, True]
        store_server.start()

        # when
        start_worker()

        # then one of them runs, and the other has its outcome
        assert [one.get(timeout=15) for one in results] == [1, 1]
        assert len(notes(app, "plain")) == 1

    @pytest.mark.worker(conf={**SHORT, "stackstate_store_timeout": 1, "stackstate_publish_outage": "publish"})
    def test_a_debounced_request_that_could_not_be_reserved_is_run_and_leaves_the_key_to_the_next(
        self, app: Celery, tasks: ModuleType, start_worker: StartWorker, store_server: RedisServer
    ) -> None:
        store_server.stop()
        first = tasks.index.delay(1, text="during")
        store_server.start()
        start_worker()
        assert first.get(timeout=15) == "during"
        after = tasks.index.delay(1, text="after")
        assert after.created
        assert after.get(timeout=15) == "after"


# -- options that nobody took ---------------------------------------------------------------------------------------


def test_a_key_from_a_process_without_the_extension_is_complained_about(
    celery_worker: CeleryTestWorker, app: Celery
) -> None:
    code = (
        "import os; from celery import Celery\n"
        "app = Celery(broker=os.environ['STACKSTATE_TEST_BROKER'])\n"
        "app.conf.task_default_queue = {queue!r}\n"
        "app.send_task('tests.worker.app_features.plain', (1,), idempotency_key='k')\n"
    )
    done = in_another_process(code.format(queue=app.conf.task_default_queue))
    assert done.returncode == 0, done.stderr
    wait_for_note(app, "plain")
    said = "with idempotency_key, but that process does not know celery-stackstate"
    wait_for(lambda: said in celery_worker.logs(), message="the complaint", node=celery_worker)
