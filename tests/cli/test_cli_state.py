"""State, locks, keys, workers and upkeep by the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import date, datetime, timezone
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.bin.base import CLIContext
from click.testing import CliRunner

from celery_stackstate import StackState
from celery_stackstate.cli import stackstate
from tests.cli.commands import Terminal, celery, environment, run
from tests.cli.conftest import MakeProject
from tests.services import RedisServer
from tests.waiting import wait_for

StartWorker = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def app(project: MakeProject) -> Celery:
    return project()


def said(folder: Path, *words: str, code: int = 0) -> str:
    done = run(folder, "stackstate", *words)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize("words", [("list", "\udcff"), ("list", "--scope", "task:\udcff"), ("get", "\udcff")])
def test_what_is_no_text_is_a_line(app: Celery, tmp_path: Path, words: tuple[str, ...]) -> None:
    error = said(tmp_path, "state", *words, code=1)
    assert "'" in error
    assert "\\udcff' is no text in the encoding of this terminal" in error
    assert "Traceback" not in error


def test_letters_that_the_output_lacks_are_written_as_what_they_are_called(app: Celery, tmp_path: Path) -> None:
    StackState.of(app).state.set("café", "naïve")
    done = subprocess.run(
        celery("-A", "proj", "stackstate", "state", "list"),
        env=environment(tmp_path, PYTHONIOENCODING="ascii"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "caf\\xe9" in done.stdout, "Traceback" in done.stderr) == (0, True, False)


def test_a_value_is_set_read_and_deleted(app: Celery, tmp_path: Path) -> None:
    state = StackState.of(app).state
    version = int(said(tmp_path, "state", "set", "flags", '{"paused": true}', "--ttl", "1h"))
    entry = state.entry("flags")
    assert entry is not None
    assert (entry.value, entry.version) == ({"paused": True}, version)
    assert entry.expires_at is not None
    assert json.loads(said(tmp_path, "state", "get", "flags")) == {"paused": True}
    (shown,) = map(json.loads, said(tmp_path, "state", "get", "flags", "--json").splitlines())
    assert (shown["version"], shown["value"]) == (version, {"paused": True})
    assert "1 of 2 deleted" in said(tmp_path, "state", "delete", "flags", "unknown", "--yes")
    assert state.get("flags") is None
    assert "no such key" in said(tmp_path, "state", "delete", "flags", "--yes", code=1)
    assert "there is no key 'flags'" in said(tmp_path, "state", "get", "flags", code=1)


def test_a_version_guards_a_value(app: Celery, tmp_path: Path) -> None:
    version = StackState.of(app).state.set("k", 1)
    assert "was not set" in said(tmp_path, "state", "set", "k", "2", "--if-version", str(version + 1), code=1)
    said(tmp_path, "state", "set", "k", "2", "--if-version", str(version))
    assert StackState.of(app).state.get("k") == 2


@pytest.mark.parametrize("columns", [80, 112])
def test_a_list_with_long_values_shows_the_whole_keys_in_a_terminal(app: Celery, tmp_path: Path, columns: int) -> None:
    state = StackState.of(app).state
    for number in (1, 2):
        state.set(f"import:{number}", "value " * 100, ttl=86_400)
    with Terminal(tmp_path, ("stackstate", "state", "list"), columns) as terminal:
        assert terminal.end() == 0
    heading, *lines = terminal.text.splitlines()
    assert heading.split() == ["KEY", "SCOPE", "VALUE", *(["VERSION"] if columns > 80 else []), "CHANGED", "EXPIRES"]
    assert [line.split()[0] for line in lines[:2]] == ["import:1", "import:2"]
    assert max(map(len, terminal.text.splitlines())) <= columns


@pytest.mark.parametrize("scope", ["task:shop.pay", "run:r1", "scope:mail"])
def test_scopes_are_those_of_tasks(app: Celery, tmp_path: Path, scope: str) -> None:
    said(tmp_path, "state", "set", "k", '"in a scope"', "--scope", scope)
    (found,) = StackState.of(app).browser.list(scope=scope)
    assert found.value == "in a scope"
    assert said(tmp_path, "state", "get", "k", "--scope", scope) == '"in a scope"\n'
    assert scope in said(tmp_path, "state", "list")


def test_values_of_every_type_are_shown(app: Celery, tmp_path: Path) -> None:
    at = datetime(2026, 11, 22, tzinfo=timezone.utc)
    StackState.of(app).state.set("k", {"at": at, "price": Decimal("1.50"), "raw": b"\x00\xff", "evil": "\x1b[2J\u202e"})
    text = said(tmp_path, "state", "get", "k")
    assert "2026-11-22T00:00:00+00:00" in text
    assert "1.50" in text
    assert "\x1b" not in text
    assert "\u202e" not in text


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 7, 2**70, 1.5, "text", "", [1, "a", None], {"a": {"b": [1]}}, (1, (2,)), {"$type": "decimal"}),
        *(Decimal("1.50"), date(2026, 11, 22), clock_time(9, 30, 1, 5), b"\x00\xff"),
        *(datetime(2026, 11, 22, 9, 30), datetime(2026, 11, 22, tzinfo=timezone.utc)),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        UUID("7d1c8a9e-3b6e-4f0a-9a44-0c1b6f3e2d10"),
        "evil \x1b[2J \u202e \u2028 \U000e0041 \x7f\t\n 😀" + "long " * 45_000,
    ],
    ids=lambda value: type(value).__name__ + str(value)[:12].replace("\x1b", ""),
)
def test_a_value_that_was_read_is_set_again_with_its_type(app: Celery, tmp_path: Path, value: object) -> None:
    state = StackState.of(app).state
    state.set("k", value)
    (shown,) = map(json.loads, in_process(app, "state", "get", "k", "--json").splitlines())
    for number, printed in enumerate((in_process(app, "state", "get", "k"), json.dumps(shown["value"]))):
        in_process(app, "state", "set", f"copy:{number}", printed.rstrip("\n"))
        copied = state.get(f"copy:{number}")
        assert (copied, type(copied)) == (value, type(value))
        assert "\x1b" not in printed
    (listed,) = map(json.loads, in_process(app, "state", "list", "k", "--json").splitlines())
    assert listed["value"] == shown["value"]


def test_a_value_is_handed_on_through_a_pipe(app: Celery, tmp_path: Path) -> None:
    state = StackState.of(app).state
    state.set("k", {"price": Decimal("1.50"), "text": "long " * 40_000})
    printed = run(tmp_path, "stackstate", "state", "get", "k").stdout
    assert run(tmp_path, "stackstate", "state", "set", "copy", "-", stdin=printed).returncode == 0
    assert state.get("copy") == state.get("k")


def in_process(app: Celery, *words: str) -> str:
    """Run a command with the app of this process, and return what it printed."""
    done = CliRunner().invoke(stackstate, words, obj=CLIContext(app=app, no_color=True, workdir=None, quiet=False))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_what_is_changed_is_told_to_programs(project: MakeProject, broker: RedisServer, tmp_path: Path) -> None:
    app = project(broker.url)
    state = StackState.of(app).state
    told = json.loads(said(tmp_path, "state", "set", "k", "1", "--scope", "scope:mail", "--json"))
    assert told == {"key": "k", "scope": "scope:mail", "version": state.scope("mail").entry("k").version}  # type: ignore[union-attr]
    told = json.loads(said(tmp_path, "state", "delete", "k", "x", "--scope", "scope:mail", "--yes", "--json"))
    assert told == {"deleted": 1, "asked": 2}
    assert state.lock("rebuild").acquire()
    told = json.loads(said(tmp_path, "locks", "release", "rebuild", "--yes", "--json"))
    assert told == {"released": "rebuild", "scope": ""}
    app.tasks["shop.pay"].apply_async((1,), idempotency_key="stripe:1")
    told = json.loads(said(tmp_path, "keys", "reset", "stripe:1", "--task", "shop.pay", "--yes", "--json"))
    assert told == {"freed": "stripe:1", "task": "shop.pay", "run": None}


def test_a_key_is_shown_from_its_first_line_on_with_the_time_it_was_asked_for(
    project: MakeProject, broker: RedisServer, tmp_path: Path
) -> None:
    app = project(broker.url)
    app.tasks["shop.pay"].apply_async((1,), idempotency_key="stripe:1")
    lines = said(tmp_path, "keys", "show", "stripe:1", "--task", "shop.pay").splitlines()
    assert lines[0].split() == ["key", "stripe:1"]
    (asked,) = [line for line in lines if line.startswith("asked for")]
    assert re.fullmatch(r"asked for +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+0000 \(generation \d{16}\)", asked)


def test_state_is_listed_by_prefix(app: Celery, tmp_path: Path) -> None:
    for number in range(5):
        StackState.of(app).state.set(f"cursor:{number}", number)
    StackState.of(app).state.set("other", 1)
    lines = said(tmp_path, "state", "list", "cursor:").splitlines()
    assert lines[0].split() == ["KEY", "SCOPE", "VALUE", "VERSION", "CHANGED", "EXPIRES"]
    assert [line.split()[0] for line in lines[1:]] == [f"cursor:{number}" for number in range(5)]
    shown = [json.loads(line) for line in said(tmp_path, "state", "list", "--json", "--limit", "2").splitlines()]
    assert [one["key"] for one in shown] == ["cursor:0", "cursor:1"]
    assert said(tmp_path, "state", "list", "nothing") == "no such key\n"


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (("set", "k", "{oops"), 1, "is not JSON"),
        (("set", "k", '{"$type": "decimal"}'), 1, "is not JSON"),
        (("set", "k", '{"$type": "decimal", "is": "x"}'), 1, "is not JSON"),
        (("set", "k", '{"$type": "unheard of", "is": 1}'), 1, "does not know"),
        (("set", "k", "NaN"), 1, "which JSON cannot hold"),
        (("set", "k\n", "1"), 1, "control character"),
        (("get", "k", "--scope", "nope"), 2, "is no scope"),
        (("set", "k", "1", "--ttl", "soon"), 2, "is no span of time"),
        (("set", "k", "1", "--ttl", "0"), 1, "ttl must be more than 0"),
    ],
)
def test_wrong_input_is_a_line_and_changes_nothing(
    app: Celery, tmp_path: Path, words: tuple[str, ...], code: int, word: str
) -> None:
    assert word in said(tmp_path, "state", *words, code=code)
    assert list(StackState.of(app).browser.list()) == []


def test_without_yes_it_asks(app: Celery, tmp_path: Path) -> None:
    StackState.of(app).state.set("k", 1)
    assert run(tmp_path, "stackstate", "state", "delete", "k", stdin="n\n").returncode == 1
    assert StackState.of(app).state.get("k") == 1
    assert run(tmp_path, "stackstate", "state", "delete", "k", stdin="y\n").returncode == 0
    assert StackState.of(app).state.get("k") is None


def test_locks_are_listed_and_released(app: Celery, tmp_path: Path) -> None:
    assert said(tmp_path, "locks", "list") == "no lock is held\n"
    lock = StackState.of(app).state.lock("rebuild", ttl=60)
    assert lock.acquire()
    (line,) = said(tmp_path, "locks", "list").splitlines()[1:]
    assert line.split()[:2] == ["rebuild", "app"]
    assert str(lock.fence) in line
    (shown,) = map(json.loads, said(tmp_path, "locks", "list", "--json").splitlines())
    assert (shown["key"], shown["kind"]) == ("rebuild", "lock")
    assert said(tmp_path, "locks", "release", "rebuild", "--yes") == "released 'rebuild'\n"
    assert StackState.of(app).state.lock_info("rebuild") is None
    assert "is free" in said(tmp_path, "locks", "release", "rebuild", "--yes", code=1)


def test_keys_are_listed_shown_and_freed(project: MakeProject, broker: RedisServer, tmp_path: Path) -> None:
    app = project(broker.url)
    sent = app.tasks["shop.pay"].apply_async((1,), idempotency_key="stripe:evt_1")
    (line,) = said(tmp_path, "keys", "list").splitlines()[1:]
    assert line.split()[:4] == ["stripe:evt_1", "shop.pay", "PUBLISHED", sent.id]
    place = ("stripe:evt_1", "--task", "shop.pay")
    assert sent.id in said(tmp_path, "keys", "show", *place)
    (shown,) = map(json.loads, said(tmp_path, "keys", "show", *place, "--json").splitlines())
    assert shown["run_id"] == sent.id
    assert "need --task" in said(tmp_path, "keys", "show", "stripe:evt_1", code=1)
    assert "needs the task" in said(tmp_path, "keys", "list", "stripe:", code=1)
    assert said(tmp_path, "keys", "list", "stripe:", "--task", "shop.pay").count("stripe:evt_1") == 1
    assert said(tmp_path, "keys", "reset", *place, "--yes") == "freed 'stripe:evt_1'\n"
    assert app.tasks["shop.pay"].apply_async((1,), idempotency_key="stripe:evt_1").id != sent.id


def test_workers_are_listed_dead_ones_marked(
    project: MakeProject, broker: RedisServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    app = project(broker.url, stackstate_worker_lease=2)
    assert said(tmp_path, "workers") == "no worker is known\n"
    process = start_worker()
    wait_for(lambda: StackState.of(app).workers(), message="the worker")
    (line,) = said(tmp_path, "workers").splitlines()[1:]
    assert (line.split()[1], str(process.pid) in line.split()) == ("live", True)
    process.send_signal(signal.SIGKILL)
    wait_for(lambda: not StackState.of(app).workers()[0].live, message="its lease to lapse")
    assert said(tmp_path, "workers").splitlines()[1].split()[1] == "dead"
    (shown,) = map(json.loads, said(tmp_path, "workers", "--json").splitlines())
    assert (shown["pid"], shown["live"]) == (process.pid, False)


def test_purge_deletes_what_is_over(project: MakeProject, tmp_path: Path) -> None:
    app = project(stackstate_record_eager=True, stackstate_run_retention=1)
    for number in range(5):
        app.tasks["shop.pay"].apply((number,))
    time.sleep(1.1)
    assert said(tmp_path, "purge", "--limit", "2").startswith("2 ended")
    (shown,) = map(json.loads, said(tmp_path, "purge", "--json").splitlines())
    assert shown == {"deleted": 3}
    assert list(StackState.of(app).runs.list()) == []
