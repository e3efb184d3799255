"""The pages of the documentation and their blocks of code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]

#: A block whose first line names a file is that file. One that begins with "# before" shows what others do.
NAMED = re.compile(r"# (\S+\.py)( \(added\))?\n")
BEFORE = "# before"

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def title(page: Path) -> str:
    """Return how a page is called in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return _BLOCK.findall(page.read_text())


def scripts(page: Path) -> list[str]:
    """Return the blocks that are to be run as they stand, in their order."""
    return [block for block in blocks(page) if not NAMED.match(block) and not block.startswith(BEFORE)]


def named(page: Path) -> list[str]:
    """Return the files that the blocks of a page are."""
    return [match.group(1) for block in blocks(page) if (match := NAMED.match(block))]


def files() -> dict[str, tuple[str, bool]]:
    """Return the files that the pages name, with their text, and whether it is added to a file of the reader's."""
    found: dict[str, tuple[str, bool]] = {}
    for page in PAGES:
        for block in blocks(page):
            if match := NAMED.match(block):
                name, added = match.groups()
                assert found.get(name, (block, bool(added)))[0] == block, f"{title(page)} has another {name}"
                found[name] = (block, bool(added))
    return found
