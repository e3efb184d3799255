"""Talking to one server: each wait is bounded, each failure says what it may have done.

redis-py's client retries commands blindly and takes several timeouts for one call; of it only the connections are used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery_stackstate.errors import ConfigurationError, StackStateError, StoreUnavailable
from celery_stackstate.stores.redis_line import Line
from celery_stackstate.stores.redis_url import Address

Words = tuple[Any, ...]

#: Errors that a server answers while it cannot serve; it ran nothing, and another connection may find a better one.
PASSING = (
    "LOADING",
    "READONLY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "BUSY",
    "OOM",
    "MISCONF",
    "NOREPLICAS",
    "MOVED",
    "ASK",
    "CROSSSLOT",
)

#: How servers tell that a script does what its user may not.
FORBIDDEN = ("The user executing the script can't", "ACL failure in script")

#: redis-py cuts the code of those errors that it has a class for; which these are depends on its version.
CODES = {
    "MovedError": "MOVED",
    "AskError": "ASK",
    "TryAgainError": "TRYAGAIN",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "ReadOnlyError": "READONLY",
}


def code(error: Exception) -> str:
    """Return the code of a server's error, such as MOVED."""
    return CODES.get(type(error).__name__) or str(error).partition(" ")[0]


class Wire:
    """Opens connections of one kind and talks over them. `name` is what messages call the server."""

    def __init__(self, name: str, errors: Any, connection_class: Any, options: dict[str, Any], timeout: float) -> None:
        self.name, self.errors, self.timeout = name, errors, timeout
        self._connection_class, self._options = connection_class, options
        self._broken = (errors.ConnectionError, errors.TimeoutError, OSError)

    def new(self, address: Address) -> Line:
        """Return a connection to `address` that is not open yet."""
        return Line(self._connection_class(**self._options, host=address[0], port=address[1]))

    def open(self, line: Line, deadline: float) -> None:
        """Connect; nothing is sent yet, so every failure here is a clean one."""
        try:
            line.connect(self._remaining(deadline) / 2)
        except self.errors.AuthenticationError as error:
            line.disconnect()
            raise self._locked_out(error) from error
        except (self.errors.RedisError, OSError) as error:
            line.disconnect()
            hint = ""
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                hint = "; correct ssl_ca_certs, or name the host as its certificate does"
            raise StoreUnavailable(f"{self.name} cannot be reached: {error}{hint}", maybe_applied=False) from error

    def talk(self, line: Line, commands: Sequence[Words], deadline: float) -> list[Any]:
        """Send commands and return their answers; the first error of the server is raised as redis-py makes it."""
        self._remaining(deadline)
        try:
            answers = line.ask(commands, deadline)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
            return answers
        except self._broken as error:
            if isinstance(error, self.errors.AuthenticationError):
                raise self._locked_out(error) from error
            if isinstance(error, self.errors.BusyLoadingError):
                raise StoreUnavailable(f"{self.name}: {error}", maybe_applied=False) from error
            raise StoreUnavailable(f"{self.name} gave no answer: {error}", maybe_applied=True) from error

    def ask(self, address: Address, words: Words, deadline: float) -> Any:
        """Put one question that changes nothing, over a connection of its own."""
        line = self.new(address)
        try:
            self.open(line, deadline)
            return self.talk(line, [words], deadline)[0]
        except StoreUnavailable as error:
            raise StoreUnavailable(str(error), maybe_applied=False) from error
        finally:
            line.disconnect()

    def refused(self, error: Exception) -> StackStateError:
        """Return what a server's error means to the caller."""
        if isinstance(error, self.errors.NoPermissionError) or any(words in str(error) for words in FORBIDDEN):
            return ConfigurationError(
                f"stackstate_url: the {self.name} user may not do what the store needs ({error}); "
                "grant it +@read +@write +@scripting +@connection +time on its keys"
            )
        if "unauthenticated" in str(error):
            return self._locked_out(error)
        passing = type(error) is not self.errors.ResponseError or str(error).startswith(PASSING)
        reason, told = code(error), str(error)
        full = told if told.startswith(reason) else f"{reason} {told}"
        return StoreUnavailable(f"{self.name} refused: {full}", maybe_applied=not passing)

    def _remaining(self, deadline: float) -> float:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise StoreUnavailable(f"{self.name} took longer than {self.timeout} s", maybe_applied=False)
        return remaining

    def _locked_out(self, error: Exception) -> ConfigurationError:
        where = "sentinel_username and sentinel_password" if self.name == "Sentinel" else "them"
        return ConfigurationError(
            f"stackstate_url: {self.name} refuses the user name or password ({error}); correct {where} in the URL"
        )
