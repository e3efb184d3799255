"""Calls of a store inside the transaction of a caller's SQLAlchemy session, by its connection.

The session begins, commits and rolls back; here are the statements in between, and what waits for its commit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores.drivers import Driver, Trouble

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.orm import SessionTransaction

    from celery_stackstate.stores.schema import Execute
    from celery_stackstate.stores.sql_base import Row

Work = Callable[[], object]
Place = tuple[str, int, str]

#: Under this name a session's `info` holds what waits for its commit.
WAITING = "celery_stackstate"


def session_of(given: Any, driver: Driver, place: Place) -> Session:
    """Return the session that `given` is or stands for; it must be one of the database at `place`, by `driver`."""
    session = given() if isinstance(given, scoped_session) else given
    if not isinstance(session, Session):
        raise ConfigurationError(
            f"joining() takes a Session of SQLAlchemy's, not {type(session).__name__}; an AsyncSession cannot be joined"
        )
    engine = _engine_of(session)
    module = driver.sqlalchemy_driver
    if engine.dialect.is_async or engine.dialect.driver != module:
        raise ConfigurationError(
            f"joining() takes a session that connects by {module}, as the store does, "
            f"not by {'an asynchronous ' if engine.dialect.is_async else ''}{engine.dialect.driver}"
        )
    found = place_of(driver, engine.dialect.create_connect_args(engine.url)[1])
    if found != place:
        raise ConfigurationError(
            f"joining() takes a session on the store's own database: the store's is {_shown(place)}, "
            f"the session's {_shown(found)}; write host, port and name alike in both URLs"
        )
    return session


def _engine_of(session: Session) -> Engine:
    try:
        bind = session.get_bind()
    except UnboundExecutionError as error:
        raise ConfigurationError(f"joining() takes a session that is bound to an engine: {error}") from error
    if isinstance(bind, Connection):
        raise ConfigurationError(
            "joining() takes a session that is bound to an engine, not to a connection, whose commit may be another's"
        )
    return bind


def place_of(driver: Driver, options: Mapping[str, Any]) -> Place:
    """Return host, port and database of what a driver is called with."""
    host = options.get("unix_socket") or options.get("host") or "localhost"
    name = options.get("dbname") or options.get("database") or options.get("db") or ""
    return str(host).lower(), int(options.get("port") or driver.default_port), name


def _shown(place: Place) -> str:
    host, port, name = place
    return f"{host}:{port}/{name}"


class Joined:
    """A session that a store's calls join, until it `is_over`."""

    is_over = False

    def __init__(self, session: Session, driver: Driver, explained: Callable[[Exception], Exception]) -> None:
        self._session, self._driver, self._explained = session, driver, explained

    def rows(self, sql: str, parameters: Sequence[Any]) -> list[Row]:
        """Run a reading statement and return its rows."""
        try:
            return self._run(self._connection(), sql, parameters)
        except DBAPIError as error:
            self._raise(error)
            raise

    def transaction(self, seconds: float) -> Generator[Execute, None, None]:
        """Write in a savepoint; no wait for a lock takes longer than `seconds`. What fails is undone, and it alone."""
        try:
            connection = self._connection()
            execute: Execute = partial(self._run, connection)
            execute(*self._driver.limit_waits(seconds))
            try:
                with _savepoint(connection):
                    yield execute
            finally:
                if not connection.invalidated:
                    execute(self._driver.unlimit_waits, ())
        except DBAPIError as error:
            self._raise(error)
            raise

    def on_commit(self, work: Work) -> None:
        """Do `work` when the session has committed what it has open now."""
        self._connection()
        waiting: Waiting | None = self._session.info.get(WAITING)
        if waiting is None or waiting.session is not self._session:  # `info` may be a copy of another session's
            waiting = self._session.info[WAITING] = Waiting(self._session)
        waiting.add(work)

    def _connection(self) -> Connection:
        """Return the connection of the session's transaction, which begins now if need be, as does its savepoint."""
        connection = self._session.connection()
        if self._driver.in_autocommit(connection.connection.driver_connection):
            raise ConfigurationError("joining() takes a session with transactions: its connection is in AUTOCOMMIT")
        return connection

    def _run(self, connection: Connection, sql: str, parameters: Sequence[Any]) -> list[Row]:
        sql, parameters = self._driver.spelled(sql, parameters)
        with _answering(connection):
            result = connection.exec_driver_sql(sql, tuple(parameters))
            return [tuple(row) for row in result] if result.returns_rows else []

    def _raise(self, error: DBAPIError) -> None:
        """Raise ours, unless only the caller can go on, by beginning the transaction anew."""
        cause = error.orig
        if not isinstance(cause, self._driver.errors):
            return
        if self._driver.trouble(cause) is not Trouble.COLLISION or self._driver.waited_too_long(cause):
            raise self._explained(cause) from error


@contextmanager
def _answering(connection: Connection) -> Iterator[None]:
    """Invalidate a connection that was left in the middle of an answer: nobody may take it for that of another."""
    try:
        yield
    except DBAPIError:
        raise
    except BaseException as error:
        connection.invalidate(error)
        raise


@contextmanager
def _savepoint(connection: Connection) -> Iterator[None]:
    with _answering(connection):
        savepoint = connection.begin_nested()
    try:
        yield
    except BaseException as error:
        try:
            if not connection.invalidated:
                savepoint.rollback()
        except DBAPIError:  # after a deadlock nothing is left of a transaction of MySQL: nobody may commit the rest
            connection.invalidate(error)
        raise
    with _answering(connection):
        savepoint.commit()


class Waiting:
    """The work that waits for a session's commit, by the transaction or savepoint in which it was given."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._works: dict[SessionTransaction, list[Work]] = {}
        self._committed: SessionTransaction | None = None
        event.listen(session, "before_commit", self._before_commit)
        event.listen(session, "after_commit", self._after_commit)
        event.listen(session, "after_transaction_end", self._after_end)

    def add(self, *works: Work) -> None:
        """Keep work for the end of the innermost transaction or savepoint."""
        innermost = _innermost(self.session)
        if innermost is not None:
            self._works.setdefault(innermost, []).extend(works)

    def _before_commit(self, session: Session) -> None:
        """Fail where a statement has failed before: PostgreSQL answers such a COMMIT with a rollback, and no error."""
        if self._works:
            session.connection().exec_driver_sql("SELECT 1")

    def _after_commit(self, session: Session) -> None:
        self._committed = _innermost(session)

    def _after_end(self, session: Session, ended: SessionTransaction) -> None:
        """Do the work of a transaction that was committed, hand that of a savepoint on, and drop any other."""
        works = self._works.pop(ended, [])
        committed, self._committed = self._committed is ended, None
        if committed and ended.parent is not None:
            self.add(*works)
        elif committed:
            for work in works:
                work()


def _innermost(session: Session) -> SessionTransaction | None:
    return session.get_nested_transaction() or session.get_transaction()
