"""The pages under themes that replace the admin's templates, where they are installed (`pip install django-unfold`)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("theme", ["unfold", "jazzmin"])
def test_every_page_and_operation_works_under_a_theme(theme: str) -> None:
    if importlib.util.find_spec(theme) is None:
        pytest.skip(f"no {theme}: pip install django-{theme}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "django_admin")))}

    run = subprocess.run(
        [sys.executable, "-m", "tests.admin.themed", theme],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("fine\n")
