"""`celery -A proj stackstate`: the command line."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

from celery_stackstate.cli import stackstate
from tests.cli import commands

PROJECT = """
from celery import Celery
from celery_stackstate import StateTask

app = Celery("proj", broker="memory://", task_cls=StateTask)
app.conf.update({conf})
"""


def run(folder: Path, *words: str, **conf: object) -> subprocess.CompletedProcess[str]:
    """Run `celery -A proj ...` in a folder whose project has these settings."""
    (folder / "proj.py").write_text(PROJECT.format(conf=conf))
    return commands.run(folder, *words)


def test_init_makes_the_tables_and_says_so_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    first = run(tmp_path, "stackstate", "init")
    assert (first.returncode, first.stderr) == (0, "")
    assert f"sqlite:///{tmp_path}/stackstate.sqlite3: " in first.stdout
    connection = sqlite3.connect(tmp_path / "stackstate.sqlite3")
    assert connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'stackstate_entry'").fetchone() == (1,)
    connection.close()
    second = run(tmp_path, "stackstate", "init")
    assert (second.returncode, "nothing to do" in second.stdout) == (0, True)


def test_init_goes_over_both_stores(tmp_path: Path) -> None:
    done = run(tmp_path, "stackstate", "init", stackstate_url="memory://", stackstate_runs_url="sqlite:///runs.sqlite3")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "memory://: nothing to do"
    assert f"sqlite:///{tmp_path}/runs.sqlite3: " in done.stdout


@pytest.mark.parametrize(
    ("conf", "code", "word"),
    [
        ({"stackstate_url": "sqlite:////no/such/folder/x.sqlite3"}, 1, "/no/such/folder"),
        ({"stackstate_ulr": "memory://"}, 1, "did you mean stackstate_url?"),
        ({"stackstate_url": "postgresql://u:secret@127.0.0.1:9/x", "stackstate_store_timeout": 1}, 3, "127.0.0.1"),
    ],
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    tmp_path: Path, conf: dict[str, object], code: int, word: str
) -> None:
    failed = run(tmp_path, "stackstate", "init", **conf)
    assert (failed.returncode, failed.stdout) == (code, "")
    assert word in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "secret" not in failed.stderr


def all_commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from all_commands(found, *path, name)
        else:
            yield (*path, name)


COMMANDS = list(all_commands(stackstate))


def test_these_are_the_commands() -> None:
    assert {words[0] for words in COMMANDS} == {
        *("init", "check", "runs", "run", "watch", "state", "locks", "keys", "workers", "purge")
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_help_of_each_command_has_an_example(tmp_path: Path, words: tuple[str, ...]) -> None:
    shown = run(tmp_path, "stackstate", *words, "--help")
    assert shown.returncode == 0
    assert f"celery -A shop stackstate {' '.join(words)}" in shown.stdout


@pytest.mark.parametrize("words", [(), ("state",), ("locks",), ("keys",)], ids=" ".join)
def test_what_a_command_does_is_told_whole_in_the_list_of_commands(
    tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(tmp_path, "stackstate", *words, "--help").stdout.partition("Commands:")[2]
    assert len(shown.splitlines()) > 2
    assert [line for line in shown.splitlines() if line.endswith("...")] == []


def test_init_tells_programs_what_it_did(tmp_path: Path) -> None:
    (shown,) = map(json.loads, run(tmp_path, "stackstate", "init", "--json").stdout.splitlines())
    assert shown["place"] == f"sqlite:///{tmp_path}/stackstate.sqlite3"
    assert "created the tables" in shown["done"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_each_command_can_be_read_by_programs(words: tuple[str, ...]) -> None:
    found: click.Command | None = stackstate
    for word in words:
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    assert "--json" in {option for param in found.params for option in param.opts}


def test_the_shell_completes_commands_and_options() -> None:
    complete = ShellComplete(stackstate, {}, "stackstate", "_STACKSTATE_COMPLETE")
    assert {"run", "runs"} == {item.value for item in complete.get_completions([], "ru")}
    assert {"--status"} == {item.value for item in complete.get_completions(["runs"], "--st")}
    assert "FAILURE" in {item.value.upper() for item in complete.get_completions(["runs", "--status"], "F")}


def test_an_unknown_command_is_exit_code_2(tmp_path: Path) -> None:
    assert run(tmp_path, "stackstate", "rnus").returncode == 2


def test_loading_the_command_imports_nothing_else() -> None:
    code = (
        "import sys, celery.bin.celery, celery_stackstate.cli; "
        "ours = ('celery_stackstate', 'rich', 'redis', 'sqlalchemy'); "
        "print(sorted(name for name in sys.modules if name.partition('.')[0] in ours))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "['celery_stackstate', 'celery_stackstate.cli']"


#: The `celery` of the console script, in a process that may be prepared before.
REAL = "from celery.__main__ import main; main()"


@pytest.mark.parametrize(
    ("words", "code"), [(("runs", "--status", "FAILURE"), 1), (("run", "--help"), 1), (("--help",), 0)]
)
def test_without_its_extra_a_command_says_what_to_install(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    (tmp_path / "proj.py").write_text(PROJECT.format(conf={}))
    away = "import sys; sys.modules['rich'] = None\n"  # as where it was never installed
    shown = subprocess.run(
        [sys.executable, "-c", away + REAL, "-A", "proj", "stackstate", *words],
        cwd=tmp_path,
        env=commands.environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert code == shown.returncode
    assert "pip install 'celery-stackstate[cli]'" in shown.stdout + shown.stderr
    assert "Traceback" not in shown.stderr


def test_the_page_about_the_command_line_names_each_command_and_option() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    for words in COMMANDS:
        assert f"`{words[0]}" in page
        assert f"`{words[-1]}`" in page or f"`{' '.join(words)}" in page
    runs = stackstate.get_command(click.Context(stackstate), "runs")
    assert runs is not None
    options = {name for option in runs.params for name in option.opts} - {"--limit", "--json"}
    assert {name for name in options if f"`{name}`" not in page} == set()
