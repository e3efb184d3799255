"""Scripts over connections of our own: bounded in number and time, repeated only when certainly not run.

A server that answers MOVED, ASK, TRYAGAIN, CLUSTERDOWN or READONLY ran nothing, and neither did one that was not
reached: then, and only then, a call is sent again, with pauses and within its deadline.
"""

from __future__ import annotations

import os
import random
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from hashlib import sha1
from importlib import import_module
from importlib.resources import files
from itertools import count
from typing import Any

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores.redis_line import Line
from celery_stackstate.stores.redis_places import Place, place_of
from celery_stackstate.stores.redis_url import Address, parse
from celery_stackstate.stores.redis_wire import Wire, Words
from celery_stackstate.stores.slots import Slots

#: The helpers that scripts need besides those of common.lua.
HELPERS = {
    "append": ("run_common", "run_trim", "run_append"),
    "put": ("put_entry",),
    "put_and_append": ("put_entry", "run_common", "run_trim", "run_append"),
    **dict.fromkeys(("run", "rows", "walk", "purge_runs", "remove_runs"), ("run_common",)),
}

#: Scripts that touch keys which they cannot name beforehand.
SLOT_SCRIPTS = frozenset(
    ("append", "put_and_append", "run", "rows", "walk", "tally", "purge_runs", "remove_runs", "scan", "purge")
)

#: So often one call tries another server after one that it did not reach.
SEARCHES = 2
LONGEST_PAUSE = 0.2


@cache
def script(name: str) -> tuple[str, bytes]:
    """Return the SHA and the source of the script `name`."""
    folder = files("celery_stackstate.stores") / "lua"
    parts = ["common", *HELPERS.get(name, ()), name]
    source = b"\n".join((folder / f"{part}.lua").read_bytes() for part in parts)
    return sha1(source).hexdigest(), source  # noqa: S324 - the name Redis gives to a script


class _Pool:
    """The connections of one process, and what it knows of the place."""

    def __init__(self, place: Place, size: int) -> None:
        self.pid = os.getpid()
        self.place = place
        self.idle: defaultdict[Address, deque[Line]] = defaultdict(deque)
        self.slots = Slots(size)
        self.closed = False

    def close(self) -> None:
        self.closed = True
        for address in list(self.idle):
            self.drop(address)

    def drop(self, address: Address) -> None:
        """Close the idle connections to `address`."""
        with suppress(IndexError):
            while True:
                self.idle[address].pop().disconnect()


#: Pools that a parent opened: kept, so that nothing in a child closes their sockets.
_inherited: list[_Pool] = []


