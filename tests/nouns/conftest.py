"""The nouns are tested over every store: memory, SQLite and Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from celery_stackstate.locks import LockOwner
from celery_stackstate.state import RunContext, State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store

LIMIT = 262_144


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    urls = {"memory": lambda: "memory://", "sqlite": lambda: f"sqlite:///{tmp_path}/state.sqlite3"}
    url = request.getfixturevalue("redis_url") if request.param == "redis" else urls[request.param]()
    opened = open_store(url, prefix=f"test-{uuid4().hex}", timeout=5)
    yield opened
    opened.close()


def state_of(store: Store, run_id: str | None = "run-1", *, task: str = "shop.tasks.import") -> State:
    """Return the state as one execution of a run sees it."""
    context = RunContext(LockOwner(f"{task}[{run_id}]", uuid4().hex), run_id=run_id, task=task, run_ttl=3600)
    return State(store, context, limit=LIMIT)


@pytest.fixture
def state(store: Store) -> State:
    return state_of(store)
