"""Connections to a database, a bounded number for each process, and what a call has of them.

A signal handler (Celery's soft time limit) may raise between any two lines of a call. So nobody locks anything here,
and a connection goes to the next call only when it is certain that this one has read what it asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores.drivers import OVER, Driver
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.slots import Slot, Slots

T = TypeVar("T")

#: What a parent process opened: kept, since closing its connections in a child could end the parent's.
inherited: list[Any] = []


class Pool:
    """The idle connections of one process, of which it keeps `size`, and how many it may have in all."""

    def __init__(self, driver: Driver, size: int, overflow: int, slots: Slots | None = None) -> None:
        self.driver, self.size, self.slots = driver, size, slots or Slots(size + overflow)
        self.idle: deque[Any] = deque()
        self.closed = False
        self._pid = os.getpid()

    @property
    def is_inherited(self) -> bool:
        """Whether it is that of the process which forked this one."""
        return self._pid != os.getpid()

    def close(self) -> None:
        """Close the idle connections, and let the others be closed when they come back."""
        self.closed = True
        while self.idle:
            self.idle.pop().close()

    def connection(self, deadline: float) -> Any:
        """Return an idle connection that is alive, or open one."""
        while self.idle:
            try:
                found = self.idle.pop()
            except IndexError:  # another thread was faster
                break
            if not self.driver.is_dead(found):
                return found
            found.close()
        return self.driver.connect(deadline)

    def keep(self, connection: Any) -> None:
        """Keep a connection for the next call, or close it if there are enough."""
        if self.closed or len(self.idle) >= self.size or self.driver.is_dead(connection):
            connection.close()
        else:
            self.idle.append(connection)


class Line:
    """What a call has of a pool. It must be given back, whatever happened on the way.

    `asking` says that an answer is due, `in_transaction` that the server has one open. Only a connection of which
    neither is true can serve another call.
    """

    __slots__ = ("asking", "connection", "in_transaction", "pool", "slot")

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.slot: Slot | None = None
        self.connection: Any = None
        self.asking, self.in_transaction = True, False

    def connect(self, patience: float, deadline: float) -> bool:
        """Get a connection; return False when none became free in `patience` seconds."""
        self.slot = self.pool.slots.take(patience)
        if self.slot is None:
            self.asking = False
            return False
        try:
            self.connection = self.pool.connection(deadline)
        except self.pool.driver.errors as error:
            self.asking = self.pool.driver.trouble(error) in OVER  # a server that is full has no ill connections
            raise
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"stackstate_url: an option of the URL is wrong: {error}") from error
        self.asking = False
        return True

    def until(self, deadline: float) -> Execute:
        """Return what runs statements until the deadline."""
        run = self.pool.driver.run
        return lambda sql, parameters: self.answer(lambda: run(self.connection, sql, parameters, deadline))

    def answer(self, ask: Callable[[], T]) -> T:
        """Return the answer of the server. What strikes on the way leaves the line asking."""
        if self.asking:  # the next answer would be that to another question
            raise StoreUnavailable("the connection was left in the middle of an answer", maybe_applied=False)
        self.asking = True
        try:
            answer = ask()
        except self.pool.driver.errors as error:
            self.asking = self.pool.driver.trouble(error) in OVER
            raise
        self.asking = False
        return answer

    def give_back(self) -> None:
        """Let the pool have the connection, if it is whole, and the slot."""
        if self.pool.is_inherited:
            inherited.append(self.connection)
            return
        if self.connection is not None:
            if self.asking or self.in_transaction:
                self.connection.close()
            else:
                self.pool.keep(self.connection)
        if self.slot is not None:
            self.pool.slots.free.append(self.slot)
