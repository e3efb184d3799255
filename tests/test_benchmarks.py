"""The benchmarks work, with next to nothing to measure: what they measure is told by `docs/benchmarks.md`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks import budgets, report
from benchmarks.page import rewritten
from benchmarks.report import Row, Table
from benchmarks.rounds import Figure, interleaved

pytest.importorskip("redis")

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
SUBJECTS = {
    "publish": {"publish", "publish-duplicate"},
    "worker": {"worker-solo"},
    "state": {"state", "state-time", "state-driver"},
    "locks": {"locks"},
    "scale": {"scale-redis", "scale-postgresql"},
    "imports": {"imports", "memory"},
    "where": {"where"},
}
#: What is made of the same as another, and left out by --quick.
LEFT_OUT = {"worker-prefork"}
#: The peers that a table may lack, by the beginning of their rows.
PEERS = {
    "celery-once": "celery_once",
    "celery-singleton": "celery_singleton",
    "django-celery-results": "django_celery_results",
    "diskcache": "diskcache",
}


@pytest.fixture(scope="module")
def measured(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_server_binary: str
) -> tuple[str, dict[str, Any]]:
    """What one subject has printed, and its JSON."""
    file = tmp_path_factory.mktemp("benchmarks") / "results.json"
    command = [sys.executable, "-m", "benchmarks", request.param, "--quick", "--json", str(file)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=570, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stdout, json.loads(file.read_text())


def absence(name: str) -> str | None:
    """Return the reason that a row gives when its peer is not installed here."""
    for peer, module in PEERS.items():
        if name.startswith(peer) and find_spec(module) is None:
            return f"not installed: {module}"
    return None


@pytest.mark.parametrize("measured", SUBJECTS, indirect=True, scope="module")
def test_each_contender_has_figures_or_says_what_is_not_installed(
    request: pytest.FixtureRequest, measured: tuple[str, dict[str, Any]]
) -> None:
    printed, data = measured
    tables, _ = report.from_json(data)
    assert {table.name for table in tables} == SUBJECTS[request.node.callspec.params["measured"]]
    for table in tables:
        assert table.rows
        for row in table.rows:
            if "PostgreSQL" in row.name and row.note == "no PostgreSQL server" and not os.environ.get("CI"):
                continue
            assert row.note == absence(row.name), f"{table.name}: {row}"
            assert row.note or any(row.cells), f"{table.name}: {row}"
        assert report.markdown(table) in printed, "the JSON has what was printed"


# -- how figures are made ----------------------------------------------------------------------------------------------


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    times = {"base": iter([9.0, 1.0, 2.0, 4.0]), "mine": iter([9.0, 2.0, 2.0, 12.0])}

    def measure(name: str) -> Any:
        return lambda: {"wall": next(times[name])}

    contenders = {name: measure(name) for name in times}
    results = interleaved(contenders, rounds=3, progress=lambda told: None)
    assert results.ratio("mine", "wall", "base") == Figure(2.0, 1.5, 2.5)
    assert results.figure("base", "wall") == Figure(2.0, 1.5, 3.0)


def test_rounds_are_interleaved_and_begin_with_another_contender_each_time() -> None:
    order: list[str] = []

    def measure(name: str) -> Any:
        def measured() -> dict[str, float]:
            order.append(name)
            return {"wall": 1.0}

        return measured

    interleaved({name: measure(name) for name in "abc"}, rounds=2, progress=lambda told: None, warm_up=False)
    assert "".join(order) == "abcbca"


def test_one_that_fails_leaves_the_rounds_and_its_row_says_why() -> None:
    def fail() -> Any:
        raise RuntimeError("it is away")

    results = interleaved({"a": lambda: {"wall": 1.0}, "b": fail}, rounds=2, progress=lambda told: None)
    columns = [report.Column("wall", "x a")]
    table = report.ratio_table("t", "T", columns, results, ["a", "b"], base="a")
    assert [row.note for row in table.rows] == [None, "failed: it is away"]


# -- how they are shown ------------------------------------------------------------------------------------------------


def a_table(wall: float) -> Table:
    row = Row("stackstate, Redis: history", [Figure(wall, wall - 0.1, wall + 0.1)])
    return Table("worker-solo", "One no-op", ["x bare, wall"], [2], [row, Row("celery-once", note="not installed")])


def test_a_page_gets_the_tables_of_a_run_between_its_markers_and_keeps_the_rest() -> None:
    page = "Before\n\n<!-- table: worker-solo -->\nold\n<!-- end -->\n\n<!-- table: locks -->\nkept\n<!-- end -->\n"
    data = report.to_json([a_table(1.5)], {"python": "3"})
    text = rewritten(page, data)
    assert "old" not in text
    assert text.startswith("Before\n")
    assert "| stackstate, Redis: history | 1.50 (1.40 to 1.60) |" in text
    assert "| celery-once | not installed |" in text
    assert "\nkept\n" in text
    assert rewritten(text, data) == text


def test_a_page_keeps_the_budgets_of_tables_that_a_run_lacks() -> None:
    header = "|  | at most | measured | share of the budget | verdict |\n| --- | ---: | ---: | ---: | ---: |"
    rows = ["| import, ms | 15.00 | 61.00 | 4.07 | not met |", "| worker solo, history, Redis | 1.20 | old |"]
    page = "\n".join(["<!-- table: budgets -->", "", header, *rows, "", "<!-- end -->"])
    shown = rewritten(page, report.to_json([a_table(1.5)], {"python": "3"})).splitlines()
    assert shown[4] == rows[0]
    assert shown[5].startswith("| worker solo, history, Redis | 1.20 | 1.50 (1.40 to 1.60) |")
    assert "\n".join(shown[2:4]) == header


@pytest.mark.parametrize(("wall", "verdict"), [(1.5, "not met"), (0.9, "met"), (1.25, "within the spread")])
def test_a_budget_is_met_or_not_as_half_of_the_rounds_say(wall: float, verdict: str) -> None:
    table = budgets.compared([a_table(wall)])
    rows = {name: texts for name, *texts in map(table.texts, table.rows)}
    assert rows.pop("worker solo, history, Redis")[-1] == verdict
    assert {texts[0] for texts in rows.values()} == {"not measured"}, "what is missing is said"
    assert "set, Redis, x redis-py" not in rows, "of subjects that were not asked for nothing is said"


def test_each_budget_is_about_a_table_that_a_subject_makes() -> None:
    assert {budget.table for budget in budgets.BUDGETS} <= LEFT_OUT.union(*SUBJECTS.values())


def test_the_page_has_a_place_for_each_table() -> None:
    places = set(re.findall(r"<!-- table: ([\w-]+) -->", PAGE.read_text()))
    assert {"machine", "budgets", *LEFT_OUT}.union(*SUBJECTS.values()) == places
