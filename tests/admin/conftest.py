"""Django in memory, the real extension over the memory store, and users of every sort."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("django")

ROOT = Path(__file__).resolve().parents[2]
for place in (str(ROOT / "django_admin"), str(ROOT)):
    if place not in sys.path:
        sys.path.insert(0, place)

import django  # noqa: E402
from django.conf import settings  # noqa: E402

from tests.admin.settings import SETTINGS  # noqa: E402

if not settings.configured:
    settings.configure(**SETTINGS)
    django.setup()

from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from django.test import Client, override_settings  # noqa: E402
from django.test.utils import CaptureQueriesContext, setup_test_environment, teardown_test_environment  # noqa: E402

from tests.admin.browser import browse, chromium, site  # noqa: E402, F401 - fixtures
from tests.admin.project import extension  # noqa: E402

TABLES = tuple(f"celery_stackstate_admin_{name}" for name in ("run", "stateentry", "idempotencykey", "worker"))


def forget(shop: Any) -> None:
    """Let the extension read its settings and open its stores again."""
    for name in (
        "settings",
        "store",
        "runs_store",
        "state",
        "browser",
        "runs",
        "recorder",
        "idempotency",
        "key_protocol",
        "tallies",
    ):
        shop.__dict__.pop(name, None)


@pytest.fixture(scope="session", autouse=True)
def database() -> Iterator[None]:
    setup_test_environment()
    call_command("migrate", verbosity=0)
    yield
    teardown_test_environment()


@pytest.fixture(autouse=True)
def shop() -> Iterator[Any]:
    """The extension, over an empty store of its own, named to Django."""
    extension.app.conf.stackstate_prefix = f"t{next(_numbers)}"
    forget(extension)
    with override_settings(STACKSTATE_APP="tests.admin.project:app"):
        yield extension


@pytest.fixture(autouse=True)
def no_sql_for_runs() -> Iterator[None]:
    """No request of any test reads or writes a table of runs or state: there is none."""
    connection.queries_log.clear()
    with CaptureQueriesContext(connection) as captured:
        yield
    assert not [query for query in captured if any(table in query["sql"] for table in TABLES)]


def _client(user: User | None) -> Client:
    client = Client(raise_request_exception=True)
    if user is not None:
        client.force_login(user)
    return client


def _user(name: str, *permissions: str, **flags: bool) -> User:
    user: User
    user, _ = User.objects.get_or_create(username=name, defaults={"email": f"{name}@example.com", **flags})
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.fixture
def anonymous() -> Client:
    return _client(None)


@pytest.fixture
def staff() -> Client:
    """Staff that may not view runs or state."""
    return _client(_user("clerk", "view_user", is_staff=True))


@pytest.fixture
def viewer() -> Client:
    """Staff with both view permissions and no other."""
    return _client(_user("viewer", "view_run", "view_stateentry", is_staff=True))


@pytest.fixture
def run_viewer() -> Client:
    """Staff that may view runs, but not state."""
    return _client(_user("run_viewer", "view_run", is_staff=True))


@pytest.fixture
def root() -> Client:
    """A superuser."""
    return _client(_user("root", is_staff=True, is_superuser=True))


_numbers = iter(range(1, 1_000_000))
