"""`stackstate check`: each thing that can be wrong is named with what to do, and is the exit code."""

from __future__ import annotations

import json
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery

from celery_stackstate import StackState, diagnosis
from celery_stackstate.diagnosis import OK, WARNING, Finding, diagnose
from celery_stackstate.stores.memory import MemoryStore
from tests.cli.commands import Terminal, celery, environment, run
from tests.cli.conftest import MakeProject
from tests.services import HOST, RedisServer, free_port
from tests.waiting import wait_for


def found(app: Celery, subject: str) -> Iterator[Finding]:
    return (finding for finding in diagnose(StackState.of(app)) if finding.subject == subject)


def test_a_good_set_up_is_all_ok(project: MakeProject, broker: RedisServer, tmp_path: Path) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    del app
    done = run(tmp_path, "stackstate", "check", "--json")
    levels = {json.loads(line)["subject"]: json.loads(line)["level"] for line in done.stdout.splitlines()}
    assert done.returncode == 0
    assert set(levels) == {"settings", "store", "clock", "tasks", "acks_late", "workers", "visibility_timeout"}
    assert {name for name, level in levels.items() if level != OK} == {"acks_late"}, "of the task shop.early"


def test_warnings_are_no_error_unless_they_are_to_be(project: MakeProject, tmp_path: Path) -> None:
    project(stackstate_url="sqlite:///stackstate.sqlite3")
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == 0
    assert "warning  stackstate_url" in done.stdout
    assert "which only this machine sees" in done.stdout
    strict = run(tmp_path, "stackstate", "check", "--strict")
    assert (strict.returncode, strict.stdout) == (1, done.stdout)


@pytest.mark.parametrize(
    ("conf", "code", "level", "word"),
    [
        ({"stackstate_ulr": "memory://"}, 1, "error", "did you mean stackstate_url?"),
        ({"stackstate_url": "sqlite:////no/such/folder/x.sqlite3"}, 1, "error", "/no/such/folder"),
        ({"stackstate_url": f"redis://{HOST}:{free_port()}"}, 3, "away", "Redis"),
        ({"stackstate_runs_url": f"redis://{HOST}:{free_port()}"}, 3, "away", "history"),
    ],
)
def test_what_cannot_work_is_an_error_and_the_rest_is_still_told(
    project: MakeProject, tmp_path: Path, conf: dict[str, Any], code: int, level: str, word: str
) -> None:
    project(**conf)
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == code
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(level)]
    assert word in line
    assert "Traceback" not in done.stderr


def test_a_project_that_is_switched_off_is_told_so_loudly(project: MakeProject, tmp_path: Path) -> None:
    app = project(stackstate_enabled=False)
    (finding,) = found(app, "stackstate_enabled")
    assert finding.level == WARNING
    for word in ("NOTHING is recorded", "publishing with an idempotency key raises", "is sent on until a worker"):
        assert word in finding.text
    assert "warning  stackstate_enabled" in run(tmp_path, "stackstate", "check").stdout
    assert run(tmp_path, "stackstate", "check", "--strict").returncode == 1


def test_a_project_that_is_switched_off_is_told_what_goes_without_its_promise(project: MakeProject) -> None:
    conf = {"stackstate_publish_outage": "publish", "stackstate_claim_outage": "run"}
    (finding,) = found(project(stackstate_enabled=False, **conf), "stackstate_enabled")
    assert "goes out WITHOUT its promise" in finding.text
    assert "runs WITHOUT its promise" in finding.text


def test_a_key_without_acks_late_is_named(project: MakeProject) -> None:
    (finding,) = found(project(), "acks_late")
    assert (finding.level, "shop.early" in finding.text, "shop.pay" in finding.text) == (WARNING, True, False)


