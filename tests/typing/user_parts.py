"""What a project uses beside the package's own names: Django, signals, beat, and the fixtures of its tests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from celery import Celery
from typing_extensions import assert_type

from celery_stackstate import RunResult, StackState, State
from celery_stackstate.beat import PURGE, current_due
from celery_stackstate.django import DjangoStateTask
from celery_stackstate.signals import duplicate_suppressed, run_finished, run_lost
from celery_stackstate.testing import (
    AssertEnqueued,
    Enqueued,
    ReadHistory,
    RefuteEnqueued,
    RunHistory,
    StoreClock,
    StoreContract,
)

app = Celery("site", task_cls=DjangoStateTask)


class Welcome(DjangoStateTask):
    name = "site.welcome"
    on_duplicate = "raise"

    def run(self, user: int) -> None:
        assert_type(self.state.count("welcomed"), int)


def on_commit(task: DjangoStateTask) -> None:
    task.delay_on_commit(1)
    task.apply_async_on_commit((1,), idempotency_key="welcome:1")
    assert_type(task.delay(1), RunResult)


def count_failures(sender: str, status: str, error: str | None, **_: Any) -> None: ...


run_finished.connect(count_failures)
run_lost.connect(count_failures)
duplicate_suppressed.connect(count_failures)

schedule: dict[str, Mapping[str, Any]] = {"purge": PURGE}
assert_type(current_due(), datetime | None)


def test_with_the_fixtures(
    stackstate: StackState,
    state: State,
    assert_enqueued: AssertEnqueued,
    refute_enqueued: RefuteEnqueued,
    run_history: ReadHistory,
    stackstate_clock: StoreClock,
) -> None:
    (sent,) = assert_enqueued("site.welcome", key="welcome:1", kwargs={"user": 1}, count=1)
    assert_type(sent, Enqueued)
    assert_type(sent.args, tuple[Any, ...])
    refute_enqueued("site.welcome", queue="slow")
    history = run_history(sent, timeout=5)
    assert_type(history, RunHistory)
    assert_type(history.logs[0].message, str)
    assert_type(stackstate_clock.advance(hours=1), datetime)
    assert_type(stackstate.state, State)
    assert_type(state.count("welcomed"), int)


class TestOurStore(StoreContract): ...
