"""Workers with `stackstate_enabled = False`: plain Celery, which breaks no promise of those that are switched on."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
from celery import Celery, chain
from celery.exceptions import TaskRevokedError
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState
from celery_stackstate.key_record import PUBLISHED, SUCCEEDED
from celery_stackstate.records import QUEUED, SUCCESS
from tests.nodes import StartWorker
from tests.services import HOST, free_port
from tests.waiting import wait_for
from tests.worker.probes import exited, key_state, messages, notes, run_of, wait_for_note

SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1, "stackstate_store_timeout": 1}
OFF = {**SHORT, "stackstate_enabled": False}

pytestmark = pytest.mark.worker(app="tests.worker.app_off", conf=SHORT, broker="redis")


@pytest.fixture
def worker_off(start_worker: StartWorker) -> CeleryTestWorker:
    return start_worker(conf=OFF)


def said(worker: CeleryTestWorker, text: str) -> None:
    wait_for(lambda: text in worker.logs(), message=f"{text!r} in the log", node=worker)


def switch_on(worker: CeleryTestWorker, start_worker: StartWorker) -> None:
    """Stop a worker, which gives its messages back, and start one with the extension in its place."""
    worker.kill("SIGTERM")
    exited(worker)
    start_worker()


# -- all is switched off -------------------------------------------------------------------------------------------


@pytest.mark.worker(conf=OFF)
class TestAllOff:
    """Neither the producer nor the worker could connect to the store."""

    @pytest.fixture
    def worker_store(self) -> str:
        return f"redis://{HOST}:{free_port()}"

    @pytest.mark.worker(pool="threads")
    def test_a_worker_asks_no_store_records_nothing_and_has_no_thread_of_ours(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
    ) -> None:
        # when
        assert tasks.charge.delay(1).get(timeout=15) == 1
        assert tasks.flaky.delay(2).get(timeout=15) == 2
        assert [one["marked"] for one in notes(app, "flaky")] == [False, False]
        with pytest.raises(ValueError, match="not today"):
            tasks.hooked.delay().get(timeout=15)
        with pytest.raises(TaskRevokedError):
            tasks.one_delivery.apply_async((4,), expires=-1).get(timeout=15)
        assert tasks.receipt.apply_async((3,), idempotency_key=None).get(timeout=15) == 3
        threads = tasks.names_of_threads.delay().get(timeout=15)

        # then
        assert [name for name in threads if "stackstate" in name.lower()] == []
        log = celery_worker.logs()
        assert log.count("stackstate_enabled is False: this worker records nothing") == 1
        assert "cannot be reached" not in log
        assert "celery-stackstate failed" not in log

    @pytest.mark.worker(conf={**OFF, "stackstate_publish_outage": "publish"})
    def test_a_call_with_a_key_runs_without_the_promise_where_it_may_go_out(
        self, celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
    ) -> None:
        results = [tasks.charge.apply_async((1,), idempotency_key="k") for _ in range(2)]
        assert [one.get(timeout=15) for one in results] == [1, 1]
        assert chain(tasks.charge.s(2), tasks.receipt.s()).delay().get(timeout=15) == 2
        assert (len(notes(app, "charge")), len(notes(app, "receipt"))) == (3, 1)


# -- some are, some are not ----------------------------------------------------------------------------------------


def test_what_others_publish_without_a_key_is_run_and_not_recorded(
    worker_off: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.flaky.delay(1)
    assert result.get(timeout=15) == 1
    run = StackState.of(app).runs.get(result.id)
    assert run is not None
    assert (run.status, run.attempts) == (QUEUED, ())
    assert StackState.of(app).workers() == ()


def test_a_run_with_a_key_waits_for_a_worker_that_keeps_the_promise(
    worker_off: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    result = tasks.charge.apply_async((1,), idempotency_key="k")
    said(worker_off, f"tests.worker.app_off.charge[{result.id}] is sent again, for a worker to take it")
    wait_for(lambda: key_state(app, "k", tasks.charge.name) == PUBLISHED, message="the confirmation of the publish")
    assert notes(app, "charge") == []
    assert tasks.charge.apply_async((1,), idempotency_key="k").created is False

    # when
    switch_on(worker_off, start_worker)

    # then
    assert result.get(timeout=30) == 1
    run = run_of(app, result.id, status=SUCCESS)
    assert (len(run.attempts), run.retries) == (1, 0)
    assert len(notes(app, "charge")) == 1
    wait_for(lambda: key_state(app, "k", tasks.charge.name) == SUCCEEDED, message="the key's success")
    again = tasks.charge.apply_async((1,), idempotency_key="k")
    assert (again.id, again.created) == (result.id, False)


@pytest.mark.parametrize("way", ["follower", "debounced", "rerun", "single"])
def test_no_other_promise_is_broken_either(
    worker_off: CeleryTestWorker, app: Celery, tasks: ModuleType, way: str
) -> None:
    name = "charge"
    if way == "follower":
        tasks.charge.apply_async((1,), idempotency_key="k")
        result = tasks.charge.apply_async((1,), idempotency_key="k", task_id="follower")
    elif way == "debounced":
        result = tasks.charge.apply_async((1,), idempotency_key="k", debounce=0.1)
    elif way == "rerun":
        tasks.charge.lost_policy = "rerun"
        result = tasks.charge.delay(1)
    else:
        name, result = "one_delivery", tasks.one_delivery.delay(1)
    said(worker_off, f"{tasks.__name__}.{name}[{result.id}] is sent again, for a worker to take it")
    assert notes(app, name) == []


def test_a_later_part_of_a_chain_keeps_its_key_through_a_worker_that_is_switched_off(
    worker_off: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    result = chain(tasks.charge.s(1), tasks.receipt.s()).delay()
    said(worker_off, f"receipt[{result.id}] is sent again")
    assert (result.parent.get(timeout=15), notes(app, "receipt")) == (1, [])

    # when
    switch_on(worker_off, start_worker)

    # then
    assert result.get(timeout=30) == 1
    wait_for(lambda: key_state(app, "receipt:1", tasks.receipt.name) == SUCCEEDED, message="the key's success")
    assert tasks.receipt.delay(1).id == result.id


def test_runs_with_a_key_run_without_the_promise_where_the_project_says_so(
    start_worker: StartWorker, app: Celery, tasks: ModuleType
) -> None:
    worker = start_worker(conf={**OFF, "stackstate_claim_outage": "run"})
    charged = tasks.charge.apply_async((1,), idempotency_key="k")
    retried = tasks.flaky.apply_async((2,), idempotency_key="k")
    assert (charged.get(timeout=15), retried.get(timeout=15)) == (1, 2)
    assert [one["retries"] for one in notes(app, "flaky")] == [0, 1]
    said(worker, f"charge[{charged.id}] runs without the promise of its key")
    wait_for(lambda: key_state(app, "k", tasks.charge.name) == PUBLISHED, message="the confirmation of the publish")


def test_state_and_locks_of_the_body_go_on(worker_off: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    state: Any = StackState.of(app).state
    lock = state.lock("counting", ttl=30)
    lock.acquire()
    result = tasks.counting.delay()
    wait_for(lambda: bool(messages(app)) or "counting" in worker_off.logs(), message="the run to be sent again")
    assert notes(app, "counting") == []

    # when
    lock.release()

    # then
    assert result.get(timeout=30) == 1
    assert wait_for_note(app, "counting")["id"] == result.id
    assert state.count("counted") == 1
    assert state.lock_info("counting") is None
