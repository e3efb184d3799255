"""What may be shown of arguments, results, messages and tracebacks: JSON-like, redacted and of bounded size.

Redaction comes before anything is stored, so that nothing downstream needs to be trusted with a secret.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

REDACTED = "•••••• (redacted)"
MAX_DEPTH = 12
MAX_TEXT = 16_384

# Card numbers begin with 2 to 6; timestamps in micro- and milliseconds, as long as some of them, with 1.
_CARD = re.compile(r"(?<![\d.])[2-6](?:[ -]?\d){13,18}(?![\d.])")


_URL_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s/@]+(?=@)")
_NEVER = re.compile(r"(?!)()")


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A value as it may be recorded; a truncated one is a text beginning with what was there."""

    value: Any
    truncated: bool = False


def _patterns(words: Sequence[str]) -> list[re.Pattern[str]]:
    """Return patterns of what the words mark in a text; each keeps its first group.

    They begin at the begin of a word only: tried at each letter, a long word takes time by the square of its length.
    """
    alternatives = "|".join(re.escape(word).replace("_", "[_-]?") for word in words)
    name = rf"""(?<![\w-])(?=[\w-]*(?:{alternatives}))[\w-]+"""
    scheme = r"(?:(?:bearer|basic|token|digest|apikey)\s+)?"
    value = r"""(?:\\?"[^"\n]*"?|'[^'\n]*'?|[^\s,;&)}\]]+)"""
    return [
        re.compile(r"""(?im)((?<![\w-])(?:set-)?cookie\\?["']?\s*[:=]\s*)[^\n]+""") if "cookie" in words else _NEVER,
        re.compile(rf"""(?i)({name}\\?["']?\s*[=:]\s*){scheme}{value}"""),
        re.compile(rf"""(?i)(--(?=[\w-]*(?:{alternatives}))[\w-]+\s+)(?!-){value}"""),
    ]


class Redactor:
    """Replaces what the sensitive words mark, and numbers that pass as payment cards (Luhn)."""

    def __init__(self, words: Sequence[str], *, limit: int) -> None:
        self._limit = limit
        self._words = tuple(word.lower() for word in words)
        self._patterns = [_URL_PASSWORD, *(_patterns(self._words) if self._words else [])]

    def is_sensitive(self, name: Any) -> bool:
        """Return whether the value of something called `name` is not to be recorded."""
        lowered = str(name).lower().replace("-", "_")
        return any(word in lowered for word in self._words)

    def text(self, text: str, *, tail: bool = False) -> str:
        """Return at most 16,384 characters of `text`, or of its end, without sensitive values and card numbers."""
        if len(text) > MAX_TEXT:
            text = "…\n" + (text[-MAX_TEXT:].partition("\n")[2] or text[-MAX_TEXT:]) if tail else text[:MAX_TEXT] + "…"
        text = printable(text)
        for pattern in self._patterns:
            text = pattern.sub(lambda found: found.group(1) + REDACTED, text)
        return _CARD.sub(lambda found: REDACTED if _luhn(found.group()) else found.group(), text)

    def snapshot(self, value: Any) -> Snapshot:
        """Return `value` as JSON-like data without secrets, or the beginning of it when it takes too many bytes."""
        cut: list[Any] = []
        plain = self._plain(value, 0, cut)
        text = json.dumps(plain, ensure_ascii=False)
        size = len(text.encode())
        if size <= self._limit:
            return Snapshot(plain, truncated=bool(cut))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Snapshot(f"{text[: self._limit // 4]}… ({size:,} bytes, sha256 {digest[:16]})", truncated=True)

    def arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, Any]:
        """Return positional and keyword arguments like `snapshot`; `names` are the parameters' names, by position."""
        shown = [
            REDACTED if index < len(names) and self.is_sensitive(names[index]) else value
            for index, value in enumerate(args)
        ]
        return shown, dict(kwargs)

    def _plain(self, value: Any, depth: int, cut: list[Any]) -> Any:
        """Return `value` as JSON-like data; what is left out for its length or depth is added to `cut`."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else repr(value)
        if isinstance(value, int):
            return REDACTED if _CARD.fullmatch(str(value)) and _luhn(str(value)) else value
        if isinstance(value, str):
            if len(value) > MAX_TEXT:
                cut.append(value)
            return self.text(str(value))
        if depth >= MAX_DEPTH:
            cut.append(value)
            return "…"
        if isinstance(value, Mapping):
            return {
                self.text(str(key)): REDACTED if self.is_sensitive(key) else self._plain(item, depth + 1, cut)
                for key, item in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._plain(item, depth + 1, cut) for item in value]
        return self._text_of(value)

    def _text_of(self, value: Any) -> str:
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        if isinstance(value, (Decimal, UUID)):
            return str(value)
        if isinstance(value, Enum):
            return self.text(str(value.value))
        try:
            return self.text(repr(value))
        except Exception as error:  # a repr of the project's own that fails
            return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"


def printable(text: str) -> str:
    """Return `text` as something that every store takes: no lone surrogates, no NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\\x00")


def _luhn(text: str) -> bool:
    digits = [int(digit) for digit in text if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0
