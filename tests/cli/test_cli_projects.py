"""Projects as people have them: tasks in modules of their own, and Django with its autodiscovery."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import celery, environment, run

PROJECT = """
from celery import Celery
from celery_stackstate import StateTask

app = Celery("proj", broker="memory://", task_cls=StateTask, include=["shop.tasks"])
app.conf.stackstate_url = "sqlite:///{folder}/state.sqlite3"
"""
TASKS = """
from celery import shared_task

@shared_task(name="shop.pay", idempotency_key="order:{number}")
def pay(number):
    return number
"""
DJANGO = {
    "proj/__init__.py": "from .celery import app as celery_app\n",
    "proj/celery.py": """
import os
from celery import Celery
from celery_stackstate.django import DjangoStateTask

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj", task_cls=DjangoStateTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
""",
    "proj/settings.py": """
from pathlib import Path

BASE_DIR = Path(__file__).parent.parent
SECRET_KEY = "x"
USE_TZ = True
INSTALLED_APPS = ["shop", "celery_stackstate.stores.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
CELERY_BROKER_URL = "memory://"
CELERY_STACKSTATE_URL = "django://default"
""",
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def included(tmp_path: Path) -> Path:
    write(
        tmp_path,
        {
            "proj.py": PROJECT.format(folder=tmp_path),
            "shop/__init__.py": "",
            "shop/tasks.py": TASKS,
        },
    )
    return tmp_path


@pytest.fixture
def django_project(tmp_path: Path) -> Path:
    write(tmp_path, {**DJANGO, "shop/__init__.py": "", "shop/tasks.py": TASKS})
    migrate = [sys.executable, "-m", "django", "migrate", "--verbosity", "0"]
    env = environment(tmp_path, DJANGO_SETTINGS_MODULE="proj.settings")
    subprocess.run(migrate, cwd=tmp_path, env=env, check=True, timeout=60)
    return tmp_path


def checked(folder: Path) -> dict[str, str]:
    """Return the first thing that `check` says of each subject."""
    done = run(folder, "stackstate", "check", "--json")
    assert done.stderr == ""
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {one["subject"]: one["text"] for one in reversed(found)}


def test_tasks_of_included_modules_are_looked_at(included: Path) -> None:
    found = checked(included)
    assert found["tasks"] == "1 with the base class StateTask"
    assert "shop.pay" in found["acks_late"]


def test_tasks_that_django_discovers_are_looked_at(django_project: Path) -> None:
    found = checked(django_project)
    assert found["tasks"] == "1 with the base class StateTask"
    assert "shop.pay" in found["acks_late"]
    assert "SQLite 3." in found["store"]


@pytest.mark.parametrize(
    "words", [("runs",), ("state", "list"), ("locks", "list"), ("keys", "list"), ("workers",), ("init",)], ids=" ".join
)
def test_with_django_each_command_is_quiet_about_its_set_up(django_project: Path, words: tuple[str, ...]) -> None:
    done = run(django_project, "stackstate", *words)
    assert (done.returncode, done.stderr) == (0, "")


def test_with_django_a_value_is_set_and_read(django_project: Path) -> None:
    assert run(django_project, "stackstate", "state", "set", "k", "[1]").returncode == 0
    assert json.loads(run(django_project, "stackstate", "state", "get", "k").stdout) == [1]


def test_without_migrations_check_names_what_makes_the_tables(tmp_path: Path) -> None:
    write(tmp_path, {**DJANGO, "shop/__init__.py": "", "shop/tasks.py": TASKS})
    done = run(tmp_path, "stackstate", "check")
    assert done.returncode == 1
    assert "manage.py migrate" in done.stdout


def test_tasks_that_cannot_be_imported_are_a_line_with_the_place(included: Path) -> None:
    (included / "shop" / "tasks.py").write_text("import nowhere_to_be_found\n")
    done = run(included, "stackstate", "runs")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be imported: ModuleNotFoundError: No module named 'nowhere_to_be_found'" in done.stderr
    assert f"{included}/shop/tasks.py, line 1" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_an_app_the_first_word_is_about_that(tmp_path: Path) -> None:
    env = {name: value for name, value in environment(tmp_path).items() if name not in ("APP", "CELERY_APP")}
    done = subprocess.run(
        celery("stackstate", "runs"), cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "celery -A proj stackstate" in done.stderr.splitlines()[-1]
    assert "stackstate_url" not in done.stderr


def test_the_app_may_be_named_in_the_environment(included: Path) -> None:
    env = environment(included, APP="proj")
    done = subprocess.run(
        celery("stackstate", "runs"), cwd=included, env=env, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "no such run\n")
    assert os.path.exists(included / "state.sqlite3")
