"""Makes of values what may be told of them, whatever they are: one that fails costs the history only itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from celery_stackstate.payload import Redactor, Snapshot
from celery_stackstate.showing import printable

T = TypeVar("T")


class Telling:
    """Asks the redactor, and values of the project's own, without ever failing for it.

    What `interrupts`, such as a time limit, is no failure of theirs: it passes.
    """

    __slots__ = ("_interrupts", "_redactor")

    def __init__(self, redactor: Redactor, interrupts: tuple[type[BaseException], ...] = ()) -> None:
        self._redactor, self._interrupts = redactor, interrupts

    def snapshot(self, value: Any, kind: str = "event") -> Snapshot:
        """Return a value as it may be shown."""
        shown = self.told(lambda one: self._redactor.snapshot(one, kind), value)
        return Snapshot(shown) if isinstance(shown, str) else shown

    def line(self, text: str) -> str:
        """Return a log line as it may be shown."""
        return self.told(lambda one: self._redactor.line("log", one), text)

    def name(self, text: str) -> str:
        """Return a short text of the task's own, which the project's hook is not asked about, as it may be shown."""
        return printable(self.told(self._redactor.text, text))

    @property
    def is_asking(self) -> bool:
        """Whether this thread is in the project's own redaction just now."""
        return self._redactor.asking

    def told(self, tell: Callable[[Any], T], value: Any) -> T | str:
        """Return what `tell` makes of a value; in place of one that cannot be told, what it is."""
        try:
            return tell(value)
        except self._interrupts:
            raise
        except Exception as error:
            return f"<{type(value).__name__}, which raised {type(error).__name__}>"
