"""Which test executes which file of a page: a test that says so fails unless Python has run the file in its script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

#: The files of pages, with the tests that execute them.
EXECUTED: dict[str, list[str]] = {}

MARK = "executed in this script:"
#: What is put behind a script: tells the modules of its folder that were run.
TELLING = f"""
import os, sys
here, files = os.path.realpath(os.getcwd()) + os.sep, [getattr(one, "__file__", None) for one in sys.modules.values()]
print({MARK!r}, *sorted(os.path.realpath(file).removeprefix(here) for file in files if file))
"""


def executes(*files: str) -> Callable[[F], F]:
    """Say that a test, whose script goes to `run_python`, executes these files."""

    def note(test: F) -> F:
        for file in files:
            EXECUTED.setdefault(file, []).append(test.__name__)
        test.executes = files  # type: ignore[attr-defined]
        return test

    return note
