"""One connection to a server: requests out, answers in, by the protocol that all versions speak (RESP 2).

redis-py opens the connection, with its TLS, its users and its databases. From then on its own way of packing and
parsing would take more time than the server does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from ssl import SSLWantReadError
from typing import Any

#: Bytes taken from the socket at a time.
CHUNK = 65_536

_ERROR, _STATUS, _NUMBER, _BULK, _ARRAY = b"-+:$*"


def packed(words: Iterable[Any]) -> bytes:
    """Return a command of bytes, text and integers as it goes over the wire."""
    parts = [
        word if type(word) is bytes else word.encode() if isinstance(word, str) else b"%d" % word for word in words
    ]
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


class Line:
    """A connection of redis-py's, its socket once it is open, and what was received of the next answer."""

    __slots__ = ("_at", "_connection", "_deadline", "_received", "_socket")

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: Any = None
        self._received, self._at, self._deadline = b"", 0, 0.0

    def connect(self, seconds: float) -> None:
        """Open the connection, with at most so many seconds for each step; raises what redis-py raises."""
        connection = self._connection
        connection.socket_connect_timeout = connection.socket_timeout = seconds
        connection.connect()
        self._socket = connection._sock

    def disconnect(self) -> None:
        """Close the connection."""
        self._connection.disconnect()

    def is_quiet(self) -> bool:
        """Return whether the server neither closed the connection nor has said what nobody asked for."""
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, SSLWantReadError):
            return self._at == len(self._received)
        except OSError:
            pass
        return False

    def ask(self, commands: Sequence[Iterable[Any]], deadline: float) -> list[Any]:
        """Send commands at once; return their answers, an error as the exception that redis-py makes of it.

        Raises:
            OSError: The connection broke, or the deadline (of the monotonic clock) passed.
        """
        self._received, self._at, self._deadline = b"", 0, deadline
        self._wait_at_most()
        self._socket.sendall(b"".join(map(packed, commands)))
        return [self._answer() for _ in commands]

    def _wait_at_most(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._socket.settimeout(left)

    def _answer(self) -> Any:
        line = self._until_end_of_line()
        kind = line[0]
        if kind == _BULK:
            return None if line == b"$-1" else self._bytes(int(line[1:]))
        if kind == _ARRAY:
            return None if line == b"*-1" else [self._answer() for _ in range(int(line[1:]))]
        if kind == _NUMBER:
            return int(line[1:])
        if kind == _STATUS:
            return line[1:]
        if kind == _ERROR:
            return self._connection._parser.parse_error(line[1:].decode("utf-8", "replace"))
        raise ConnectionError(f"not an answer of Redis: {line!r:.80}")

    def _until_end_of_line(self) -> bytes:
        end = self._received.find(b"\r\n", self._at)
        while end < 0:
            self._receive()
            end = self._received.find(b"\r\n", self._at)
        line, self._at = self._received[self._at : end], end + 2
        return line

    def _bytes(self, size: int) -> bytes:
        while len(self._received) < self._at + size + 2:
            self._receive()
        start, self._at = self._at, self._at + size + 2
        return self._received[start : start + size]

    def _receive(self) -> None:
        if self._received:
            self._wait_at_most()
        more = self._socket.recv(CHUNK)
        if not more:
            raise ConnectionError("the server closed the connection")
        self._received, self._at = self._received[self._at :] + more, 0
