"""Ending a run from its page: a real worker, a real pool process, a real signal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client, override_settings

from tests.admin.acting import answer, ask, entries, told
from tests.admin.pages import RUNS
from tests.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def terminating(redis_url: str, tmp_path: Path) -> Iterator[Any]:
    """The app of `app_terminating`, with a worker of two processes."""
    from celery_stackstate import StackState
    from tests.admin.app_terminating import app

    server, prefix = redis_url.rsplit("/", 1)[0], f"terminating-{uuid4().hex[:8]}"
    names = {"TERMINATING_BROKER": f"{server}/0", "TERMINATING_STORE": f"{server}/0", "TERMINATING_PREFIX": prefix}
    app.conf.update(
        broker_url=names["TERMINATING_BROKER"],
        stackstate_url=names["TERMINATING_STORE"],
        stackstate_prefix=prefix,
        task_default_queue=prefix,
    )
    log = tmp_path / "worker.log"
    environment = {**os.environ, **names, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "celery", "-A", "tests.admin.app_terminating", "worker", "-c", "2", "-l", "INFO"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "-n", f"{prefix}@%h", "-Q", prefix], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
    try:
        wait_for(lambda: "ready." in log.read_text(), timeout=30, message="the worker to start")
        with override_settings(STACKSTATE_APP="tests.admin.app_terminating:app"):
            yield StackState.of(app)
    finally:
        process.terminate()
        process.wait(30)
        StackState.of(app).close()


def test_a_run_is_ended_where_it_is(terminating: Any, root: Client) -> None:
    LogEntry.objects.all().delete()
    run_id = terminating.app.tasks["terminating.forever"].delay().id

    def status() -> str:
        terminating.recorder.flush()
        run = terminating.runs.get(run_id)
        return "" if run is None else str(run.status)

    wait_for(lambda: status() == "STARTED", timeout=20, message="the run to begin")
    response = answer(root, ask(root, RUNS, "terminate", run_id))

    assert told(response) == ["Workers were told to end it."]
    assert [entry[3] for entry in entries()] == ["Revoke and terminate"]
    wait_for(lambda: status() == "REVOKED", timeout=20, message="the run to end")
