"""What a store over SQLAlchemy's pool needs of a database driver."""

from __future__ import annotations

import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any

from celery_stackstate.stores.dialects import Dialect
from celery_stackstate.stores.schema import Execute
from celery_stackstate.stores.sql_base import Row, Statement


class Trouble(Enum):
    """What an error of a driver means for the call."""

    #: The transaction was given up for the sake of another one.
    COLLISION = "collision"
    #: The server said no, so that nothing changed; it may say yes later.
    REFUSED = "refused"
    #: There was no answer.
    LOST = "lost"
    #: The server takes no writes any more: after a failover another one does, to whom a new connection may lead.
    READ_ONLY = "read-only"
    #: What was to be written cannot be written.
    DATA = "data"
    #: The account, its rights or the database are not what they must be.
    SETUP = "setup"
    #: The tables are not there.
    NO_TABLE = "no table"


#: After these a connection is of no use, and those beside it may not be either.
OVER = (Trouble.LOST, Trouble.READ_ONLY)


class Driver(ABC):
    """Connections of one driver. `deadline` is a moment of `time.monotonic()`."""

    dialect: Dialect
    #: What the driver raises.
    errors: tuple[type[Exception], ...]
    begin: str
    #: Whether the tables of versions are there, as a number.
    has_versions: str
    #: What SQLAlchemy calls the driver, and the port that is meant where a URL names none.
    sqlalchemy_driver: str
    default_port: int
    #: Ends what `limit_waits` began.
    unlimit_waits: str

    def __init__(self, options: Mapping[str, Any], timeout: float) -> None:
        self.options, self.timeout = options, timeout

    @abstractmethod
    def connect(self, deadline: float) -> Any:
        """Open a connection in autocommit, ready for use."""

    @abstractmethod
    def run(self, connection: Any, sql: str, parameters: Any, deadline: float) -> list[Row]:
        """Run a statement and return its rows."""

    def at_once(self, connection: Any, statements: Sequence[Statement], deadline: float) -> list[list[Row]]:
        """Run statements as one transaction in one round trip; only where the dialect `writes_at_once`."""
        raise NotImplementedError

    @abstractmethod
    def descriptor(self, connection: Any) -> int:
        """Return the descriptor of the connection's socket; below 0 when it is closed."""

    @abstractmethod
    def trouble(self, error: Exception) -> Trouble:
        """Say what an error means."""

    @abstractmethod
    def migrating(self, execute: Execute, work: Callable[[], None], seconds: float) -> None:
        """Do `work`, which changes tables, while no other process does."""

    @abstractmethod
    def check(self, execute: Execute) -> list[str]:
        """Return warnings about the server; raise ConfigurationError when it cannot serve."""

    @abstractmethod
    def server(self, execute: Execute) -> str:
        """Return the name and the version of the server."""

    # -- on a connection of the caller's -------------------------------------------------------------------------------

    @abstractmethod
    def in_autocommit(self, connection: Any) -> bool:
        """Return whether each statement of a connection is a transaction of its own."""

    @abstractmethod
    def limit_waits(self, seconds: float) -> Statement:
        """Return the statement that bounds each wait for a lock and remembers the bound that was."""

    def spelled(self, sql: str, parameters: Sequence[Any]) -> Statement:
        """Return a statement as a connection with settings of somebody else's takes it."""
        return sql, parameters

    def waited_too_long(self, error: Exception) -> bool:
        """Return whether a statement alone was given up, because it waited for a lock."""
        return False

    # -- an idle one ---------------------------------------------------------------------------------------------------

    def is_dead(self, connection: Any) -> bool:
        """Return whether an idle connection is closed, or has something to read: that can only be its end."""
        descriptor = self.descriptor(connection)
        return descriptor < 0 or is_readable(descriptor)


def is_readable(descriptor: int) -> bool:
    """Return whether a socket has something to read now."""
    if not hasattr(select, "poll"):  # gevent and eventlet take it away, and bring a select() of their own
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
