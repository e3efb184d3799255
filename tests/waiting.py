"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import pytest

T = TypeVar("T")
POLL_SECONDS = 0.02


class HasLogs(Protocol):
    """Whatever can show its log: a node or its container."""

    def logs(self) -> str: ...


def log_tail(node: HasLogs, lines: int = 20) -> str:
    """Return the last lines of a node's log."""
    return "\n".join(node.logs().splitlines()[-lines:])


def wait_for(predicate: Callable[[], T], *, timeout: float = 10.0, message: str = "", node: HasLogs | None = None) -> T:
    """Poll until the predicate is true, and return what it returned.

    Args:
        predicate: called every 20 ms; what it raises is not caught.
        timeout: seconds; then the test fails.
        message: what was waited for, for the reader of the failure.
        node: its last log lines become part of the failure.
    """
    __tracebackhide__ = True
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            waited = f"waited {timeout:g} s in vain for {message or predicate}; last seen: {value!r}"
            pytest.fail(f"{waited}\n{log_tail(node)}" if node else waited)
        time.sleep(POLL_SECONDS)
    return value
