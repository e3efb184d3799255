"""Database servers for tests: a given one, the local one, or one of our own; and a database of our own in it."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from sqlalchemy import URL, make_url

from tests.services import HOST, free_port

LOCAL_POSTGRESQL = "postgresql://root@127.0.0.1:5432/postgres"
LOCAL_MYSQL = "mysql://root@127.0.0.1:3306/test"


def new_name() -> str:
    """Return a name for a database that nobody else uses."""
    return f"stackstate_test_{uuid.uuid4().hex[:12]}"


def text_of(url: URL) -> str:
    """Return a URL with its password."""
    return url.render_as_string(hide_password=False)


def postgresql(url: str, **options: Any) -> psycopg.Connection[Any]:
    """Connect to a PostgreSQL server as an administrator would."""
    plain = make_url(url).set(drivername="postgresql").difference_update_query(["pool_size", "max_overflow"])
    return psycopg.connect(text_of(plain), autocommit=True, connect_timeout=3, **options)


def mysql(url: str) -> pymysql.Connection[Any]:
    """Connect to a MySQL server as an administrator would."""
    found = make_url(url)
    return pymysql.connect(
        host=found.host or HOST,
        port=found.port or 3306,
        user=found.username or "root",
        password=found.password or "",
        database=found.database,
        connect_timeout=3,
        autocommit=True,
    )


def ask(connection: Any, sql: str, *parameters: Any) -> list[Any]:
    """Run one statement and return its rows."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return list(cursor.fetchall()) if cursor.description else []


def _answers(connect: Callable[[str], Any], url: str) -> bool:
    try:
        connect(url).close()
    except (psycopg.Error, pymysql.MySQLError, OSError):
        return False
    return True


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of a PostgreSQL database of our own."""
    given = os.environ.get("STACKSTATE_TEST_POSTGRESQL_URL")
    with _postgresql_server(given) as server, own_database(postgresql, server) as url:
        yield url


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """The URL of a MySQL or MariaDB database of our own."""
    given = os.environ.get("STACKSTATE_TEST_MYSQL_URL")
    with _mysql_server(given) as server, own_database(mysql, server) as url:
        yield url


@contextmanager
def own_database(connect: Callable[[str], Any], server: str) -> Iterator[str]:
    """Make a database of our own on a server, and drop it in the end."""
    name = new_name()
    admin = connect(server)
    ask(admin, f"CREATE DATABASE {name}")
    admin.close()
    try:
        yield text_of(make_url(server).set(database=name))
    finally:
        admin = connect(server)
        force = isinstance(admin, psycopg.Connection) and admin.info.server_version >= 130000
        ask(admin, f"DROP DATABASE {name}" + (" WITH (FORCE)" if force else ""))
        admin.close()


@contextmanager
def _postgresql_server(given: str | None) -> Iterator[str]:
    if given or _answers(postgresql, LOCAL_POSTGRESQL):
        yield given or LOCAL_POSTGRESQL
        return
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [os.path.dirname(shutil.which("initdb") or "")]
    if not binaries[-1]:
        _missing("no PostgreSQL server: install postgresql, or set STACKSTATE_TEST_POSTGRESQL_URL")
    folder, port = Path(tempfile.mkdtemp(prefix="stackstate-postgresql-")), free_port()
    data, user = folder / "data", _other_user("postgres", folder)
    initdb = [f"{binaries[-1]}/initdb", "-D", str(data), "-U", "root", "-A", "trust", "-E", "UTF8", "--no-sync"]
    subprocess.run([*user, *initdb], check=True, capture_output=True, cwd="/")
    server = [f"{binaries[-1]}/postgres", "-D", str(data), "-p", str(port), "-k", "", "-h", HOST]
    url = f"postgresql://root@{HOST}:{port}/postgres"
    with _running([*user, *server], folder, lambda: _answers(postgresql, url)):
        yield url


@contextmanager
def _mysql_server(given: str | None) -> Iterator[str]:
    if given or _answers(mysql, LOCAL_MYSQL):
        yield given or LOCAL_MYSQL
        return
    binary = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
    install = shutil.which("mariadb-install-db")
    if binary is None or install is None:
        _missing("no MySQL server: install mariadb-server, or set STACKSTATE_TEST_MYSQL_URL")
    folder, port = Path(tempfile.mkdtemp(prefix="stackstate-mysql-")), free_port()
    data, user = folder / "data", _other_user("mysql", folder)
    quiet = ["--no-defaults", f"--datadir={data}"]
    made = [str(install), *quiet, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run([*user, *made], check=True, capture_output=True, cwd="/")
    server = [str(binary), *quiet, f"--port={port}", f"--bind-address={HOST}", f"--socket={folder}/socket"]
    url = f"mysql://root@{HOST}:{port}/mysql"
    with _running([*user, *server], folder, lambda: _answers(mysql, url)):
        yield url


def _other_user(name: str, folder: Path) -> list[str]:
    """Return how to run a program as `name`, who may write in `folder`: no database server runs as root."""
    if os.getuid():
        return []
    with suppress(KeyError):
        found = pwd.getpwnam(name)
        os.chown(folder, found.pw_uid, found.pw_gid)
        return ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
    return []


@contextmanager
def _running(command: list[str], folder: Path, answers: Callable[[], bool]) -> Iterator[None]:
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/", start_new_session=True)
    try:
        deadline = time.monotonic() + 30
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command} did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


#: How a client says goodbye to PostgreSQL, and to MySQL.
GOODBYES = (b"X\0\0\0\4", b"\1\0\0\0\1")


def _is_leaving(client: socket.socket) -> bool:
    """Return whether a client has closed its connection, or is about to."""
    try:
        seen = client.recv(8, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not seen or seen.startswith(GOODBYES)


class SilentProxy:
    """Passes bytes between a client and a server until it is told to fall silent.

    `silent` swallows all that comes. `after` is a word: what a client sends with it still arrives, but nothing comes
    back on that connection, which with `hang_up` is closed instead.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.after: bytes | None = None
        self.hang_up = False
        self.most_open = 0
        self._clients: list[socket.socket] = []
        self._silent: set[socket.socket] = set()
        self.silent = False
        self._start(self._accept)

    @property
    def open(self) -> int:
        """How many connections there are, without those that were closed and whose end was not read yet."""
        return sum(not _is_leaving(client) for client in self._clients)

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        threading.Thread(target=work, args=args, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            # What a client has closed counts no longer, though it may not have been read yet.
            self._clients = [one for one in self._clients if not _is_leaving(one)] + [client]
            self.most_open = max(self.most_open, len(self._clients))
            try:
                server = socket.create_connection(self._target)
            except OSError:  # it was stopped
                client.close()
                continue
            self._start(self._requests, client, server)
            self._start(self._answers, server, client)

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self.after is not None and self.after in data:
                    self.after = None
                    self._silent.add(server)
                if not self.silent:
                    server.sendall(data)
        for side in (server, client):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65536):
                if server in self._silent or self.silent:
                    if self.hang_up:
                        break
                    continue
                client.sendall(data)
        if server not in self._silent or self.hang_up:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
