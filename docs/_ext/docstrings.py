"""Fits docstrings and signatures, written for `help()`, to the page.

A line that ends in a colon, with an indented block behind an empty line, introduces code. Options of `**options` that
are indented below it are a list. Records show their fields and no constructor, as do classes that the library makes.
"""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

OPTION = re.compile(r"^ {8}(\w+) \(([\w. |]+)\): ")
#: The classes that users make themselves.
MADE_BY_USERS = {"celery_stackstate.StackState"}


def fit(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Mark code and lists as such."""
    lines[:] = _with_lists(_with_code(lines))


def _with_code(lines: list[str]) -> list[str]:
    following = [*lines[1:], "", ""]
    return [
        f"{line}:" if line.endswith(":") and not after and following[number + 1].startswith("    ") else line
        for number, (line, after) in enumerate(zip(lines, following, strict=False))
    ]


def _with_lists(lines: list[str]) -> list[str]:
    found: list[str] = []
    inside = False
    for line in lines:
        if option := OPTION.match(line):
            found += [] if inside else [""]
            found.append(f"        * ``{option.group(1)}`` ({option.group(2)}): {line[option.end() :]}")
            inside = True
        else:
            inside = inside and line.startswith(" " * 12)
            found.append(f"          {line.strip()}" if inside else line)
    return found


def without_constructor(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str, None] | None:
    """Leave out what a class takes that users do not make."""
    return ("", None) if what in ("class", "exception") and name not in MADE_BY_USERS else None


def with_dashes(app: Sphinx, document: nodes.document) -> None:
    """Put a dash between the name of an argument and what is said of it."""
    for text in list(document.findall(nodes.Text)):
        if text.astext() == " -- ":
            text.parent.replace(text, nodes.Text(" \N{EN DASH} "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register them; the first before Napoleon reads the sections."""
    app.connect("autodoc-process-docstring", fit, priority=400)
    app.connect("autodoc-process-signature", without_constructor)
    app.connect("doctree-read", with_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
