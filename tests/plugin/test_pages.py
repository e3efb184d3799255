"""The pages for who tests tasks, docs/testing.md, and who writes stores, docs/store-authors.md: what they show runs.

Their files are those of the folders shop_tests, worker_tests, site_tests and shelf.
"""

from __future__ import annotations

import re

import pytest

from tests.plugin.conftest import ROOT, Project

pytest_plugins = ["pytester"]

NAMED = re.compile(r"# (\S+\.py)\n")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
MOST_LINES = 149
#: The folders of the pages' files, each run as a project of its own, and how.
FOLDERS = {
    "shop_tests": (),
    "worker_tests": ("-p", "no:celery", "-p", "celery.contrib.pytest"),
    "site_tests": ("--ds=site_tests.settings",),
    "shelf": ("-p", "no:celery", "-p", "no:django"),
}


def files(page: str) -> dict[str, str]:
    """Return the files that a page shows, by their names."""
    found = {}
    for block in BLOCK.findall((ROOT / "docs" / page).read_text()):
        named = NAMED.match(block)
        assert named is not None, f"{page} has a block that is no file: {block:.80}"
        found[named.group(1)] = block
    return found


@pytest.fixture
def written(pytester: pytest.Pytester) -> dict[str, str]:
    """Write the files of both pages into the folder of the test."""
    found = {**files("testing.md"), **files("store-authors.md")}
    for name, text in found.items():
        path = pytester.path / name
        path.parent.mkdir(exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)
    return found


def how_many(written: dict[str, str], folder: str) -> int:
    return sum(text.count("\ndef test_") for name, text in written.items() if name.startswith(f"{folder}/"))


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "shelf"])
def test_the_tests_of_the_page_pass(project: Project, written: dict[str, str], folder: str) -> None:
    if folder == "site_tests":
        pytest.importorskip("pytest_django")
    result = project(*FOLDERS[folder], folder)
    assert how_many(written, folder) == {"shop_tests": 11, "worker_tests": 1, "site_tests": 2}[folder]
    result.assert_outcomes(passed=how_many(written, folder))


def test_the_message_on_the_page_is_the_one_that_is_given(project: Project, written: dict[str, str]) -> None:
    result = project(
        "test_failing.py",
        test_failing="""
        from shop_tests.tasks import index, webhook

        def test_it(assert_enqueued):
            webhook({"id": 1, "import": 7})
            assert_enqueued(index, key="evt:2")
        """,
    )
    shown = re.search(r"^    AssertionError.*?\n\n", (ROOT / "docs/testing.md").read_text(), re.MULTILINE | re.DOTALL)
    assert shown is not None
    told = "\n".join(line.removeprefix("E").strip() for line in result.outlines)
    assert "\n".join(line.strip() for line in shown.group().strip().splitlines()) in told


def test_the_store_of_the_page_is_short_and_keeps_the_contract(project: Project, written: dict[str, str]) -> None:
    assert written["shelf/store.py"].count("\n") <= MOST_LINES
    result = project(*FOLDERS["shelf"], "shelf")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] > 200
