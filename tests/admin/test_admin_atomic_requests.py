"""Operations in a project whose requests are transactions: what was done stays told of, and no file bars itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connections
from django.db.models.signals import pre_save

from tests.admin.acting import answer, ask, convert, drain, entries
from tests.admin.pages import RUNS
from tests.admin.people import who_may

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def atomic_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(connections.settings["default"], "ATOMIC_REQUESTS", True)
    LogEntry.objects.all().delete()
    yield
    drain()


@contextmanager
def raising_at(number: int) -> Iterator[None]:
    """Let a receiver of the project's fail when so many LogEntries were written."""
    seen = []

    def receiver(**_: Any) -> None:
        seen.append(1)
        if len(seen) == number:
            raise RuntimeError("a receiver of the project's")

    pre_save.connect(receiver, sender=LogEntry)
    yield
    pre_save.disconnect(receiver, sender=LogEntry)


def test_what_was_done_before_an_error_keeps_its_log_entries(shop: Any) -> None:
    client = who_may("view_run", "rerun_run")
    runs = [str(convert.delay(number).id) for number in range(3)]
    shop.recorder.flush()
    page = ask(client, RUNS, "rerun", *runs)

    with raising_at(3), pytest.raises(RuntimeError):
        answer(client, page)

    assert {one[1] for one in entries()} == set(runs[:2])
    assert [len(shop.runs.get(one).reruns) for one in runs[:2]] == [1, 1]


def test_operations_work_where_the_store_is_the_projects_own_sqlite_file(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "django_admin")))}

    run = subprocess.run(
        [sys.executable, "-m", "tests.admin.atomic", str(tmp_path / "db.sqlite3")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == ["It runs again.", "1 entry was deleted.", "2 entries"]
