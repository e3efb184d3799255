"""Every code block of the README and the docs runs, against a real broker, a real store and a real worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from celery_stackstate.config import Settings
from tests.waiting import wait_for

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\S+\.py)( \(added\))?\n")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

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


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT), str(ROOT / "django_admin")))}


@pytest.fixture
def project(tmp_path: Path, redis_url: str) -> Path:
    """Write the README's files into a folder, with our Redis in place of the reader's."""
    server = redis_url.rsplit("/", 1)[0]
    for block in blocks(ROOT / "README.md"):
        named = NAMED.match(block)
        if named is None:
            continue
        path = tmp_path / named.group(1)
        path.parent.mkdir(exist_ok=True)
        text = DJANGO_SETTINGS + block if named.group(2) else block
        path.write_text(text.replace("redis://localhost:6379", server))
    return tmp_path


@pytest.fixture
def worker(project: Path) -> Iterator[None]:
    log = project / "worker.log"
    modules = "tasks_progress,webhooks,tasks_lock,tasks_counter"
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-c", "2", "-l", "INFO", "-I", modules]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=project, env=environment(project), stdout=out, stderr=out)
    try:
        wait_for(lambda: "ready." in log.read_text(), timeout=30, message="the worker to start")
        yield
    finally:
        process.terminate()
        process.wait(30)


def run_python(project: Path, script: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.usefixtures("worker")
def test_the_quickstart_and_the_examples_run(project: Path) -> None:
    calls = [block for block in blocks(ROOT / "README.md") if NAMED.match(block) is None]
    assert len(calls) == 2
    waiting = (
        "import time\n"
        "from celery_stackstate import StackState\n"
        "def finished(result, status='SUCCESS'):\n"
        "    deadline = time.monotonic() + 20\n"
        "    while True:\n"
        "        run = StackState.of(app).runs.get(result.id)\n"
        "        if run is not None and run.finished: break\n"
        "        assert time.monotonic() < deadline, run\n"
        "        time.sleep(0.05)\n"
        "    assert run.status == status, run\n"
        "    return run\n"
    )
    examples = (
        "import tasks_progress, webhooks, tasks_lock, tasks_counter\n"
        "run = finished(tasks_progress.send_newsletter.delay(1, ['a', 'b']))\n"
        "assert run.progress.done == 2\n"
        "event = {'id': 'evt_1', 'kind': 'paid'}\n"
        "assert [webhooks.webhook(event), webhooks.webhook(event)] == [202, 200]\n"
        "assert webhooks.webhook({**event, 'kind': 'refunded'}) == 409\n"
        "first, second = (tasks_lock.rebuild_catalog.delay(1) for _ in range(2))\n"
        "assert finished(first).result != finished(second).result\n"
        "assert finished(tasks_counter.send_sms.delay('+1')).result == 'sent'\n"
        "print('the end')\n"
    )
    printed = run_python(project, "\n".join([waiting, calls[0], "finished(result)", calls[1], examples]))
    assert "SUCCESS" in printed
    assert printed.endswith("the end\n")


def test_the_django_quickstart_runs(project: Path) -> None:
    script = (
        "import os; os.environ['DJANGO_SETTINGS_MODULE'] = 'proj.settings'\n"
        "import django; django.setup()\n"
        "from django.core.management import call_command; call_command('check'); call_command('migrate', verbosity=0)\n"
        "from celery_stackstate import StackState\n"
        "from celery_stackstate.django import DjangoStateTask\n"
        "stackstate = StackState.current()\n"
        "stackstate.state.set('k', 1)\n"
        "from django.contrib.auth.models import Permission\n"
        "print(stackstate.where(), issubclass(stackstate.app.Task, DjangoStateTask))\n"
        "print(sorted(Permission.objects.filter(codename__startswith='view_').values_list('codename', flat=True)))\n"
    )
    printed = run_python(project, script)
    assert "/2 True" in printed
    assert "view_run" in printed
    assert "view_stateentry" in printed


def test_every_setting_is_in_the_readme_and_nothing_else() -> None:
    documented = set(re.findall(r"^\| `(stackstate_\w+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert documented == {f"stackstate_{field.name}" for field in fields(Settings)}


def test_links_within_the_project_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
