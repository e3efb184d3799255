"""The process-backed nodes behave as pytest-celery's containers do."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from celery import Celery
from celery.result import AsyncResult
from pytest_celery import CeleryTestSetup, CeleryTestWorker, RabbitMQTestBroker

from tests.nodes import ProcessContainer, StartWorker
from tests.waiting import wait_for


def started(result: AsyncResult[str], node: CeleryTestWorker) -> None:
    wait_for(lambda: result.state == "STARTED", message="the task to start", node=node)


def exited(node: CeleryTestWorker) -> None:
    wait_for(lambda: node.container.status == "exited", message="the worker to end", node=node)


def test_a_task_runs_and_a_restarted_worker_goes_on(celery_setup: CeleryTestSetup, tasks: ModuleType) -> None:
    # given a worker that works, under the name that pytest-celery gives it
    assert celery_setup.ready(control=True)
    assert tasks.add.delay(1, 2).get(timeout=10) == 3
    assert f"{celery_setup.worker.hostname()} ready." in celery_setup.worker.logs()

    # when
    celery_setup.worker.restart()

    # then it is ready for the second time, and works
    assert celery_setup.worker.logs().count(" ready.") == 2
    assert tasks.add.delay(3, 4).get(timeout=10) == 7


def test_a_killed_workers_task_is_redelivered(
    celery_worker: CeleryTestWorker, celery_setup: CeleryTestSetup, tasks: ModuleType
) -> None:
    # given
    result = tasks.sleep_then_return.delay(1, "done")
    started(result, celery_worker)

    # when
    celery_worker.kill("SIGKILL")
    assert celery_worker.container.status == "exited"
    celery_worker.restart()

    # then
    limit = 5 if isinstance(celery_setup.broker, RabbitMQTestBroker) else 15
    assert result.get(timeout=limit) == "done"
    assert celery_worker.logs().count(f"{result.id}] received") == 2


@pytest.mark.worker(count=2, pool="solo", concurrency=1)
def test_two_workers_both_answer(celery_setup: CeleryTestSetup, app: Celery) -> None:
    answers = app.control.ping(timeout=5, limit=2) or []
    assert {worker.hostname() for worker in celery_setup.worker_cluster} == {name for a in answers for name in a}


def test_a_warm_shutdown_finishes_the_task(celery_worker: CeleryTestWorker, tasks: ModuleType) -> None:
    # given
    result = tasks.sleep_then_return.delay(1, "done")
    started(result, celery_worker)

    # when
    celery_worker.kill("SIGTERM")
    exited(celery_worker)

    # then
    assert result.get(timeout=1) == "done"
    assert celery_worker.logs().count("succeeded in") == 1


@pytest.mark.worker(broker="redis")
def test_a_dead_pool_child_is_reported_and_replaced(celery_worker: CeleryTestWorker, tasks: ModuleType) -> None:
    result = tasks.crash.delay()
    wait_for(lambda: result.state == "FAILURE", message="the crash to be noticed", node=celery_worker)
    assert type(result.result).__name__ == "WorkerLostError"
    assert tasks.add.delay(1, 2).get(timeout=10) == 3


@pytest.mark.worker(broker="redis", concurrency=1, env={"COLOUR": "blue"}, args=("--max-tasks-per-child", "1"))
@pytest.mark.parametrize("pool", [pytest.param(p, marks=pytest.mark.worker(pool=p)) for p in ("threads", "solo")])
def test_the_marker_reaches_the_worker(celery_worker: CeleryTestWorker, tasks: ModuleType, pool: str) -> None:
    assert tasks.environment.delay("COLOUR").get(timeout=10) == "blue"
    assert f"concurrency: 1 ({pool.rstrip('s')})" in celery_worker.logs()  # the banner names the module


@pytest.mark.worker(broker="redis", pool="solo")
def test_a_broker_keeps_its_port_and_messages(
    celery_setup: CeleryTestSetup, start_worker: StartWorker, tasks: ModuleType
) -> None:
    # given a message that no worker has taken
    celery_setup.worker.kill()
    result = tasks.add.delay(1, 2)

    # when
    celery_setup.broker.kill("SIGKILL")
    celery_setup.broker.restart()
    start_worker()

    # then
    assert result.get(timeout=10) == 3


def test_a_kill_ends_what_the_process_started(tmp_path: Path) -> None:
    # given; a worker's own pool children die with it on Linux, what a task starts does not
    container = ProcessContainer("shell", ["sh", "-c", "sleep 30 & echo $! ready.; wait"], tmp_path, prompt="ready.")
    container.start()
    container.ready()
    child = int(container.logs().split()[0])
    assert alive(child)

    # when
    container.kill("SIGKILL")

    # then
    wait_for(lambda: not alive(child), timeout=2, message="the child to end", node=container)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
