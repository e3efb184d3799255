"""Counting round trips where they are made, at the socket of Redis or the driver of a database, and what they carry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import redis

from celery_stackstate.stores.redis import RedisStore

OUR_THREADS = "stackstate-"
#: What brings a script to the server, or asks it for the figures, is no work for a caller.
UNCOUNTED = ("cmdstat_evalsha", "cmdstat_info")


class Trips:
    """The round trips made since it was cleared, by the name of the thread that waited for each.

    What they carried is counted as well: commands of Redis, those inside of scripts included, or statements of SQL.
    """

    def __init__(self) -> None:
        self._waited: list[tuple[str, int]] = []

    def clear(self) -> None:
        """Forget them."""
        self._waited.clear()

    def add(self, commands: int) -> None:
        """Count one of this thread's."""
        self._waited.append((threading.current_thread().name, commands))

    @property
    def here(self) -> int:
        """How many this thread waited for."""
        return len(self._carried(_is_here))

    @property
    def behind(self) -> int:
        """How many threads of ours waited for, while nobody else did."""
        return len(self._carried(_is_behind))

    @property
    def elsewhere(self) -> int:
        """How many other threads waited for, such as that of a worker."""
        return len(self._carried(_is_elsewhere))

    @property
    def commands_here(self) -> int:
        """What those carried that this thread waited for."""
        return sum(self._carried(_is_here))

    @property
    def commands_elsewhere(self) -> int:
        """What those carried that other threads waited for."""
        return sum(self._carried(_is_elsewhere))

    def _carried(self, by: Callable[[str], bool]) -> list[int]:
        return [commands for name, commands in self._waited if by(name)]


def _is_here(name: str) -> bool:
    return name == threading.current_thread().name


def _is_behind(name: str) -> bool:
    return name.startswith(OUR_THREADS)


def _is_elsewhere(name: str) -> bool:
    return not _is_here(name) and not _is_behind(name)


@contextmanager
def counted(store: Any, url: str | None = None) -> Iterator[Trips]:
    """Count the round trips of a store on Redis or behind SQLAlchemy.

    A Redis that nobody else uses says by its `url` what they carried; else each counts as one command.
    """
    trips = Trips()
    with ExitStack() as stack:
        if isinstance(store, RedisStore):
            place, names = store._client._wire, ["talk"]
            server = stack.enter_context(closing(redis.Redis.from_url(url))) if url else None
            weigh = _as_it_says(server) if server else _as_one
        else:
            place, names, weigh = store._driver, ["run", "at_once"], _by_statements
        for name in names:
            setattr(place, name, weigh(getattr(place, name), trips))
        yield trips
        for name in names:
            delattr(place, name)


def _as_one(call: Any, trips: Trips) -> Any:
    def counting(*args: Any, **options: Any) -> Any:
        trips.add(1)
        return call(*args, **options)

    return counting


def _by_statements(call: Any, trips: Trips) -> Any:
    def counting(*args: Any, **options: Any) -> Any:
        # Statements that go at once are one trip; by themselves they are counted where they run.
        statements = len(args[1]) if call.__name__ == "at_once" else 1
        if call.__name__ != "at_once" or statements > 1:
            trips.add(statements)
        return call(*args, **options)

    return counting


def _as_it_says(server: Any) -> Any:
    one_at_a_time = threading.Lock()

    def ran() -> int:
        """Return how many commands the server has run, but for this question."""
        return sum(one["calls"] for name, one in server.info("commandstats").items() if name not in UNCOUNTED)

    def weigh(call: Any, trips: Trips) -> Any:
        def counting(*args: Any, **options: Any) -> Any:
            with one_at_a_time:
                before = ran()
                try:
                    return call(*args, **options)
                finally:
                    trips.add(ran() - before)

        return counting

    return weigh
