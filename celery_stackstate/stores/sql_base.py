"""What a store over SQL tables is built on: the hooks that bring connections, and transactions that are tried again."""

from __future__ import annotations

import random
import time
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.stores.base import Store
from celery_stackstate.stores.dialects import Dialect
from celery_stackstate.stores.schema import Execute

T = TypeVar("T")
Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Any]]

#: The part of the timeout in which a transaction that lost a race is begun again.
TRYING = 0.7


class Collision(StoreUnavailable):
    """The database ended a transaction for the sake of another one; it can be done again."""


class SQLBase(Store):
    """The hooks. Statements come in the spelling of `_dialect`, with its placeholders."""

    _prefix: str
    _timeout: float
    _dialect: Dialect

    @abstractmethod
    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        """Run one reading statement and return all its rows.

        Args:
            sql: The statement.
            parameters: A value for each placeholder.
            deadline: Moment of `time.monotonic()` by which this must have ended; None is the timeout from now.
        """

    @abstractmethod
    def _transaction(self, deadline: float | None = None) -> Generator[Execute, None, None]:
        """Open a write transaction and yield what runs its statements; then commit it, or take it back after an error.

        Raises:
            Collision: The database gave it up for another one (a deadlock, a serialization failure).
        """

    @contextmanager
    def _writing(self, deadline: float | None = None) -> Iterator[Execute]:
        """Do a block in a write transaction."""
        yield from self._transaction(deadline)

    def _in_transaction(self, work: Callable[[Execute], T], deadline: float) -> T:
        """Do `work` in a write transaction.

        A `with` would not do: what a signal handler raises may strike between its lines, in contextlib, and the
        transaction stayed open as long as anybody looks at the traceback.
        """
        steps = self._transaction(deadline)
        try:
            try:
                result = work(next(steps))
            except BaseException as error:
                steps.throw(error)
                raise
            next(steps, None)
            return result
        finally:
            steps.close()

    def _now(self) -> int:
        """Return the time, where the dialect has no clock of its own."""
        return time.time_ns() // 1000

    def _deadline(self) -> float:
        return time.monotonic() + self._timeout

    def _clock(self) -> tuple[int, ...]:
        """Return the parameters of one `{now}`."""
        return (self._now(),) if self._dialect.clock == "?" else ()

    def _read(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        return self._rows(self._dialect.native(sql), self._dialect.bound(parameters), deadline)

    def _at_once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Run statements as one transaction; return the rows of each. Override it where one round trip can do that."""
        return self._in_transaction(
            lambda execute: [execute(sql, parameters) for sql, parameters in statements], deadline
        )

    def _batch(self, statements: Sequence[Statement], deadline: float | None = None) -> list[list[Row]]:
        """Run statements as one transaction, again when the database gave it up for another one."""
        native = [(self._dialect.native(sql), self._dialect.bound(parameters)) for sql, parameters in statements]
        return self._tried(lambda until: self._at_once(native, until), deadline)

    def _write(self, work: Callable[[Execute], T], deadline: float | None = None) -> T:
        """Do `work` in a write transaction, again when the database gave it up for another one."""
        native, bound = self._dialect.native, self._dialect.bound

        def within(execute: Execute) -> T:
            return work(lambda sql, parameters: execute(native(sql), bound(parameters)))

        return self._tried(lambda until: self._in_transaction(within, until), deadline)

    def _tried(self, attempt: Callable[[float], T], deadline: float | None) -> T:
        deadline = self._deadline() if deadline is None else deadline
        last_start = deadline - (1 - TRYING) * self._timeout
        pause = 0.002
        while True:
            try:
                return attempt(deadline)
            except Collision:
                pause = min(2 * pause, 0.1)
                if time.monotonic() + pause > last_start:
                    raise
            time.sleep(pause * random.random())  # noqa: S311 - jitter
