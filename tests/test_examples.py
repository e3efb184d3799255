"""The examples run, as their READMEs say: each by its own command, in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "progress_api"
NEEDED = ("fastapi", "httpx", "uvicorn")


@pytest.fixture(autouse=True)
def _installed() -> None:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        pytest.skip(f"the example needs {', '.join(missing)}: `tox run -e progress-api -- --once` brings them")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        cwd=EXAMPLE,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def test_the_progress_api_drives_an_import_through_a_duplicate_a_killed_worker_and_an_outage(tmp_path: Path) -> None:
    done = run("demo.py", "--once", TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\n  ok  ") == 18
    assert "\n  NO  " not in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_progress_api_that_cannot_start_says_why_and_exits_with_1(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("demo.py", "--once", "--port", str(taken.getsockname()[1]), TMPDIR=str(tmp_path))
    assert (done.returncode, list(tmp_path.iterdir())) == (1, [])
    assert "server ended before it was ready" in done.stderr


def test_the_code_that_a_user_would_copy_is_short() -> None:
    copied = [EXAMPLE / name for name in ("jobs.py", "api.py")]
    assert sum(len(path.read_text().splitlines()) for path in copied) < 130
