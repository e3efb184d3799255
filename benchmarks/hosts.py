"""Each contender lives in a process of its own: Celery's signals and a client's threads are shared within a process."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from benchmarks.servers import Servers


class Host:
    """A process that does what it is told, a line of JSON for each order and each answer."""

    def __init__(self, servers: Servers, module: str, contender: str) -> None:
        self.name = contender
        command = [sys.executable, "-m", "benchmarks.host", module, contender]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=servers.environment(), text=True)  # noqa: S603

    def ask(self, **order: Any) -> Any:
        """Send an order and wait for its answer.

        Raises:
            RuntimeError: It failed; has the error of the process.
        """
        self.tell(**order)
        return self.answer()

    def tell(self, **order: Any) -> None:
        """Send an order."""
        stdin: IO[str] = self._process.stdin  # type: ignore[assignment]
        stdin.write(json.dumps(order) + "\n")
        stdin.flush()

    def answer(self) -> Any:
        """Wait for the answer to the oldest order that has none."""
        stdout: IO[str] = self._process.stdout  # type: ignore[assignment]
        line = stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self._process.wait()}")
        answer: Mapping[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["done"]

    def close(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def hosted(servers: Servers, module: str, contenders: Iterator[str] | list[str]) -> Iterator[dict[str, Host]]:
    """Run a host for each contender."""
    hosts: dict[str, Host] = {}
    try:
        for name in contenders:
            hosts[name] = Host(servers, module, name)
        yield hosts
    finally:
        for host in hosts.values():
            host.close()
