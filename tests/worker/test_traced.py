"""Beside tracers that wrap tasks, and under a base class of the project's own, all goes as without them."""

from __future__ import annotations

from types import ModuleType

import pytest
from celery import Celery

from celery_stackstate.records import FAILURE, SUCCESS
from tests.nodes import StartWorker
from tests.waiting import wait_for
from tests.worker.probes import key_state, notes, run_of

pytestmark = pytest.mark.worker(app="tests.worker.app_traced", broker="redis")

#: What each imports, and what the worker then prints of a failed run.
TRACERS = {
    "sentry": (("sentry_sdk",), "sentry saw ValueError"),
    "opentelemetry": (
        ("opentelemetry.instrumentation.celery", "opentelemetry.sdk"),
        "span run/tests.worker.app_traced.refuse",
    ),
}


@pytest.mark.parametrize("tracers", ["", "sentry", "opentelemetry", "sentry opentelemetry"])
def test_keys_state_and_history_work_beside_what_else_wraps_a_task(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, tracers: str
) -> None:
    # given
    for name in tracers.split():
        for module in TRACERS[name][0]:
            pytest.importorskip(module, reason=f"pip install what brings {module}")
    worker = start_worker(env={"STACKSTATE_TEST_TRACERS": tracers})

    # when
    first = tasks.charge.apply_async((1,), idempotency_key="k")
    again = tasks.charge.apply_async((1,), idempotency_key="k")
    inside = tasks.publish.delay("inside").get(timeout=15)
    retried, refused = tasks.flaky.delay(), tasks.refuse.delay()

    # then
    assert first.get(timeout=15) == [1, "acme", 1]
    assert (again.id, first.created, again.created) == (first.id, True, False)
    assert [created for _, created in inside] == [True, False]
    assert retried.get(timeout=15) == 1
    with pytest.raises(ValueError, match="no"):
        refused.get(timeout=15)
    assert [len(run_of(app, one.id, status=SUCCESS).attempts) for one in (first, retried)] == [1, 2]
    run = run_of(app, refused.id, status=FAILURE)
    assert (run.error, len(run.attempts)) == ("ValueError: no", 1)
    wait_for(lambda: key_state(app, "inside", tasks.charge.name) == "SUCCEEDED", message="the key's success")
    assert len(notes(app, "charge")) == 2
    assert len([one for one in notes(app, "audited") if one["id"] == first.id]) == 1

    # and they saw it, too
    wait_for(
        lambda: all(TRACERS[name][1] in worker.logs() for name in tracers.split()),
        message="what the tracers saw",
        node=worker,
    )
