"""MySQL and MariaDB by PyMySQL."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import pymysql

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores.dialects import MYSQL
from celery_stackstate.stores.drivers import Driver, Trouble
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql_base import Row, Statement

#: A named lock of the server, one for each database.
MIGRATION_LOCK = "CONCAT('stackstate:', MD5(DATABASE()))"

TROUBLES = {
    1213: Trouble.COLLISION,
    1205: Trouble.COLLISION,
    1020: Trouble.COLLISION,
    1146: Trouble.NO_TABLE,
    **dict.fromkeys((1290, 1792, 1836), Trouble.READ_ONLY),
    **dict.fromkeys((1044, 1045, 1049, 1142, 1143, 1227, 1698, 2059), Trouble.SETUP),
    **dict.fromkeys((1264, 1300, 1366, 1406), Trouble.DATA),
    # The server closes the connection with these, but it has done nothing.
    **dict.fromkeys((1040, 1129, 1130, 1203), Trouble.REFUSED),
    1153: Trouble.DATA,
    **dict.fromkeys((1053, 1927, 2003, 2006, 2013, 2014, 2055), Trouble.LOST),
}


class QuietConnection(pymysql.Connection):
    """A connection that may be closed twice."""

    def close(self) -> None:
        """Close it, as far as it is open."""
        if self.open:
            with suppress(pymysql.MySQLError, OSError):
                super().close()


class MySQLDriver(Driver):
    """PyMySQL, in autocommit: a transaction is begun and ended by statements."""

    dialect = MYSQL
    errors = (pymysql.MySQLError, OSError)
    begin = "START TRANSACTION READ WRITE"
    has_versions = (
        "SELECT COUNT(*) FROM information_schema.tables "
        "WHERE table_schema = DATABASE() AND table_name = 'stackstate_schema'"
    )
    sqlalchemy_driver, default_port = "pymysql", 3306
    unlimit_waits = "SET SESSION innodb_lock_wait_timeout = @stackstate_wait"

    def connect(self, deadline: float) -> pymysql.Connection[Any]:
        """Open a connection in READ COMMITTED; the server bounds each wait for a lock."""
        left = max(0.05, deadline - time.monotonic())
        connection = QuietConnection(
            **{
                "connect_timeout": left,
                "read_timeout": left,
                "write_timeout": left,
                "binary_prefix": True,
                **self.options,
                "charset": "utf8mb4",
                "autocommit": True,
            }
        )
        try:
            for statement in self._session(str(connection.get_server_info())):
                self.run(connection, statement, (), deadline)
        except BaseException:
            connection.close()
            raise
        return connection

    def _session(self, version: str) -> list[str]:
        seconds = max(1, int(self.timeout * 0.7))
        bound = (
            f"max_statement_time = {self.timeout * 0.8:.3f}"
            if "MariaDB" in version
            else f"max_execution_time = {max(1, int(self.timeout * 800))}"
        )
        return [
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
            f"innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds}, {bound}",
        ]

    def run(self, connection: pymysql.Connection[Any], sql: str, parameters: Any, deadline: float) -> list[Row]:
        """Run a statement and return its rows."""
        left = deadline - time.monotonic()
        if left <= 0:
            connection.close()
            raise pymysql.OperationalError(2013, "no answer in time")
        connection._read_timeout = connection._write_timeout = left  # type: ignore[attr-defined]
        with connection.cursor() as cursor:
            cursor.execute(sql, parameters or None)
            return list(cursor.fetchall()) if cursor.description else []

    def descriptor(self, connection: pymysql.Connection[Any]) -> int:
        """Return the descriptor of the connection's socket; below 0 when it is closed."""
        sock = connection._sock  # type: ignore[attr-defined]
        return -1 if sock is None else sock.fileno()

    def trouble(self, error: Exception) -> Trouble:
        """Say what an error means."""
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        if code in TROUBLES and isinstance(error, pymysql.MySQLError):
            return TROUBLES[code]
        if isinstance(error, pymysql.DataError):
            return Trouble.DATA
        answered = isinstance(error, pymysql.MySQLError) and 1000 <= code < 2000
        return Trouble.REFUSED if answered else Trouble.LOST

    def in_autocommit(self, connection: pymysql.Connection[Any]) -> bool:
        """Return whether each statement of a connection is a transaction of its own."""
        return connection.get_autocommit()

    def limit_waits(self, seconds: float) -> Statement:
        """Return the statement that bounds each wait for a row."""
        remember = "@stackstate_wait = @@SESSION.innodb_lock_wait_timeout"
        return f"SET {remember}, SESSION innodb_lock_wait_timeout = %s", (max(1, int(seconds)),)

    def spelled(self, sql: str, parameters: Sequence[Any]) -> Statement:
        """Send bytes as hexadecimal digits: without `binary_prefix` they would be text of the connection's charset."""
        marks = ["UNHEX(%s)" if isinstance(value, bytes) else "%s" for value in parameters]
        return sql % tuple(marks), [value.hex() if isinstance(value, bytes) else value for value in parameters]

    def waited_too_long(self, error: Exception) -> bool:
        """Return whether a statement alone was given up, because it waited for a lock."""
        return error.args[:1] == (1205,)

    def migrating(self, execute: Execute, work: Callable[[], None], seconds: float) -> None:
        """Do `work` under a named lock: each of its statements commits by itself."""
        if execute(f"SELECT GET_LOCK({MIGRATION_LOCK}, {max(1, int(seconds))})", ()) != [(1,)]:
            raise StoreUnavailable("another process is changing the tables", maybe_applied=False)
        release = f"SELECT RELEASE_LOCK({MIGRATION_LOCK})"
        try:
            work()
        except BaseException:
            with suppress(pymysql.MySQLError, StoreUnavailable):  # it ends with the connection, too
                execute(release, ())
            raise
        execute(release, ())

    def check(self, execute: Execute) -> list[str]:
        """Return warnings about the server; raise ConfigurationError when it cannot serve."""
        version, flush, read_only, packet = execute(
            "SELECT VERSION(), @@innodb_flush_log_at_trx_commit, @@read_only, @@max_allowed_packet", ()
        )[0]
        oldest = (10, 5) if "MariaDB" in version else (8, 0)
        if tuple(int(part) for part in version.split("-")[0].split(".")[:2]) < oldest:
            raise ConfigurationError(f"stackstate_url: MySQL 8.0 or MariaDB 10.5 is needed, this is {version}")
        warnings = []
        if read_only:
            warnings.append("this server is read-only, as replicas are: name the primary")
        if flush != 1:
            warnings.append(
                f"innodb_flush_log_at_trx_commit is {flush}: the last writes before a crash of the server may be lost"
            )
        if packet < 4 << 20:
            warnings.append(f"max_allowed_packet is {packet:,} bytes: larger values cannot be stored")
        return warnings

    def server(self, execute: Execute) -> str:
        """Return the name and the version of the server."""
        version: str = execute("SELECT VERSION()", ())[0][0]
        return f"{'MariaDB' if 'MariaDB' in version else 'MySQL'} {version.partition('-')[0]}"
