"""A world in which some workers live and others are dead, over a store; without any worker."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest
from celery import Celery

from celery_stackstate import StackState, liveness
from celery_stackstate.facts import now_micros
from celery_stackstate.stores.base import Store
from celery_stackstate.worker import copies
from celery_stackstate.worker.copies import Copies
from celery_stackstate.worker.reaper import Reaper
from tests.reaping.world import DEAD, DEAD_TOO, LIVE, ME, PID, STOPPED, enrol


@pytest.fixture(autouse=True)
def own_copies(monkeypatch: pytest.MonkeyPatch) -> Copies:
    """A list of copies of the test's own."""
    monkeypatch.setattr(copies, "of_this_worker", Copies())
    return copies.of_this_worker


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Where to; a test that is parametrized for other stores says which."""
    return "memory://"


@pytest.fixture
def extension(url: str) -> Iterator[StackState]:
    app = Celery("losses", set_as_current=False)
    app.conf.update(stackstate_url=url, stackstate_prefix=f"test-{uuid4().hex}", stackstate_worker_lease=30)
    made = StackState(app)
    yield made
    made.close()
    app.close()


@pytest.fixture
def store(extension: StackState) -> Store:
    """The store of a world in which LIVE and ME live, DEAD and DEAD_TOO are dead, and STOPPED has stopped."""
    for lease in (ME, LIVE, DEAD, DEAD_TOO, STOPPED):
        enrol(extension.store, lease)
        liveness.renew(extension.store, lease, seconds=3600, pids=[PID], before=0, listed=now_micros())
    for lease in (DEAD, DEAD_TOO):
        extension.store.remove(lease.key)
    liveness.give_up(extension.store, STOPPED)
    return extension.store


@pytest.fixture
def the_reaper(extension: StackState, store: Store) -> Reaper:
    return Reaper(extension, ME)
