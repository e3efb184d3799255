"""Redis by hand: on a bare socket, and through redis-py."""

from __future__ import annotations

import socket
from hashlib import sha1
from typing import Any
from urllib.parse import urlsplit

import redis

from benchmarks.calls.common import BURST, GCRA, INTERVAL, TTL, UNLOCK, Calls, key, value
from benchmarks.servers import Servers


def through_redis_py(servers: Servers) -> Calls:
    """Return the calls of redis-py's client."""
    client: Any = redis.Redis.from_url(servers.redis_url(1))
    pace = client.register_script(GCRA)

    def lock(_: int) -> None:
        held = client.lock("benchmarks:lock", timeout=TTL)
        held.acquire()
        held.release()

    return {
        "set": lambda n: client.set(key(n), value(n)),
        "get": lambda n: client.get(key(n)),
        "increment": lambda n: client.incrby("benchmarks:counter", 1),
        "add": lambda n: client.set(f"benchmarks:added:{n}", value(n), nx=True, ex=TTL),
        "lock + unlock": lock,
        "throttle": lambda n: pace(keys=("benchmarks:pace",), args=(INTERVAL, BURST)),
    }


def on_a_socket(servers: Servers) -> Calls:
    """Return calls that pack the command, send it, and take what comes back."""
    wire = _Wire(servers.redis_url(1))
    unlock, pace = wire.script(UNLOCK), wire.script(GCRA)

    def lock(n: int) -> None:
        token = str(n)
        wire.ask("SET", "benchmarks:lock", token, "NX", "EX", TTL)
        wire.ask("EVALSHA", unlock, 1, "benchmarks:lock", token)

    return {
        "set": lambda n: wire.ask("SET", key(n), value(n)),
        "get": lambda n: wire.ask("GET", key(n)),
        "increment": lambda n: wire.ask("INCRBY", "benchmarks:counter", 1),
        "add": lambda n: wire.ask("SET", f"benchmarks:added:{n}", value(n), "NX", "EX", TTL),
        "lock + unlock": lock,
        "throttle": lambda n: wire.ask("EVALSHA", pace, 1, "benchmarks:pace", INTERVAL, BURST),
    }


class _Wire:
    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((str(parts.hostname), parts.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ask("SELECT", parts.path.lstrip("/"))

    def script(self, text: str) -> str:
        self.ask("SCRIPT", "LOAD", text)
        return sha1(text.encode()).hexdigest()  # noqa: S324 - how Redis names scripts

    def ask(self, *words: object) -> bytes:
        parts = [str(word).encode() for word in words]
        packed = [b"*%d\r\n" % len(parts), *(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)]
        self._socket.sendall(b"".join(packed))
        answer = self._socket.recv(4096)
        if answer.startswith(b"-"):
            raise RuntimeError(answer.decode())
        return answer
