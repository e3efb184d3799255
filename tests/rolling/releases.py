"""Two releases of the package in folders of their own: the tree as it is, as the older one, and what may come after it.

`newer` adds what a release may add within a format: a field in the records of keys and in tickets, a part of a
message's header, a fact of each event, an event, a status, a type of values. `ahead` has higher formats, which the
others refuse.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: File, a text that is in it once, and what stands there in the release.
Change = tuple[str, str, str]

NEWER: tuple[Change, ...] = (
    ("codec.py", '    "dict": dict,\n', '    "dict": dict,\n    "complex": complex,\n'),
    ("codec.py", "    UUID: (", '    complex: ("complex", str),\n    UUID: ('),
    ("key_record.py", "    unreserved: bool = False\n", '    unreserved: bool = False\n    region: str = ""\n'),
    ("key_record.py", "    window: Window | None = None\n    until: int = 0\n    more",
     "    window: Window | None = None\n    until: int = 0\n    cost: int = 0\n    more"),
    ("key_store.py", "            rerun=ask.rerun,\n", '            rerun=ask.rerun,\n            region="eu",\n'),
    ("claiming.py", "        pid=attempt.pid,\n", "        pid=attempt.pid,\n        cost=record.cost + 10,\n"),
    ("header.py", "**kept, **parts}", '**{"tenant": "acme"}, **kept, **parts}'),
    ("facts.py", "for key, value in data.items() if value is not None}",
     'for key, value in data.items() if value is not None} | {"zone": "z1"}'),
    ("facts.py", "retries=retries, eta=eta, **data)],",
     'retries=retries, eta=eta, **data), event(f"routed:{stamp.epoch}", "routed", at=stamp.at)],'),
    ("facts.py", "FAILURE, SUCCESS)\nSUCCESS_RANK", 'FAILURE, SUCCESS, "PAUSED")\nSUCCESS_RANK'),
    ("records.py", "= get_args(Status)\n", '= (*get_args(Status), "PAUSED")\n'),
)  # fmt: skip
AHEAD: tuple[Change, ...] = (
    ("key_record.py", "RECORD_FORMAT = 1\n", "RECORD_FORMAT = 2\n"),
    ("header.py", "HEADER_FORMAT = 1\n", "HEADER_FORMAT = 2\n"),
    ("lock_record.py", "LOCK_FORMAT = 1\n", "LOCK_FORMAT = 2\n"),
)
RELEASES = {"older": (), "newer": NEWER, "ahead": (*NEWER, *AHEAD)}


def make(folder: Path) -> None:
    """Put each release into a folder of its name."""
    for name, changes in RELEASES.items():
        package = folder / name / "celery_stackstate"
        shutil.copytree(ROOT / "celery_stackstate", package, ignore=shutil.ignore_patterns("__pycache__"))
        for file, old, new in changes:
            text = (package / file).read_text()
            assert text.count(old) == 1, f"{file} has {text.count(old)} times {old!r}"
            (package / file).write_text(text.replace(old, new))


class Release:
    """One release, as the processes of a project that has it installed: a producer, and workers."""

    def __init__(self, name: str, folder: Path, broker: str, store: str) -> None:
        self.name, self.folder = name, folder
        told = {"ROLLING_RELEASE": name, "ROLLING_BROKER": broker, "ROLLING_STORE": store}
        self.environment = {**os.environ, **told, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
        self._producer: subprocess.Popen[str] | None = None

    def do(self, action: str, *args: Any) -> Any:
        """Return what an action of `acting.py` returns in the producer."""
        if self._producer is None:
            self._producer = subprocess.Popen(
                [sys.executable, "-m", "tests.rolling.acting"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(self.folder / "producer.log").open("w"),
                text=True,
                bufsize=1,
            )
        assert self._producer.stdin is not None
        assert self._producer.stdout is not None
        self._producer.stdin.write(json.dumps([action, args]) + "\n")
        answer = self._producer.stdout.readline()
        assert answer, (self.folder / "producer.log").read_text()
        return json.loads(answer)

    def worker(self, *queues: str) -> Worker:
        """Start a worker that consumes the queues."""
        return Worker(self, queues)

    def stop(self) -> None:
        """End the producer."""
        if self._producer is not None:
            assert self._producer.stdin is not None
            self._producer.stdin.close()
            self._producer.wait(15)


class Worker:
    """A worker of a release, in one process."""

    def __init__(self, release: Release, queues: Sequence[str]) -> None:
        self.name = f"{release.name}-{'-'.join(queues)}@rolling"
        self._log = release.folder / f"{self.name}.log"
        options = ["--queues", ",".join(queues), "--hostname", self.name, "--pool", "solo", "--loglevel", "INFO"]
        lean = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = [sys.executable, "-m", "celery", "-A", "tests.rolling.app_rolling", "worker", *options, *lean]
        with self._log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=release.folder, env=release.environment, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def log(self) -> str:
        """All it has written."""
        return self._log.read_text(errors="replace")

    @property
    def ready(self) -> bool:
        """Whether it takes messages."""
        assert self._process.poll() is None, self.log
        return "ready." in self.log

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as a deployment does."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
