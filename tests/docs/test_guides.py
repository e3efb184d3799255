"""Pages whose blocks check themselves: their files, and then their scripts in order, as a reader would run them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import test_in_depth  # noqa: F401 - says what it executes
from tests.docs.conftest import RunPython
from tests.docs.executing import EXECUTED, executes
from tests.docs.pages import BEFORE, DOCS, PAGES, blocks, files, named, scripts, title
from tests.plugin.test_pages import FOLDERS

GUIDES = [
    page
    for page in [
        DOCS / "getting-started.md",
        DOCS / "retention.md",
        *sorted(DOCS.glob("how-to/*.md")),
        *sorted(DOCS.glob("moving/*.md")),
    ]
    if blocks(page)
]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("page", GUIDES, ids=title)
def test_the_examples_of_a_guide_run(page: Path, run_python: RunPython) -> None:
    modules = [f"import {Path(name).stem}" for name in named(page) if "/" not in name]
    assert run_python("\n".join([*modules, *scripts(page), "print('the end')"])).endswith("the end\n")


@pytest.mark.parametrize("page", GUIDES, ids=title)
def test_a_guide_checks_what_it_says(page: Path) -> None:
    assert any("assert " in script for script in scripts(page))


@executes("front_page.py")
def test_the_front_page_runs(run_python: RunPython) -> None:
    script = (
        "from front_page import app, import_products\n"
        "first, second = import_products.delay(1, 3), import_products.delay(import_id=1, rows=3)\n"
        "print(first.created, second.created, first.id == second.id, import_products.apply((1, 3)).state)\n"
    )
    assert run_python(script).split() == ["True", "False", "True", "SUCCESS"]


def test_what_stands_before_is_python() -> None:
    found = [block for page in PAGES for block in blocks(page) if block.startswith(BEFORE)]
    assert found
    for block in found:
        compile(block, "<before>", "exec")


def test_every_file_of_a_page_is_executed_by_a_test() -> None:
    of_guides = {name for page in GUIDES for name in named(page) if "/" not in name}
    of_projects = {name for name in files() if name.split("/")[0] in FOLDERS}
    assert set(files()) == of_guides | of_projects | set(EXECUTED)


def test_every_script_of_a_page_is_executed_by_a_test() -> None:
    assert [title(page) for page in PAGES if scripts(page) and page not in GUIDES] == ["README.md"]
