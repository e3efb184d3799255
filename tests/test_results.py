"""The handles of keyed runs, read from the result backend and from the records of their keys."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery
from celery.backends.base import DisabledBackend
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_stackstate import LeaderFailed, RunResult, StackState, StateTask
from celery_stackstate.key_record import Attempt, Verdict, store_key
from celery_stackstate.liveness import Lease

BACKENDS = ["cache+memory://", "disabled://"]


def make_app(backend: str) -> Celery:
    app = Celery("results", broker="memory://", backend=backend, task_cls=StateTask, set_as_current=False)
    app.conf.stackstate_url = "memory://"
    app.conf.task_default_queue = f"results-{uuid4()}"
    StackState(app)
    return app


@pytest.fixture(params=BACKENDS)
def app(request: pytest.FixtureRequest) -> Celery:
    return make_app(request.param)


@pytest.fixture
def task(app: Celery) -> Any:
    return app.task(name="add", shared=False)(add)


def add(x: int, y: int = 2) -> int:
    return x + y


def run(app: Celery, key: str, task: str = "add", *, result: str | None = "3") -> None:
    """Do to the record of a key what a worker does, without telling the result backend."""
    keys = StackState.of(app).key_protocol
    record = keys.record(store_key(f"task:{task}", key))
    assert record is not None
    claim = keys.claim(record.ticket, Attempt("e", Lease("w", "b"), 1, 1))
    assert claim.verdict is Verdict.RUN
    keys.succeed(claim, result)


# -- what a handle says of its call --------------------------------------------------------------------------------


@pytest.mark.parametrize("through", [copy.copy, lambda result: pickle.loads(pickle.dumps(result))])
def test_a_copy_of_a_handle_says_the_same_of_the_call(task: Any, through: Callable[[RunResult], RunResult]) -> None:
    first, again = (task.apply_async((1,), idempotency_key="k") for _ in range(2))
    for result in (first, again):
        other = through(result)
        assert (other.id, other.created, other._ticket) == (result.id, result.created, result._ticket)
    assert not through(again).created


def test_a_callback_gets_what_is_read_from_the_key(task: Any) -> None:
    result, got = task.apply_async((1,), idempotency_key="k"), []
    run(task.app, "k")
    assert result.get(timeout=5, callback=lambda run_id, value: got.append((run_id, value))) == 3
    assert got == [(result.id, 3)]


@pytest.mark.parametrize("known", [True, False])
def test_handles_of_runs_that_were_sent_by_name_are_read_from_the_key(app: Celery, known: bool) -> None:
    if known:
        app.task(name="by.name", shared=False)(add)
    send = lambda: app.send_task("by.name", (1,), idempotency_key="k")  # noqa: E731
    leader, duplicate = send(), send()
    signed = app.signature("by.name", (1,)).apply_async(idempotency_key="k")
    assert [one.created for one in (leader, duplicate, signed)] == [True, False, False]
    assert {RunResult} == {type(one) for one in (leader, duplicate, signed)}
    assert {"PENDING"} == {one.state for one in (leader, duplicate, signed)}
    run(app, "k", "by.name")
    for result in (leader, duplicate, signed):
        assert (result.get(timeout=5), result.state) == (3, "SUCCESS")


@pytest.mark.parametrize("how", ["by name", "with an option"])
def test_a_wait_for_a_run_ends_though_its_result_never_comes_to_the_backend(app: Celery, how: str, task: Any) -> None:
    if how == "by name":
        result = app.send_task("by.name", (1,), idempotency_key="k")
    else:
        result = task.apply_async((1,), idempotency_key="k", ignore_result=True)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(one.get, timeout=10) for one in (result, copy.copy(result))]
        with pytest.raises(CeleryTimeoutError):
            copy.copy(result).get(timeout=0.3)
        run(app, "k", "by.name" if how == "by name" else "add")
        assert [one.result(timeout=3) for one in waiting] == [3, 3]


def test_a_wait_is_as_long_as_was_asked_for(task: Any) -> None:
    result = task.apply_async((1,), idempotency_key="k")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(result.get, timeout=2.4)
        time.sleep(2)
        run(task.app, "k")
        assert waiting.result(timeout=3) == 3


def test_what_the_key_tells_first_gives_way_to_what_the_backend_tells_then() -> None:
    app = make_app("cache+memory://")
    task = app.task(name="add", shared=False)(add)
    result = task.apply_async((1,), idempotency_key="k")
    run(app, "k")
    assert (result.ready(), result.result, result.traceback) == (True, 3, None)
    app.backend.store_result(result.id, ValueError("at the callback"), "FAILURE", traceback="Traceback: here")
    assert (result.state, result.traceback) == ("FAILURE", "Traceback: here")


def test_a_result_that_could_not_be_kept_with_its_key(task: Any) -> None:
    result = task.apply_async((1,), idempotency_key="k")
    run(task.app, "k", result=None)
    if isinstance(task.app.backend, DisabledBackend):
        assert result.state == "SUCCESS"
        with pytest.raises(LeaderFailed, match="its result could not be kept with its key"):
            result.get(timeout=5)
        assert result.get(timeout=5, propagate=False) is None
    else:  # which is about to have it
        assert not result.ready()
        task.app.backend.store_result(result.id, 3, "SUCCESS")
        assert result.get(timeout=5) == 3


# -- what was replaced ---------------------------------------------------------------------------------------------


def test_a_run_that_was_replaced_is_revoked_for_whoever_asks(task: Any) -> None:
    first = task.apply_async((1,), idempotency_key="k")
    before = copy.copy(first)
    assert before.state == "PENDING"
    second = task.apply_async((2,), idempotency_key="k", on_duplicate="replace")
    for result in (first, before):
        with pytest.raises(TaskRevokedError, match=second.id):
            result.get(timeout=5)
        assert (result.state, result.ready(), result.failed()) == ("REVOKED", True, False)
        assert isinstance(result.get(timeout=5, propagate=False), TaskRevokedError)
    assert second.state == "PENDING"


def test_a_wait_for_a_run_ends_when_it_is_replaced(task: Any) -> None:
    first = task.apply_async((1,), idempotency_key="k")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(first.get, timeout=10)
        with pytest.raises(CeleryTimeoutError):
            copy.copy(first).get(timeout=0.7)
        task.apply_async((2,), idempotency_key="k", on_duplicate="replace")
        with pytest.raises(TaskRevokedError):
            waiting.result(timeout=5)


def test_what_follows_a_replaced_run_has_its_outcome_from_the_worker() -> None:
    app = make_app("cache+memory://")
    task = app.task(name="add", shared=False)(add)
    first = task.apply_async((1,), idempotency_key="k", link=task.s(5))
    task.apply_async((2,), idempotency_key="k", on_duplicate="replace")
    assert app.backend.get_state(first.id) == "PENDING"
