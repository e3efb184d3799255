"""What the first format wrote is read by every later release: at least what was told of it then is told of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from celery_stackstate.browse import Browser
from celery_stackstate.facts import rank
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import Attempt, Verdict, store_key
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from tests.rolling import frozen

GOLDEN: dict[str, Any] = json.loads(frozen.GOLDEN.read_text())


@pytest.fixture(params=["sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """The frozen data, in a store."""
    data = GOLDEN[kind]["data"]
    if kind == "sqlite":
        path = tmp_path / "stackstate.sqlite3"
        frozen.restore_sqlite(data, path)
        opened = open_store(f"sqlite:///{path}", prefix=frozen.PREFIX, timeout=5)
        yield opened
        opened.close()
        return
    url, prefix = request.getfixturevalue("redis_url"), f"golden-{uuid4().hex}"
    with redis.Redis.from_url(url) as client:
        frozen.restore_redis(client, data, prefix)
        opened = open_store(url, prefix=prefix, timeout=5)
        yield opened
        opened.close()
        for key in client.scan_iter(f"{{stackstate:{prefix}}}:*"):
            client.delete(key)


def assert_tells(found: Any, expected: Any, path: str = "") -> None:
    """Compare what is told; a later release may tell more of a thing."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), path
        for name, value in expected.items():
            assert name in found, f"{path}.{name}"
            assert_tells(found[name], value, f"{path}.{name}")
    elif isinstance(expected, list):
        assert isinstance(found, list), path
        assert len(found) == len(expected), path
        for number, value in enumerate(expected):
            assert_tells(found[number], value, f"{path}[{number}]")
    else:
        assert found == expected, path


def test_all_of_it_is_told_as_it_was_when_it_was_written(store: Store, kind: str) -> None:
    assert_tells(frozen.told(store), GOLDEN[kind]["told"])


def test_the_frozen_data_has_something_of_each_kind(kind: str) -> None:
    told = GOLDEN[kind]["told"]
    assert [key["state"] for key in told["keys"]] == [
        *("PUBLISHED", "FAILED", "PUBLISHED", "RESERVED", "RETRYING", "RUNNING", "SUCCEEDED")
    ]
    assert {sort for _, _, sort, *_ in told["state"]} == {"value", "counter", "lock"}
    assert len(told["runs"]["run-1"]["attempts"]) == 2
    assert all(told[part] for part in ("events", "logs", "listed", "workers", "records"))


def test_values_come_back_equal_and_of_the_same_type(store: Store) -> None:
    state = State(store, RunContext(), limit=262_144).scope("values")
    for name, value in frozen.VALUES.items():
        found = state.get(name)
        assert (found, type(found)) == (value, type(value)), name
    assert {entry.key for entry in state.items()} == set(frozen.VALUES)


def test_the_store_goes_on_from_there(store: Store) -> None:
    state = State(store, RunContext(), limit=262_144)
    before = state.entry("imports:7:done")
    assert before is not None
    assert state.set("imports:7:done", 251, if_version=before.version) > before.version
    assert state.increment("calls") == 2**62 + 1
    keys = KeyProtocol(store, prefix=frozen.PREFIX, publish_lease=30, max_deliveries=10)
    record = keys.record(store_key(frozen.SCOPE, "published"))
    assert record is not None
    claim = keys.claim(record.ticket, Attempt("mine", frozen.HERE, pid=8, epoch=9))
    assert claim.verdict is Verdict.RUN
    assert keys.succeed(claim, "1") is not None
    replayed = keys.record(store_key(frozen.SCOPE, "succeeded"))
    assert replayed is not None
    assert keys.claim(replayed.ticket, Attempt("mine", frozen.HERE, pid=8, epoch=9)).verdict is Verdict.REPLAY
    (lock,) = Browser(store).list(locks=True)
    assert state.force_release(lock.key)
    assert store.purge() >= 0


def test_a_message_is_read_as_it_was_when_it_was_sent() -> None:
    assert_tells(frozen.told_of_message(GOLDEN["message"]), GOLDEN["told_of_message"])


def test_ranks_are_the_same_numbers_for_ever() -> None:
    """They are stored, and compared with those that other releases write."""
    for status, number in GOLDEN["ranks"].items():
        assert rank(status, 7) == number, status
