"""The example's processes: a Celery worker and a web server, each with its children, logging to a file."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent

T = TypeVar("T")


class Stopped(Exception):
    """Something that had to happen did not."""


def wait_for(happened: Callable[[], T | None], what: str, *, seconds: float = 30) -> T:
    """Return what `happened` returns as soon as it is true; after `seconds` raise Stopped, which names `what`."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        if time.monotonic() > deadline:
            raise Stopped(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)
    return result


class Background:
    """A process with all its children. Those that were started are in `every`."""

    every: "list[Background]" = []

    def __init__(self, name: str, module: list[str], data: Path) -> None:
        self.name, self._log = name, data / f"{name}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *module],
                cwd=HERE,
                env={
                    **os.environ,
                    "IMPORTS_DATA": str(data),
                    "TMPDIR": str(data),
                },  # what a killed worker leaves goes, too
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.every.append(self)

    @property
    def pid(self) -> int:
        """The id of the process, and of its group."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether it still runs."""
        return self._process.poll() is None

    def log(self) -> str:
        """Return all it has written."""
        return self._log.read_text(errors="replace")

    def wait_for_log(self, pattern: str) -> "re.Match[str]":
        """Return the first match of `pattern` in what it writes."""

        def seen() -> "re.Match[str] | None":
            match = re.search(pattern, self.log())
            if match is None and not self.alive():
                raise Stopped(f"{self.name} ended before it was ready")
            return match

        return wait_for(seen, f"{self.name} to be ready", seconds=60)

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would (SIGKILL), and return when it is gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


def start_worker(name: str, data: Path) -> Background:
    """Start a Celery worker; return when it takes messages."""
    options = ["--hostname", f"{name}@imports", "--concurrency", "2", "--loglevel", "INFO"]
    lean = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = Background(name, ["celery", "-A", "jobs", "worker", *options, *lean], data)
    worker.wait_for_log(r"@imports ready\.")
    return worker


def start_server(data: Path, port: int) -> tuple[Background, str]:
    """Start the web server on a port (0: any that is free); return it with its address when it listens."""
    server = Background("server", ["uvicorn", "api:api", "--port", str(port)], data)
    return server, server.wait_for_log(r"running on (http://\S+)")[1]
