"""The nouns are tested over one store of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from celery_stackstate.holding import HeldLocks, LockOwner, Postpone
from celery_stackstate.renewal import renewer
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store

LIMIT = 262_144


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql", "mysql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/state.sqlite3"}
    url = urls.get(request.param) or request.getfixturevalue(f"{request.param}_url")
    # Long: how slow a store may be is no concern of the nouns.
    opened = open_store(url, prefix=f"test-{uuid4().hex}", timeout=30)
    yield opened
    renewer.forget_all()
    opened.close()


def state_of(
    store: Store,
    run_id: str | None = "run-1",
    *,
    task: str = "shop.tasks.import",
    postpone: Postpone | None = None,
    held: HeldLocks | None = None,
) -> State:
    """Return the state as one execution of a run sees it, or without a run as code outside of runs does."""
    owner = None
    if run_id is not None:
        held = HeldLocks() if held is None else held
        name = f"{task}[{run_id}]"
        owner = LockOwner(name, uuid4().hex, run_id=run_id, postpone=postpone, held=held)
    return State(store, RunContext(owner, run_id=run_id, task=task, run_ttl=3600), limit=LIMIT)


@pytest.fixture
def state(store: Store) -> State:
    return state_of(store)
