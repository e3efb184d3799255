"""self.state in real workers: locks over retries and crashes, steps, paces, pools."""

from __future__ import annotations

import itertools
import os
import signal
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult
from pytest_celery import CeleryTestWorker

from celery_stackstate import LockBusy, StackState
from celery_stackstate.lock_record import LockInfo
from celery_stackstate.state import State
from tests.nodes import StartWorker
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import exited, messages, notes, push, run_of, wait_for_note

BOTH = pytest.mark.worker(broker=None)
#: A countdown of 6 s must not outlast the time after which Redis delivers again.
PATIENT = pytest.mark.worker(conf={"broker_transport_options": {"visibility_timeout": 60}})

pytestmark = pytest.mark.worker(app="tests.worker.app_state", broker="redis")


@pytest.fixture
def state(app: Celery) -> State:
    """The state as the test sees it, from outside of runs."""
    return StackState.of(app).state


def lock_free(state: State, name: str, *, timeout: float) -> None:
    wait_for(lambda: state.lock_info(name) is None, timeout=timeout, message=f"the lock {name} to be free")


# -- a busy lock ---------------------------------------------------------------------------------------------------


@BOTH
def test_a_run_that_finds_the_lock_busy_comes_back_with_its_id_and_its_retries_and_completes(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first, second = tasks.hold.delay("l", 2.0), None
    wait_for_note(app, "hold")
    second = tasks.hold.delay("l", 0.0)

    assert second.get(timeout=20) == "held"

    held = notes(app, "hold")
    assert [(one["id"], one["retries"]) for one in held] == [(first.id, 0), (second.id, 0)]
    assert held[1]["fence"] > held[0]["fence"]
    *waits, last = run_of(app, second.id, status="SUCCESS").attempts
    assert ({attempt.status for attempt in waits}, last.status) == ({"RETRY"}, "SUCCESS")


def test_a_run_that_swallows_what_a_busy_lock_raises_has_published_nothing(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with state.lock("l", ttl=60):
        result = tasks.go_on_without.delay("l")
        assert result.get(timeout=20) == "without"
    assert messages(app) == []
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert [attempt.status for attempt in run.attempts] == ["SUCCESS"]
    assert [event.name for event in StackState.of(app).runs.events(result.id)].count("queued") == 1


@pytest.mark.worker(conf={"stackstate_lock_wait_max": 1})
def test_a_run_that_waited_for_lock_wait_max_fails_with_lock_busy(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with state.lock("l", ttl=60), pytest.raises(LockBusy, match="'l' is held by"):
        tasks.hold.delay("l", 0.0).get(timeout=20)


def test_on_busy_skip_ignores_the_run_and_raise_fails_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with state.lock("l", ttl=60):
        skipped = tasks.hold.apply_async(("l", 0.0), {"on_busy": "skip"})
        failed = tasks.hold.apply_async(("l", 0.0), {"on_busy": "raise"})
        with pytest.raises(LockBusy):
            failed.get(timeout=10)
    run_of(app, skipped.id, status="IGNORED")
    assert notes(app, "hold") == []


@pytest.mark.parametrize("options", [{"own_call": True}, {"gate": "busy"}, {"gate": "busy", "key": True}])
def test_a_busy_lock_in_a_hook_or_under_a_call_of_the_tasks_own_sends_the_run_again_too(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State, options: dict[str, Any]
) -> None:
    key = {"idempotency_key": "k"} if options.pop("key", False) else {}
    with state.lock("busy", ttl=60):
        result = tasks.hooked.apply_async(("busy",), options, **key)
        run_of(app, result.id, status="RETRY")
    assert result.get(timeout=20) == "done"
    assert len(notes(app, "hooked")) == 1


def test_locks_of_a_run_that_failed_under_a_call_of_its_own_are_free(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with pytest.raises(ValueError, match="l"):
        tasks.hooked.apply_async(("l",), {"own_call": True, "fail": True}).get(timeout=10)
    lock_free(state, "l", timeout=1)


def test_a_hook_after_the_end_is_told_that_the_lock_is_busy_and_the_error_stands(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with state.lock("busy", ttl=60):
        with pytest.raises(ValueError, match="l"):
            tasks.hooked.apply_async(("l",), {"fail": True, "after": "busy"}).get(timeout=10)
        wait_for_note(app, "busy after the end")
    assert notes(app, "never") == []


# -- locks and the attempts of a run -------------------------------------------------------------------------------


@PATIENT
@pytest.mark.parametrize("how", ["retry", "auto"])
def test_keep_on_retry_lets_no_other_run_in_between_though_the_countdown_is_longer_than_the_ttl(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State, how: str
) -> None:
    kept = tasks.keep.delay("l", 1, 6.0, "retry") if how == "retry" else tasks.keep_auto.delay("l", 1)
    wait_for_note(app, "keep")
    parked: Any = wait_for(
        lambda: (info := state.lock_info("l")) is not None and info.parked and info, message="the lock to be parked"
    )
    assert isinstance(parked, LockInfo)
    other = tasks.hold.delay("l", 0.0)

    assert kept.get(timeout=20) == "done"
    assert other.get(timeout=40) == "held"

    first, second = notes(app, "keep")
    assert second["fence"] > first["fence"] == parked.fence
    assert second["at"] - first["at"] > 5.5
    assert notes(app, "hold")[0]["at"] > second["at"]
    assert state.lock_info("l") is None


@PATIENT
def test_keep_on_retry_gives_the_lock_back_after_the_last_retry_failed(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    result = tasks.keep_auto.apply_async(("l", 9))
    with pytest.raises(tasks.NotYetError):
        result.get(timeout=20)
    assert len(notes(app, "keep")) == 2
    assert state.lock_info("l") is None


def test_a_kept_lock_stays_while_the_run_waits_for_another_that_is_busy(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    with state.lock("busy", ttl=60):
        result = tasks.keep_while_busy.delay("kept", "busy")
        wait_for(lambda: len(notes(app, "keep")) >= 2, timeout=15, message="the run to have come back")
        info = state.lock_info("kept")
        assert info is not None
        assert info.run_id == result.id
        assert not state.lock("kept").acquire()
    assert result.get(timeout=30) == "done"
    assert {one["retries"] for one in notes(app, "keep")} == {0}
    assert state.lock_info("kept") is None


@pytest.mark.parametrize("how", ["error", "reject", "exit", "none"])
def test_a_kept_lock_is_free_at_once_after_any_other_end(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State, how: str
) -> None:
    tasks.end_with.delay("l", how)
    wait_for_note(app, "hold")
    lock_free(state, "l", timeout=2)


def test_a_soft_time_limit_frees_the_lock_at_once_and_a_hard_one_within_its_ttl(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    soft = tasks.end_with.apply_async(("soft", "sleep"), soft_time_limit=2)
    hard = tasks.end_with.apply_async(("hard", "sleep"), time_limit=2)
    wait_for_note(app, "hold", count=2)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=10)
    assert state.lock_info("soft") is None
    with pytest.raises(Exception, match="TimeLimitExceeded"):
        hard.get(timeout=10)
    # Billiard asks the process to end before it kills it, so it may be sooner.
    lock_free(state, "hard", timeout=5.5)


def test_revoke_with_terminate_frees_the_lock_within_its_ttl(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    result = tasks.end_with.delay("l", "sleep")
    wait_for_note(app, "hold")
    result.revoke(terminate=True)
    lock_free(state, "l", timeout=6)


def test_a_warm_shutdown_frees_the_lock_when_the_task_ends(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    tasks.hold.delay("l", 2.0)
    wait_for_note(app, "hold")
    celery_worker.kill("SIGTERM")
    exited(celery_worker)
    assert len(notes(app, "let go")) == 1
    assert state.lock_info("l") is None


@PATIENT
def test_a_second_delivery_of_a_live_attempt_is_busy_and_never_inside_with_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given a message, copied before a worker takes it
    celery_worker.kill("SIGTERM")
    exited(celery_worker)
    result = tasks.hold.delay("l", 3.0)
    (message,) = messages(app)
    push(app, message)

    # when both are delivered
    celery_worker.container.start()
    celery_worker.ready()
    wait_for(lambda: len(notes(app, "let go")) == 2, timeout=30, message="both to have run", node=celery_worker)

    # then one after the other
    held, let_go = notes(app, "hold"), notes(app, "let go")
    assert {one["id"] for one in held} == {result.id}
    assert held[0]["at"] < let_go[0]["at"] <= held[1]["at"] < let_go[1]["at"]
    assert held[1]["fence"] > held[0]["fence"]


@pytest.mark.worker(conf={"task_reject_on_worker_lost": True})
def test_after_the_holder_was_killed_its_redelivery_enters_within_the_ttl(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    tasks.hold_and_die.delay("l")
    first = wait_for_note(app, "hold")
    again = wait_for_note(app, "hold", count=2, timeout=20, node=celery_worker)
    assert 5.0 < again["at"] - first["at"] < 13  # the TTL, and a countdown that looks again
    assert again["id"] == first["id"]
    AsyncResult(first["id"], app=app).revoke(terminate=True)


def test_a_stalled_holder_writes_nothing_through_a_guarded_write(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State
) -> None:
    state.set("guarded", "fresh")
    result = tasks.stall.delay("l")
    stalled = wait_for_note(app, "stalling")
    lock_free(state, "l", timeout=7)
    with state.lock("l", ttl=60) as lock:
        assert lock.fence > stalled["fence"]
        os.kill(stalled["worker"], signal.SIGCONT)
        assert result.get(timeout=10) == ["check", "set", "increment"]
        lock.check()
    assert (state.get("guarded"), state.count("counted")) == ("fresh", 0)


# -- steps ---------------------------------------------------------------------------------------------------------


def test_steps_survive_retries(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.order.delay(7, "retry")
    assert result.get(timeout=20) == {"paid": "paid 7", "shipped": "shipped 7"}
    assert (len(notes(app, "charge")), len(notes(app, "ship"))) == (1, 1)
    run_of(app, result.id, status="SUCCESS")
    told = [event.data for event in StackState.of(app).runs.events(result.id) if event.name == "step"]
    assert [(one["step"], "again" in one) for one in told] == [
        ("charge", False),
        ("charge", True),
        ("charge", True),
        ("ship", False),
    ]


@pytest.mark.worker(conf={"task_acks_late": True, "task_reject_on_worker_lost": True})
@BOTH
def test_steps_survive_sigkill_and_redelivery(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    result = tasks.order.delay(7, "kill")
    assert result.get(timeout=30) == {"paid": "paid 7", "shipped": "shipped 7"}
    assert (len(notes(app, "charge")), len(notes(app, "ship"))) == (1, 1)


# -- pace ----------------------------------------------------------------------------------------------------------


def test_or_retry_spreads_the_runs_over_time_without_using_up_a_retry(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    results = [tasks.call_api.delay(number) for number in range(5)]
    assert sorted(result.get(timeout=40) for result in results) == list(range(5))
    calls = notes(app, "call")
    assert {one["retries"] for one in calls} == {0}
    moments = sorted(one["at"] for one in calls)
    assert min(later - earlier for earlier, later in itertools.pairwise(moments)) > 0.45


# -- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.worker(count=1)
def test_after_sigkill_of_all_workers_state_is_there_and_locks_are_free_within_their_ttl(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, state: State, start_worker: StartWorker
) -> None:
    state.set("before", "kept")
    tasks.hold.delay("l", 30.0)
    wait_for_note(app, "hold")
    celery_worker.kill("SIGKILL")
    watch = Stopwatch()
    start_worker()
    result = tasks.hold.apply_async(("l", 0.0), {"wait": 10})
    assert result.get(timeout=20) == "held"
    assert watch.seconds < 5 + 8  # the TTL, and the new worker's start
    assert state.get("before") == "kept"
