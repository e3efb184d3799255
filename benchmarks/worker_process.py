"""A worker process that drains a queue, watched from outside: by the times of its bodies, and by the kernel."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PATIENCE = 60.0
POLL = 0.01


class Stamps:
    """The times of the bodies of so many tasks, in a file that a worker and its children write to."""

    def __init__(self, path: Path, size: int) -> None:
        path.write_bytes(bytes(8 * size))
        self.path = path
        with path.open("r+b") as file:
            self._times = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")

    def sorted(self) -> list[float]:
        """Return the times there are, in order."""
        return sorted(time for time in self._times.tolist() if time)


class WorkerProcess:
    """A Celery worker."""

    def __init__(self, flags: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.worker_app", "worker", "-l", "WARNING"]
        command += ["--without-gossip", "--without-mingle", *flags]
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603
                command, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for(self, true: Callable[[], bool]) -> None:
        """Wait until something is true.

        Raises:
            RuntimeError: It ended before, or it took too long; has the end of its log.
        """
        deadline = time.monotonic() + PATIENCE
        while not true():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the worker did not do it: {self._log.read_text()[-300:].strip()!r}")
            time.sleep(POLL)

    def stop(self) -> None:
        """End it, in peace if it can."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


def processes(pid: int) -> list[int]:
    """Return a process and all below it."""
    found = [pid]
    for parent in found:
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except FileNotFoundError:
            continue
        found += [int(child) for child in children.split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process and those below it have taken."""
    total = 0
    for one in processes(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0
