"""This thread's Django connection, lent for one call; and what becomes of connections at a fork.

Django keeps a connection for each thread, and closes it at the end of a request, Celery at the end of a task. Nobody
does that in the threads of this library: there each call is a request of its own.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import Error, connections

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: How the names of our own threads begin.
OUR_THREADS = "stackstate-"
#: Longest time in seconds that a fork waits for calls of our own threads.
PATIENCE = 5.0


class _Forks:
    """Keeps forks and calls of our own threads apart."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew in a child, which has none of the threads."""
        self.changed = threading.Condition()
        self.calls = self.forks = 0

    @contextmanager
    def none_now(self) -> Iterator[None]:
        """Hold forks up while a call goes on."""
        with self.changed:
            self.changed.wait_for(lambda: not self.forks, PATIENCE)
            self.calls += 1
        try:
            yield
        finally:
            with self.changed:
                self.calls -= 1
                self.changed.notify_all()

    def begin(self) -> None:
        """Let no new call begin, and wait for the others."""
        with self.changed:
            self.forks += 1
            self.changed.wait_for(lambda: not self.calls, PATIENCE)

    def end(self) -> None:
        """Let calls begin again."""
        with self.changed:
            self.forks -= 1
            self.changed.notify_all()


_forks = _Forks()
#: The aliases that stores of this process use.
_aliases: set[str] = set()


def use(alias: str) -> BaseDatabaseWrapper:
    """Return this thread's connection of `alias`, and see to it at forks from now on."""
    connection = connections[alias]
    _aliases.add(alias)
    return connection


def in_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the caller has a transaction open."""
    return connection.in_atomic_block or (connection.connection is not None and not connection.autocommit)


def drop(connection: BaseDatabaseWrapper) -> None:
    """Close a connection that nobody can use any more; the next use opens another."""
    with suppress(Error, OSError):
        connection.close()


@contextmanager
def lent(alias: str) -> Iterator[BaseDatabaseWrapper]:
    """Lend this thread's connection for one call."""
    connection = connections[alias]
    if not threading.current_thread().name.startswith(OUR_THREADS) or in_transaction(connection):
        yield connection
        return
    with _forks.none_now():
        try:
            yield connection
        finally:
            if connection.vendor == "sqlite":
                drop(connection)
            else:
                connection.close_if_unusable_or_obsolete()


# -- forks -------------------------------------------------------------------------------------------------------------


def _mine() -> list[Any]:
    """Return the connections of this thread that are open."""
    every: list[Any] = list(connections.all(initialized_only=True)) if _aliases else []
    return [connection for connection in every if connection.alias in _aliases and connection.connection is not None]


# SQLite keeps the locks of a process in its memory, so that nothing should be open during a fork (as in `sqlite.py`).
# What the caller has in a transaction stays open, and so do connections of threads that are not ours.
def _before_fork() -> None:
    _forks.begin()
    for connection in _mine():
        if connection.vendor == "sqlite" and not in_transaction(connection):
            drop(connection)


def _after_fork_in_child() -> None:
    """Forget what was inherited, without closing it: to close it could end the parent's session."""
    _forks.reset()
    for connection in _mine():
        if connection.vendor == "sqlite" and connection.is_in_memory_db():
            continue  # the child has a copy
        _abandon(connection.connection)
        pool = getattr(connection, "_connection_pools", {}).pop(connection.alias, None)
        if pool is not None:
            _keep_for_ever(pool)
        connection.connection = None
        if connection.in_atomic_block:
            connection.closed_in_transaction = connection.needs_rollback = True


def _abandon(inherited: Any) -> None:
    """Give back the descriptor, so that the server sees the parent's end; say nothing over it, now or at exit."""
    with suppress(Exception):  # not every driver names it
        os.close(inherited.fileno())
    _keep_for_ever(inherited)


def _keep_for_ever(inherited: object) -> None:
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


os.register_at_fork(before=_before_fork, after_in_parent=_forks.end, after_in_child=_after_fork_in_child)
