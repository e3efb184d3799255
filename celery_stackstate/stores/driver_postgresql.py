"""PostgreSQL by psycopg 3."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores.dialects import POSTGRESQL
from celery_stackstate.stores.drivers import Driver, Trouble
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql_base import Row, Statement

T = TypeVar("T")
OLDEST = 120000
#: One for all: of a cluster's databases each has locks of its own.
MIGRATION_LOCK = 0x57AC57A7E

TROUBLES = {
    "40001": Trouble.COLLISION,
    "40P01": Trouble.COLLISION,
    "25006": Trouble.READ_ONLY,
    "42P01": Trouble.NO_TABLE,
    "42501": Trouble.SETUP,
    "3D000": Trouble.SETUP,
    "28000": Trouble.SETUP,
    "28P01": Trouble.SETUP,
}
#: What the server says before it gives errors a code that the driver hands on.
SETUP_WORDS = (
    *("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied", "not permitted"),
    *("invalid connection option", "invalid sslmode value", "invalid integer value"),
)
FULL_WORDS = ("too many connections", "too many clients", "remaining connection slots")

_connecting = threading.local()


def _until(steps: Generator[Any, Any, T], deadline: float) -> Generator[Any, Any, T]:
    """Do the steps of a request, each of which waits for its socket, but no longer than to `deadline`."""
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= deadline:
                raise psycopg.OperationalError("no answer in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result


class BoundedConnection(psycopg.Connection[Row]):
    """A connection that waits for no answer longer than to its `deadline`, whatever became of the server."""

    deadline = float("inf")

    def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait for the end of a request."""
        interval = max(0.001, min(0.1, self.deadline - time.monotonic()))
        return super().wait(_until(gen, self.deadline), interval=interval)

    @classmethod
    def _connect_gen(cls, *args: Any, **options: Any) -> Any:
        return _until(super()._connect_gen(*args, **options), _connecting.deadline)


class PostgreSQLDriver(Driver):
    """psycopg 3, in autocommit: a transaction is begun and ended by statements."""

    dialect = POSTGRESQL
    errors = (psycopg.Error,)
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
    # to_regclass() may answer from a cache that is older than the wait for the migration lock.
    has_versions = (
        "SELECT COUNT(*) FROM pg_catalog.pg_tables "
        "WHERE schemaname = ANY (current_schemas(FALSE)) AND tablename = 'stackstate_schema'"
    )
    sqlalchemy_driver, default_port = "psycopg", 5432
    unlimit_waits = "SELECT set_config('lock_timeout', current_setting('stackstate.lock_timeout'), TRUE)"

    def connect(self, deadline: float) -> BoundedConnection:
        """Open a connection; the server bounds each statement, and each wait for a lock."""
        _connecting.deadline = deadline
        limit = max(2, round(self.timeout))
        connection = BoundedConnection.connect(
            **{"connect_timeout": limit, "application_name": "celery-stackstate", **self.options}, autocommit=True
        )
        try:
            connection.deadline = deadline
            bound = max(1, int(self.timeout * 800))
            connection.execute(
                "SET default_transaction_isolation = 'read committed'; SET client_encoding = 'UTF8'; "
                f"SET statement_timeout = {bound}; SET lock_timeout = {max(1, int(self.timeout * 700))}; "
                f"SET idle_in_transaction_session_timeout = {max(1000, 4 * bound)}".encode()
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def run(self, connection: BoundedConnection, sql: str, parameters: Any, deadline: float) -> list[Row]:
        """Run a statement and return its rows."""
        connection.deadline = deadline
        cursor = connection.execute(sql.encode(), parameters)
        return _fetched(cursor)

    def at_once(
        self, connection: BoundedConnection, statements: Sequence[Statement], deadline: float
    ) -> list[list[Row]]:
        """Run statements as one transaction: PostgreSQL makes one of all that come in a single message."""
        if len(statements) == 1:
            return [self.run(connection, *statements[0], deadline)]
        connection.deadline = deadline
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(b"; ".join(cursor.mogrify(sql, values).encode() for sql, values in statements))
            found = [_fetched(cursor)]
            while cursor.nextset():
                found.append(_fetched(cursor))
            return found

    def descriptor(self, connection: BoundedConnection) -> int:
        """Return the descriptor of the connection's socket; below 0 when it is closed."""
        return -1 if connection.closed else connection.fileno()

    def trouble(self, error: Exception) -> Trouble:
        """Say what an error means."""
        state = getattr(error, "sqlstate", None) or ""
        if state in TROUBLES:
            return TROUBLES[state]
        if state == "0A000" and "during recovery" in str(error):  # BEGIN READ WRITE on a standby
            return Trouble.READ_ONLY
        if state.startswith("22"):
            return Trouble.DATA
        if state and not state.startswith(("08", "57P", "58")):
            return Trouble.REFUSED
        if isinstance(error, psycopg.DataError):
            return Trouble.DATA
        if any(words in str(error) for words in FULL_WORDS):
            return Trouble.REFUSED
        return Trouble.SETUP if any(words in str(error) for words in SETUP_WORDS) else Trouble.LOST

    def in_autocommit(self, connection: psycopg.Connection[Any]) -> bool:
        """Return whether each statement of a connection is a transaction of its own."""
        return connection.autocommit

    def limit_waits(self, seconds: float) -> Statement:
        """Return the statement that bounds each wait for a lock, at most to the end of the transaction."""
        return (
            "SELECT set_config('stackstate.lock_timeout', current_setting('lock_timeout'), TRUE), "
            "set_config('lock_timeout', %s, TRUE)"
        ), (str(max(1, int(seconds * 1000))),)

    def migrating(self, execute: Execute, work: Callable[[], None], seconds: float) -> None:
        """Do `work` in one transaction."""
        execute(self.begin, ())
        try:
            for name in ("statement_timeout", "lock_timeout"):
                execute(f"SET LOCAL {name} = {int(seconds * 1000)}", ())
            execute(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})", ())
            work()
        except BaseException:
            with suppress(psycopg.Error, StoreUnavailable):
                execute("ROLLBACK", ())
            raise
        execute("COMMIT", ())

    def check(self, execute: Execute) -> list[str]:
        """Return warnings about the server; raise ConfigurationError when it cannot serve."""
        names = ("server_version_num", "server_encoding", "synchronous_commit", "fsync", "server_version")
        settings = ", ".join(f"current_setting('{name}')" for name in names)
        number, encoding, commit, fsync, version, replica = execute(f"SELECT {settings}, pg_is_in_recovery()", ())[0]
        if int(number) < OLDEST:
            raise ConfigurationError(f"stackstate_url: PostgreSQL 12 or newer is needed, this is {version}")
        if encoding != "UTF8":
            raise ConfigurationError(f"stackstate_url: the database must have the encoding UTF8, not {encoding}")
        warnings = []
        if replica:
            warnings.append("this PostgreSQL server is a replica that takes no writes: name the primary")
        if commit == "off":
            warnings.append("synchronous_commit is off: the last writes before a crash of the server may be lost")
        if fsync == "off":
            warnings.append("fsync is off: a crash of the server may damage everything")
        return warnings

    def server(self, execute: Execute) -> str:
        """Return the name and the version of the server."""
        return f"PostgreSQL {execute('SHOW server_version', ())[0][0].split()[0]}"


def _fetched(cursor: psycopg.Cursor[Row]) -> list[Row]:
    return cursor.fetchall() if cursor.description else []
