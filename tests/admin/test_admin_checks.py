"""What `manage.py check` finds, asked of real projects in processes of their own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

ROOT = Path(__file__).resolve().parents[2]
CELERY = """\
from celery import Celery
from celery_stackstate import StackState
app = Celery("proj", broker="memory://", set_as_current=False)
app.config_from_object("django.conf:settings", namespace="CELERY")
StackState(app)
"""
TWO = CELERY + "other = Celery('other', broker='memory://', set_as_current=False)\nStackState(other)\n"
CHOSEN = 'CELERY_STACKSTATE_URL = "sqlite:///chosen.sqlite3"'


class Project:
    """A Django project in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proj").mkdir()

    def check(
        self, settings: str = CHOSEN, *, celery: str = CELERY, init: str = "from . import worker", args: str = ""
    ) -> str:
        """Write it, and return what `manage.py check` says."""
        place = self.folder / "proj"
        (place / "__init__.py").write_text(init)
        (place / "worker.py").write_text(celery)
        (place / "settings.py").write_text(
            "from pathlib import Path\nfrom tests.admin.settings import SETTINGS\nglobals().update(SETTINGS)\n"
            f"BASE_DIR = Path({str(self.folder)!r})\n" + settings + "\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "STACKSTATE_APP"}
        environment["PYTHONPATH"] = os.pathsep.join((str(self.folder), str(ROOT), str(ROOT / "django_admin")))
        environment["DJANGO_SETTINGS_MODULE"] = "proj.settings"
        command = [sys.executable, "-m", "django", "check", *args.split()]
        run = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return run.stdout + run.stderr


def ids(said: str) -> list[str]:
    return re.findall(r"\(celery_stackstate_admin\.(\w+)\)", said)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_project_that_is_set_up_is_told_nothing(project: Project) -> None:
    assert "System check identified no issues" in project.check()


def test_without_the_admin_it_is_an_error(project: Project) -> None:
    said = project.check(
        f"{CHOSEN}\nINSTALLED_APPS = [f'django.contrib.{{name}}' for name in ('auth', 'contenttypes')]\n"
        'INSTALLED_APPS += ["celery_stackstate_admin"]\n'
        'ROOT_URLCONF = "proj.worker"\nTEMPLATES = []',
        celery=CELERY + "urlpatterns = []\n",
    )

    assert ids(said) == ["E001"]
    assert "django.contrib.admin" in said


def test_without_a_celery_app_it_says_where_to_import_it(project: Project) -> None:
    said = project.check(init="")

    assert ids(said) == ["W001"]
    assert "in the project's __init__.py" in said


def test_an_app_that_is_named_need_not_be_imported(project: Project) -> None:
    assert ids(project.check(f'{CHOSEN}\nSTACKSTATE_APP = "proj.worker:app"', init="")) == []


def test_with_several_apps_it_asks_for_a_name(project: Project) -> None:
    said = project.check(celery=TWO)

    assert ids(said) == ["W002"]
    assert "STACKSTATE_APP" in said


def test_with_several_apps_and_a_name_it_is_content(project: Project) -> None:
    assert ids(project.check(f'{CHOSEN}\nSTACKSTATE_APP = "proj.worker:app"', celery=TWO)) == []


@pytest.mark.parametrize("name", ["proj.nowhere:app", "proj.worker:application", "nonsense"])
def test_a_name_that_leads_nowhere_is_told(name: str, project: Project) -> None:
    said = project.check(f'{CHOSEN}\nSTACKSTATE_APP = "{name}"')

    assert ids(said) == ["W003"]
    assert name in said


def test_a_store_that_was_not_chosen_is_told_and_not_made(project: Project) -> None:
    said = project.check("")

    assert ids(said) == ["W004"]
    assert str(project.folder / "stackstate.sqlite3") in said
    assert list(project.folder.glob("*.sqlite3*")) == []


@pytest.fixture
def deaf() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_store_that_refuses_is_told_with_the_reason_and_no_password(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    said = project.check(f'CELERY_STACKSTATE_URL = "redis://:s3cret@127.0.0.1:{port}/0"')

    assert ids(said) == ["W005"]
    assert f"127.0.0.1:{port}" in said
    assert "s3cret" not in said


def test_a_store_that_says_nothing_is_waited_for_a_bounded_time(project: Project, deaf: int) -> None:
    project.check()
    began = time.monotonic()
    project.check()
    usual = time.monotonic() - began

    began = time.monotonic()
    said = project.check(f'CELERY_STACKSTATE_URL = "redis://127.0.0.1:{deaf}/0"\nCELERY_STACKSTATE_STORE_TIMEOUT = 30')

    assert ids(said) == ["W005"]
    assert time.monotonic() - began < usual + 10


def test_history_in_another_store_is_asked_as_well(project: Project, deaf: int) -> None:
    said = project.check(f'{CHOSEN}\nCELERY_STACKSTATE_RUNS_URL = "redis://127.0.0.1:{deaf}/0"')

    assert ids(said) == ["W005"]
    assert "stackstate_runs_url" in said


def test_a_folder_that_cannot_be_written_is_told(project: Project) -> None:
    said = project.check('CELERY_STACKSTATE_URL = "sqlite:////proc/nothing/here.sqlite3"')

    assert ids(said) == ["W005"]


def test_a_setting_that_does_not_exist_is_told(project: Project) -> None:
    said = project.check(f"{CHOSEN}\nCELERY_STACKSTATE_PREFFIX = 'x'")

    assert ids(said) == ["W007"]
    assert "prefix" in said


def test_a_promise_that_a_store_may_not_keep_is_told(project: Project) -> None:
    said = project.check('CELERY_STACKSTATE_URL = "memory://checks"')

    assert ids(said) == ["W006"]
    assert "this process only" in said


DJANGO_STORE = (
    'CELERY_STACKSTATE_URL = "django://default"\nINSTALLED_APPS = [*INSTALLED_APPS, "celery_stackstate.stores.django"]'
)


def test_djangos_own_database_is_asked_only_where_that_was_asked_for(project: Project) -> None:
    # From Django 6.1 on, all databases are meant where none is named.
    assert ids(project.check(DJANGO_STORE)) == ([] if django.VERSION < (6, 1) else ["W005"])

    said = project.check(DJANGO_STORE, args="--database default")

    assert ids(said) == ["W005"]
    assert "migrate" in said


def test_each_can_be_silenced(project: Project) -> None:
    assert ids(project.check("SILENCED_SYSTEM_CHECKS = ['celery_stackstate_admin.W004']")) == []
