"""What Django's database backends need of each vendor: how a transaction begins, and what an error means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_stackstate.stores.dialects import MYSQL, POSTGRESQL, SQLITE, Dialect
from celery_stackstate.stores.drivers import Trouble, is_readable

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

Limit = Callable[["BaseDatabaseWrapper", float], Callable[[], Any]]

#: What the servers say before they give errors a code that the drivers hand on.
SETUP_WORDS = ("authentication failed", "no pg_hba.conf entry", "does not exist", "permission denied")


def _nothing() -> None:
    """There is nothing to be put back."""


def _first(connection: BaseDatabaseWrapper, sql: str, *parameters: Any) -> Any:
    """Return the first value that a statement answers with, if it answers."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchone()[0] if cursor.description else None


class Vendor:
    """One vendor; the connection is in autocommit, so that a transaction is begun and ended by statements."""

    dialect: Dialect
    shared_between_hosts = True
    #: What in OPTIONS bounds the waits that no statement can bound.
    timeouts: tuple[str, ...] = ()

    def dialect_of(self, connection: BaseDatabaseWrapper) -> Dialect:
        """Return what this connection understands."""
        return self.dialect

    def limit(self, connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], Any]:
        """Bound the waits for locks of one call where that costs no round trip; return what undoes it."""
        return _nothing

    def limit_joined(self, connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], Any]:
        """Bound the waits for locks of a write inside the caller's transaction; return what undoes it."""
        return self.limit(connection, seconds)

    def begin(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, seconds: float) -> None:
        """Begin a transaction of our own."""
        raise NotImplementedError

    def ended(self, cursor: CursorWrapper) -> None:
        """Put back what `begin` changed."""

    def join(self, cursor: CursorWrapper) -> None:
        """Prepare a write inside the caller's transaction, before its savepoint."""

    def let_go(self, cursor: CursorWrapper) -> None:
        """Give up what a statement holds beyond the end of its connection."""

    def spelled(self, sql: str, parameters: Sequence[Any]) -> str:
        """Return a statement for these parameters."""
        return sql

    def trouble(self, error: BaseException) -> Trouble:
        """Say what an error of the driver means."""
        raise NotImplementedError

    def warnings(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Return what the settings of `connection` do not promise."""
        options = connection.settings_dict["OPTIONS"]
        missing = [name for name in self.timeouts if name not in options]
        if not missing:
            return []
        return [
            f"DATABASES[{connection.alias!r}]['OPTIONS'] has no {', '.join(missing)}: "
            "a server that does not answer is waited for without end"
        ]


class SQLite(Vendor):
    """A file: one writer at a time."""

    dialect = replace(SQLITE, placeholder="%s")
    shared_between_hosts = False

    def limit(self, connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], Any]:
        """Wait for other writers as long as the store may, not as long as OPTIONS say."""
        connection.ensure_connection()
        execute = connection.connection.execute
        before = execute("PRAGMA busy_timeout").fetchone()[0]
        execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")
        return lambda: execute(f"PRAGMA busy_timeout = {before}")

    def begin(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, seconds: float) -> None:
        """Take the write lock first: to take it after a read fails at once when somebody else has written."""
        cursor.execute("BEGIN IMMEDIATE")

    def join(self, cursor: CursorWrapper) -> None:
        """Take the write lock, which a deferred transaction does not have yet."""
        cursor.execute("UPDATE stackstate_entry SET version = version WHERE 1 = 0")

    def let_go(self, cursor: CursorWrapper) -> None:
        """Close it: a statement that was not read to its end keeps the file locked, as long as anybody refers to it."""
        cursor.close()

    def trouble(self, error: BaseException) -> Trouble:
        """SQLite tells by words."""
        text = str(error)
        if "locked" in text or "busy" in text:
            return Trouble.COLLISION
        if "no such table: stackstate_" in text:
            return Trouble.NO_TABLE
        if any(words in text for words in ("unable to open", "readonly", "not a database", "malformed")):
            return Trouble.SETUP
        return Trouble.REFUSED if type(error).__name__ == "OperationalError" else Trouble.DATA

    def warnings(self, connection: BaseDatabaseWrapper) -> list[str]:
        """Say what a file cannot do, and what a deferred transaction does."""
        warnings = [f"the Django database {connection.alias!r} is SQLite, which serves the processes of one machine"]
        if (connection.settings_dict["OPTIONS"].get("transaction_mode") or "DEFERRED").upper() == "DEFERRED":
            warnings.append(
                f"DATABASES[{connection.alias!r}]['OPTIONS'] has no transaction_mode = 'IMMEDIATE': an atomic() block "
                "that reads before it writes fails (database is locked) when another process writes in between"
            )
        return warnings


class PostgreSQL(Vendor):
    """PostgreSQL by psycopg 3 or psycopg2."""

    dialect = POSTGRESQL
    timeouts = ("connect_timeout", "tcp_user_timeout")
    troubles: Mapping[str, Trouble] = {
        "40001": Trouble.COLLISION,
        "40P01": Trouble.COLLISION,
        "42P01": Trouble.NO_TABLE,
        **dict.fromkeys(("3D000", "28000", "28P01", "42501"), Trouble.SETUP),
    }

    def dialect_of(self, connection: BaseDatabaseWrapper) -> Dialect:
        """Leave out what is no gain where a message holds one statement only."""
        from django.db.backends.postgresql.psycopg_any import is_psycopg3

        in_one_message = is_psycopg3 and not connection.settings_dict["OPTIONS"].get("server_side_binding")
        return replace(POSTGRESQL, writes_at_once=in_one_message)

    def limit_joined(self, connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], Any]:
        """Bound each wait for a lock, up to the end of the caller's transaction or until it is undone."""
        asked = "SELECT current_setting('lock_timeout'), set_config('lock_timeout', %s, TRUE)"
        before = _first(connection, asked, str(max(1, int(seconds * 1000))))
        return lambda: _first(connection, "SELECT set_config('lock_timeout', %s, TRUE)", before)

    def begin(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, seconds: float) -> None:
        """Begin, and bound each statement, in one round trip."""
        cursor.execute("; ".join(self.beginning(seconds)))

    def beginning(self, seconds: float) -> list[str]:
        """Return the statements that begin a transaction of our own."""
        timeout = f"SET LOCAL statement_timeout = {max(1, int(seconds * 1000))}"
        return ["BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", timeout]

    def is_quiet(self, connection: BaseDatabaseWrapper) -> bool:
        """Return whether an open connection has nothing to say, as one that died while it lay idle has."""
        driver = connection.connection
        return driver is not None and not driver.closed and not is_readable(driver.fileno())

    def trouble(self, error: BaseException) -> Trouble:
        """Read the SQLSTATE. There is none when the connection broke or could not be made."""
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        if state in self.troubles:
            return self.troubles[state]
        if state.startswith("22") or type(error).__name__ == "DataError":
            return Trouble.DATA
        if state and not state.startswith(("08", "57P", "58", "25P03")):
            return Trouble.REFUSED
        return Trouble.SETUP if any(words in str(error) for words in SETUP_WORDS) else Trouble.LOST


class MySQL(Vendor):
    """MySQL and MariaDB by mysqlclient or PyMySQL."""

    dialect = MYSQL
    timeouts = ("connect_timeout", "read_timeout", "write_timeout")
    troubles: Mapping[int, Trouble] = {
        1146: Trouble.NO_TABLE,
        **dict.fromkeys((1020, 1213), Trouble.COLLISION),
        **dict.fromkeys((1044, 1045, 1049, 1142, 1143, 1227, 1698, 2059), Trouble.SETUP),
        **dict.fromkeys((1153, 1264, 1300, 1366, 1406), Trouble.DATA),
        **dict.fromkeys((1053, 1927, 4031), Trouble.LOST),
    }

    def limit_joined(self, connection: BaseDatabaseWrapper, seconds: float) -> Callable[[], Any]:
        """Bound each wait for a row; on a timeout the server undoes the statement alone."""
        _first(connection, self._bounding(seconds))

        def undo() -> None:
            with connection.connection.cursor() as cursor:  # Django's takes nothing more after a deadlock
                cursor.execute("SET SESSION innodb_lock_wait_timeout = @stackstate_wait")

        return undo

    def _bounding(self, seconds: float) -> str:
        return (
            "SET @stackstate_wait = @@SESSION.innodb_lock_wait_timeout, "
            f"SESSION innodb_lock_wait_timeout = {max(1, int(seconds))}"
        )

    def begin(self, connection: BaseDatabaseWrapper, cursor: CursorWrapper, seconds: float) -> None:
        """Begin, and bound each wait for a row, in one round trip: `SET` takes both."""
        cursor.execute(f"{self._bounding(seconds)}, SESSION autocommit = 0")
        if getattr(connection, "isolation_level", None) != "read committed":
            cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")

    def ended(self, cursor: CursorWrapper) -> None:
        """Go back to autocommit, as Django's atomic() does, and to the wait that was."""
        cursor.execute("SET SESSION autocommit = 1, SESSION innodb_lock_wait_timeout = @stackstate_wait")

    def spelled(self, sql: str, parameters: Sequence[Any]) -> str:
        """Mark bytes as bytes, which the drivers send as text."""
        return sql % tuple("_binary %s" if isinstance(value, bytes) else "%s" for value in parameters)

    def trouble(self, error: BaseException) -> Trouble:
        """Read the number; from 2000 on it is the client that lost the server."""
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        if code in self.troubles:
            return self.troubles[code]
        if type(error).__name__ == "DataError":
            return Trouble.DATA
        return Trouble.REFUSED if 1000 <= code < 2000 or code >= 3000 else Trouble.LOST


VENDORS: Mapping[str, Vendor] = {"sqlite": SQLite(), "postgresql": PostgreSQL(), "mysql": MySQL()}
