"""Who is alive: the leases of workers, and what becomes of the runs of those that are gone."""

from __future__ import annotations

import json
import time
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState
from celery_stackstate.keys import WORKER
from tests.nodes import StartWorker
from tests.waiting import wait_for
from tests.worker.probes import exited, key_state, messages, notes, push, run_of, wait_for_note

BOTH = pytest.mark.worker(broker=None)
SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_keys", conf=SHORT, broker="redis")


def leases(app: Celery) -> dict[str, list[int]]:
    """Return the pids of every worker that has a lease."""
    found = StackState.of(app).store.scan(WORKER + b"\0")
    return {one.key.split(b"\0")[1].decode(): json.loads(bytes(one.value))["pids"] for one in found}


def event_names(app: Celery, run_id: str) -> list[str]:
    return [event.name for event in StackState.of(app).runs.events(run_id)]


@pytest.mark.parametrize(
    "pool", [pytest.param(p, marks=pytest.mark.worker(pool=p)) for p in ("prefork", "threads", "solo")]
)
def test_a_workers_lease_appears_with_it_and_vanishes_when_it_stops(
    celery_worker: CeleryTestWorker, app: Celery, pool: str
) -> None:
    name = celery_worker.hostname()
    assert [name] == list(leases(app))
    wait_for(lambda: len(leases(app)[name]) == (2 if pool == "prefork" else 1), message="the processes to be listed")

    celery_worker.kill("SIGTERM")
    exited(celery_worker)

    assert leases(app) == {}


def test_a_lease_outlives_its_length_while_the_worker_does_and_lapses_after_a_kill(
    celery_worker: CeleryTestWorker, app: Celery
) -> None:
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        assert [celery_worker.hostname()] == list(leases(app))
        time.sleep(0.1)

    celery_worker.kill("SIGKILL")

    assert [celery_worker.hostname()] == list(leases(app))
    wait_for(lambda: not leases(app), timeout=2.5, message="the lease to lapse")


@pytest.mark.worker(pool="solo", concurrency=1)
def test_a_solo_worker_keeps_its_lease_while_the_body_blocks_its_loop(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    tasks.slow.delay(3)
    wait_for_note(app, "slow")
    time.sleep(2.7)
    assert len(leases(app)) == 1


def test_a_warm_shutdown_keeps_the_lease_until_the_last_task_has_ended(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    result = tasks.slow.apply_async((4,), idempotency_key="k")
    wait_for_note(app, "slow")

    # when it is stopping for longer than its lease
    celery_worker.kill("SIGTERM")
    time.sleep(3)

    # then its run is still its own
    assert not tasks.slow.apply_async((4,), idempotency_key="k").created
    exited(celery_worker)
    assert result.get(timeout=1) == "slow"
    assert key_state(app, "k", tasks.slow.name) == "SUCCEEDED"
    assert leases(app) == {}
    assert len(notes(app, "slow")) == 1


def _two_workers(app: Celery, note: str, start_worker: StartWorker) -> CeleryTestWorker:
    """Start a worker, wait until it runs what is in the queue, let it take no more, and start another one."""
    first = start_worker()
    wait_for_note(app, note, node=first)
    queue = app.conf.task_default_queue
    assert app.control.cancel_consumer(queue, destination=[first.hostname()], reply=True, timeout=5, limit=1)
    start_worker()
    return first


@BOTH
@pytest.mark.worker(concurrency=1)
def test_a_live_long_run_is_never_taken_over(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    # given two workers, a run longer than the lease, and a copy of its message
    result = tasks.slow.apply_async((4,), idempotency_key="k")
    (message,) = messages(app)
    _two_workers(app, "slow", start_worker)

    # when
    push(app, message)
    seen = []
    while not notes(app, "slow ended"):
        seen.append(tasks.slow.apply_async((4,), idempotency_key="k"))
        time.sleep(0.2)

    # then the copy was postponed, without using up a retry
    assert {(result.id, False)} == {(one.id, one.created) for one in seen}
    assert result.get(timeout=5) == "slow"
    wait_for(lambda: {"replayed", "dropped"} & set(event_names(app, result.id)), message="the copy to end")
    assert "postponed" in event_names(app, result.id)
    run = run_of(app, result.id, status="SUCCESS")
    assert (len(run.attempts), run.retries) == (1, 0)
    assert len(notes(app, "slow")) == 1
    assert key_state(app, "k", tasks.slow.name) == "SUCCEEDED"


@BOTH
@pytest.mark.worker(concurrency=1)
def test_a_postponed_copy_goes_on_when_the_worker_of_the_run_dies(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a run whose message is gone, and a copy that another worker postpones
    result = tasks.early_slow_first.apply_async((60,), idempotency_key="k")
    (message,) = messages(app)
    first = _two_workers(app, "early_slow_first", start_worker)
    push(app, message)
    wait_for(lambda: "postponed" in event_names(app, result.id), message="the copy to be postponed")

    # when
    first.kill("SIGKILL")

    # then
    assert result.get(timeout=10) == "done"
    assert len(notes(app, "early_slow_first")) == 2
    run = run_of(app, result.id, status="SUCCESS")
    assert ([attempt.status for attempt in run.attempts], run.retries) == (["LOST", "SUCCESS"], 0)


@pytest.mark.worker(count=2, concurrency=1)
def test_two_workers_have_two_leases_and_one_outlives_the_other(
    celery_worker: CeleryTestWorker, app: Celery, celery_worker_cluster: Any
) -> None:
    first, second = celery_worker_cluster
    assert {first.hostname(), second.hostname()} == set(leases(app))
    first.kill("SIGKILL")
    wait_for(lambda: list(leases(app)) == [second.hostname()], timeout=3, message="the first lease to lapse")
