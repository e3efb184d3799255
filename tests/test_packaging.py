"""What is built is what is in the tree: a forgotten folder would be dropped in silence."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = {
    "celery_stackstate": ROOT / "celery_stackstate",
    "celery_stackstate_admin": ROOT / "django_admin" / "celery_stackstate_admin",
}
LEFT_OUT = {"__pycache__", ".DS_Store"}


def tree() -> set[str]:
    """Return every file of both packages by its place in an installation."""
    return {
        f"{package}/{path.relative_to(source).as_posix()}"
        for package, source in SOURCES.items()
        for path in source.rglob("*")
        if path.is_file() and not LEFT_OUT & set(path.parts)
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist from a copy, so that nothing is left in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "project"
    ignore = shutil.ignore_patterns(".git", ".tox", "build", "*.egg-info", "__pycache__", "*.sqlite3*", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignore)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(out), str(copy)], check=True, capture_output=True)
    return out


def test_the_wheel_holds_exactly_the_tree(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert tree() == names


def test_the_sdist_holds_the_tree_and_what_builds_it(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = {
        name.replace("celery_stackstate_admin/", "django_admin/celery_stackstate_admin/", 1)
        if name.startswith("celery_stackstate_admin/")
        else name
        for name in tree()
    }
    assert not expected - names
    assert {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= names


def test_celery_alone_is_required_and_all_else_is_an_extra(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    required = [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]
    assert [one for one in required if "extra ==" not in one] == ["celery<5.8,>=5.5"]
    extras = {line.partition(": ")[2] for line in lines if line.startswith("Provides-Extra: ")}
    assert {"redis", "sqlalchemy", "postgresql", "mysql", "django", "cli", "pytest", "test"} == extras
    assert {'rich>=13; extra == "cli"', 'pytest>=8; extra == "pytest"'} < set(required)


def test_typed_templates_migrations_and_scripts_are_among_it() -> None:
    files = tree()
    for package in SOURCES:
        assert f"{package}/py.typed" in files
    assert any(name.endswith(".lua") for name in files)
    assert any(name.endswith(".html") for name in files)
    assert "celery_stackstate_admin/migrations/0001_initial.py" in files
