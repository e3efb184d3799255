"""A traceback cut into the project's own frames and those of libraries, which are folded. Nothing of it is lost."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from django.utils.translation import ngettext

from celery_stackstate_admin.present import line, visible

_FRAME = re.compile(r'^[ \t|+-]*File "([^"\n]+)", line \d+', re.ASCII)
_HEADING = re.compile(r"^[ |+-]*(?:Exception Group )?Traceback \(most recent call last\):$")
_LIBRARY = re.compile(
    r"""/(?:site|dist)-packages/ | /lib(?:64)?/python\d | /python[\d.]*/lib/ | ^<frozen[ ]
    | /celery/app/ | /celery_stackstate/ | \.zip/""",
    re.IGNORECASE | re.VERBOSE,
)
_INSTALLED = re.compile(r"/(?:site|dist)-packages/([^/]+)")
MOST_PACKAGES = 3


@dataclass(frozen=True, slots=True)
class Part:
    """Some lines of a traceback. `fold` says what they are when they are folded, else it is ""."""

    text: str
    fold: str = ""


def parts_of(traceback: str) -> tuple[Part, ...]:
    """Return `traceback` in parts whose texts, joined by newlines, are the whole of it.

    What cannot be told apart is one part. Where there is nothing but library frames, nothing is folded.
    """
    blocks = list(_blocks(visible(traceback).rstrip().split("\n")))
    paths = [path for _, path in blocks if path]
    if not paths or all(map(is_library, paths)):
        return (Part("\n".join("\n".join(lines) for lines, _ in blocks)),) if traceback else ()
    parts = []
    for library, group in groupby(blocks, key=lambda block: bool(block[1]) and is_library(block[1])):
        taken = list(group)
        text = "\n".join("\n".join(lines) for lines, _ in taken)
        parts.append(Part(text, _name([path for _, path in taken]) if library else ""))
    return tuple(parts)


def is_library(path: str) -> bool:
    """Return whether a file belongs to Python, Celery or anything installed."""
    return bool(_LIBRARY.search(path.replace("\\", "/")))


def _blocks(lines: list[str]) -> Iterator[tuple[list[str], str]]:
    """Yield lines that belong together, and the path of their file, "" for what is no frame."""
    block: list[str] = []
    path, depth = "", 0
    for text in lines:
        found = _FRAME.match(text)
        if found or (path and not _belongs(text, depth)) or _HEADING.match(text):
            if block:
                yield block, path
            block, path = [], found.group(1) if found else ""
            depth = text.index("File ") if found else 0
        block.append(text)
    if block:
        yield block, path


def _belongs(text: str, depth: int) -> bool:
    """Return whether a line is the source or the marks below a frame, which are indented deeper than the frame."""
    bare = text.lstrip(" |")
    return (len(text) - len(bare)) > depth or bare.startswith("[Previous line repeated")


def _name(paths: list[str]) -> str:
    """Return a line that says how many frames are folded, and whose."""
    packages = list(dict.fromkeys(_package(path) for path in paths))
    names = ", ".join(line(name, 40) for name in packages[:MOST_PACKAGES]) + (
        ", …" if len(packages) > MOST_PACKAGES else ""
    )
    return ngettext("%(number)d frame in %(packages)s", "%(number)d frames in %(packages)s", len(paths)) % {
        "number": len(paths),
        "packages": names,
    }


def _package(path: str) -> str:
    plain = path.replace("\\", "/")
    installed = _INSTALLED.search(plain)
    if installed:
        return installed.group(1).removesuffix(".py")
    for name in ("celery_stackstate", "celery"):
        if f"/{name}/" in plain:
            return name
    return "Python"
