"""Which stores put and append in one step: those for which it takes no further round trip."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, StoredEvent

START = RunWrite("r", 1, RunFacts(task="t"), RunStanding("STARTED"), [StoredEvent("u", 1, "started", "e", b"{}")])


@pytest.mark.parametrize(
    ("place", "together"), [("memory", True), ("sqlite", True), ("redis", True), ("postgresql", False)]
)
def test_the_stores_that_append_what_a_put_carries(
    request: pytest.FixtureRequest, tmp_path: Path, place: str, together: bool
) -> None:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/state.sqlite3"}
    url = urls.get(place) or request.getfixturevalue(f"{place}_url")
    store = open_store(url, prefix=uuid.uuid4().hex, timeout=20)
    result = store.put_and_append(b"k", b"v", [START], ttl=60_000_000)
    assert (result.applied, result.appended) == (True, together)
    assert (store.run("r") is not None) is together
    store.remove_runs(["r"])
    store.remove(b"k")
    store.close()