def test_a_visibility_timeout_that_is_shorter_than_an_eta_is_named(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url)
    (before,) = found(app, "visibility_timeout")
    assert before.level == OK
    app.tasks["shop.pay"].apply_async((1,), countdown=7200)
    (finding,) = found(app, "visibility_timeout")
    assert finding.level == WARNING
    assert "3600 s, but shop.pay waits for 2:00:00" in finding.text
    app.conf.broker_transport_options = {"visibility_timeout": 86_400}
    (after,) = found(app, "visibility_timeout")
    assert after.level == OK


def test_what_a_second_delivery_does_not_harm_is_no_warning(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url, broker_transport_options={"visibility_timeout": 120})
    for name, task in app.tasks.items():
        if not name.startswith("celery"):
            task.default_retry_delay = 1
    app.tasks["shop.pay"].apply_async((1,), countdown=7200, idempotency_key="k")
    (finding,) = found(app, "visibility_timeout")
    assert finding.level == OK, finding.text
    app.tasks["shop.early"].lost_policy = "rerun"
    assert "shop.early" not in "".join(one.text for one in found(app, "acks_late"))


def test_a_broker_without_a_visibility_timeout_has_none(project: MakeProject) -> None:
    app = project("memory://", broker_transport_options={"visibility_timeout": 1})
    assert list(found(app, "visibility_timeout")) == []


