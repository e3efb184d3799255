"""Foreign text made harmless to look at: what hides, moves or reorders other characters is written out."""

from __future__ import annotations

import re
from typing import Any

LONGEST_TEXT = 200_000

# Controls (but tab and newline), marks that turn the direction of what follows, characters without a shape, and halves
# of characters, which no page can be encoded with. (U+200D holds emoji together.)
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def inert(text: str) -> str:
    """Return `text` with characters that hide or reorder others written as `\\u202e`."""
    return _UNSEEN.sub(_escaped, text)


def visible(text: Any, rest: str = "({number:,} characters)") -> str:
    """Return `text` as `inert` does, bounded in length; `rest` says how long a longer one was."""
    plain = str(text)
    if len(plain) > LONGEST_TEXT:
        plain = f"{plain[:LONGEST_TEXT]}… {rest.format(number=len(plain))}"
    return inert(plain)


def one_line(text: Any, most: int = 160) -> str:
    """Return `text` as one visible line of at most `most` characters."""
    flat = " ".join(str(text)[: most * 4].split())
    return inert(flat if len(flat) <= most else flat[: most - 1].rstrip() + "…")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
