"""Entries and runs in PostgreSQL, MySQL or MariaDB, by URLs of SQLAlchemy's, over connections of our own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import lines, rules, schema
from celery_stackstate.stores.drivers import Driver, Trouble
from celery_stackstate.stores.lines import Line, Pool
from celery_stackstate.stores.schema import Execute, is_current
from celery_stackstate.stores.sql import SQLStore
from celery_stackstate.stores.sql_base import Collision, Row, Statement

if TYPE_CHECKING:
    from sqlalchemy import URL
    from typing_extensions import Self

    from celery_stackstate.stores.sqlalchemy_joining import Joined

T = TypeVar("T")

FORM = "postgresql://user:password@host:5432/database"

#: Module of the driver here, the driver itself, SQLAlchemy's name for the pair, and the extra, by the URL's dialect.
SERVED = {
    "postgresql": ("driver_postgresql:PostgreSQLDriver", "psycopg", "postgresql+psycopg", "postgresql"),
    "postgres": ("driver_postgresql:PostgreSQLDriver", "psycopg", "postgresql+psycopg", "postgresql"),
    "mysql": ("driver_mysql:MySQLDriver", "pymysql", "mysql+pymysql", "mysql"),
    "mariadb": ("driver_mysql:MySQLDriver", "pymysql", "mariadb+pymysql", "mysql"),
}

#: How long `install` may take.
INSTALL_SECONDS = 600.0
#: The part of the timeout after which a call ends by itself, and that a call waits for a free connection.
ENDING, WAITING = 0.9, 0.7


class SQLAlchemyStore(SQLStore):
    """A store in the database that a SQLAlchemy URL names: `postgresql://`, `mysql://` or `mariadb://`.

    psycopg 3 and PyMySQL are the drivers. `?pool_size=5&max_overflow=10` bound the connections of one process; other
    options of the query go to the driver. Times are those of the server's clock.
    """

    schemes = ("postgresql", "postgres", "postgresql+psycopg", "mysql", "mysql+pymysql", "mariadb", "mariadb+pymysql")
    shared_between_hosts = True

    def __init__(
        self, name: str, driver: Driver, *, prefix: str, timeout: float, pool_size: int, max_overflow: int
    ) -> None:
        self._name = name
        self._driver = driver
        self._dialect = driver.dialect
        self._prefix = prefix
        self._timeout = timeout
        self._sizes = (pool_size, max_overflow)
        self._ready = False
        self._current = self._new_pool()
        self._joining: ContextVar[Joined | None] = ContextVar("stackstate_joining", default=None)

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of `url` without connecting."""
        prefix, timeout = rules.check_prefix(prefix), rules.check_timeout(timeout)
        name, _, driver_name = url.partition(":")[0].partition("+")
        if name not in SERVED or driver_name not in ("", SERVED[name][1]):
            raise ConfigurationError(
                "stackstate_url: served are postgresql:// (by psycopg), mysql:// and mariadb:// (by pymysql), "
                f"not {url.partition(':')[0]!r}"
            )
        where, module, sqlalchemy_name, extra = SERVED[name]
        try:
            import_module("sqlalchemy")
            import_module(module)
        except ImportError as error:
            raise ConfigurationError(
                f"stackstate_url: {name}:// needs SQLAlchemy and {module} ({error}): "
                f"pip install 'celery-stackstate[{extra}]'"
            ) from error
        parsed = _parsed(url, sqlalchemy_name)
        pool_size, max_overflow = _number(parsed, "pool_size", 5, 1), _number(parsed, "max_overflow", 10, 0)
        options = _options(parsed.difference_update_query(["pool_size", "max_overflow"]))
        file, _, class_name = where.partition(":")
        driver = getattr(import_module(f"celery_stackstate.stores.{file}"), class_name)(options, timeout)
        shown = f"{name}://{parsed.host or ''}/{parsed.database or ''}"
        return cls(shown, driver, prefix=prefix, timeout=timeout, pool_size=pool_size, max_overflow=max_overflow)

    def check(self) -> list[str]:
        """Connect and look at the server; return warnings."""
        with self._lent() as execute:
            return self._driver.check(execute)

    def pending(self) -> list[str]:
        """Look at the version of the tables."""
        with self._lent(prepared=False) as execute:
            return schema.to_do(self._version(execute), self._name)

    def server(self) -> str:
        """Ask the server for its version."""
        with self._lent(prepared=False) as execute:
            return self._driver.server(execute)

    def install(self) -> list[str]:
        """Create or upgrade the tables; return one line for each thing done."""
        with self._lent(prepared=False) as execute:
            done = self._install(execute, INSTALL_SECONDS)
        self._ready = True
        return done

    @contextmanager
    def joining(self, session: Any) -> Iterator[None]:
        """Let the calls of this context join the transaction of a SQLAlchemy session, inside of the block."""
        from celery_stackstate.stores.sqlalchemy_joining import Joined, place_of, session_of

        own = session_of(session, self._driver, place_of(self._driver, self._driver.options))
        if not self._ready:
            with self._lent():
                pass  # the tables are made now, and not in the caller's transaction
        joined = Joined(own, self._driver, partial(self._explained, maybe_applied=False))
        before = self._joining.get()
        try:
            self._joining.set(joined)
            yield
        finally:
            joined.is_over = True
            self._joining.set(before)

    def _joined(self) -> Joined | None:
        joined = self._joining.get()
        return None if joined is None or joined.is_over else joined

    def in_transaction(self) -> bool:
        """Return whether the calls of this context join a session."""
        return self._joined() is not None

    def on_commit(self, work: Callable[[], object]) -> None:
        """Do `work` when the session that is joined has committed; at once without one."""
        joined = self._joined()
        if joined is None:
            work()
        else:
            joined.on_commit(lambda: self.apart(work))

    def apart(self, work: Callable[[], T]) -> T:
        """Do `work` on connections of the store's own."""
        before = self._joining.get()
        try:
            self._joining.set(None)
            return work()
        finally:
            self._joining.set(before)

    def close(self) -> None:
        """Close this process's connections, a busy one when its call is over. A later call opens new ones."""
        self._forget(self._pool())

    # -- statements ------------------------------------------------------------------------------------------------

    def _deadline(self) -> float:
        return time.monotonic() + ENDING * self._timeout

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        joined = self._joined()
        if joined is not None:
            return joined.rows(sql, parameters)
        line = Line(self._pool())
        try:
            return self._lend(line, deadline or self._deadline())(sql, parameters)
        except self._driver.errors as error:
            raise self._failed(line, error) from error
        finally:
            line.give_back()

    def _at_once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        if not self._dialect.writes_at_once or self.in_transaction():
            return super()._at_once(statements, deadline)
        line, sent = Line(self._pool()), False
        try:
            self._lend(line, deadline)
            sent = True
            return line.answer(lambda: self._driver.at_once(line.connection, statements, deadline))
        except self._driver.errors as error:
            raise self._failed(line, error, maybe_applied=sent) from error
        finally:
            line.give_back()

    def _transaction(self, deadline: float | None = None) -> Generator[Execute, None, None]:
        deadline, joined = deadline or self._deadline(), self._joined()
        if joined is not None:
            return joined.transaction(WAITING * (deadline - time.monotonic()))
        return self._transaction_alone(deadline)

    def _transaction_alone(self, deadline: float) -> Generator[Execute, None, None]:
        line, committing = Line(self._pool()), False
        try:
            execute = self._lend(line, deadline)
            try:
                line.in_transaction = True
                execute(self._driver.begin, ())
                yield execute
                committing = True
                execute("COMMIT", ())
                line.in_transaction = False
            except BaseException:
                self._roll_back(line, execute)
                raise
        except self._driver.errors as error:
            raise self._failed(line, error, maybe_applied=committing) from error
        finally:
            line.give_back()

    @contextmanager
    def _lent(self, *, prepared: bool = True) -> Iterator[Execute]:
        """Lend a connection for statements that are no transaction."""
        line = Line(self._pool())
        try:
            yield self._lend(line, self._deadline(), prepared=prepared)
        except self._driver.errors as error:
            raise self._failed(line, error) from error
        finally:
            line.give_back()

    def _roll_back(self, line: Line, execute: Execute) -> None:
        if line.asking:
            return  # the connection is closed, and then the server rolls back
        try:
            execute("ROLLBACK", ())
            line.in_transaction = False
        except self._driver.errors:
            pass

    def _failed(self, line: Line, error: Exception, *, maybe_applied: bool = False) -> Exception:
        """Return what to raise. After an error without an answer no idle connection is trusted either."""
        if line.asking:
            self._forget(line.pool)
        return self._explained(error, maybe_applied=maybe_applied)

    def _explained(self, error: Exception, *, maybe_applied: bool) -> Exception:
        text = f"{self._name}: {str(error).strip() or type(error).__name__}"
        trouble = self._driver.trouble(error)
        if trouble is Trouble.DATA:
            return ValueError(f"{self._dialect.name} cannot store this: {error}")
        if trouble is Trouble.SETUP:
            return ConfigurationError(f"stackstate_url: {text}")
        if trouble is Trouble.COLLISION:
            return Collision(text, maybe_applied=False)
        if trouble is Trouble.NO_TABLE:
            self._ready = False  # somebody dropped them: the next call makes them anew
        return StoreUnavailable(text, maybe_applied=maybe_applied and trouble is Trouble.LOST)

    # -- connections -----------------------------------------------------------------------------------------------

    def _pool(self) -> Pool:
        pool = self._current
        if pool.is_inherited:
            lines.inherited.append(pool)
            self._current = pool = self._new_pool()
        return pool

    def _new_pool(self) -> Pool:
        return Pool(self._driver, *self._sizes)

    def _forget(self, pool: Pool) -> None:
        """Close the idle connections of `pool`, and the others when they come back."""
        if self._current is pool and not pool.is_inherited:
            self._current = Pool(self._driver, *self._sizes, pool.slots)  # those of busy connections come back there
            pool.close()

    def _lend(self, line: Line, deadline: float, *, prepared: bool = True) -> Execute:
        """Connect a line; return what runs statements on it."""
        if not line.connect(min(WAITING * self._timeout, deadline - time.monotonic()), deadline):
            raise StoreUnavailable(
                f"{self._name}: all connections of this process are in use; raise ?pool_size=", maybe_applied=False
            )
        if prepared and not self._ready:
            self._prepare(line.until(deadline), deadline)
        return line.until(deadline if prepared else time.monotonic() + INSTALL_SECONDS)

    # -- tables ----------------------------------------------------------------------------------------------------

    def _prepare(self, execute: Execute, deadline: float) -> None:
        """Make sure that the tables are there, once in the life of this store."""
        if not is_current(self._version(execute), self._name):
            self._install(execute, deadline - time.monotonic())
        self._ready = True

    def _version(self, execute: Execute) -> int:
        if not execute(self._driver.has_versions, ())[0][0]:
            return 0
        return execute(schema.READ_VERSION, ())[0][0] or 0

    def _install(self, execute: Execute, seconds: float) -> list[str]:
        done: list[str] = []

        def work() -> None:
            before = self._version(execute)
            if is_current(before, self._name):
                return
            execute(schema.VERSIONS, ())
            schema.upgrade(execute, self._dialect, before)
            for version in range(before + 1, len(schema.MIGRATIONS) + 1):
                execute(self._dialect.native(schema.ADD_VERSION), (version,))
            done.append(schema.told(before))

        try:
            self._driver.migrating(execute, work, seconds)
        except self._driver.errors as error:
            if self._driver.trouble(error) is Trouble.SETUP:
                raise ConfigurationError(
                    f"stackstate_url: {self._name} lacks our tables, or they are of an older release, and this "
                    f"account may not change that ({error}): run `celery -A proj stackstate init` with one that may, "
                    "and grant this one SELECT, INSERT, UPDATE and DELETE on stackstate_*"
                ) from error
            raise
        return done


def _parsed(url: str, name: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url).set(drivername=name)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"stackstate_url: not a URL of the form {FORM}; {rules.ENCODED}") from None
    if "@" in (parsed.host or ""):  # what is before it is a part of the password
        raise ConfigurationError(f"stackstate_url: not a URL of the form {FORM}; {rules.ENCODED}")
    return parsed


def _options(url: URL) -> dict[str, Any]:
    """Return what the driver is to be called with."""
    _, options = url.get_dialect()().create_connect_args(url)
    return dict(options)


def _number(url: URL, name: str, default: int, least: int) -> int:
    given = url.query.get(name, str(default))
    if not isinstance(given, str) or not given.isdigit() or int(given) < least:
        raise ConfigurationError(f"stackstate_url: ?{name}= is a whole number of at least {least}, not {given!r}")
    return int(given)
