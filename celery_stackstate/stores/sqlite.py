"""Entries and runs in one SQLite file, on the standard library: the default, for all workers of one host."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import rules, schema
from celery_stackstate.stores.base import Expect, PutResult, RunWrite
from celery_stackstate.stores.dialects import SQLITE
from celery_stackstate.stores.schema import Execute, is_current
from celery_stackstate.stores.slots import Slot, Slots
from celery_stackstate.stores.sql import SQLStore
from celery_stackstate.stores.sql_base import Row

if TYPE_CHECKING:
    from typing_extensions import Self

#: Idle connections kept open; a burst of more threads closes the rest behind itself.
MAX_IDLE = 16

SYNCHRONOUS = ("full", "normal")

#: Longest time that a fork waits for a connection that opens.
FORK_SECONDS = 10.0

#: File systems whose locks do not hold between hosts.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "glusterfs", "ceph"})


class _Connection(sqlite3.Connection):
    """A connection that can be referred to weakly."""


@dataclass(slots=True)
class _Connections:
    """The connections that one process opened: the idle ones, and all of them that somebody still has."""

    pid: int = field(default_factory=os.getpid)
    idle: deque[_Connection] = field(default_factory=deque)
    every: dict[int, weakref.ref[_Connection]] = field(default_factory=dict)

    def living(self) -> list[_Connection]:
        """Return those that are open, or were left in haste and are not collected yet."""
        return [connection for known in list(self.every.values()) if (connection := known()) is not None]


class _Opening:
    """One connection opens at a time, and none during a fork."""

    def __init__(self) -> None:
        self.begin_anew()

    def begin_anew(self) -> None:
        """Know nothing of what threads were at, of which a child has none."""
        self.slots = Slots(1)
        self._kept: Slot | None = None

    def pause(self) -> None:
        """Let no connection open."""
        self._kept = self.slots.take(FORK_SECONDS)

    def go_on(self) -> None:
        """Let connections open again."""
        kept, self._kept = self._kept, None
        if kept is not None:
            self.slots.free.append(kept)


_opening = _Opening()
_stores: weakref.WeakSet[SQLiteStore] = weakref.WeakSet()


class SQLiteStore(SQLStore):
    """A store in the SQLite file that `sqlite:///relative/path` or `sqlite:////absolute/path` names.

    Everything is durable when the call returns. `?synchronous=normal` saves the wait for the disk with each write: a
    killed process still loses nothing, but a power cut may take the last writes back.

    The file must lie on a local disk: its write-ahead log does not work over a network.
    """

    schemes = ("sqlite",)
    _dialect = SQLITE

    def __init__(self, path: str, *, prefix: str, timeout: float, synchronous: str) -> None:
        self.path = path
        self._prefix = prefix
        self._timeout = timeout
        self._synchronous = synchronous
        self._connections = _Connections()
        self._upgraded: int | None = None  # the version before, until `install` has told it
        _stores.add(self)

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of the file that `url` names, as it is: a relative path counts from the current folder."""
        location, _, query = url.partition("?")
        scheme, found, path = location.partition(":///")
        if scheme != "sqlite" or not found or not path or path == ":memory:":
            raise ConfigurationError(
                f"stackstate_url: write sqlite:///relative/path or sqlite:////absolute/path, not {url!r}; "
                "memory:// is the store without a file"
            )
        options = dict(parse_qsl(query, keep_blank_values=True))
        synchronous = options.pop("synchronous", "full").lower()
        if options or synchronous not in SYNCHRONOUS:
            raise ConfigurationError(f"stackstate_url: the only option is ?synchronous=full or normal, not {query!r}")
        timeout = rules.check_timeout(timeout)
        return cls(unquote(path), prefix=rules.check_prefix(prefix), timeout=timeout, synchronous=synchronous)

    def check(self) -> list[str]:
        """Open the file and write to it; return a warning when it lies on a network file system."""
        if sqlite3.sqlite_version_info < (3, 24):
            raise ConfigurationError(
                f"the sqlite:// store needs SQLite 3.24 or newer, this is {sqlite3.sqlite_version}"
            )
        with self._writing() as execute:
            execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}", ())
        kind = _file_system(Path(self.path).resolve())
        if kind in NETWORK_FILE_SYSTEMS:
            return [
                f"{self.path} lies on {kind}, where SQLite may lose writes: move it to a local disk or use redis://"
            ]
        return []

    def pending(self) -> list[str]:
        """Look at the file without making it, or a table in it."""
        path = Path(self.path)
        if not path.exists():
            problem = _unwritable(path)
            if problem:
                raise ConfigurationError(f"stackstate_url: cannot write {self.path}: {problem}")
            return ["the file is not there yet"]
        try:
            with closing(sqlite3.connect(f"file:{quote(self.path)}?mode=rw", uri=True, timeout=self._timeout)) as found:
                return schema.to_do(_version(found), self.path)
        except sqlite3.Error as error:
            raise self._explained(error, maybe_applied=False) from error

    def server(self) -> str:
        """Return the version of SQLite, which is a part of this process."""
        return f"SQLite {sqlite3.sqlite_version}"

    def install(self) -> list[str]:
        """Create the file with its tables, or bring them up to date; any other call does so as well."""
        with self._writing():
            upgraded, self._upgraded = self._upgraded, None
        return [] if upgraded is None else [schema.told(upgraded)]

    def close(self) -> None:
        """Close this process's connections, a busy one when its call is over. A later call opens new ones."""
        mine = self._mine()
        self._connections = _Connections()
        while mine.idle:
            self._discard(mine, mine.idle.pop())

    # -- connections -----------------------------------------------------------------------------------------------

    def _mine(self) -> _Connections:
        if self._connections.pid != os.getpid():
            _abandon(self._connections.living())  # only where C code forked past the hooks below
            self._connections = _Connections()
        return self._connections

    def _close_between_calls(self, deadline: float) -> None:
        """Close every connection, each when its call is over; no new one opens meanwhile."""
        mine = self._mine()
        while mine.living() and time.monotonic() < deadline:
            try:
                self._discard(mine, mine.idle.pop())
            except IndexError:
                time.sleep(0.001)

    def _take(self, mine: _Connections) -> _Connection:
        try:
            return mine.idle.pop()
        except IndexError:
            pass
        slots = _opening.slots
        slot = slots.take(self._timeout / 8)
        if slot is None:
            raise StoreUnavailable(f"the SQLite store {self.path} is busy opening", maybe_applied=False)
        try:
            return self._open(mine)
        finally:
            slots.free.append(slot)

    def _give_back(self, mine: _Connections, connection: _Connection | None, *, whole: bool) -> None:
        if connection is None:
            return
        current = mine is self._connections and mine.pid == os.getpid()
        if whole and current and len(mine.idle) < MAX_IDLE:
            mine.idle.append(connection)
        else:
            self._discard(mine, connection)

    def _discard(self, mine: _Connections, connection: _Connection) -> None:
        if mine.pid == os.getpid():
            mine.every.pop(id(connection), None)
            connection.close()

    def _open(self, mine: _Connections) -> _Connection:
        deadline = time.monotonic() + self._timeout / 8
        connection = _Connection(
            self.path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        mine.every[id(connection)] = weakref.ref(connection)
        try:
            while True:
                try:
                    self._prepare(connection)
                    return connection
                except sqlite3.OperationalError as error:
                    # The change to WAL asks for the whole file and fails at once, whatever the busy timeout says.
                    if not _is_busy(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
        except BaseException:
            self._discard(mine, connection)
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        if not self._is_current(connection):
            self._upgrade(connection)
        connection.execute(f"PRAGMA busy_timeout = {int(self._timeout * 750)}")

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        return is_current(_version(connection), self.path)

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            before = _version(connection)
            schema.upgrade(lambda sql, parameters: connection.execute(sql, parameters).fetchall(), SQLITE, before)
            connection.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
            connection.execute("COMMIT")
            self._upgraded = before
        except BaseException:
            _roll_back(connection)
            raise

    def put_and_append(
        self,
        key: bytes,
        value: bytes | int,
        writes: Sequence[RunWrite],
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Put, and append where that is applied, in one transaction: the file is flushed once."""
        rules.check_put(key, value, expect, ttl, None)
        statements = list(self._appending([rules.kept(write) for write in writes]))

        def work(execute: Execute) -> PutResult:
            result = self._put(execute, key, value, expect, (ttl, None), linger)
            if result.applied:
                for sql, parameters in statements:
                    execute(sql, parameters)
            return replace(result, appended=result.applied)

        return self._write(work)

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        mine, connection, whole = self._mine(), None, False
        try:
            connection = self._take(mine)
            rows: list[Row] = connection.execute(sql, parameters).fetchall()
            whole = True
            return rows
        except sqlite3.Error as error:
            raise self._explained(error, maybe_applied=False) from error
        finally:
            self._give_back(mine, connection, whole=whole)

    def _transaction(self, deadline: float | None = None) -> Generator[Execute, None, None]:
        mine, connection, whole, committing = self._mine(), None, False, False
        try:
            connection = self._take(mine)
            execute = _executing(connection)
            try:
                execute("BEGIN IMMEDIATE", ())
                yield execute
                committing = True
                execute("COMMIT", ())
                whole = True
            except BaseException as error:
                committing = committing and not connection.in_transaction
                _roll_back(connection)
                whole = not isinstance(error, sqlite3.Error)
                raise
        except sqlite3.Error as error:
            raise self._explained(error, maybe_applied=committing) from error
        finally:
            self._give_back(mine, connection, whole=whole)

    def _explained(self, error: sqlite3.Error, *, maybe_applied: bool) -> Exception:
        if isinstance(error, (sqlite3.InterfaceError, sqlite3.ProgrammingError, sqlite3.DataError)):
            return ValueError(f"SQLite cannot store this: {error}")
        text = str(error)
        if "not a database" in text or "malformed" in text:
            return ConfigurationError(
                f"stackstate_url: {self.path} is not an SQLite database or is damaged ({text}): "
                "name another file, or restore this one from a backup"
            )
        if "unable to open" in text or "readonly" in text or "read-only" in text:
            problem = _unwritable(Path(self.path))
            if problem:
                return ConfigurationError(f"stackstate_url: cannot write {self.path}: {problem}")
        return StoreUnavailable(f"the SQLite store {self.path}: {text}", maybe_applied=maybe_applied)


# SQLite keeps the locks of a process in its memory. A child that inherits them takes locks for held that are its
# parent's, and lacks the ones that keep others from truncating the log under it. So nothing is open during a fork.
def _before_fork() -> None:
    _opening.pause()
    for store in list(_stores):
        store._close_between_calls(time.monotonic() + store._timeout)


os.register_at_fork(before=_before_fork, after_in_parent=_opening.go_on, after_in_child=_opening.begin_anew)


def _executing(connection: sqlite3.Connection) -> Execute:
    return lambda sql, parameters: connection.execute(sql, parameters).fetchall()


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def _is_busy(error: sqlite3.Error) -> bool:
    return "locked" in str(error) or "busy" in str(error)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _abandon(inherited: list[_Connection]) -> None:
    """Keep a parent's connections for ever: closing one in the child, even at exit, can harm the parent's file."""
    import ctypes

    for connection in inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _unwritable(path: Path) -> str | None:
    """Say why `path` cannot be written and what to do, or None when it seems that it can."""
    folder = path.resolve().parent
    if path.is_dir():
        return "it is a folder; name a file in it"
    if not folder.is_dir():
        return f"there is no folder {folder}; create it, or name another in stackstate_url"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"this user may not write in {folder}; SQLite needs to create files beside the database"
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        return "this user may not read and write that file; change its owner or its mode"
    return None


def _file_system(path: Path) -> str:
    """Return the type of the file system that `path` lies on, or an empty string where that cannot be told."""
    try:
        mounts = [line.split(" ") for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = {str(folder) for folder in path.parents}
    found = [(len(fields[1]), fields[2]) for fields in mounts if fields[1] in above]
    return max(found)[1] if found else ""