def test_the_visibility_timeout_is_held_against_every_waiting_run(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    pay = app.tasks["shop.pay"]
    pay.apply_async((0,), countdown=7200)
    for number in range(120):
        pay.apply_async((number,), countdown=60)
    (finding,) = found(app, "visibility_timeout")
    assert (finding.level, "shop.pay waits for 2:00:00" in finding.text) == (WARNING, True)
    app.conf.broker_transport_options = {"visibility_timeout": 86_400}
    (finding,) = found(app, "visibility_timeout")
    assert (
        finding.text
        == "86400 s is longer than each retry delay of tasks, and than all 121 waiting runs wait for their ETA"
    )


def test_what_was_not_looked_at_is_said(
    project: MakeProject, broker: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "LOOK_AT", 4)
    monkeypatch.setattr(diagnosis, "PAGE", 2)
    app = project(broker.url, stackstate_url=broker.url)
    for number in range(6):
        app.tasks["shop.pay"].apply_async((number,), countdown=60)
    (finding,) = found(app, "visibility_timeout")
    assert "the newest 4 waiting runs" in finding.text


def test_the_eta_of_a_retry_counts(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    pay = app.tasks["shop.pay"]
    sent = pay.apply_async((1,))
    pay.apply_async((1,), task_id=sent.id, retries=1, countdown=7200)
    (finding,) = found(app, "visibility_timeout")
    assert (finding.level, "waits for 2:00:00" in finding.text) == (WARNING, True)


def test_the_waiting_runs_cost_pages_and_a_few_reads(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    for number in range(50):
        app.tasks["shop.pay"].apply_async((number,), countdown=60 + number)
    stackstate = StackState.of(app)
    list(stackstate.runs.list())
    before = _scripts(broker)
    list(diagnosis._visibility(stackstate, 3600, ready=True))
    assert 3 < _scripts(broker) - before <= 3 + diagnosis.READ


def _scripts(server: RedisServer) -> int:
    """Return how many scripts ran so far, each of which is a round trip."""
    with redis.Redis.from_url(server.url) as client:
        return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


@pytest.mark.parametrize("url", [["{0}", "{0}"], "{0};{0}"], ids=["list", "text"])
def test_a_broker_of_several_urls_is_understood(project: MakeProject, broker: RedisServer, url: Any) -> None:
    several = [one.format(broker.url) for one in url] if isinstance(url, list) else url.format(broker.url)
    (finding,) = found(project(several), "visibility_timeout")
    assert (finding.level, finding.text.startswith("3600 s")) == (OK, True)


def test_a_key_that_a_call_gave_is_noticed(project: MakeProject, broker: RedisServer) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    assert "shop.import_rows" not in next(found(app, "acks_late")).text
    app.tasks["shop.import_rows"].apply_async((1,), idempotency_key="feed:1")
    app.tasks["shop.pay"].apply_async((1,), idempotency_key="stripe:1")
    (finding,) = found(app, "acks_late")
    assert "shop.early, shop.import_rows, whose runs have keys" in finding.text


def test_a_worker_without_the_extension_is_named(
    project: MakeProject, broker: RedisServer, start_worker: Callable[[], Any], tmp_path: Path
) -> None:
    app = project(broker.url, stackstate_url=broker.url)
    (tmp_path / "plain.py").write_text(f"from celery import Celery\napp = Celery('plain', broker={broker.url!r})\n")
    words = celery("-A", "plain", "worker", "--pool", "solo", "-n", "stranger@%h", "-l", "warning")
    stranger = subprocess.Popen(
        words, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        start_worker()
        wait_for(lambda: StackState.of(app).workers(), message="our worker", timeout=60)
        wait_for(lambda: len(app.control.ping(timeout=1) or ()) == 2, message="both to answer", timeout=60)
        first, second = found(app, "workers")
    finally:
        stranger.kill()
        stranger.wait(10)
    assert (first.level, first.text.startswith("1 live on")) == (OK, True)
    assert second.level == WARNING
    assert second.text.startswith(f"stranger@{socket.gethostname()} answered through the broker and is not among")


def test_a_broker_that_is_down_is_a_line(project: MakeProject, tmp_path: Path) -> None:
    project(f"redis://{HOST}:{free_port()}")
    assert run(tmp_path, "stackstate", "init").returncode == 0
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "broker"]
    assert line.startswith("warning  broker")
    assert "does not answer" in line
    assert "visibility_timeout" in done.stdout, "the rest is still told"


def test_a_broker_that_is_none_is_an_error(project: MakeProject, tmp_path: Path) -> None:
    project("nope://localhost")
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "broker"]
    assert line.startswith("error")
    assert "No such transport: nope" in line
    assert "Traceback" not in done.stderr


def test_without_tables_check_names_init_and_makes_nothing(project: MakeProject, tmp_path: Path) -> None:
    project()
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == 0
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "store"]
    assert line.startswith("warning")
    assert "celery -A proj stackstate init" in line
    assert list(tmp_path.glob("state.sqlite3*")) == []
    assert run(tmp_path, "stackstate", "init").returncode == 0
    (line,) = [line for line in run(tmp_path, "stackstate", "check").stdout.splitlines() if line.split()[1] == "store"]
    assert line.startswith("ok")
    assert f"(SQLite {sqlite3.sqlite_version})" in line


def test_a_lease_that_a_short_outage_outlasts_is_named(project: MakeProject) -> None:
    (finding,) = found(project(stackstate_worker_lease=5), "stackstate_worker_lease")
    assert (finding.level, "less than three times" in finding.text) == (WARNING, True)


class Ahead(MemoryStore):
    """A store whose clock goes wrong by 90 s."""

    by = 90_000_000

    def _clock(self) -> int:
        return super()._clock() + self.by


@pytest.mark.parametrize(("by", "words"), [(90_000_000, "90.0 s ahead of"), (-90_000_000, "90.0 s behind")])
def test_clocks_that_differ_are_named(project: MakeProject, by: int, words: str) -> None:
    app = project()
    store = Ahead.from_url("memory://", prefix="", timeout=1)
    store.by = by
    StackState.of(app).__dict__["store"] = store
    (finding,) = found(app, "clock")
    assert (finding.level, words in finding.text) == (WARNING, True)


def test_it_fits_the_terminal(project: MakeProject, tmp_path: Path) -> None:
    project(stackstate_url="sqlite:///stackstate.sqlite3")
    with Terminal(tmp_path, ("stackstate", "check"), 80) as terminal:
        assert terminal.end() == 0
    assert max(map(len, terminal.text.splitlines())) <= 80
    assert b"\x1b[33mwarning" in terminal.output
