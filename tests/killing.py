"""Crashes at a chosen place: a store that kills its own process, with SIGKILL, before or after the n-th of its calls.

It wraps another store: `killing+sqlite:////folder/file.sqlite3` is `sqlite:////folder/file.sqlite3`. A scenario has a
name and a file, which says where each of its executions is to die, and in which what they did is written down. So a
scenario is first run without a death, to see which places there are, and then once for each of them.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from celery_stackstate import stores

FOLDER = "STACKSTATE_TEST_KILLS"
PREFIX = "killing+"
VERBS = ("get", "get_many", "put", "put_all", "put_and_append", "remove", "add", "scan", "append")


@dataclass(frozen=True)
class Place:
    """Where a process dies: before or after the n-th time it takes a step, alone or with its whole worker."""

    step: str
    nth: int = 1
    when: str = "before"
    whole: bool = False

    def __str__(self) -> str:
        return f"{self.when} {self.step} ({self.nth})"


@dataclass
class _Execution:
    """What one process does of a scenario, in the thread that runs it."""

    name: str
    place: Place | None
    thread: int
    taken: Counter[str] = field(default_factory=Counter)

    def before(self, step: str) -> str:
        """Write a step down, under a name that is the same in each scenario, and die if this is before it."""
        step = step.replace(self.name, "*")
        if threading.get_ident() == self.thread:
            _append(_file(self.name), step)
            self.taken[step] += 1
            self._die(step, "before")
        return step

    def after(self, step: str) -> None:
        """Die if this is after the step."""
        if threading.get_ident() == self.thread:
            self._die(step, "after")

    def _die(self, step: str, when: str) -> None:
        place = self.place
        if place is not None and (place.step, place.nth, place.when) == (step, self.taken[step], when):
            _append(_file(self.name), f"died {place}")
            die(whole=place.whole)


_current: _Execution | None = None


def register() -> None:
    """Let `killing+...` URLs name this store in this process."""
    for scheme in ("sqlite", "redis", "postgresql"):
        stores.BUILTIN[PREFIX + scheme] = "tests.killing:KillingStore"


def plan(name: str, *places: Place | None) -> None:
    """Say where the executions of a scenario die, the first, the second and so on; None, and all later ones, live."""
    _file(name).write_text(json.dumps([place and asdict(place) for place in places]) + "\n")


def begin(name: str) -> None:
    """Begin an execution of a scenario in this process, in this thread; of one without a plan nothing is kept."""
    global _current
    _current = None
    file = _file(name)
    if not file.exists():
        return
    first, *lines = file.read_text().splitlines()
    places = json.loads(first)
    begun = lines.count("begin")
    place = Place(**places[begun]) if begun < len(places) and places[begun] else None
    _append(file, "begin")
    _current = _Execution(name, place, threading.get_ident())


def reach(name: str) -> None:
    """Take a step that is no call of the store."""
    if _current is not None:
        _current.before(name)


def steps(name: str, *, execution: int = 0) -> list[str]:
    """Return the steps that an execution of a scenario took, by name."""
    taken: list[list[str]] = []
    for line in _file(name).read_text().splitlines()[1:]:
        if line == "begin":
            taken.append([])
        elif not line.startswith("died"):
            taken[-1].append(line)
    return taken[execution] if execution < len(taken) else []


def deaths(name: str) -> int:
    """Return how many executions of a scenario have died as planned."""
    return sum(line.startswith("died") for line in _file(name).read_text().splitlines())


def places(taken: Sequence[str], *, whole: bool = False) -> list[Place]:
    """Return each place in which an execution with these steps can die: around the store's calls, and at the others."""
    found, counts = [], Counter[str]()
    for step in taken:
        counts[step] += 1
        found.append(Place(step, counts[step], "before", whole))
        if step.split()[0] in VERBS:
            found.append(Place(step, counts[step], "after", whole))
    return found


def die(*, whole: bool) -> None:
    """Kill this process, or the group of the worker that it is a child of, as nothing can prevent."""
    group = os.getpgid(0)
    if whole and group in (os.getpid(), os.getppid()):  # the worker leads a group of its own
        os.killpg(group, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _file(name: str) -> Path:
    return Path(os.environ[FOLDER]) / name.replace("/", "_")


def _append(file: Path, line: str) -> None:
    with file.open("a") as out:
        out.write(line + "\n")


class KillingStore:
    """A store that is another one, until it kills its process."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> KillingStore:
        """Make the store that the URL names behind its prefix."""
        return cls(stores.open_store(url.removeprefix(PREFIX), prefix=prefix, timeout=timeout))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return _stepping(found) if name in VERBS else found


def _stepping(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def call(*args: Any, **kwargs: Any) -> Any:
        execution = _current
        if execution is None:
            return verb(*args, **kwargs)
        step = execution.before(f"{verb.__name__} {_about(args)}".strip())
        answer = verb(*args, **kwargs)
        execution.after(step)
        return answer

    return call


def _about(args: tuple[Any, ...]) -> str:
    """Return what a call is about: the key, and for a record of a key its new state."""
    if not args or not isinstance(args[0], bytes):
        return ""
    key = args[0].split(b"\0", 1)[1].replace(b"\0", b" ").decode().replace("tests.worker.", "")
    if len(args) > 1 and isinstance(args[1], bytes) and args[1].startswith(b"{"):
        data = json.loads(args[1])
        return f"{key} {data.get('state', '')}{' dispatched' if data.get('dispatched') else ''}"
    return key
