"""A folder with the files of all pages, and a worker that runs their tasks: real broker, real store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.executing import MARK, TELLING
from tests.docs.pages import ROOT, files
from tests.waiting import wait_for

DJANGO_SETTINGS = """\
SECRET_KEY = "x"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
INSTALLED_APPS = [f"django.contrib.{name}" for name in ("admin", "auth", "contenttypes", "sessions", "messages")]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
"""

RunPython = Callable[[str], str]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT), str(ROOT / "django_admin")))}


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Path:
    """Write the files of all pages into a folder, with our Redis in place of the reader's."""
    folder = tmp_path_factory.mktemp("docs")
    server = redis_url.rsplit("/", 1)[0]
    for name, (block, added) in files().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        text = DJANGO_SETTINGS + block if added else block
        path.write_text(text.replace("redis://localhost:6379", server))
    return folder


@pytest.fixture(scope="session")
def worker(project: Path) -> Iterator[None]:
    """A worker of the app of the pages, with the tasks of all of them."""
    log = project / "worker.log"
    modules = [path.stem for path in sorted(project.glob("*_*.py")) if "shop import app" in path.read_text()]
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "2", "-l", "INFO"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "-I", ",".join([*modules, "webhooks"])],
            cwd=project,
            env=environment(project),
            stdout=out,
            stderr=out,
        )
    try:
        wait_for(lambda: "ready." in log.read_text(), timeout=30, message="the worker to start")
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def run_python(project: Path, request: pytest.FixtureRequest) -> RunPython:
    """Return a function that runs a script in the folder and returns what it printed.

    It fails unless the script has executed the files that the test says it does.
    """
    wanted = set(getattr(request.function, "executes", ()))

    def run(script: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", script + TELLING],
            cwd=project,
            env=environment(project),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed, _, executed = done.stdout.rpartition(MARK)
        assert wanted - set(executed.split()) == set()
        return printed

    return run
