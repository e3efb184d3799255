"""Tests of a project with real workers: in a thread of the test's process, and by pytest-celery in others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.plugin.conftest import Project

pytest_plugins = ["pytester"]

#: celery.contrib.pytest by itself: pytest-celery has fixtures of the same names.
CONTRIB = ("-p", "no:celery", "-p", "celery.contrib.pytest")

CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def celery_config():
    return {"stackstate_url": "redis://192.0.2.1/0", "stackstate_store_timeout": 1}  # nobody answers there

@pytest.fixture(scope="session")
def celery_parameters():
    return {"task_cls": "celery_stackstate:StateTask"}

@pytest.fixture(scope="session")
def celery_worker_parameters():
    return {"loglevel": "INFO"}  # else the root logger lets errors through only

@pytest.fixture(scope="session")
def celery_includes():
    return ["jobs"]
"""
JOBS = """
import logging, time
from celery import shared_task

logger = logging.getLogger(__name__)

@shared_task(bind=True, acks_late=True)
def import_rows(self, import_id, rows=3):
    with self.state.lock(f"import:{import_id}"):
        for number in range(rows):
            self.state.set(f"{import_id}:done", number + 1)
        logger.info("imported %d rows", rows)
    charge.delay(import_id)
    return rows

@shared_task(bind=True, idempotency_key="order:{order}")
def charge(self, order):
    return self.state.increment("charged")

@shared_task(bind=True, max_retries=2)
def flaky(self):
    if self.request.retries < 1:
        raise self.retry(countdown=0)

@shared_task(bind=True)
def slow(self, seconds):
    time.sleep(seconds)
"""
TESTS = """
import pytest
from jobs import charge, flaky, import_rows, slow

@pytest.mark.parametrize("round", [1, 2])
def test_a_worker_sees_the_tests_store({worker}, stackstate, state, run_history, assert_enqueued, round):
    assert [worker.live for worker in stackstate.workers()] == [True]
    result = import_rows.delay(round, rows=2)
    history = run_history(result)
    assert (history.status, history.result) == ("SUCCESS", 2)
    assert [line.message for line in history.logs] == ["imported 2 rows"]
    assert state.get(f"{{round}}:done") == 2
    (child,) = assert_enqueued(charge, key=f"order:{{round}}")
    assert run_history(child).parent_id == result.id
    assert state.count("charged") == 1

def test_retries_are_attempts_of_one_request({worker}, run_history, assert_enqueued):
    history = run_history(flaky.delay())
    assert [attempt.status for attempt in history.attempts] == ["RETRY", "SUCCESS"]
    assert_enqueued(flaky, count=1)

def test_a_key_is_free_when_its_time_has_passed({worker}, stackstate, stackstate_clock, run_history):
    first = charge.delay(7)
    assert run_history(first).result == 1
    again = charge.delay(7)
    assert (again.id, again.created) == (first.id, False)
    stackstate_clock.advance(hours=25)
    assert [worker.live for worker in stackstate.workers()] == [True]
    second = charge.delay(7)
    assert second.created
    assert run_history(second).result == 2

def test_a_run_that_does_not_end_is_told({worker}, run_history):
    result = slow.delay(1)
    with pytest.raises(AssertionError, match="has not ended in 0.2 s, it is"):
        run_history(result, timeout=0.2)
    assert run_history(result).status == "SUCCESS"
"""


@pytest.mark.parametrize("arguments", ["celery_app, celery_worker", "celery_worker, celery_app"])
def test_a_worker_of_celery_contrib_pytest_shares_the_tests_store(project: Project, arguments: str) -> None:
    result = project(*CONTRIB, conftest=CONFTEST, jobs=JOBS, test_jobs=TESTS.format(worker=arguments))
    result.assert_outcomes(passed=5)


def test_a_worker_of_the_whole_session_shares_the_store_of_each_test(project: Project) -> None:
    # pytest-celery is installed as well: its plug-in brings celery_session_worker
    result = project(
        conftest=CONFTEST,
        jobs=JOBS,
        test_jobs=TESTS.format(worker="celery_session_worker"),
        test_without="""
        from celery_stackstate import StackState

        def test_between_tests_it_does_not_see_the_configured_store(celery_session_worker, celery_session_app):
            assert StackState.of(celery_session_app).where() == "memory://"
        """,
    )
    result.assert_outcomes(passed=6)


def test_processes_of_xdist_keep_their_stores_apart(project: Project) -> None:
    pytest.importorskip("xdist")
    result = project(
        *("-n", "2", *CONTRIB),
        conftest=CONFTEST,
        jobs=JOBS,
        test_jobs=TESTS.format(worker="celery_app, celery_worker"),
        test_state="""
        import pytest

        @pytest.mark.parametrize("number", range(20))
        def test_state(celery_app, state, number):
            assert state.increment("n") == 1
        """,
    )
    result.assert_outcomes(passed=25)


def test_without_a_worker_nothing_is_left_in_the_queue_for_a_later_one(project: Project) -> None:
    result = project(
        *CONTRIB,
        conftest=CONFTEST,
        jobs=JOBS,
        test_jobs="""
        from jobs import charge

        def test_first_without(celery_app, assert_enqueued):
            charge.delay(1)
            assert_enqueued(charge)

        def test_then_with(celery_app, celery_worker, state, run_history):
            assert run_history(charge.delay(2)).result == 1
        """,
    )
    result.assert_outcomes(passed=2)


def test_workers_of_pytest_celery_are_tested_over_a_store_that_they_share(
    project: Project, redis_server_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STACKSTATE_TEST_CONTAINERS", "0")
    result = project(
        *("-W", "default", "-p", "no:django"),  # pytest-celery looks at all objects, Django's settings mind
        conftest="""
        from tests.conftest import redis_server_binary
        from tests.worker.conftest import *
        import pytest

        @pytest.fixture
        def stackstate_url(worker_store):
            return worker_store
        """,
        test_nodes="""
        import pytest

        @pytest.mark.worker(broker="redis", app="tests.worker.app_history", pool="solo")
        def test_a_real_worker(celery_setup, stackstate, tasks, run_history, assert_enqueued):
            result = tasks.add.delay(1, 2)
            history = run_history(result)
            assert (history.status, history.result) == ("SUCCESS", 3)
            assert history.attempts[0].pid not in (None, __import__("os").getpid())
            assert_enqueued(tasks.add, args=(1, 2))
            assert stackstate.workers()[0].live

        @pytest.mark.worker(broker="redis", app="tests.worker.app_history", pool="solo")
        def test_its_clock_is_not_ours(celery_setup, stackstate_clock): ...
        """,
    )
    assert os.environ["STACKSTATE_TEST_CONTAINERS"] == "0"
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the clock of sqlite:///* is its own and cannot be moved*"])
