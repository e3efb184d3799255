"""The contract over a Valkey server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores import open_store, redis_check
from celery_stackstate.testing import StoreContract
from tests.services import HOST, RedisServer


@pytest.fixture(scope="module")
def valkey(valkey_server_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(valkey_server_binary, tmp_path_factory.mktemp("valkey"), "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


class TestValkey(StoreContract):
    @pytest.fixture
    def store_url(self, valkey: RedisServer) -> str:
        return valkey.url.replace("redis://", "valkey://")


def test_check_finds_nothing_wrong(valkey: RedisServer) -> None:
    store = open_store(valkey.url.replace("redis://", "valkey://"), prefix="p")
    assert store.check() == []
    store.close()


def test_it_is_valkey_whose_version_counts() -> None:
    redis_check._check_version({"redis_version": "7.2.4", "valkey_version": "9.1.2", "server_name": "valkey"})
    redis_check._check_version({"valkey_version": "8.0.0"})
    with pytest.raises(ConfigurationError, match="Valkey 6"):
        redis_check._check_version({"redis_version": "7.2.4", "valkey_version": "6.9"})
    with pytest.raises(ConfigurationError, match=r"Redis 6\.0\.9; the store needs 6\.2"):
        redis_check._check_version({"redis_version": "6.0.9"})


def test_a_right_that_is_missing_is_told(valkey: RedisServer) -> None:
    rules = ("on", ">secret", "resetkeys", "~{stackstate:*", "+@read", "+@write", "+@scripting", "+@connection")
    store = open_store(f"valkey://app:secret@{HOST}:{valkey.port}", prefix="p")
    with redis.Redis(host=HOST, port=valkey.port) as raw:
        raw.execute_command("ACL", "SETUSER", "app", *rules)
        with pytest.raises(ConfigurationError, match="may not do what the store needs"):
            store.put(b"k", b"v")
        raw.execute_command("ACL", "SETUSER", "app", "+time")
        assert store.put(b"k", b"v").applied
    store.close()
