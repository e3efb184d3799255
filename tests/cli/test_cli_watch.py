"""Following a run in a terminal and into a pipe, with real workers, over an outage too."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_stackstate import StackState
from celery_stackstate.cli.watching import Followed
from celery_stackstate.facts import now_micros
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, StoredEvent
from tests.cli.commands import Terminal, run
from tests.cli.conftest import MakeProject
from tests.services import RedisServer

StartWorker = Callable[[], "subprocess.Popen[bytes]"]


def test_a_run_is_followed_to_its_success(
    project: MakeProject, broker: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    app = project(broker.url)
    sent = app.tasks["shop.import_rows"].delay(20, 0.2)
    with Terminal(tmp_path, ("stackstate", "watch", sent.id), 100) as terminal:
        terminal.wait_for("QUEUED")
        start_worker()
        terminal.wait_for("importing row 3")
        terminal.wait_for(" of 20 row ")
        assert "importing row 20" not in terminal.text, "it is seen while it goes on"
        assert terminal.end() == 0
    assert "SUCCESS  after 4" in terminal.text
    assert terminal.text.rstrip().endswith('result {"rows": 20}')
    assert [terminal.text.count(f"importing row {number}\n") for number in range(1, 21)] == [1] * 20
    assert "imported rows=20" in terminal.text


def test_into_a_pipe_go_lines_and_the_outcome_is_the_exit_code(
    project: MakeProject, broker: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    app = project(broker.url)
    start_worker()
    sent = app.tasks["shop.pay"].delay(-1)
    done = run(tmp_path, "stackstate", "watch", sent.id)
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    told = [line.split()[1] for line in lines[:-1]]
    assert sorted(told) == ["failure", "queued", "received", "started"]
    assert [name for name in told if name != "received"] == ["queued", "started", "failure"], "which may come late"
    assert lines[-1].startswith("FAILURE")
    assert "negative amount -1 \\u001b[31m<b>" in lines[-1]
    assert "\x1b" not in done.stdout
    assert [line for line in lines if line != line.rstrip()] == []


def test_programs_get_a_line_for_each_change_and_the_outcome(
    project: MakeProject, broker: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    app = project(broker.url)
    start_worker()
    sent = app.tasks["shop.import_rows"].delay(4, 0.5)
    done = run(tmp_path, "stackstate", "watch", sent.id, "--json")
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert (told[-1]["kind"], told[-1]["status"], told[-1]["result"]) == ("outcome", "SUCCESS", {"rows": 4})
    of_kind = {kind: [one for one in told if one["kind"] == kind] for kind in ("run", "event", "log")}
    assert of_kind["run"][-1]["status"] == "SUCCESS"
    assert of_kind["run"] == [one for n, one in enumerate(of_kind["run"]) if not n or one != of_kind["run"][n - 1]]
    assert {"queued", "started", "imported", "success"} <= {one["name"] for one in of_kind["event"]}
    assert [one["message"] for one in of_kind["log"]] == [f"importing row {number}" for number in (1, 2, 3, 4)]


def test_an_event_that_changes_nothing_else_is_told_while_the_run_goes_on(history: Celery) -> None:
    (found,) = StackState.of(history).runs.list(task="shop.import_rows")
    followed = Followed(StackState.of(history), found.id)
    assert followed.read().changed
    told = followed.read()
    assert (told.changed, told.events, told.lines) == (False, [], [])
    note = StoredEvent("note:1", now_micros(), "resumed", None, b'{"custom": true, "data": {"row": 2}}')
    StackState.of(history).runs_store.append([RunWrite(found.id, 1, events=[note])])
    (event,) = followed.read().events
    assert (event.name, event.data) == ("resumed", {"row": 2})


def test_a_store_that_goes_away_is_waited_for(
    project: MakeProject, broker: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    app = project(broker.url, stackstate_url=broker.url, stackstate_store_timeout=1.0)
    sent = app.tasks["shop.pay"].delay(1)
    with Terminal(tmp_path, ("stackstate", "watch", sent.id), 100) as terminal:
        terminal.wait_for("QUEUED")
        broker.stop()
        terminal.wait_for("trying again")
        broker.start()
        start_worker()
        assert terminal.end(60) == 0
    assert "SUCCESS" in terminal.text


def test_ctrl_c_ends_the_watching(project: MakeProject, broker: RedisServer, tmp_path: Path) -> None:
    app = project(broker.url)
    sent = app.tasks["shop.pay"].delay(1)
    with Terminal(tmp_path, ("stackstate", "watch", sent.id)) as terminal:
        terminal.wait_for("QUEUED")
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert "Traceback" not in terminal.text
    assert f"the run {sent.id} goes on" in terminal.text.splitlines()[-1]
    found = StackState.of(app).runs.get(sent.id)
    assert found is not None
    assert found.status == "QUEUED"


def test_a_run_that_nobody_knows_is_waited_for_a_little(history: Celery, tmp_path: Path) -> None:
    began = time.monotonic()
    done = run(tmp_path, "stackstate", "watch", "nope")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no run 'nope'" in done.stderr
    assert time.monotonic() - began > 5


def test_a_run_that_is_deleted_meanwhile_ends_the_watching(history: Celery, tmp_path: Path) -> None:
    stackstate = StackState.of(history)
    stackstate.runs_store.append([RunWrite("waits", 0, RunFacts(task="shop.pay"), RunStanding("QUEUED"))])
    later = threading.Timer(3, stackstate.forget, ["waits"])
    later.start()
    done = run(tmp_path, "stackstate", "watch", "waits")
    later.join()
    assert (done.returncode, "the run 'waits' was deleted meanwhile" in done.stderr) == (1, True)


@pytest.mark.parametrize("columns", [80, 160])
def test_the_newest_runs_are_followed_in_a_terminal(history: Celery, tmp_path: Path, columns: int) -> None:
    with Terminal(tmp_path, ("stackstate", "watch", "--task", "shop.pay"), columns) as terminal:
        terminal.wait_for("FAILURE")
        more = history.tasks["shop.pay"].apply((7,))
        terminal.wait_for(more.id)
        terminal.type(b"\x03")
        assert terminal.end() == 130
    assert "shop.import_rows" not in terminal.text


def test_while_nothing_changes_the_events_are_not_read_again(
    project: MakeProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    stackstate, at = StackState.of(project()), now_micros()
    started = RunWrite("r", 1, RunFacts("shop.pay", created=at), RunStanding("STARTED", started=at))
    stackstate.runs_store.append([started])
    read, asked = stackstate.runs_store.run, list[str]()

    def counted(run_id: str) -> Any:
        asked.append(run_id)
        return read(run_id)

    monkeypatch.setattr(stackstate.runs_store, "run", counted)
    followed = Followed(stackstate, "r")
    assert [followed.read().changed for _ in range(5)] == [True, False, False, False, False]
    assert asked == ["r"]
    followed._due = 0.0
    followed.read()
    assert asked == ["r", "r"]


@pytest.mark.parametrize("words", [("ID", "--task", "shop.pay"), ("ID", "--queue", "q"), ("--json",)], ids=" ".join)
def test_what_does_not_go_together_is_refused(history: Celery, tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "stackstate", "watch", *words)
    assert (done.returncode, done.stdout) == (2, "")


def test_without_a_terminal_there_is_a_run_to_name(history: Celery, tmp_path: Path) -> None:
    done = run(tmp_path, "stackstate", "watch")
    assert done.returncode == 1
    assert "needs a terminal" in done.stderr