class ScriptClient:
    """Runs scripts and commands on the server in charge, each in one round trip and within one deadline."""

    def __init__(self, url: str, timeout: float, base: bytes) -> None:
        try:
            redis: Any = import_module("redis")
        except ImportError as error:
            raise ConfigurationError(
                "stackstate_url: a Redis store needs redis-py; install celery-stackstate[redis]"
            ) from error
        self._errors: Any = redis.exceptions
        self.timeout = timeout
        self._target = parse(redis, url, timeout)
        self._tag = base[base.index(b"{") + 1 : base.index(b"}")]
        # No such key ever exists. While a slot moves between nodes, key by key, Redis refuses scripts that name a key
        # which is not there: so none that finds its keys by itself sees, or changes, half a slot.
        self._gate = base + b"gate" if self._target.cluster else None
        self._wire = Wire("Redis", redis.exceptions, self._target.connection_class, self._target.options, timeout)
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
        return self.run_each(name, [(keys, args)], deadline=deadline)[0]

    def run_each(
        self, name: str, calls: Sequence[tuple[Sequence[bytes], Sequence[Any]]], *, deadline: float | None = None
    ) -> list[Any]:
        """Run a script several times in one round trip and return the answers. When one fails, others may have run."""
        sha, source = script(name)
        gate = (self._gate,) if self._gate is not None and name in SLOT_SCRIPTS else ()
        commands = [("EVALSHA", sha, len(keys) + len(gate), *keys, *gate, *args) for keys, args in calls]
        return self._call(commands, source, self.deadline() if deadline is None else deadline)

    def command(self, *words: Any) -> Any:
        """Run one command and return its answer."""
        return self._call([words], b"", self.deadline())[0]

    def warnings(self) -> list[str]:
        """Return what is wrong with the place although it works."""
        return self._mine().place.warnings(self.deadline())

    # -- connections -----------------------------------------------------------------------------------------------

    def _new_pool(self) -> _Pool:
        return _Pool(place_of(self._target, self._wire, self._tag), self._target.max_connections)

    def _mine(self) -> _Pool:
        if self._pool.pid != os.getpid():
            _inherited.append(self._pool)
            self._pool = self._new_pool()
        return self._pool

    def _call(self, commands: Sequence[Words], source: bytes, deadline: float) -> list[Any]:
        pool = self._mine()
        slot = pool.slots.take(deadline - time.monotonic())
        if slot is None:
            raise StoreUnavailable(
                f"Redis: all {self._target.max_connections} connections are busy", maybe_applied=False
            )
        try:
            return self._served(pool, commands, source, deadline)
        finally:
            pool.slots.free.append(slot)

    def _served(self, pool: _Pool, commands: Sequence[Words], source: bytes, deadline: float) -> list[Any]:
        """Send the call to the server in charge, and again where and when it certainly was not run."""
        place, asked = pool.place, None
        for tries in count():
            address = asked or place.server or place.find(deadline)
            try:
                return self._once(pool, address, commands, source, deadline, asked is not None)
            except self._errors.ResponseError as error:
                failure: Exception = self._wire.refused(error)
                failure.__cause__ = error
                again, asked = place.refused(error, address)
            except StoreUnavailable as error:
                failure, asked = error, None
                again = place.lost(address) and not error.maybe_applied and tries < SEARCHES
            unanswered = isinstance(failure, StoreUnavailable) and failure.maybe_applied
            if place.server != address or unanswered:  # then the network may have forgotten the idle ones as well
                pool.drop(address)
            if not again or not _pause(tries, deadline):
                raise failure
        raise AssertionError

    def _once(
        self, pool: _Pool, address: Address, commands: Sequence[Words], source: bytes, deadline: float, asking: bool
    ) -> list[Any]:
        """Talk once to one server; one that does not know the script by its name gets its source."""
        line, clean = self._ready(pool, address, deadline), False
        try:
            try:
                answers = self._talk(line, commands, deadline, asking)
            except self._errors.NoScriptError:
                first, *others = commands
                answers = self._talk(line, [("EVAL", source, *first[2:]), *others], deadline, asking)
            clean = True
            return answers
        except self._errors.ResponseError:
            clean = True
            raise
        finally:
            self._give_back(pool, address, line, clean)

    def _talk(self, line: Line, commands: Sequence[Words], deadline: float, asking: bool) -> list[Any]:
        if not asking:
            return self._wire.talk(line, commands, deadline)
        return [self._wire.talk(line, [("ASKING",), words], deadline)[1] for words in commands]

    def _ready(self, pool: _Pool, address: Address, deadline: float) -> Line:
        """Return a connection that is open; nothing was sent yet, so every failure here is a clean one."""
        try:
            line = pool.idle[address].pop()
        except IndexError:
            line = self._wire.new(address)
        else:
            if line.is_quiet():
                return line
            line.disconnect()
            if pool.place.lost(address):
                # Whoever closed it may have been replaced.
                raise StoreUnavailable("Redis closed the connection", maybe_applied=False)
        self._wire.open(line, deadline)
        return line

    def _give_back(self, pool: _Pool, address: Address, line: Line, clean: bool) -> None:
        if pool.pid != os.getpid():
            return
        if clean and not pool.closed:
            pool.idle[address].append(line)
        else:
            line.disconnect()


def _pause(tries: int, deadline: float) -> bool:
    """Wait a little before the next try, the longer the more there were; return False when there is no time for one."""
    if tries == 0:
        return True
    seconds = min(LONGEST_PAUSE, 0.02 * 2**tries) * random.uniform(0.5, 1.5)  # noqa: S311 - so that not all come at once
    if time.monotonic() + seconds >= deadline:
        return False
    time.sleep(seconds)
    return True
