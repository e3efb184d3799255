"""The store in a database of Django's: `django://default` names it by its alias in DATABASES."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import Error, NotSupportedError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.utils.connection import ConnectionDoesNotExist

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import rules, threads
from celery_stackstate.stores.django.apps import APP
from celery_stackstate.stores.django.lending import OUR_THREADS, drop, in_transaction, lent, use
from celery_stackstate.stores.django.vendors import VENDORS, Limit, PostgreSQL, Vendor
from celery_stackstate.stores.drivers import Trouble
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql import SQLStore
from celery_stackstate.stores.sql_base import Collision, Row, Statement

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper
    from typing_extensions import Self

T = TypeVar("T")

#: The part of the time left that one wait for a lock may take.
WAITING = 0.75
#: Seconds between two looks whether what is done apart has ended.
LOOK_PAUSE = 0.0005
TABLES = ("stackstate_entry", "stackstate_run", "stackstate_event", "stackstate_log")


class DjangoStore(SQLStore):
    """A store over Django's connection to the database that DATABASES calls `alias`.

    Inside the caller's transaction (`atomic()`, or autocommit turned off) each call joins it, in a savepoint: what it
    wrote is committed or rolled back with it. Outside, each call is a transaction of its own.

    Django's settings decide how long a server that does not answer is waited for: give OPTIONS a `connect_timeout`.
    """

    schemes = ("django",)

    def __init__(self, alias: str, connection: BaseDatabaseWrapper, *, prefix: str, timeout: float) -> None:
        self.alias = alias
        self._vendor: Vendor = VENDORS[connection.vendor]
        self._dialect = self._vendor.dialect_of(connection)
        self._prefix = prefix
        self._timeout = timeout
        self.shared_between_hosts = self._vendor.shared_between_hosts
        self.shared_between_processes = not _is_in_memory(connection)

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of the alias that `url` names, without connecting."""
        scheme, found, alias = url.partition("://")
        if scheme != "django" or not found:
            raise ConfigurationError(f"stackstate_url: write django://alias, as in django://default, not {url!r}")
        prefix, timeout = rules.check_prefix(prefix), rules.check_timeout(timeout)
        alias = alias or "default"
        return cls(alias, _connection(alias), prefix=prefix, timeout=timeout)

    def check(self) -> list[str]:
        """Write to the database in a transaction that is taken back; return warnings."""
        if apps.ready and not apps.is_installed(APP):
            raise ConfigurationError(f'stackstate_url: add our tables to Django: INSTALLED_APPS += ["{APP}"]')
        self.install()
        with suppress(_TakeBack), self._writing() as execute:
            execute("DELETE FROM stackstate_entry WHERE 1 = 0", ())
            raise _TakeBack
        return self._vendor.warnings(connections[self.alias])

    def server(self) -> str:
        """Return the version of the server."""
        connection = connections[self.alias]
        with lent(self.alias):
            try:
                version = connection.get_database_version()
            except Error as error:
                self._raise(error)
        return f"{connection.display_name} {'.'.join(map(str, version))}"

    def install(self) -> list[str]:
        """Look for the tables, which Django's migrations make."""
        for table in TABLES:
            self._rows(f"SELECT 1 FROM {table} WHERE 1 = 0", ())  # noqa: S608
        return []

    def in_transaction(self) -> bool:
        """Return whether this thread has a transaction open, which its calls would join."""
        return in_transaction(connections[self.alias])

    def usable_here(self) -> bool:
        """Return whether Django lets this thread use its connections: not where an event loop runs."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return True
        return bool(os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE"))

    def on_commit(self, work: Callable[[], object]) -> None:
        """Do `work` when this thread's `atomic` block is committed; at once in a transaction managed by hand."""
        if connections[self.alias].in_atomic_block:
            transaction.on_commit(work, using=self.alias)
        else:
            work()

    def apart(self, work: Callable[[], T]) -> T:
        """Do `work` on a connection of its own where this thread has a transaction open."""
        if not self.in_transaction():
            return work()
        ended: list[Callable[[], T]] = []
        thread = Thread(target=self._on_own_connection, args=(work, ended), name=OUR_THREADS + "apart", daemon=True)
        threads.start(thread)
        while not ended:  # a future would stay locked when a signal's exception strikes here
            time.sleep(LOOK_PAUSE)
        return ended[0]()

    def _on_own_connection(self, work: Callable[[], T], ended: list[Callable[[], T]]) -> None:
        """Do `work`, and leave what returns its result or raises its error."""
        try:
            result = work()
            outcome: Callable[[], T] = lambda: result  # noqa: E731
        except BaseException as error:
            outcome = partial(_raise, error)
        try:
            drop(connections[self.alias])
        finally:
            ended.append(outcome)

    def close(self) -> None:
        """Close this thread's connection, unless its transaction is open; the others are Django's to close."""
        connection = connections[self.alias]
        if not in_transaction(connection):
            drop(connection)

    # -- statements ------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        with lent(self.alias) as connection:
            try:
                if in_transaction(connection):
                    return self._queried(connection, sql, parameters)
                return self._read_alone(connection, sql, parameters, self._seconds(deadline))
            except Error as error:
                self._raise(error, inside=in_transaction(connection))

    def _read_alone(
        self, connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any], seconds: float
    ) -> list[Row]:
        try:
            with self._limited(connection, seconds):
                return self._queried(connection, sql, parameters)
        except Error as error:
            if self._trouble(error) is not Trouble.LOST or connection.connection is None:
                raise
        drop(connection)  # it died while it lay idle
        return self._queried(connection, sql, parameters)

    def _queried(self, connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any]) -> list[Row]:
        with connection.cursor() as cursor:
            return self._execute(connection, cursor, sql, parameters)

    def _execute(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, sql: str, parameters: Sequence[Any]
    ) -> list[Row]:
        try:
            cursor.execute(self._vendor.spelled(sql, parameters), parameters)
            return list(cursor.fetchall()) if cursor.description else []
        except Error:
            raise
        except BaseException:  # it was left in the middle of an answer, which nobody may take for that of another
            self._vendor.let_go(cursor)
            drop(connection)
            raise

    def _transaction(self, deadline: float | None = None) -> Generator[Execute, None, None]:
        with lent(self.alias) as connection:
            joins = in_transaction(connection)
            yield from (self._joined if joins else self._alone)(connection, self._seconds(deadline))

    def _joined(self, connection: BaseDatabaseWrapper, seconds: float) -> Generator[Execute, None, None]:
        """Write inside the caller's transaction: what fails is undone to before it, and the rest goes on."""
        undone: BaseException | None = None
        try:
            with connection.cursor() as cursor, self._limited(connection, seconds, self._vendor.limit_joined):
                self._vendor.join(cursor)
                execute = partial(self._execute, connection, cursor)
                execute("SAVEPOINT stackstate", ())  # atomic() would not survive what strikes at its end
                try:
                    yield execute
                    execute("RELEASE SAVEPOINT stackstate", ())
                except BaseException as error:
                    undone = error
                    self._undo(connection, execute)
                    raise
        except Error as error:
            self._raise(error, inside=True)
        except BaseException as error:
            if error is not undone:  # so it struck while an answer was waited for
                drop(connection)
            raise

    def _undo(self, connection: BaseDatabaseWrapper, execute: Execute) -> None:
        """Go back to the savepoint; where it is gone, with the transaction, let nobody go on with that."""
        try:
            execute("ROLLBACK TO SAVEPOINT stackstate", ())
            execute("RELEASE SAVEPOINT stackstate", ())
        except Error:
            connection.needs_rollback = connection.in_atomic_block

    def _alone(self, connection: BaseDatabaseWrapper, seconds: float) -> Generator[Execute, None, None]:
        """Write in a transaction of our own, which has ended when this does."""
        committing = ended = False
        try:
            with self._limited(connection, seconds):
                cursor = self._begun(connection, seconds)
                try:
                    yield partial(self._execute, connection, cursor)
                    committing = True
                    self._execute(connection, cursor, "COMMIT", ())
                except BaseException:
                    ended = self._roll_back(connection, cursor)
                    raise
                ended = self._end(connection, cursor)
        except Error as error:
            self._raise(error, maybe_applied=committing)
        finally:
            if not ended:
                drop(connection)

    def _at_once(self, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        connection, vendor = connections[self.alias], self._vendor
        if not self._dialect.writes_at_once or in_transaction(connection) or not isinstance(vendor, PostgreSQL):
            return super()._at_once(statements, deadline)
        if not vendor.is_quiet(connection):  # then it takes a BEGIN by itself to tell whether it is dead
            return super()._at_once(statements, deadline)
        sql = "; ".join([*vendor.beginning(self._seconds(deadline)), *(sql for sql, _ in statements), "COMMIT"])
        parameters = [value for _, values in statements for value in values]
        with lent(self.alias):
            try:
                with connection.cursor() as cursor:
                    return self._answers(connection, cursor, sql, parameters)[2:-1]
            except Error as error:
                self._raise(error, maybe_applied=True)

    def _answers(
        self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, sql: str, parameters: Sequence[Any]
    ) -> list[list[Row]]:
        """Send a whole transaction in one message and return the rows of each of its statements."""
        ended = False
        try:
            try:
                answers = [self._execute(connection, cursor, sql, parameters)]
            except BaseException:
                ended = self._roll_back(connection, cursor)
                raise
            while cursor.nextset():
                answers.append(list(cursor.fetchall()) if cursor.description else [])
            ended = True
            return answers
        finally:
            if not ended:
                drop(connection)

    @contextmanager
    def _limited(self, connection: BaseDatabaseWrapper, seconds: float, limit: Limit | None = None) -> Iterator[None]:
        undo = (limit or self._vendor.limit)(connection, seconds)
        driver: Any = connection
        try:
            yield
        finally:
            with suppress(Error, driver.Database.Error, AttributeError):  # the connection may be closed by now
                undo()

    def _begun(self, connection: BaseDatabaseWrapper, seconds: float) -> CursorWrapper:
        """Begin a transaction, on a new connection where the old one died while it lay idle."""
        was_open = connection.connection is not None
        try:
            return self._begin(connection, seconds)
        except Error as error:
            if not was_open or self._trouble(error) is not Trouble.LOST:
                raise
        return self._begin(connection, seconds)

    def _begin(self, connection: BaseDatabaseWrapper, seconds: float) -> CursorWrapper:
        try:
            cursor = connection.cursor()
            self._vendor.begin(connection, cursor, seconds)
        except BaseException:
            drop(connection)
            raise
        return cursor

    def _roll_back(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> bool:
        """Take the transaction back; return whether that was certainly done."""
        try:
            cursor.execute("ROLLBACK")
        except Error:  # the connection is broken, or was dropped in the middle of an answer
            return False
        return self._end(connection, cursor)

    def _end(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper) -> bool:
        """Put back what the transaction changed; return whether that was certainly done."""
        try:
            self._vendor.ended(cursor)
        except Error:
            return False
        return True

    def _seconds(self, deadline: float | None) -> float:
        left = self._timeout if deadline is None else deadline - time.monotonic()
        return max(0.05, WAITING * left)

    # -- errors ----------------------------------------------------------------------------------------------------

    def _trouble(self, error: Error) -> Trouble:
        if isinstance(error, NotSupportedError):
            return Trouble.SETUP
        return Trouble.LOST if error.__cause__ is None else self._vendor.trouble(error.__cause__)

    def _raise(self, error: Error, *, inside: bool = False, maybe_applied: bool = False) -> NoReturn:
        """Raise ours; but what only the caller can repeat, a transaction that has become void, raises as it is."""
        trouble = self._trouble(error)
        if isinstance(error, TransactionManagementError) or (inside and trouble is Trouble.COLLISION):
            raise error
        raise self._explained(error, trouble, maybe_applied=maybe_applied) from error

    def _explained(self, error: Error, trouble: Trouble, *, maybe_applied: bool) -> Exception:
        text = f"the Django database {self.alias!r}: {str(error).strip() or type(error).__name__}"
        if trouble is Trouble.NO_TABLE:
            return self._no_tables(error)
        if trouble is Trouble.SETUP:
            return ConfigurationError(f"stackstate_url: {text}")
        if trouble is Trouble.DATA:
            return ValueError(f"{self._dialect.name} cannot store this: {error}")
        if trouble is Trouble.COLLISION:
            return Collision(text, maybe_applied=False)
        return StoreUnavailable(text, maybe_applied=maybe_applied and trouble is Trouble.LOST)

    def _no_tables(self, error: Error) -> ConfigurationError:
        option = "" if self.alias == "default" else f" --database={self.alias}"
        return ConfigurationError(
            f'stackstate_url: the Django database {self.alias!r} lacks our tables: INSTALLED_APPS += ["{APP}"], '
            f"then run `manage.py migrate{option}` ({error})"
        )


def _raise(error: BaseException) -> NoReturn:
    raise error


class _TakeBack(Exception):
    """Ends the transaction of a check without a trace."""


def _connection(alias: str) -> BaseDatabaseWrapper:
    try:
        connection = use(alias)
    except ConnectionDoesNotExist:
        known = ", ".join(connections)
        raise ConfigurationError(f"stackstate_url: django://{alias} names no database: DATABASES has {known}") from None
    except ImproperlyConfigured as error:
        raise ConfigurationError(f"stackstate_url: django://{alias}: {error}") from error
    if connection.vendor not in VENDORS:
        raise ConfigurationError(
            f"stackstate_url: django://{alias} is {connection.display_name}; served are PostgreSQL, MySQL, MariaDB and "
            "SQLite"
        )
    if not connection.settings_dict["AUTOCOMMIT"]:
        raise ConfigurationError(
            f"stackstate_url: DATABASES[{alias!r}] has AUTOCOMMIT = False, where nobody would commit what our own "
            "threads write: name another alias, with AUTOCOMMIT = True"
        )
    return connection


def _is_in_memory(connection: Any) -> bool:
    return connection.vendor == "sqlite" and bool(connection.is_in_memory_db())
