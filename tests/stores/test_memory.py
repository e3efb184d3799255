"""The contract over the memory store."""

from __future__ import annotations

import uuid

import pytest

from celery_stackstate.stores import open_store
from celery_stackstate.testing import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store_url(self) -> str:
        return f"memory://{uuid.uuid4().hex}"


def test_each_memory_store_without_a_name_is_its_own() -> None:
    first, second = open_store("memory://"), open_store("memory://")
    first.put(b"k", b"v")
    assert second.get(b"k") is None


def test_check_warns_that_nobody_else_sees_it() -> None:
    assert ["this process only" in warning for warning in open_store("memory://").check()] == [True]
