"""The shop's processes: a Celery worker and Django's server, each in a session of its own, logging to a file."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from story.waiting import StoryStopped, wait_for

SHOP = Path(__file__).resolve().parents[1]


class Background:
    """A process with all its children."""

    def __init__(self, name: str, module: list[str], log: Path) -> None:
        self.name = name
        self._log = log
        self._killed = False
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, *module],
                cwd=SHOP,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

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

    def wait_for_log(self, pattern: str) -> re.Match[str]:
        """Return the first match of `pattern` in what it writes."""

        def seen() -> re.Match[str] | None:
            match = re.search(pattern, self.log())
            if match is None and not self.alive():
                raise StoryStopped(f"{self.name} ended with status {self._process.returncode} before it was ready")
            return match

        return wait_for(seen, f"{self.name} to be ready", seconds=60)

    def kill(self) -> None:
        """End it and all its children at once, as a power cut would (SIGKILL), and return when it is gone."""
        if not self._killed:
            self._killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class Processes:
    """Starts the shop's processes, and ends those that are left."""

    def __init__(self, data: Path) -> None:
        self.started: list[Background] = []
        self._data = data

    def worker(self, name: str) -> Background:
        """Start a Celery worker; it is ready when its log says so."""
        options = ["--hostname", f"{name}@shop", "--concurrency", "2", "--loglevel", "INFO"]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return self._start(name, ["-m", "celery", "-A", "shop", "worker", *options, *lean])

    def server(self) -> Background:
        """Start Django's server on a port that the system chooses."""
        return self._start("django", ["-u", "manage.py", "runserver", "--noreload", "127.0.0.1:0"])

    def _start(self, name: str, module: list[str]) -> Background:
        self.started.append(Background(name, module, self._data / f"{name}.log"))
        return self.started[-1]

    def kill_all(self) -> None:
        """End whatever still runs."""
        for process in self.started:
            process.kill()


def wait_until_ready(worker: Background) -> None:
    """Return when the worker takes messages."""
    worker.wait_for_log(r"@shop ready\.")


def address_of(server: Background) -> str:
    """Return where the server listens, when it does."""
    return server.wait_for_log(r"server at (http://[^/\s]+)/")[1]
