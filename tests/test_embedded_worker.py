"""A worker in a thread of this process, as celery.contrib.testing starts one for a project's tests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.backends.base import Backend
from celery.contrib.testing.worker import start_worker

from celery_stackstate import StackState, StateTask
from celery_stackstate.liveness import roll
from tests.waiting import wait_for


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("embedded", broker="memory://", set_as_current=False)
    app.conf.stackstate_url = f"sqlite:///{tmp_path}/state.sqlite3"
    level, handlers = logging.root.level, list(logging.root.handlers)
    extension = StackState(app)
    yield app
    extension.close()
    logging.root.setLevel(level)
    logging.root.handlers[:] = handlers


def upkeep() -> list[str]:
    names = ("stackstate-lease", "stackstate-reaper")
    return sorted(thread.name for thread in threading.enumerate() if thread.name in names)


def test_a_worker_that_ends_in_a_process_that_goes_on_renews_nothing(app: Celery) -> None:
    before = upkeep()
    with start_worker(app, perform_ping_check=False):
        wait_for(lambda: upkeep() == sorted([*before, "stackstate-lease", "stackstate-reaper"]), message="its threads")
        assert roll(StackState.of(app).store)
    wait_for(lambda: upkeep() == before, message="its threads to end", timeout=5)


def test_lines_of_a_logger_that_hands_nothing_up_are_recorded_there_too(
    app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("embedded.apart")
    monkeypatch.setattr(logger, "propagate", False)

    @app.task(base=StateTask)
    def talk() -> None:
        logger.error("by a logger that hands nothing up")  # such a worker logs errors only

    with start_worker(app, perform_ping_check=False):
        result = talk.delay()
        runs = StackState.of(app).runs
        wait_for(lambda: runs.logs(result.id), message="the line to be recorded")
    assert [line.message for line in runs.logs(result.id)] == ["by a logger that hands nothing up"]


class Told(Backend):
    """A result backend that tells what it is given."""

    by: Callable[[], None]

    def store_result(self, *_: Any, **__: Any) -> None:
        """Tell it."""
        Told.by()


@pytest.mark.parametrize("hears", ["on_success", "task_success", "link", "result backend"])
def test_who_hears_of_a_success_before_its_attempt_ends_finds_that_the_key_knows_of_it(app: Celery, hears: str) -> None:
    # given
    keys, seen = StackState.of(app).idempotency, list[str]()

    def look(*_: Any, **__: Any) -> None:
        record = keys.get("k", task="pay")
        assert record is not None
        seen.append(record.state)

    class Heard(StateTask):
        abstract = True
        on_success = look

    @app.task(base=Heard if hears == "on_success" else StateTask, name="pay", shared=False)
    def pay() -> int:
        return 7

    @app.task(base=StateTask, name="after", shared=False)
    def after() -> None: ...

    if hears == "task_success":
        signals.task_success.connect(look, sender=pay, weak=False, dispatch_uid="look")
    if hears == "link":
        signals.before_task_publish.connect(look, sender="after", weak=False, dispatch_uid="look")
    if hears == "result backend":
        Told.by = staticmethod(look)
        app.conf.result_backend = f"{__name__}.{Told.__name__}"
    try:
        # when
        with start_worker(app, perform_ping_check=False):
            result = pay.apply_async(idempotency_key="k", link=after.si() if hears == "link" else None)
            wait_for(lambda: _status(app, result.id) == "SUCCESS", message="the end of the run")
    finally:
        signals.task_success.disconnect(dispatch_uid="look", sender=pay)
        signals.before_task_publish.disconnect(dispatch_uid="look", sender="after")
    # then
    assert seen
    assert set(seen) == {"SUCCEEDED"}


def test_a_success_that_nobody_hears_of_before_is_known_of_when_its_attempt_has_ended(app: Celery) -> None:
    @app.task(base=StateTask, name="pay", shared=False)
    def pay() -> int:
        return 7

    with start_worker(app, perform_ping_check=False):
        result = pay.apply_async(idempotency_key="k")
        wait_for(lambda: _status(app, result.id) == "SUCCESS", message="the end of the run")
        record = StackState.of(app).idempotency.get("k", task="pay")
        assert record is not None
        assert record.state == "SUCCEEDED"
        assert pay.apply_async(idempotency_key="k").get(timeout=5) == 7


def _status(app: Celery, run_id: str) -> str | None:
    run = StackState.of(app).runs.get(run_id)
    return None if run is None else run.status
