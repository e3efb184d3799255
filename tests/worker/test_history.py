"""The history of runs, as real workers write it."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from pytest_celery import CeleryTestWorker

from celery_stackstate import Run, StackState
from celery_stackstate.payload import REDACTED
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import run_of, wait_for_note

BOTH = pytest.mark.worker(broker=None)
SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_history", conf=SHORT, broker="redis")


def names(app: Celery, run_id: str) -> list[str]:
    return [event.name for event in StackState.of(app).runs.events(run_id)]


def messages_of(app: Celery, run_id: str) -> list[str]:
    return [line.message for line in StackState.of(app).runs.logs(run_id)]


def statuses(run: Run) -> list[str]:
    return [attempt.status for attempt in run.attempts]


# -- what is recorded ----------------------------------------------------------------------------------------------


@BOTH
def test_a_success_is_recorded_from_the_call_to_the_result(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    before = datetime.now(timezone.utc)
    result = tasks.add.apply_async((1,), {"y": 5}, expires=600)
    assert result.get(timeout=10) == 6

    # then
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert (tasks.add.name, app.conf.task_default_queue, 0) == (run.task, run.queue, run.retries)
    assert (run.args, run.kwargs, run.result) == ([1], {"y": 5}, 6)
    assert celery_worker.hostname() == run.worker
    (attempt,) = run.attempts
    assert (attempt.number, attempt.status, attempt.retries, attempt.redelivered) == (1, "SUCCESS", 0, False)
    assert run.queued_at is not None
    assert run.started_at is not None
    assert run.finished_at is not None
    assert run.expires is not None
    assert before <= run.queued_at <= run.started_at <= run.finished_at <= datetime.now(timezone.utc)
    assert timedelta(seconds=599) < run.expires - run.queued_at < timedelta(seconds=601)
    assert f"pid {os.getpid()}" in str(run.publisher)
    wait_for(lambda: "received" in names(app, result.id), message="the receipt to be recorded")
    assert {"queued", "received", "started", "success"} == set(names(app, result.id))


def test_a_message_without_a_worker_is_queued(app: Celery, tasks: ModuleType) -> None:
    result = tasks.add.delay(1)
    run = run_of(app, result.id, status="QUEUED")
    assert (run.args, run.kwargs, run.attempts, run.started_at) == ([1], {}, (), None)


@pytest.mark.worker(concurrency=1)
def test_a_running_task_is_started_and_one_behind_it_received(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    running, behind = tasks.slow.delay(1.5), tasks.slow.delay(0)
    run = run_of(app, running.id, status="STARTED", node=celery_worker)
    assert statuses(run) == ["STARTED"]
    assert run.attempts[0].pid == wait_for_note(app, "slow")["pid"]
    run_of(app, behind.id, status="RECEIVED", timeout=1)


@BOTH
def test_each_retry_is_an_attempt_of_one_run(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    watch, result = Stopwatch(), tasks.retried.delay(1)
    run_of(app, result.id, status="RETRY", node=celery_worker)
    wait_for(lambda: statuses(run_of(app, result.id, status="RETRY")) == ["RETRY"], message="the attempt to be closed")

    # when
    assert result.get(timeout=10) == "open"
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)

    # then; the countdown of a second is no wait
    first, second = run.attempts
    assert (first.status, second.status, run.retries) == ("RETRY", "SUCCESS", 1)
    assert (first.error_type, first.error, second.error) == ("ConnectionError", "the shop is closed", None)
    assert first.execution != second.execution
    assert first.wait is not None
    assert second.wait is not None
    assert second.wait < 0.5 + watch.late
    assert second.started_at is not None
    assert first.finished_at is not None
    assert timedelta(seconds=0.8) < second.started_at - first.finished_at < timedelta(seconds=2 + watch.late)
    assert [run.args, run.kwargs] == [[1], {}]
    assert messages_of(app, result.id) == ["attempt 0", "attempt 1"]
    logs = StackState.of(app).runs.logs(result.id, execution=second.execution)
    assert [line.message for line in logs] == ["attempt 1"]
    assert (None, result.id) == (run.parent_id, run.root_id)


@BOTH
def test_a_list_tells_what_the_runs_failed_with_that_wait_for_their_retry(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    runs = StackState.of(app).runs
    ids = {tasks.retried_late.delay().id, tasks.autoretried_late.delay().id}

    def waiting() -> list[Run]:
        return [run for run in runs.list(status="RETRY") if run.retries == 1 and run.worker]

    wait_for(lambda: {run.id for run in waiting()} == ids, message="both to be back on the worker", node=celery_worker)
    assert [run.error for run in waiting()] == [f"ConnectionError: closed for password={REDACTED}"] * 2
    assert {run.id for run in runs.list(text="connectionerror")} == ids


def test_exhausted_retries_end_in_a_failure(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    by_hand, automatic = tasks.retried.delay(9), tasks.autoretried.delay()
    wait_for(
        lambda: statuses(run_of(app, automatic.id, status="FAILURE", node=celery_worker)) == ["RETRY", "FAILURE"],
        message="both attempts, each told by a process of its own",
    )
    run = run_of(app, automatic.id, status="FAILURE")
    assert run.error == "KeyError: 'always'"
    run = run_of(app, by_hand.id, status="FAILURE", node=celery_worker)
    assert (statuses(run), run.retries) == (["RETRY", "RETRY", "FAILURE"], 2)


def test_a_failure_has_its_error_and_traceback(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.fail.delay("it's <broken>")
    run = run_of(app, result.id, status="FAILURE", node=celery_worker)
    assert run.error == "ValueError: it's <broken>"
    assert (run.attempts[0].error_type, run.attempts[0].error) == ("ValueError", "it's <broken>")
    assert "raise ValueError(message)" in str(run.traceback)
    assert run.traceback == run.attempts[0].traceback


def test_the_wait_does_not_count_the_countdown_and_the_runtime_is_the_bodys(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    watch, result = Stopwatch(), tasks.slow.apply_async((0.5,), countdown=2)
    assert result.get(timeout=10) == "slow"
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert run.wait is not None
    assert run.wait < 1 + watch.late
    assert run.runtime is not None
    assert 0.5 <= run.runtime < 0.9 + watch.late
    assert run.eta is not None
    assert run.queued_at is not None
    assert run.started_at is not None
    assert timedelta(seconds=1.9 - watch.late) < run.eta - run.queued_at < timedelta(seconds=2.1)
    assert run.started_at >= run.eta


@pytest.mark.worker(concurrency=1)
def test_the_wait_is_the_time_in_the_queue(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    watch = Stopwatch()
    tasks.slow.delay(1.2)
    wait_for_note(app, "slow")
    result = tasks.add.delay(1)
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert run.wait is not None
    assert 0.9 - watch.late < run.wait < 1.7 + watch.late
    assert run.runtime is not None
    assert run.runtime < 0.2 + watch.late


def test_log_lines_of_every_logger_become_the_runs_log(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.talk.delay()
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    lines = [(line.level, line.logger, line.message) for line in StackState.of(app).runs.logs(result.id)]
    told = [line for line in lines if "redirected" not in line[1] or "by print" in line[2]]  # stderr tells of the %d
    assert told == [
        ("INFO", "shop.catalog", "by a module's logger: 1"),
        ("WARNING", "tests.worker.app_history", "by the task logger: 2"),
        ("ERROR", "root", "by the root logger: 3"),
        ("WARNING", "celery.redirected", "by print: 4"),
        ("INFO", "shop.catalog", "%d"),
    ]


OWN_LOGGING = [("prefork", "basicConfig"), ("prefork", "dictConfig"), ("threads", "dictConfig"), ("solo", "dictConfig")]


@pytest.mark.parametrize(
    ("pool", "how"),
    [
        pytest.param(pool, how, marks=pytest.mark.worker(pool=pool, env={"OWN_LOGGING": how}))
        for pool, how in OWN_LOGGING
    ],
)
def test_log_lines_are_recorded_where_the_project_sets_up_logging_itself(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str, how: str
) -> None:
    result = tasks.talk.delay()
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    recorded = messages_of(app, result.id)
    assert recorded.count("by a module's logger: 1") == 1
    assert recorded.count("by the task logger: 2") == 1
    assert recorded.count("by the root logger: 3") == 1
    assert celery_worker.logs().count("by the root logger: 3") == 1


@pytest.mark.worker(conf={**SHORT, "stackstate_log_limits": {"lines": 2}, "stackstate_log_level": "DEBUG"})
def test_lines_beyond_the_limit_are_counted(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.talk.delay()
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert len(messages_of(app, result.id)) == 2
    assert run.attempts[0].omitted_lines >= 3


def test_a_run_is_found_by_its_traits(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    good, bad = tasks.add.delay(1), tasks.fail.delay("needle")
    run_of(app, good.id, status="SUCCESS", node=celery_worker)
    run_of(app, bad.id, status="FAILURE", node=celery_worker)
    runs = StackState.of(app).runs

    # then
    def ids(**query: Any) -> list[str]:
        return [run.id for run in runs.list(**query)]

    assert [bad.id, good.id] == ids()
    assert [bad.id] == ids(status="FAILURE")
    assert [good.id] == ids(task=tasks.add.name)
    assert [bad.id] == ids(text="NEEDLE")
    assert len(ids(worker=celery_worker.hostname(), queue=app.conf.task_default_queue)) == 2
    assert ids(worker="nobody") == []
    page = runs.list(limit=1)
    assert [good.id] == [run.id for run in runs.list(limit=1, after=page.next)]
    assert runs.get("unknown") is None
    assert (runs.events("unknown"), runs.logs("unknown")) == ([], [])


def test_what_a_task_says_of_itself_is_on_its_timeline(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.steps.delay()
    started = run_of(app, result.id, status="STARTED", node=celery_worker)
    assert started.progress is not None
    assert (started.progress.done, started.progress.total, started.progress.message) == (1, 4, "loading")
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert run.progress is not None
    assert (run.progress.done, run.progress.total, run.progress.message) == (4, 4, "loaded")
    (batch,) = [event for event in StackState.of(app).runs.events(result.id) if event.name == "batch"]
    assert batch.data == {"number": 1, "password": REDACTED}


# -- unusual endings -----------------------------------------------------------------------------------------------


def test_a_killed_childs_attempt_is_closed_by_the_parent(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.die.delay()
    run = run_of(app, result.id, status="FAILURE", timeout=15, node=celery_worker)
    (attempt,) = run.attempts
    assert (attempt.status, attempt.error_type) == ("FAILURE", "WorkerLostError")
    assert "SIGKILL" in str(attempt.error)
    assert attempt.finished_at is not None
    assert attempt.runtime is not None
    assert attempt.runtime > 0.5
    assert messages_of(app, result.id) == ["last words"]


def test_time_limits_are_failures(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    hard, soft = tasks.too_long.delay(), tasks.too_long_softly.delay()

    run = run_of(app, hard.id, status="FAILURE", node=celery_worker)
    assert statuses(run) == ["FAILURE"]
    assert run.attempts[0].error_type == "TimeLimitExceeded"
    run = run_of(app, soft.id, status="FAILURE", node=celery_worker)
    assert statuses(run) == ["FAILURE"]
    assert run.attempts[0].error_type == "SoftTimeLimitExceeded"
    assert "out of time" in messages_of(app, soft.id)[0]
    time.sleep(0.5)  # whatever the dying child said later
    assert statuses(run_of(app, hard.id, status="FAILURE")) == ["FAILURE"]


@pytest.mark.worker(concurrency=1)
@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_run_that_never_began_is_revoked_without_an_attempt(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    tasks.slow.delay(1.5)
    wait_for_note(app, "slow")
    result = tasks.add.apply_async((1,), **({"expires": 1} if how == "expired" else {}))
    if how == "revoked":
        app.control.revoke(result.id)
    run = run_of(app, result.id, status="REVOKED", node=celery_worker)
    assert (how in str(run.error), (), None) == (True, run.attempts, run.started_at)


# -- what is not recorded ------------------------------------------------------------------------------------------


def test_a_task_may_opt_out_and_helper_tasks_are_left_out(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    assert tasks.unrecorded.delay().get(timeout=10) == "seen by nobody"
    assert tasks.add.map([1, 2]).delay().get(timeout=10) == [3, 4]
    marker = tasks.add.delay(1)
    run_of(app, marker.id, status="SUCCESS", node=celery_worker)
    time.sleep(0.4)
    assert [marker.id] == [run.id for run in StackState.of(app).runs.list()]


def test_eager_mode_works_and_records_nothing(app: Celery, tasks: ModuleType) -> None:
    app.conf.task_always_eager = True
    result = tasks.add.apply_async((1,), idempotency_key="k")
    assert (result.get(), result.created) == (3, True)
    assert tasks.add.apply((1,)).get() == 3
    assert tasks.add(1) == 3
    assert chain(tasks.add.s(1), tasks.add.s(3)).apply_async().get() == 6
    assert list(StackState.of(app).runs.list()) == []


# -- canvas and the kinds of tasks ---------------------------------------------------------------------------------


@BOTH
def test_a_canvas_works_as_without_the_extension(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    add, total = tasks.add, tasks.total
    assert chain(add.s(1, 1), add.s(10), add.s(100)).apply_async().get(timeout=10) == 112
    assert group(add.s(1, 1), add.s(2, 2)).apply_async().get(timeout=10) == [2, 4]
    assert chord([add.s(1, 1), add.s(2, 2)], total.s()).apply_async().get(timeout=10) == 6
    assert chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(1)).apply_async().get(timeout=10) == 7
    assert add.chunks([(1, 1), (2, 2)], 1).apply_async().get(timeout=10) == [[2], [4]]
    assert tasks.replaced.delay(1).get(timeout=10) == 11


def test_runs_know_their_parent_and_root(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given a chain, and a task that calls another
    last = chain(tasks.add.s(1, 1), tasks.add.s(10), tasks.add.s(100)).apply_async()
    middle, first = last.parent, last.parent.parent
    caller = tasks.parent.delay()
    called = caller.get(timeout=10)
    assert last.get(timeout=10) == 112

    # then
    known = [run_of(app, one, status="SUCCESS") for one in (first.id, middle.id, last.id, caller.id, called)]
    assert [
        (None, first.id),
        (first.id, first.id),
        (middle.id, first.id),
        (None, caller.id),
        (caller.id, caller.id),
    ] == [(run.parent_id, run.root_id) for run in known]


def test_a_replaced_task_goes_on_under_its_id(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.replaced.delay(1)
    assert result.get(timeout=10) == 11
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    wait_for(
        lambda: sorted(statuses(run_of(app, result.id, status="SUCCESS"))) == ["IGNORED", "SUCCESS"],
        message="both attempts to be recorded",
    )
    assert run.result == 11


@pytest.mark.parametrize("kind", ["order", "shared", "doubling"])
def test_every_kind_of_task_is_recorded(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, kind: str
) -> None:
    argument, expected = {"order": ({"number": 1}, {"number": 2, "note": "-"})}.get(kind, (4, 8))
    result = getattr(tasks, kind).delay(argument)
    assert result.get(timeout=10) == expected
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert ([argument], expected) == (run.args, run.result)


def test_a_run_whose_result_no_backend_gets_is_recorded_with_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    run = run_of(app, tasks.silent.delay(3).id, status="SUCCESS", node=celery_worker)
    assert (run.args, run.result) == ([3], 3)


def test_two_apps_in_one_process_keep_their_history_apart(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a task of the second app, called by a worker of the first and from here
    second_id = tasks.call_second.delay().get(timeout=10)
    own = tasks.second_add.delay(5)

    # then
    first_runs, second_runs = StackState.of(app).runs, StackState.of(tasks.second_app).runs
    wait_for(lambda: len(second_runs.list()) == 2, message="both calls to be recorded", node=celery_worker)
    assert {second_id, own.id} == {run.id for run in second_runs.list()}
    assert {tasks.call_second.name} == {run.task for run in first_runs.list()}
    tasks.second_app.close()


# -- secrets and hostile text --------------------------------------------------------------------------------------

SECRET = "hunter2-s3cr3t"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((SECRET,), {}), ((), {"password": SECRET}), (("x",), {"token": SECRET}), (("x", f"my password: {SECRET}"), {})],
)
def test_secrets_are_not_recorded_anywhere(
    celery_worker: CeleryTestWorker,
    app: Celery,
    tasks: ModuleType,
    tmp_path: Path,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    # when a task logs and raises what it was given
    result = tasks.secrets_in.apply_async(args, kwargs)
    run = run_of(app, result.id, status="FAILURE", node=celery_worker)

    # then it is in nothing that is kept; a log line names a password even when it was given by position
    recorded = repr([run, StackState.of(app).runs.events(result.id), messages_of(app, result.id)])
    assert REDACTED in recorded
    assert SECRET not in recorded
    assert "signing in" in recorded
    assert "cannot sign in" in recorded
    StackState.of(app).close()
    assert not [path.name for path in tmp_path.glob("stackstate.sqlite3*") if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    "text",
    [
        'it\'s "quoted" \\ %s %d {} {0}',
        "<script>alert(1)</script>&amp;",
        "a\0b",
        "a\ud800b",
        "tab\tnew\nline\r\x1b[31m",
        "🦊日本é",
        "x" * 1_000_000,
    ],
    ids=["quotes", "html", "nul", "surrogate", "control", "emoji", "1 MB"],
)
def test_hostile_text_breaks_no_run(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, text: str) -> None:
    watch = Stopwatch()
    good, bad = tasks.echo.delay(text, other={text[:100]: [text]}), tasks.echo_failing.delay(text)
    assert good.get(timeout=10) == text
    run = run_of(app, good.id, status="SUCCESS", node=celery_worker)
    assert str(run.result)[0] == text[0]
    assert len(messages_of(app, good.id)) == 1
    assert run.payload_truncated is (len(text) > 100_000)
    assert run.runtime is not None
    assert run.runtime < 1 + watch.late
    failed = run_of(app, bad.id, status="FAILURE", node=celery_worker)
    assert "ValueError" in str(failed.error)
    assert len(repr(failed)) + len(repr(run)) < 500_000
    assert StackState.of(app).recorder.unrecorded == 0
    assert "were not recorded" not in celery_worker.logs()


@pytest.mark.parametrize("how", ["nul", "surrogate", "emoji", "html", "long"])
def test_odd_text_of_a_tasks_own_breaks_no_run(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    result = tasks.odd_text.delay(how)
    status = "FAILURE" if how in ("nul", "surrogate") else "SUCCESS"
    run = run_of(app, result.id, status=status, node=celery_worker)
    assert [status] == statuses(run)
    assert run.progress is not None
    assert len(messages_of(app, result.id)) == 1
    assert "odd" in names(app, result.id)
    assert "were not recorded" not in celery_worker.logs()
    assert "celery-stackstate failed" not in celery_worker.logs()


# -- the other pools -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [pytest.param(p, marks=pytest.mark.worker(pool=p)) for p in ("threads", "solo")])
def test_the_other_pools_record_the_same(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str
) -> None:
    # given two at once, where the pool can
    both = [tasks.talk.delay(), tasks.retried.delay(1)]
    for result in both:
        result.get(timeout=10)
    run_of(app, both[0].id, status="SUCCESS", node=celery_worker)
    run = run_of(app, both[1].id, status="SUCCESS", node=celery_worker)
    assert statuses(run) == ["RETRY", "SUCCESS"]
    assert messages_of(app, both[1].id) == ["attempt 0", "attempt 1"]
    assert "by the task logger: 2" in messages_of(app, both[0].id)
    failed = tasks.fail.delay("here")
    assert run_of(app, failed.id, status="FAILURE", node=celery_worker).error == "ValueError: here"


# -- a store that is down ------------------------------------------------------------------------------------------


class TestWithAStoreThatIsDown:
    """The history is in a Redis of the test's own, which can be stopped."""

    pytestmark = pytest.mark.worker(conf={**SHORT, "stackstate_store_timeout": 1})

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    def test_tasks_go_on_and_their_history_follows(
        self,
        celery_worker: CeleryTestWorker,
        app: Celery,
        tasks: ModuleType,
        store_server: RedisServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # given
        assert tasks.add.delay(1).get(timeout=10) == 3
        store_server.stop()

        # when
        results = [tasks.add.delay(number) for number in range(20)]
        watch = Stopwatch()
        assert [result.get(timeout=10) for result in results] == [number + 2 for number in range(20)]
        assert watch.seconds < 2

        # then
        store_server.start()
        for result in results:
            run = run_of(app, result.id, status="SUCCESS", timeout=15, node=celery_worker)
            assert statuses(run) == ["SUCCESS"]
        warning, processes = "The run history cannot be written now", 3  # the worker and its two children
        assert caplog.text.count(warning) == 1
        assert 1 <= celery_worker.logs().count(warning) <= processes

    def test_a_store_that_hangs_costs_one_bounded_wait(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_server: RedisServer
    ) -> None:
        # given a server that takes connections and does not answer
        assert tasks.add.delay(1).get(timeout=10) == 3
        assert store_server._process is not None
        store_server._process.send_signal(signal.SIGSTOP)

        # when; the producer waits once, and so does each of the two children
        watch = Stopwatch()
        results = [tasks.add.delay(number) for number in range(20)]
        published = watch.seconds
        assert [result.get(timeout=10) for result in results] == [number + 2 for number in range(20)]
        ended = watch.seconds
        store_server._process.send_signal(signal.SIGCONT)

        # then
        assert published < 2.5
        assert ended < 5
        for result in results:
            run_of(app, result.id, status="SUCCESS", timeout=15, node=celery_worker)

    def test_a_worker_starts_without_the_store(
        self, app: Celery, tasks: ModuleType, start_worker: StartWorker, store_server: RedisServer
    ) -> None:
        # given
        store_server.stop()
        worker = start_worker()
        assert "The store cannot be reached yet" in worker.logs()
        result = tasks.add.delay(1)
        assert result.get(timeout=10) == 3

        # when
        store_server.start()

        # then
        run_of(app, result.id, status="SUCCESS", timeout=15, node=worker)
        assert tasks.add.apply_async((1,), idempotency_key="k").get(timeout=10) == 3
