"""What a task tells of itself while it runs: as it was at the call, from wherever it logs, and never at its cost."""

from __future__ import annotations

import signal
from types import ModuleType

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState
from tests.services import RedisServer
from tests.waiting import wait_for
from tests.worker.noting import note
from tests.worker.probes import notes, run_of, wait_for_note

pytestmark = pytest.mark.worker(app="tests.worker.app_telling", broker="redis")


def messages_of(app: Celery, run_id: str) -> list[str]:
    return [line.message for line in StackState.of(app).runs.logs(run_id)]


def finished(app: Celery, run_id: str) -> list[str]:
    return [one["status"] for one in notes(app, "finished") if one["run_id"] == run_id]


# -- what is told --------------------------------------------------------------------------------------------------


def test_what_a_task_reports_is_shown_as_it_was_at_the_call(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when; the dict it gave is another one by the time that it is written
    result = tasks.report.delay()
    live = run_of(app, result.id, status="STARTED", node=celery_worker)
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)

    # then
    for shown in (live, run):
        assert shown.meta == {"current": 1, "total": 10}
        assert shown.progress is not None
        assert (shown.progress.done, shown.progress.total) == (1, 10)
    assert [event.name for event in StackState.of(app).runs.events(result.id)].count("started") == 1
    assert messages_of(app, result.id) == ["one line"]
    assert "The recorder's thread failed" not in celery_worker.logs()


@pytest.mark.worker(concurrency=1)
@pytest.mark.parametrize("what", ["a closed row", "a long number"])
def test_a_result_that_cannot_be_shown_ends_the_attempt_all_the_same(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, what: str
) -> None:
    result = tasks.return_what_cannot_be_shown.delay(what)
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert [attempt.status for attempt in run.attempts] == ["SUCCESS"]
    assert run.attempts[0].cpu_time is not None
    wait_for(lambda: finished(app, result.id) == ["SUCCESS"], message="the end to be told", node=celery_worker)
    assert tasks.open_attempts.delay().get(timeout=10) == 0


@pytest.mark.worker(concurrency=1)
def test_an_error_that_cannot_be_shown_ends_the_attempt_with_its_type(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.raise_what_cannot_be_shown.delay()
    run = run_of(app, result.id, status="FAILURE", node=celery_worker)
    assert [(attempt.status, attempt.error_type) for attempt in run.attempts] == [("FAILURE", "SpeechlessError")]
    wait_for(lambda: finished(app, result.id) == ["FAILURE"], message="the end to be told", node=celery_worker)
    assert tasks.open_attempts.delay().get(timeout=10) == 0


def test_a_retry_for_an_error_that_cannot_be_shown_goes_out_as_another(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.retry_for_what_cannot_be_shown.delay()
    run_of(app, result.id, status="RETRY", node=celery_worker)
    runs = StackState.of(app).runs

    def waiting() -> list[str | None]:
        return [run.error for run in runs.list(status="RETRY") if run.retries == 1 and run.worker]

    wait_for(waiting, message="the run to wait for its retry", node=celery_worker)
    assert waiting() == ["SpeechlessError: <SpeechlessError, which could not be shown: RuntimeError>"]
    assert [event.name for event in runs.events(result.id)].count("queued") == 2


def test_what_cannot_be_told_raises_nothing_into_the_body(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.tell_odd_things.delay()
    assert result.get(timeout=10) == "told"
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert run.progress is not None
    assert (run.progress.done, run.progress.total) == (3, 10)
    names = [event.name for event in StackState.of(app).runs.events(result.id)]
    assert {"odd", "state", "progress", "success"} <= set(names)


# -- a time limit --------------------------------------------------------------------------------------------------


class TestWithAStoreThatHangs:
    """The history is in a Redis of the test's own, which stops answering."""

    pytestmark = pytest.mark.worker(conf={"stackstate_store_timeout": 10, "stackstate_record_eager": True})

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    @pytest.mark.parametrize(("how", "first"), [("published", "queued"), ("applied", "started")])
    def test_a_soft_limit_reaches_a_body_that_calls_a_task_and_what_is_told_of_that_is_written_later(
        self,
        celery_worker: CeleryTestWorker,
        app: Celery,
        tasks: ModuleType,
        store_server: RedisServer,
        how: str,
        first: str,
    ) -> None:
        # given a body that is about to call a task
        result = tasks.call_in_time.delay(how)
        wait_for_note(app, "ready", node=celery_worker)
        assert store_server._process is not None

        # when
        store_server._process.send_signal(signal.SIGSTOP)
        note(app, "go")

        # then; the limit is two seconds, the store would have taken ten
        try:
            assert 0 < result.get(timeout=25) < 5
        finally:
            store_server._process.send_signal(signal.SIGCONT)
        run_of(app, "child", status="SUCCESS", timeout=30, node=celery_worker)
        wait_for(
            lambda: first in {event.name for event in StackState.of(app).runs.events("child")},
            timeout=30,
            message="the call to be told",
            node=celery_worker,
        )


# -- log lines -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["called", "applied"])
def test_lines_of_tasks_that_a_task_calls_are_its_own(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, how: str
) -> None:
    result = tasks.calls.delay(how)
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    inside = ["inside: by a module's logger", "inside: by the task logger", "inside: by print"]
    assert messages_of(app, result.id) == ["before", *inside, "before", *inside, "after", "after"]


@pytest.mark.worker(conf={"stackstate_record_eager": True})
def test_lines_belong_to_the_innermost_run_that_is_recorded(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when; the helper is applied by a task that is not recorded, which this one applies
    result = tasks.calls.delay("applied", outer=False)
    run_of(app, result.id, status="SUCCESS", node=celery_worker)

    # then
    (inner,) = StackState.of(app).runs.list(task=tasks.helper.name)
    assert messages_of(app, result.id) == ["before", "after"]
    assert messages_of(app, inner.id)[0] == "inside: by a module's logger"


WAYS = [(pool, own) for own in ("", "1") for pool in ("prefork", "threads", "solo")]


@pytest.mark.parametrize(
    ("pool", "own"),
    [pytest.param(pool, own, marks=pytest.mark.worker(pool=pool, env={"OWN_LOGGING": own})) for pool, own in WAYS],
)
def test_lines_of_loggers_that_hand_nothing_up_are_recorded_once(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str, own: str
) -> None:
    result = tasks.talk_apart.delay()
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert messages_of(app, result.id) == [
        "by apart",
        "by apart.again",
        "by apart.below",
        "by shop",
        "by the task logger",
    ]
