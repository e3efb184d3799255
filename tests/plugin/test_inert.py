"""What the plug-in is to a project that does not use it: nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.plugin.conftest import ROOT, Project

pytest_plugins = ["pytester"]

SECOND = """
from celery import Celery
from celery_stackstate import StackState

app = Celery("second")
StackState(app)
"""
IMPORTED = """
import sys
import pytest
before = set(sys.modules)
import celery_stackstate.pytest_plugin
print(*sorted(set(sys.modules) - before))
"""
OWN = {"celery_stackstate", "celery_stackstate.pytest_plugin"}


def test_loading_it_imports_nothing_but_pytest_and_the_standard_library() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert imported >= OWN
    assert {name for name in imported - OWN if name.split(".")[0] not in sys.stdlib_module_names} == set()


def test_a_project_that_does_not_use_it_imports_nothing_of_it(project: Project) -> None:
    result = project(
        "-p",
        "no:celery",
        test_other="""
        import sys

        def test_other(request):
            ours = {name for name in sys.modules if name.startswith("celery")}
            assert ours == {"celery_stackstate", "celery_stackstate.pytest_plugin"}
            assert not [name for name in request.fixturenames if "stackstate" in name]
        """,
    )
    result.assert_outcomes(passed=1)


def test_it_can_be_switched_off(project: Project) -> None:
    result = project("-p", "no:stackstate", test_other="def test_other(stackstate): ...")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'stackstate' not found*"])


def test_a_project_may_have_fixtures_of_the_same_names(project: Project) -> None:
    result = project(
        conftest="""
        import pytest

        @pytest.fixture
        def state():
            return "Bavaria"
        """,
        test_other="""
        def test_other(state):
            assert state == "Bavaria"
        """,
    )
    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("", "no Celery app with celery-stackstate is loaded"),
        ("import shop, second; shop.app.finalize()", "2 Celery apps"),
    ],
)
def test_an_app_that_cannot_be_told_is_asked_for(project: Project, second: str, told: str) -> None:
    result = project(
        second=SECOND,
        test_shop=f"{second}\ndef test_it(state): ...",
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{told}*STACKSTATE_APP*the fixture stackstate_app of your conftest.py*"])


def test_one_of_several_apps_is_named_by_a_fixture_or_by_the_environment(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        "second": SECOND,
        "test_named": """
        import pytest, second, shop

        @pytest.fixture
        def stackstate_app():
            return second.app

        def test_it(stackstate):
            assert stackstate.app is second.app
        """,
        "test_environment": """
        import second, shop

        def test_it(stackstate):
            assert stackstate.app is shop.app
        """,
    }
    monkeypatch.setenv("STACKSTATE_APP", "shop:app")
    project(**files).assert_outcomes(passed=2)
