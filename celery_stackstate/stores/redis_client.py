"""Scripts over connections of our own: bounded in number and time, never repeated, honest about lost replies.

redis-py's client retries commands blindly and takes several timeouts for one call. Its connections are used directly,
which also saves a third of the time of each call.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha1
from importlib import import_module
from importlib.resources import files
from typing import Any

from celery_stackstate.errors import ConfigurationError, StackStateError, StoreUnavailable

#: Scripts that work on runs get the helpers of run_common.lua as well.
RUN_SCRIPTS = frozenset({"append", "run", "rows", "walk", "logs", "purge_runs"})

DEFAULT_MAX_CONNECTIONS = 50

#: Errors that a server answers while it cannot serve; it ran nothing, and another connection may find a better one.
PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MOVED",
)


@cache
def script(name: str) -> tuple[str, bytes]:
    """Return the SHA and the source of the script `name`."""
    folder = files("celery_stackstate.stores") / "lua"
    parts = ["common", *(["run_common"] if name in RUN_SCRIPTS else []), name]
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    return sha1(source).hexdigest(), source  # noqa: S324 - the name Redis gives to a script


class _Pool:
    """The connections of one process."""

    def __init__(self, make: Callable[[], Any], size: int) -> None:
        self.pid = os.getpid()
        self.make = make
        self.idle: deque[Any] = deque()
        self.slots = threading.BoundedSemaphore(size)
        self.closed = False

    def close(self) -> None:
        self.closed = True
        while self.idle:
            self.idle.pop().disconnect()


#: Pools that a parent opened: kept, so that nothing in a child closes their sockets.
_inherited: list[_Pool] = []


class ScriptClient:
    """Runs scripts and commands, each in one round trip and within one deadline."""

    def __init__(self, url: str, timeout: float) -> None:
        try:
            redis: Any = import_module("redis")
        except ImportError as error:
            raise ConfigurationError(
                "stackstate_url: a redis:// store needs redis-py; install celery-stackstate[redis]"
            ) from error
        self._errors: Any = redis.exceptions
        self.timeout = timeout
        self._connection_class, self._options, self._size = _connection_options(redis, url, timeout)
        self._pool = self._new_pool()

    def close(self) -> None:
        """Close this process's connections."""
        self._mine().close()
        self._pool = self._new_pool()

    def deadline(self) -> float:
        """Return the moment, on the monotonic clock, by which a call that starts now must end."""
        return time.monotonic() + self.timeout

    def run(self, name: str, keys: Sequence[bytes], args: Sequence[Any] = (), *, deadline: float | None = None) -> Any:
        """Run a script and return its answer.

        Raises:
            StoreUnavailable: The server was not reached, did not answer in time, or cannot serve now.
            ConfigurationError: The user may not connect, or may not run scripts.
        """
        sha, source = script(name)
        by_name = ("EVALSHA", sha, len(keys), *keys, *args)
        in_full = ("EVAL", source, *by_name[2:])
        return self._call(by_name, in_full, self.deadline() if deadline is None else deadline)

    def command(self, *words: Any) -> Any:
        """Run one command and return its answer."""
        return self._call(words, words, self.deadline())

    # -- connections -----------------------------------------------------------------------------------------------

    def _new_pool(self) -> _Pool:
        return _Pool(lambda: self._connection_class(**self._options), self._size)

    def _mine(self) -> _Pool:
        if self._pool.pid != os.getpid():
            _inherited.append(self._pool)
            self._pool = self._new_pool()
        return self._pool

    def _call(self, words: tuple[Any, ...], without_cache: tuple[Any, ...], deadline: float) -> Any:
        pool = self._mine()
        if not pool.slots.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise StoreUnavailable(f"Redis: all {self._size} connections are busy", maybe_applied=False)
        connection, clean = None, False
        try:
            connection = self._ready(pool)
            try:
                answer = self._talk(connection, words, deadline)
            except self._errors.NoScriptError:
                answer = self._talk(connection, without_cache, deadline)
            clean = True
            return answer
        except self._errors.ResponseError as error:
            raise self._refused(error) from error
        finally:
            if connection is not None:
                self._give_back(pool, connection, clean)
            pool.slots.release()

    def _ready(self, pool: _Pool) -> Any:
        """Return a connection that is open; nothing was sent yet, so every failure here is a clean one."""
        try:
            connection = pool.idle.pop()
        except IndexError:
            connection = pool.make()
        try:
            try:
                # Readable while idle means that the server closed it, or that an old answer is left.
                stale = connection._sock is not None and connection.can_read(timeout=0)
            except (self._errors.ConnectionError, self._errors.TimeoutError, OSError):
                stale = True
            if stale:
                connection.disconnect()
            connection.connect()
        except self._errors.AuthenticationError as error:
            connection.disconnect()
            raise self._locked_out(error) from error
        except (self._errors.RedisError, OSError) as error:
            connection.disconnect()
            raise StoreUnavailable(f"Redis cannot be reached: {error}", maybe_applied=False) from error
        return connection

    def _talk(self, connection: Any, words: tuple[Any, ...], deadline: float) -> Any:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise StoreUnavailable(f"Redis took longer than {self.timeout} s", maybe_applied=False)
        connection._sock.settimeout(remaining)
        try:
            connection.send_command(*words, check_health=False)
            return connection.read_response()
        except (self._errors.ConnectionError, self._errors.TimeoutError, OSError) as error:
            if isinstance(error, self._errors.AuthenticationError):
                raise self._locked_out(error) from error
            if isinstance(error, self._errors.BusyLoadingError):
                raise StoreUnavailable(f"Redis: {error}", maybe_applied=False) from error
            raise StoreUnavailable(f"Redis gave no answer: {error}", maybe_applied=True) from error

    def _give_back(self, pool: _Pool, connection: Any, clean: bool) -> None:
        if pool.pid != os.getpid():
            return
        if not clean or pool.closed:
            connection.disconnect()
        if not pool.closed:
            pool.idle.append(connection)

    def _locked_out(self, error: Exception) -> ConfigurationError:
        return ConfigurationError(
            f"stackstate_url: Redis refuses the user name or password ({error}); correct them in the URL"
        )

    def _refused(self, error: Exception) -> StackStateError:
        if isinstance(error, self._errors.NoPermissionError):
            return ConfigurationError(
                f"stackstate_url: the Redis user may not do what the store needs ({error}); "
                "grant it +@read +@write +@scripting +time on its keys"
            )
        if "unauthenticated" in str(error):
            return self._locked_out(error)
        # redis-py cuts the code of those errors that it has a class for.
        passing = type(error) is not self._errors.ResponseError or str(error).startswith(PASSING)
        return StoreUnavailable(f"Redis refused: {error}", maybe_applied=not passing)


def _connection_options(redis: Any, url: str, timeout: float) -> tuple[Any, dict[str, Any], int]:
    """Read the URL with redis-py, and overrule what would break the store's promises."""
    try:
        options: dict[str, Any] = redis.connection.parse_url(url)
        size = int(options.pop("max_connections", DEFAULT_MAX_CONNECTIONS))
        connection_class = options.pop("connection_class", redis.Connection)
        options.update(_own_options(timeout))
        connection_class(**options)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ConfigurationError(
            f"stackstate_url: not a Redis URL, or one of its options is wrong ({error}); "
            "write redis://user:password@host:6379/0"
        ) from error
    if size < 1:
        raise ConfigurationError(f"stackstate_url: max_connections must be at least 1, not {size}")
    return connection_class, options, size


def _own_options(timeout: float) -> dict[str, Any]:
    retry = import_module("redis.retry").Retry
    no_backoff = import_module("redis.backoff").NoBackoff
    return {
        "socket_connect_timeout": timeout / 2,
        "socket_timeout": timeout / 2,
        "retry": retry(no_backoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "decode_responses": False,
        "encoding": "utf-8",
        "encoding_errors": "strict",
        "protocol": 2,
    }
