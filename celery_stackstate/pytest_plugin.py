"""The pytest plug-in: fixtures for tests of tasks, over a store in memory. Guide: docs/testing.md.

pytest loads this module in every project that has the package installed, so it imports pytest alone; all else is
imported when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery import Celery

    from celery_stackstate.extension import StackState
    from celery_stackstate.state import State
    from celery_stackstate.testing.assertions import AssertEnqueued, ReadHistory, RefuteEnqueued
    from celery_stackstate.testing.clock import StoreClock
    from celery_stackstate.testing.enqueued import Outbox

#: Fixtures by which a test has an app of its own: those of celery.contrib.pytest and of pytest-celery.
APPS = ("celery_app", "celery_session_app", "celery_setup_app")
#: Fixtures by which a test has a worker.
WORKERS = ("celery_worker", "celery_session_worker", "celery_worker_cluster", "celery_setup")
SESSION_WORKER = "celery_session_worker"


@dataclass(frozen=True)
class Kit:
    """What the fixtures of one test share."""

    extension: StackState
    outbox: Outbox
    has_worker: bool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let our stores be there before a worker starts, which looks at the store, whatever the order of arguments."""
    for item in items:
        names: list[str] = getattr(item, "fixturenames", [])
        if "_stackstate_kit" in names:
            first = next((place for place, name in enumerate(names) if name in WORKERS), None)
            if first is not None:
                ours = ["_stackstate_kit"]
                if SESSION_WORKER in names:
                    ours.insert(0, "_stackstate_between_tests")
                names[first:first] = ours


# -- what a project may override -----------------------------------------------------------------------------------


@pytest.fixture
def stackstate_app(request: pytest.FixtureRequest) -> Celery[Any]:
    """The Celery app under test. Override it where there are several.

    It is that of `celery_app`, `celery_session_app` or `celery_setup_app` in a test that uses one of these; else the
    app that STACKSTATE_APP names, or the only one with celery-stackstate that was imported.
    """
    from celery_stackstate.errors import ConfigurationError
    from celery_stackstate.testing.stand_in import project_app

    for name in APPS:
        if name in request.fixturenames:
            app: Celery[Any] = request.getfixturevalue(name)
            return app
    try:
        return project_app()
    except ConfigurationError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)


@pytest.fixture
def stackstate_url() -> str:
    """Where state and keys are kept: in an empty store of each test's own. Override it to test over another store.

    In that store nothing is removed after a test.
    """
    return "memory://"


@pytest.fixture
def stackstate_runs_url(stackstate_url: str) -> str:
    """Where the run history is kept: as `stackstate_url`, but in memory beside Django's database."""
    return "memory://" if stackstate_url.startswith("django:") else stackstate_url


@pytest.fixture
def stackstate_offline(request: pytest.FixtureRequest) -> bool:
    """Whether messages are dropped instead of sent, and results kept in memory: in each test without a worker.

    Override it to return False where you bring a broker by other means than the fixtures of celery.contrib.pytest
    and pytest-celery.
    """
    return not _has_worker(request)


# -- what a test uses ----------------------------------------------------------------------------------------------


@pytest.fixture
def stackstate(_stackstate_kit: Kit) -> StackState:
    """The extension of the app, over an empty store of this test's own; what is configured is not touched."""
    return _stackstate_kit.extension


@pytest.fixture
def state(stackstate: StackState) -> State:
    """The app-wide state, as `self.state` gives it inside a task."""
    return stackstate.state


@pytest.fixture
def stackstate_clock(stackstate: StackState) -> StoreClock:
    """The clock of the test's store, to be put forward."""
    from celery_stackstate.errors import ConfigurationError
    from celery_stackstate.testing.stand_in import clock_of

    try:
        return clock_of(stackstate)
    except ConfigurationError as error:
        reason = str(error)
    pytest.fail(reason, pytrace=False)


@pytest.fixture
def assert_enqueued(_stackstate_kit: Kit) -> AssertEnqueued:
    """Assert that a task was enqueued: `assert_enqueued(pay, key="order:7", kwargs={"amount": 5})`."""
    from celery_stackstate.testing.assertions import AssertEnqueued

    return AssertEnqueued(_stackstate_kit.extension, _stackstate_kit.outbox)


@pytest.fixture
def refute_enqueued(_stackstate_kit: Kit) -> RefuteEnqueued:
    """Assert that a task was not enqueued: `refute_enqueued(pay)`."""
    from celery_stackstate.testing.assertions import RefuteEnqueued

    return RefuteEnqueued(_stackstate_kit.extension, _stackstate_kit.outbox)


@pytest.fixture
def run_history(_stackstate_kit: Kit) -> ReadHistory:
    """Read what was recorded of a run: `run_history(result).attempts`, `.events`, `.logs`."""
    from celery_stackstate.testing.assertions import ReadHistory

    return ReadHistory(_stackstate_kit.extension, has_worker=_stackstate_kit.has_worker)


# -- inside --------------------------------------------------------------------------------------------------------


@pytest.fixture
def _stackstate_kit(
    request: pytest.FixtureRequest,
    stackstate_app: Celery[Any],
    stackstate_url: str,
    stackstate_runs_url: str,
    stackstate_offline: bool,
) -> Iterator[Kit]:
    from celery_stackstate.testing.clock import StoreClock
    from celery_stackstate.testing.enqueued import Outbox
    from celery_stackstate.testing.offline import offline
    from celery_stackstate.testing.stand_in import current, logging_to_runs, renew_leases, standing_in
    from celery_stackstate.testing.watching import watched

    clock, outbox = StoreClock(lambda: renew_leases(_workers(request))), Outbox()
    with ExitStack() as stack:
        extension = stack.enter_context(
            standing_in(stackstate_app, clock, url=stackstate_url, runs_url=stackstate_runs_url)
        )
        stack.enter_context(current(extension.app))
        if stackstate_offline:
            stack.enter_context(offline(extension.app))
        stack.enter_context(watched(extension, outbox))
        stack.enter_context(logging_to_runs())
        if SESSION_WORKER in request.fixturenames:  # it may have started long before
            renew_leases([request.getfixturevalue(SESSION_WORKER)])
        yield Kit(extension, outbox, _has_worker(request))


@pytest.fixture(scope="session")
def _stackstate_between_tests(celery_session_app: Celery[Any]) -> Iterator[None]:
    """Keep a worker that outlives tests away from the configured store between them."""
    from celery_stackstate.testing.clock import StoreClock
    from celery_stackstate.testing.stand_in import standing_in

    with standing_in(celery_session_app, StoreClock()):
        yield


def _has_worker(request: pytest.FixtureRequest) -> bool:
    return any(name in request.fixturenames for name in WORKERS)


def _workers(request: pytest.FixtureRequest) -> list[Any]:
    """Return the workers of the test that are up."""
    running: dict[str, Any] = getattr(request.node, "funcargs", {})
    return [running[name] for name in WORKERS if name in running]
