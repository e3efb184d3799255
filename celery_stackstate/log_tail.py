"""The newest log lines of one attempt, and which of those that were written before have become too many."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from celery_stackstate.stores.base import DroppedLogs, StoredLog


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much is kept of the log of an attempt, `lines` and `bytes` of text, and of a run, `run_lines`; the newest."""

    lines: int = 2_000
    bytes: int = 1_048_576
    run_lines: int = 10_000


class LogTail:
    """Collects lines until they are taken to be written, and forgets the oldest ones beyond the limits.

    Lines are numbered from 1. What is written already is only counted: of lines that have become too many later on,
    `take` says that they are to be deleted.
    """

    def __init__(self, execution: str, limits: LogLimits) -> None:
        self._execution, self._limits = execution, limits
        self._lines: deque[StoredLog] = deque()
        self._sizes: deque[int] = deque()
        self._bytes = self._number = self._written = self._deleted = 0

    @property
    def omitted(self) -> int:
        """How many lines are not kept."""
        return self._number - len(self._sizes)

    def add(self, *, at: int, level: int, logger: str, message: str) -> None:
        """Add a line."""
        self._number += 1
        self._lines.append(StoredLog(self._execution, self._number, at, level, logger, message))
        self._sizes.append(len(message) if message.isascii() else len(message.encode()))
        self._bytes += self._sizes[-1]
        while len(self._sizes) > self._limits.lines or self._bytes > self._limits.bytes:
            self._bytes -= self._sizes.popleft()
        while self._lines and self._lines[0].seq <= self.omitted:
            self._lines.popleft()

    def clear(self) -> None:
        """Forget the lines that were not taken."""
        self._lines.clear()

    def take(self) -> tuple[list[StoredLog], list[DroppedLogs]]:
        """Return the lines that are to be written, and those written before that are to be deleted."""
        lines, first, last = list(self._lines), self._deleted + 1, min(self.omitted, self._written)
        self._lines.clear()
        self._written, self._deleted = self._number, self.omitted
        return lines, [DroppedLogs(self._execution, first, last)] if first <= last else []
