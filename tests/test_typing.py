"""The code that `tox run -e typing` checks uses all that is public: what is not in it is not known to be typed."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import get_args

import pytest

import celery_stackstate
from celery_stackstate import StackState, State, StateTask, signals, testing
from celery_stackstate.publishing.options import ATTRIBUTES, LostPolicy, OnDuplicate, OnFailure, Scope
from celery_stackstate.records import STATUSES, Status
from celery_stackstate.runs import Runs

USER = {path.name: ast.parse(path.read_text()) for path in (Path(__file__).parent / "typing").glob("user_*.py")}
WALKED = [node for tree in USER.values() for node in ast.walk(tree)]
NAMES = {node.id for node in WALKED if isinstance(node, ast.Name)}
READ = {node.attr for node in WALKED if isinstance(node, ast.Attribute)}
#: What is no call of a project's.
INSIDE = {"put_entry", "find", "state_for", "replaced_stores", "warn_about_default_store", "warn_once"}


def public_methods(kind: type) -> set[str]:
    return {name for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")} - INSIDE


def test_every_public_name_is_used() -> None:
    public = {*celery_stackstate.__all__, *testing.__all__, *signals.__all__, "DjangoStateTask", "PURGE"}
    assert public - NAMES == set()


@pytest.mark.parametrize("kind", [State, Runs, StackState])
def test_every_call_is_made(kind: type) -> None:
    assert public_methods(kind) - READ == set()


def test_every_attribute_of_a_task_is_set() -> None:
    (importer,) = (node for node in WALKED if isinstance(node, ast.ClassDef) and node.name == "Importer")
    given = {target.id for node in importer.body if isinstance(node, ast.Assign) for target in node.targets}  # type: ignore[attr-defined]
    assert set(ATTRIBUTES) - given == set()
    assert set(ATTRIBUTES) == {name for name in vars(StateTask) if name in StateTask.__annotations__}


def test_a_choice_that_is_wrong_is_written_where_a_type_checker_must_find_it() -> None:
    """An unused `type: ignore` is an error to mypy and pyright there, so that each of these is found."""
    text = "".join(path.read_text() for path in (Path(__file__).parent / "typing").glob("user_*.py"))
    wrong = {
        line.split("=")[0].split("(")[-1].split(",")[-1].strip() for line in text.splitlines() if "ignore[" in line
    }
    assert wrong == {
        *("on_busy", "on_lock_lost", "on_duplicate", "idempotency_scope", "idempotency_on_failure", "lost_policy"),
        "status",
    }


def test_the_choices_are_those_that_are_checked() -> None:
    assert get_args(Status) == STATUSES
    assert [get_args(one) for one in (Scope, OnFailure, OnDuplicate, LostPolicy)] == [
        ("task", "app", "run"),
        ("release", "keep"),
        ("return", "raise", "replace"),
        ("mark", "rerun"),
    ]
