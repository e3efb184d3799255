"""Any value as JSON-like data: without what a sensitive name marks, of bounded depth and size, and never an error."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from itertools import islice
from typing import Any, Protocol
from uuid import UUID

from celery_stackstate.redaction import card_numbers
from celery_stackstate.value_scan import REDACTED

MAX_DEPTH = 12
MAX_TEXT = 16_384
#: So many times the room is read at most.
MOST_READ = 2
#: JSON takes at most so many bytes for each that a `Walk` counts: six for a letter, twenty-odd for a number.
BYTES_A_COUNT = 30

_PLAIN = (int, bool, type(None))
_FEW_BITS = 64  # of a longer number the digits are counted


class Rules(Protocol):
    """What a walk asks about texts and names."""

    def text(self, text: str) -> str:
        """Return a text as it may be shown."""

    def name(self, name: str) -> tuple[str, bool]:
        """Return the name of a value as it may be shown, and whether the value is not to be."""


class Walk:
    """Goes over one value until it is at its end or `room` bytes are certainly passed.

    `size` counts what was shown, never more than JSON takes of it in bytes; `cut` says that something was left out.
    Texts that are longer than what is shown of them cannot keep it going: it ends as well when it has read too much.
    What `interrupts`, such as a time limit, is no failure of the value: it passes.
    """

    __slots__ = ("_interrupts", "_read", "_room", "_rules", "cut", "size")

    def __init__(self, rules: Rules, room: int, interrupts: tuple[type[BaseException], ...] = ()) -> None:
        self._rules, self._room, self._interrupts = rules, room, interrupts
        self.size, self.cut = -2, False  # what stands alone has no comma and no blank behind it
        self._read = 0

    @property
    def full(self) -> bool:
        """Whether what was shown is more than there is room for."""
        return self.size > self._room

    @property
    def _ends(self) -> bool:
        return self.full or self._read > MOST_READ * self._room

    def shown(self, value: Any, depth: int = 0) -> Any:
        """Return `value`, or a text that says why it cannot be shown."""
        before = self.size
        try:
            return self._scalar(value) if type(value) in _PLAIN else self._shown(value, depth)
        except self._interrupts:
            raise
        except Exception as error:  # whatever classes of the project's own, and hostile values, may raise
            self.size = before
            return self._counted(unshown(value, error))

    def _shown(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(str(value))
        if value is None or isinstance(value, (int, float)):
            return self._scalar(value)
        if depth >= MAX_DEPTH:
            self.cut = True
            return self._counted("…")
        if isinstance(value, (list, tuple, set, frozenset)):
            return self._items(value, depth)
        if isinstance(value, (dict, Mapping)):
            return self._mapping(value, depth)
        return self._text(_written(value))

    def _counted(self, text: str) -> str:
        self.size += len(text) + 4  # quotes, and a comma or a colon with a blank
        return text

    def _text(self, text: str) -> str:
        self.cut = self.cut or len(text) > MAX_TEXT
        self._read += min(len(text), MAX_TEXT)
        return self._counted(self._rules.text(text))

    def _scalar(self, value: float | None) -> Any:
        self.size += 3
        if isinstance(value, float):
            return value if math.isfinite(value) else self._counted(repr(value))
        if value is None or isinstance(value, bool) or -(10**12) < value < 10**12:  # fewer digits than a card has
            return value
        if value.bit_length() > _FEW_BITS:
            self.size += len(str(value))
        return self._counted(REDACTED) if value < 10**19 and any(card_numbers(str(value))) else value

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        self.size += 2
        for key, item in value.items():
            if self._ends:
                self.cut = True
                break
            name, hidden = self._name(key)
            if name in shown:  # such as 1 and "1"
                name = f"{name} ({len(shown) + 1})"
            shown[self._counted(name)] = self._counted(REDACTED) if hidden else self.shown(item, depth + 1)
        return shown

    def _name(self, key: Any) -> tuple[str, bool]:
        """Return a key as text, and whether its value is hidden, as it is when the key cannot be judged."""
        try:
            return self._rules.name(str(key))
        except self._interrupts:
            raise
        except Exception as error:  # a class of the project's own
            return unshown(key, error), True

    def _items(self, value: Any, depth: int) -> list[Any]:
        """Return the items, each by the name that it goes by, if it has one."""
        names = iter(value._fields) if isinstance(value, tuple) and hasattr(value, "_fields") else None
        shown: list[Any] = []
        option = False
        self.size += 2
        for item in value:
            if self._ends:
                self.cut = True
                break
            if option or (names is not None and self._name(next(names, ""))[1]):
                shown.append(self._counted(REDACTED))
            elif _is_pair(item) and self._name(item[0])[1] and _are_pairs(value):
                shown.append([self.shown(item[0], depth + 1), self._counted(REDACTED)])
            else:
                shown.append(self.shown(item, depth + 1))
            option = isinstance(item, str) and item.startswith("--") and "=" not in item and self._name(item)[1]
        return shown


def _is_pair(item: Any) -> bool:
    return isinstance(item, (list, tuple)) and len(item) == 2 and isinstance(item[0], (str, bytes))


def _are_pairs(items: Any) -> bool:
    """Return whether this is a mapping written as pairs, like headers; judged by the first of many."""
    return isinstance(items, (list, tuple)) and all(map(_is_pair, islice(items, 100)))


def unshown(value: Any, error: Exception) -> str:
    """Return what is shown in place of something that raised when it was to be shown."""
    return f"<{type(value).__name__}, which could not be shown: {type(error).__name__}>"


def as_text(value: Any, how: Callable[[Any], str] = str) -> str:
    """Return `value` as text; what stands in its place when it raises."""
    try:
        return printable(how(value))
    except Exception as error:  # a class of the project's own
        return unshown(value, error)


def printable(text: str) -> str:
    """Return `text` as something that every store takes: no lone surrogates, no NUL."""
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode()
    return text.replace("\0", "\\x00")


def digest(value: Any) -> tuple[int, str]:
    """Return the size of all of `value` in bytes and a digest of it, that tells it from others."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=_default, ensure_ascii=False)
    except Exception:  # keys that JSON does not know, or a value that contains itself
        text = as_text(value, repr)
    raw = text.encode("utf-8", "surrogatepass")
    return len(raw), hashlib.sha256(raw).hexdigest()[:16]


def _written(value: Any) -> str:
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    return str(value.value) if isinstance(value, Enum) else _repr(value)


def _default(value: Any) -> Any:
    return sorted(map(_repr, value)) if isinstance(value, (set, frozenset)) else _repr(value)


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # a repr of the project's own that fails
        return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"
