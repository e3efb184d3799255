"""The guard around task classes with a `__call__` of their own, and under the tools that wrap what Celery calls."""

from __future__ import annotations

import importlib.util
import time
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState
from tests.nodes import StartWorker
from tests.waiting import wait_for
from tests.worker.probes import messages, notes, push, wait_for_note
from tests.worker.test_idempotency import SHORT, has_event, settled

CLASSES = ["StateTask", "InContext", "CallsBase", "Mixed", "Twice"]
INSTRUMENTS = [
    "base_class",
    "each_class",
    pytest.param(
        "sentry",
        marks=pytest.mark.skipif(importlib.util.find_spec("sentry_sdk") is None, reason="needs sentry-sdk"),
    ),
    pytest.param(
        "opentelemetry",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("opentelemetry") is None,
            reason="needs opentelemetry-instrumentation-celery and opentelemetry-sdk",
        ),
    ),
]

pytestmark = pytest.mark.worker(app="tests.worker.app_calls", conf=SHORT, broker="redis")


def delivered_twice(app: Celery, start_worker: StartWorker, name: str) -> Any:
    """Publish a keyed run, let its message be delivered twice, and return its handle when both are done with."""
    result = app.tasks[name].apply_async((5,), idempotency_key="k")
    push(app, messages(app)[0])
    worker = start_worker(concurrency=1)
    has_event(app, result.id, "replayed", worker)
    return result


@pytest.mark.parametrize("name", CLASSES)
def test_a_key_counts_whatever_the_call_of_the_task_class_does(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, name: str
) -> None:
    result = delivered_twice(app, start_worker, name)
    assert result.get(timeout=10) == 5
    assert len(notes(app, "pay")) == 1
    assert len(notes(app, "called")) == (name != "StateTask")
    settled(app, "k", name, "SUCCEEDED")
    assert not app.tasks[name].apply_async((5,), idempotency_key="k").created


@pytest.mark.worker(conf={**SHORT, "stackstate_start_deadline": 1})
def test_a_run_that_would_come_back_ends_where_the_class_calls_the_body_itself(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    app.tasks["rerun"].delay(1).get(timeout=10)
    time.sleep(4)
    assert len(notes(app, "pay")) == 1


def test_autoretry_a_nested_call_and_a_busy_lock_are_as_ever(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    assert app.tasks["autoretried"].apply_async((2,), idempotency_key="k").get(timeout=10) == 2
    assert [note["retries"] for note in notes(app, "pay")] == [0, 1, 2]
    assert app.tasks["nested"].apply_async((1,), idempotency_key="k").get(timeout=10) == [2, 1]
    with StackState.of(app).state.lock("busy", ttl=5):
        result = app.tasks["waiting"].apply_async(idempotency_key="k")
        has_event(app, result.id, "retry", celery_worker)
    assert result.get(timeout=20) == "entered"


@pytest.mark.parametrize("name", CLASSES)
def test_called_like_a_function_and_eagerly_a_task_is_only_called(app: Celery, tasks: ModuleType, name: str) -> None:
    task = app.tasks[name]
    assert task(5) == 5
    assert task.apply((5,), idempotency_key="k").get() == 5
    assert len(notes(app, "pay")) == 2
    assert len(notes(app, "called")) == (0 if name == "StateTask" else 2)
    assert not StackState.of(app).idempotency.list().items


@pytest.mark.parametrize("instrument", INSTRUMENTS)
@pytest.mark.parametrize("name", ["StateTask", "InContext"])
def test_under_a_tool_that_wraps_what_celery_calls_a_key_counts(
    app: Celery,
    tasks: ModuleType,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    instrument: str,
    name: str,
) -> None:
    monkeypatch.setenv("INSTRUMENT", instrument)  # in the workers alone; the producer of this process has none
    result = delivered_twice(app, start_worker, name)
    assert result.get(timeout=10) == 5
    assert len(notes(app, "pay")) == 1
    settled(app, "k", name, "SUCCEEDED")
    killed = app.tasks["killed_once"].apply_async(idempotency_key="k")
    assert killed.get(timeout=20) == "survived"
    assert len(notes(app, "pay")) == 3
    with pytest.raises(ValueError, match="no"):
        app.tasks["failing"].apply_async(idempotency_key="k").get(timeout=10)
    settled(app, "k", "failing", "FAILED")
    _was_at_work(app, instrument)


def _was_at_work(app: Celery, instrument: str) -> None:
    """Fail unless the tool has seen the runs: a test of one that does nothing would show nothing."""
    if instrument == "each_class":
        assert notes(app, "patched call")
        assert notes(app, "patched tracer")
    if instrument == "sentry":
        wait_for(lambda: ["ValueError"] in [one["errors"] for one in notes(app, "sent")], message="the error")
    if instrument == "opentelemetry":
        wait_for(lambda: ("run/failing", "ERROR") in _spans(app), message="the span of the error")
        wait_for_note(app, "span")


def _spans(app: Celery) -> list[tuple[str, str]]:
    return [(one["span"], one["code"]) for one in notes(app, "span")]
