"""Celery's own command with ours in it, run as people run it: into a pipe, and in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

#: Does what the program `celery` does with our entry point, where the checkout is not installed.
IN_PLACE = """
import sys
from celery.bin.celery import celery
from celery_stackstate.cli import stackstate
celery.add_command(stackstate)
sys.exit(celery(auto_envvar_prefix="CELERY"))
"""
#: Makes the terminal the one whose Ctrl-C reaches the process, which then becomes the program.
CONTROLLING = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job ignores it, and so would what it starts
os.execv(sys.argv[1], sys.argv[1:])
"""
#: What a terminal is told beside the text: colours, and where to write.
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def celery(*words: str) -> list[str]:
    """Return the command line of the program `celery`, which finds our commands by their entry point."""
    program = Path(sys.executable).with_name("celery")
    installed = any(point.name == "stackstate" for point in entry_points(group="celery.commands"))
    return [*([str(program)] if installed and program.exists() else [sys.executable, "-c", IN_PLACE]), *words]


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Return an environment in which the project in `folder` can be imported, and no terminal's size is set by hand."""
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return {**kept, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path]), "TZ": "UTC", **more}


def run(folder: Path, *words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run `celery -A proj ...` in a folder that holds proj.py, into a pipe."""
    return subprocess.run(
        celery("-A", "proj", *words),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        input=stdin,
    )


@dataclass
class Terminal:
    """A command in a pseudo-terminal of some width."""

    folder: Path
    words: tuple[str, ...]
    columns: int = 80
    output: bytearray = field(default_factory=bytearray)

    def __enter__(self) -> Terminal:
        self._controller, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-c", CONTROLLING, *celery("-A", "proj", *self.words)],
            cwd=self.folder,
            env=environment(self.folder, TERM="xterm-256color"),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)
        self._reader.join(10)
        os.close(self._controller)

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._controller, 65_536)
            except OSError:
                return
            if not part:
                return
            self.output += part

    @property
    def text(self) -> str:
        """What was written, without control sequences."""
        return CONTROL.sub("", self.output.decode(errors="replace")).replace("\r\n", "\n")

    def type(self, keys: bytes) -> None:
        """Press keys; b"\\x03" is Ctrl-C."""
        os.write(self._controller, keys)

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Wait until it has written `text`."""
        deadline = time.monotonic() + seconds
        while text not in self.text:
            if time.monotonic() > deadline:
                raise AssertionError(f"waited in vain for {text!r}; there is:\n{self.text[-3000:]}")
            time.sleep(0.05)

    def end(self, seconds: float = 30.0) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code
