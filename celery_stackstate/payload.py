"""What may be recorded of arguments, results, messages and tracebacks: redacted and of bounded size.

Redaction comes before anything is stored, so that nothing downstream needs to be trusted with a secret.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from celery_stackstate.redaction import TextRules
from celery_stackstate.showing import BYTES_A_COUNT, MAX_TEXT, Walk, as_text, digest, printable
from celery_stackstate.value_scan import REDACTED

__all__ = ["MAX_TEXT", "REDACTED", "Hook", "Redactor", "Snapshot", "as_text", "printable", "shortened"]

logger = logging.getLogger(__name__)

#: What a text that is cut says of the whole takes less than this.
_NOTE = 80
# What would be known as a secret by what comes behind a cut: a card number, a password in a URL.
_HALF_A_SECRET = re.compile(r"(?:[\d\u00a0 -]{1,37}|(?<=://)[^\s/]+)\Z")

#: Gets what a value is ("args", "kwargs", "result", "event", "error" or "log") and the value as it would be recorded;
#: returns what is recorded in its place.
Hook = Callable[[str, Any], Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A value as it may be recorded; a truncated one is a text beginning with what was there."""

    value: Any
    truncated: bool = False


class Redactor:
    """Replaces what the sensitive words mark, and what is a secret by its form; then asks the `hook`.

    What `interrupts`, such as a time limit, passes.
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        limit: int,
        hook: Hook | None = None,
        interrupts: tuple[type[BaseException], ...] = (),
    ) -> None:
        self._limit, self._hook, self._interrupts = limit, hook, interrupts
        self._rules = TextRules(words)
        self._thread = threading.local()
        self._known_name = lru_cache(maxsize=1000)(self._name)  # the same few keys come in each payload

    @property
    def asking(self) -> bool:
        """Whether this thread is in the hook; what it logs there is not recorded, which would ask the hook again."""
        return getattr(self._thread, "asking", False)

    def is_sensitive(self, name: Any) -> bool:
        """Return whether the value of something called `name` is not to be recorded."""
        return self._rules.is_sensitive(str(name))

    def name(self, name: str) -> tuple[str, bool]:
        """Return a key as it may be recorded, and whether its value is not to be."""
        return self._known_name(name) if len(name) <= 100 else self._name(name)

    def _name(self, name: str) -> tuple[str, bool]:
        return self.text(name), self.is_sensitive(name)

    def text(self, text: str, *, tail: bool = False) -> str:
        """Return at most 16,384 characters of `text`, or of its end, without secrets.

        What is cut says how long it was, with a digest of the whole.
        """
        kept, tail = (text, tail) if len(text) <= MAX_TEXT else _cut(text, tail)
        shown = self._rules.apply(printable(kept), whole=kept is text or tail)
        return shortened(shown, MAX_TEXT, of=text) if kept is text else _noted(shown, MAX_TEXT, text, tail)

    def line(self, kind: str, text: str, *, tail: bool = False) -> str:
        """Return `text`, which is a log line or an error, like `text` does, and past the hook."""
        shown = self.text(text, tail=tail)
        return shown if self._hook is None else self.text(as_text(self._asked(self._hook, kind, shown)))

    def snapshot(self, value: Any, kind: str = "event") -> Snapshot:
        """Return `value` as JSON-like data without secrets, or the beginning of it when it takes too many bytes."""
        walk = Walk(self, self._limit, self._interrupts)
        plain = walk.shown(value)
        cut = walk.cut
        if self._hook is not None:
            walk = Walk(self, self._limit, self._interrupts)
            plain = walk.shown(self._asked(self._hook, kind, plain))
            cut = cut or walk.cut
        if (walk.size + 2) * BYTES_A_COUNT <= self._limit:
            return Snapshot(plain, truncated=cut)
        text = json.dumps(plain, ensure_ascii=False)
        if not walk.full and len(text.encode()) <= self._limit:
            return Snapshot(plain, truncated=cut)
        size, of_all = digest(value)
        return Snapshot(f"{text[: self._limit // 4]}… ({size:,} bytes, sha256 {of_all})", truncated=True)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, Any]:
        """Return positional and keyword arguments like `snapshot`; `names` are the parameters' names, by position."""
        shown = [
            REDACTED if index < len(names) and self.is_sensitive(names[index]) else value
            for index, value in enumerate(args)
        ]
        return shown, dict(kwargs)

    def _asked(self, hook: Hook, kind: str, value: Any) -> Any:
        if self.asking:  # the hook itself tells the history something, which it cannot judge meanwhile
            return REDACTED
        self._thread.asking = True
        try:
            return hook(kind, value)
        except self._interrupts:
            raise
        except Exception:  # what the project's own hook could not judge is not recorded
            logger.warning("stackstate_redact_hook failed on %s, which is not recorded", kind, exc_info=True)
            return REDACTED
        finally:
            self._thread.asking = False


def shortened(shown: str, most: int, *, of: str) -> str:
    """Return what is shown of a text; when that is too long its beginning, with length and digest of the whole."""
    return shown if len(shown) <= most else _noted(shown, most, of, tail=False)


def _noted(shown: str, most: int, whole: str, tail: bool) -> str:
    note = f"… ({len(whole):,} characters, sha256 {digest(whole)[1]})"
    room = most - len(note) - 1
    return f"{note}\n{shown[-room:]}" if tail else f"{shown[:room]} {note}"


def _cut(text: str, tail: bool) -> tuple[str, bool]:
    """Return as much of `text` as is looked at, and whether that is its tail.

    As far as one can see it neither begins nor ends within a secret: a tail begins with a line, or is none.
    """
    room = MAX_TEXT - _NOTE
    lines = text[-room:].partition("\n")[2] if tail else ""
    if lines.strip():
        return lines, True
    return text[: room - 2000] + _HALF_A_SECRET.sub("", text[room - 2000 : room]), False
