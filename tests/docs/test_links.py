"""Links within the project lead somewhere, on a code host as well: to a file, and to a heading of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, title

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?(?: \"[^\"]*\")?\)")
HEADING = re.compile(r"^#{1,4} (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as code hosts and the site make them."""
    headings = HEADING.findall(CODE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(CODE.sub("", page.read_text())):
        found = page.parent / target if target else page
        assert found.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(found), f"{target} has no #{anchor}"


def test_a_page_is_named_in_a_table_of_contents() -> None:
    trees = re.findall(r"^```\{toctree\}\n(.*?)^```", "".join(page.read_text() for page in PAGES), re.M | re.S)
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    named = {Path(line.rpartition("<")[2].rstrip(">")).name for line in lines}
    pages = {page.stem for page in PAGES if "docs" in page.parts and page.stem != "index"}
    assert pages - named == set()
