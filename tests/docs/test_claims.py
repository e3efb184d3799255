"""Claims name the tests that show them: `[✓](../tests/x.py "test_name")`, and those tests are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, PAGES, ROOT, title

MARK = re.compile(r'\[✓\]\(([^ )]+)(?: "([^"]+)")?\)')
#: Pages that promise something in lists and tables: each line of these has a mark.
PROMISES = {
    DOCS / "guarantees.md": ("## State", "## Not promised"),
    DOCS / "locks.md": ("## Who holds it", "## Waiting"),
    DOCS / "testing.md": ("## What was enqueued", "```"),
    DOCS / "store-authors.md": ("What is easily missed:", "\n\nTwo helpers"),
    DOCS / "reference" / "state.md": ("# State", "```"),
    DOCS / "reference" / "tasks.md": ("## Attributes of a task", "## Types"),
    DOCS / "reference" / "extension.md": ("# The extension", "## Keys"),
    DOCS / "reference" / "admin.md": ("# In a project's own pages", "```"),
    **{page: ("## When something dies", "\n\n") for page in (DOCS / "how-to").glob("*.md") if page.stem != "index"},
    **{
        page: ("## What behaves differently", "\n\n") for page in (DOCS / "moving").glob("*.md") if page.stem != "index"
    },
}
EXPLANATIONS = ["choosing-a-store", "crash-windows", "guarantees", "how-it-works", "locks", "retention", "security"]
IN_DEPTH = ["admin", "command-line", "getting-started", "history", "idempotency", "state", "stores", "testing"]
IN_DEPTH += ["store-authors"]
REFERENCE = ["admin", "extension", "settings", "state", "tasks"]
#: Lines of promises that say what is not done, or follow from others.
WITHOUT = re.compile(
    r"\*\*(A worker, after the pace let it through|All workers:|The worker, after an increment|All workers are gone"
    r"|The process that ships|Rows written before|Between `load` and `set`)"
)


@cache
def named_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def marks(page: Path) -> list[tuple[Path, str]]:
    return [((page.parent / path).resolve(), name) for path, name in MARK.findall(page.read_text())]


@pytest.mark.parametrize("page", [page for page in PAGES if marks(page)], ids=title)
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    for file, name in marks(page):
        assert file.is_file(), f"{file} is no file"
        assert file.is_relative_to(ROOT), file
        assert name.partition("[")[0] in named_in(file), f"{file.relative_to(ROOT)} has no {name}"


def test_every_page_that_claims_something_names_tests() -> None:
    pages = [DOCS / f"{name}.md" for name in [*EXPLANATIONS, *IN_DEPTH]]
    pages += [DOCS / "reference" / f"{name}.md" for name in REFERENCE]
    pages += [page for page in [*DOCS.glob("how-to/*.md"), *DOCS.glob("moving/*.md")] if page.stem != "index"]
    assert [title(page) for page in pages if len(marks(page)) < 3] == []


def test_the_front_page_leads_from_what_is_promised_to_the_tests() -> None:
    text = (ROOT / "README.md").read_text()
    promised = text[text.index("## What is promised") : text.index("## What is not promised")]
    assert "](docs/guarantees.md)" in promised
    assert "](docs/evidence.md)" in promised


@pytest.mark.parametrize("page", PROMISES, ids=title)
def test_every_promise_names_its_test(page: Path) -> None:
    begin, end = PROMISES[page]
    text = page.read_text()
    start = text.index(begin) + len(begin)
    stop = text.find(end, start + 4)
    lines = text[start : stop if stop > 0 else None].splitlines()
    promises = [
        line
        for line in lines
        if re.match(r"\* |\| (?!promise |what |attribute |call |-)", line) and not line.startswith("|---")
    ]
    assert len(promises) >= 3
    without = [line for line in promises if not MARK.search(line) and not WITHOUT.search(line)]
    assert without == []
