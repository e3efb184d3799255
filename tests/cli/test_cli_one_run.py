"""One run in full: what is much is thinned, what is meant for people is readable, and its family is named."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from celery import Celery

from celery_stackstate import StackState
from celery_stackstate.cli.one_run import last_lines, thinned
from celery_stackstate.cli.runs import SUMMARY, summary
from celery_stackstate.facts import now_micros, rank
from celery_stackstate.history import summary as listed
from celery_stackstate.records import SUCCESS, Event, Run, from_micros
from celery_stackstate.stores.base import RunFacts, RunRow, RunStanding, RunWrite, StoredEvent, StoredLog
from tests.cli.commands import Terminal, run
from tests.cli.conftest import MakeProject

SECOND = 1_000_000


@pytest.fixture
def app(project: MakeProject) -> Celery:
    return project()


def record(app: Celery, *, ago: int = 3600, events: int = 0, lines: int = 0, children: int = 0) -> str:
    """Record a run that was queued so many seconds ago, with reports of progress, log lines and children."""
    run_id, begin = str(uuid.uuid4()), now_micros() - ago * SECOND
    at = [begin + n * SECOND for n in range(max(events, lines))]
    queued = StoredEvent("queued:1", begin - 1, "queued", None, json.dumps({"args": [], "eta": begin + 5}).encode())
    told = [
        StoredEvent(f"progress:{n}", at[n], "progress", "e", b'{"done": %d, "total": 100}' % n) for n in range(events)
    ]
    end = StoredEvent("end:success:e:1", begin + ago * SECOND // 2, "success", "e", b"{}")
    logs = [StoredLog("e", n, at[n], 20, "shop", f"line {n}") for n in range(lines)]
    standing = RunStanding(SUCCESS, started=begin, finished=begin + ago * SECOND // 2)
    store = StackState.of(app).runs_store
    store.append(
        [
            RunWrite(
                run_id, rank(SUCCESS, 1), RunFacts("shop.import", created=begin), standing, [queued, *told, end], logs
            )
        ]
    )
    for number in range(children):
        facts = RunFacts("shop.child", parent_id=run_id, root_id=run_id, created=begin + number)
        store.append([RunWrite(f"child-{number:02}", 1, facts, standing)])
    return run_id


def shown(folder: Path, *words: str) -> str:
    done = run(folder, "stackstate", "run", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_of_many_reports_of_progress_a_few_are_shown(app: Celery, tmp_path: Path) -> None:
    run_id = record(app, events=101)
    text = shown(tmp_path, run_id)
    told = [line.split("  ")[-1] for line in text.splitlines() if "done=" in line]
    assert told == [f"done={n}, total=100" for n in (0, 25, 50, 75, 100)]
    assert text.count("24 more reports of progress (--progress)") == 4
    assert sum("total=100" in line for line in shown(tmp_path, run_id, "--progress").splitlines()) == 101
    assert sum(one["name"] == "progress" for one in json.loads(shown(tmp_path, run_id, "--json"))["events"]) == 101


def test_what_lies_between_reports_of_progress_stays_where_it_is() -> None:
    moment = from_micros(0)
    assert moment is not None
    many = [Event(moment, "progress", data={"done": n}) for n in range(10)]
    other = Event(moment, "imported")
    kept = list(thinned([*many, other, *many[:3], other]))
    assert [one if isinstance(one, int) else one.name for one in kept] == [
        *("progress", 1, "progress", 1, "progress", 2, "progress", 1, "progress"),
        *("imported", "progress", "progress", "progress", "imported"),
    ]


def test_times_are_shown_as_times(app: Celery, tmp_path: Path) -> None:
    run_id = record(app)
    text = shown(tmp_path, run_id)
    found = StackState.of(app).runs.get(run_id)
    assert found is not None
    assert found.eta is not None
    assert f"eta={found.eta:%H:%M:%S}" in text or f"eta={found.eta:%m-%d %H:%M:%S}" in text
    assert f"{found.eta:%Y-%m-%d %H:%M:%S} +0000" in text


@pytest.mark.parametrize(("number", "more"), [(2, False), (12, True)])
def test_the_runs_that_a_run_published_are_named(app: Celery, tmp_path: Path, number: int, more: bool) -> None:
    run_id = record(app, children=number)
    text = shown(tmp_path, run_id)
    assert text.count("shop.child") == min(number, 10)
    assert f"SUCCESS  shop.child  child-{number - 1:02}" in text
    assert ("and more" in text) is more
    told = json.loads(shown(tmp_path, run_id, "--json"))
    assert (len(told["children"]), told["more_children"]) == (min(number, 10), more)


def test_the_last_log_lines_are_read_without_the_others(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = record(app, lines=1800)
    stackstate, asked = StackState.of(app), list[int]()
    found = stackstate.runs.get(run_id)
    assert found is not None
    store = stackstate.runs_store
    read = store.logs

    def counted(*args: object, **kwargs: object) -> list[StoredLog]:
        lines = read(*args, **kwargs)  # type: ignore[arg-type]
        asked.append(len(lines))
        return lines

    monkeypatch.setattr(store, "logs", counted)
    assert [one.message for one in last_lines(stackstate, found, 3)] == ["line 1797", "line 1798", "line 1799"]
    assert sum(asked) < 100
    assert len(last_lines(stackstate, found, 5_000)) == 1800
    assert last_lines(stackstate, found, 0) == []
    late = replace(found, queued_at=None, finished_at=found.finished_at and found.finished_at + timedelta(days=900))
    assert [one.message for one in last_lines(stackstate, late, 1)] == ["line 1799"]


def test_in_a_terminal_lines_break_between_words(app: Celery, tmp_path: Path) -> None:
    run_id = record(app)
    words = "reconciliation " * 20
    log = StoredLog("e", 1, now_micros() - 3000 * SECOND, 30, "shop", words.strip())
    StackState.of(app).runs_store.append([RunWrite(run_id, 1, logs=[log])])
    with Terminal(tmp_path, ("stackstate", "run", run_id), 80) as terminal:
        assert terminal.end() == 0
    text = terminal.text.partition("\nLog\n")[2]
    assert text.count("reconciliation") == 20
    assert max(map(len, text.splitlines())) <= 80


def test_a_list_has_what_a_summary_knows_and_nothing_else() -> None:
    row = RunRow("r", 1, RunFacts(**dict.fromkeys(RunFacts.__slots__, "x") | {"created": 1}), RunStanding())  # type: ignore[arg-type]
    standing = RunStanding("FAILURE", "w", 1, 2, 3, 4, "e", 5, "[1, 2, null, 1]")
    one = listed(replace(row, standing=standing))
    untold = {name for name in Run.__slots__ if name not in SUMMARY}
    assert {name for name in untold if getattr(one, name)} == set()
    assert {name for name in SUMMARY if getattr(one, name) is None} == set()
    assert list(summary(one)) == list(SUMMARY)
