"""Lists of runs, and one run, as the command line shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from celery import Celery

from celery_stackstate import StackState
from celery_stackstate.stores.base import RunFacts, RunWrite
from tests.cli.commands import Terminal, run


def lines_of(folder: Path, *words: str) -> list[str]:
    done = run(folder, "stackstate", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_into_a_pipe_go_whole_lines_without_colours(history: Celery, tmp_path: Path) -> None:
    lines = lines_of(tmp_path, "runs")
    assert lines[0].split() == ["STATUS", "TASK", "QUEUED", "RAN", "ID", "WAITED", "RETRIES", "WORKER", "KEY", "ERROR"]
    runs = list(StackState.of(history).runs.list())
    assert len(lines) == 1 + len(runs) == 5
    for line, found in zip(lines[1:], runs, strict=True):
        assert line.split()[0] == found.status
        assert found.id in line
        assert line == line.rstrip()
    assert not any("\x1b" in line for line in lines)
    assert "ValueError: negative amount -1 \\u001b[31m<b>" in lines[1]


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_in_a_terminal_a_table_fits_and_has_colours_and_whole_ids(
    history: Celery, tmp_path: Path, columns: int
) -> None:
    with Terminal(tmp_path, ("stackstate", "runs"), columns) as terminal:
        assert terminal.end() == 0
    lines = terminal.text.splitlines()
    assert len(lines) == 5
    assert max(map(len, lines)) <= columns
    assert b"\x1b[31m" in terminal.output, "FAILURE is red"
    for found in StackState.of(history).runs.list():
        assert found.id in terminal.text
    assert ("ERROR" in lines[0]) is (columns >= 120)
    assert ("RETRIES" in lines[0]) is (columns == 200)


def test_json_is_an_object_a_line(history: Celery, tmp_path: Path) -> None:
    shown = [json.loads(line) for line in lines_of(tmp_path, "runs", "--json")]
    expected = list(StackState.of(history).runs.list())
    assert [one["id"] for one in shown] == [one.id for one in expected]
    assert shown[0]["queued_at"] == expected[0].queued_at.isoformat()  # type: ignore[union-attr]
    assert "\x1b[31m" in shown[0]["error"], "a program gets the text as it is"
    assert "args" not in shown[0], "a list has summaries"


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("--status", "FAILURE"), 1),
        (("--status", "failure", "--status", "success"), 4),
        (("--task", "shop.pay"), 3),
        (("--task", "shop.pay", "--limit", "2"), 2),
        (("--text", "NEGATIVE"), 1),
        (("--since", "1h"), 4),
        (("--until", "2026-01-01"), 0),
        (("--queue", "no such"), 0),
        (("--duplicated",), 0),
    ],
)
def test_filters(history: Celery, tmp_path: Path, words: tuple[str, ...], count: int) -> None:
    assert len(run(tmp_path, "stackstate", "runs", "--json", *words).stdout.splitlines()) == count


def test_the_runs_of_a_group_are_listed(history: Celery, tmp_path: Path) -> None:
    store = StackState.of(history).runs_store
    store.append([RunWrite(f"r{number}", 1, RunFacts("shop.pay", group_id="g", created=number)) for number in (1, 2)])
    shown = lines_of(tmp_path, "runs", "--group", "g", "--json")
    assert [json.loads(line)["id"] for line in shown] == ["r2", "r1"]


def test_what_is_not_shown_is_said(history: Celery, tmp_path: Path) -> None:
    done = run(tmp_path, "stackstate", "runs", "--limit", "2")
    assert done.stderr.startswith("more: --after ")
    assert lines_of(tmp_path, "runs", "--queue", "no such") == ["no such run"]


@pytest.mark.parametrize("words", [("--since", "yesterday"), ("--status", "DONE"), ("--limit", "0"), ("--nope",)])
def test_a_wrong_command_line_is_exit_code_2(history: Celery, tmp_path: Path, words: tuple[str, ...]) -> None:
    assert run(tmp_path, "stackstate", "runs", *words).returncode == 2


def test_a_run_is_shown_whole(history: Celery, tmp_path: Path) -> None:
    (found,) = StackState.of(history).runs.list(task="shop.import_rows")
    text = "\n".join(lines_of(tmp_path, "run", found.id))
    assert text.startswith(f"SUCCESS  shop.import_rows  {found.id}")
    for part in (
        "args",
        "[3]",
        '{"rows": 3}',
        "3 of 3: row 3",
        "Attempts",
        "Timeline",
        "imported",
        "rows=3, skipped=0, dry=False, host=feed",
        "Log",
    ):
        assert part in text
    assert text.count("WARNING importing row ") == 3
    assert "importing row 1" not in "\n".join(lines_of(tmp_path, "run", found.id, "--logs", "2"))


def test_a_failed_run_is_shown_with_its_traceback_made_harmless(history: Celery, tmp_path: Path) -> None:
    (found,) = StackState.of(history).runs.list(status="FAILURE")
    text = "\n".join(lines_of(tmp_path, "run", found.id))
    assert "Traceback (most recent call last)" in text
    assert "\\u001b[31m<b>" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("columns", [72, 80, 160])
def test_a_run_fits_the_terminal(history: Celery, tmp_path: Path, columns: int) -> None:
    (found,) = StackState.of(history).runs.list(task="shop.import_rows")
    with Terminal(tmp_path, ("stackstate", "run", found.id, "--logs", "0"), columns) as terminal:
        assert terminal.end() == 0
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_a_run_as_json_has_its_events_and_lines(history: Celery, tmp_path: Path) -> None:
    (found,) = StackState.of(history).runs.list(task="shop.import_rows")
    (line,) = lines_of(tmp_path, "run", found.id, "--json")
    shown = json.loads(line)
    assert (shown["status"], shown["args"], shown["result"]) == ("SUCCESS", [3], {"rows": 3})
    assert [one["name"] for one in shown["events"]][-2:] == ["imported", "success"]
    assert [one["message"] for one in shown["logs"]] == [f"importing row {number}" for number in (1, 2, 3)]


def test_an_unknown_run_is_exit_code_1(history: Celery, tmp_path: Path) -> None:
    done = run(tmp_path, "stackstate", "run", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no run 'nope'" in done.stderr
