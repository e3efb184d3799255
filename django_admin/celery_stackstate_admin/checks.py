"""What `manage.py check` says about the admin pages, the Celery app they read from, and its stores."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.apps import apps
from django.conf import settings
from django.core import checks

from celery_stackstate.attached import all_extensions
from celery_stackstate.config import DEFAULT_URL, hide_password, resolve_url
from celery_stackstate.errors import ConfigurationError, StackStateError
from celery_stackstate.stores import open_store
from celery_stackstate_admin.source import extension

NO_ADMIN = "celery_stackstate_admin.E001"
NO_APP = "celery_stackstate_admin.W001"
SEVERAL_APPS = "celery_stackstate_admin.W002"
UNKNOWN_APP = "celery_stackstate_admin.W003"
NO_STORE = "celery_stackstate_admin.W004"
STORE_AWAY = "celery_stackstate_admin.W005"
STORE_PROMISES = "celery_stackstate_admin.W006"
BAD_SETTINGS = "celery_stackstate_admin.W007"

PATIENCE = 2.0  # seconds that a store may take to answer


@checks.register(checks.Tags.admin)
def check_setup(databases: Collection[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Return what keeps the pages from working: without the admin an error, else warnings.

    Args:
        databases: The aliases that may be connected to, as `manage.py check --database` and `migrate` name them.
        _: What Django gives other checks.
    """
    if not apps.is_installed("django.contrib.admin"):
        return [
            checks.Error(
                "celery_stackstate_admin shows its pages in Django's admin, which is not installed.",
                hint="Add 'django.contrib.admin' to INSTALLED_APPS.",
                id=NO_ADMIN,
            )
        ]
    try:
        found = extension()
    except StackStateError as error:
        return [_no_extension(error)]
    return list(_stores(found, databases or ()))


def _no_extension(error: StackStateError) -> checks.CheckMessage:
    told = f"The admin pages of celery-stackstate have no Celery app to read from: {error}"
    if os.environ.get("STACKSTATE_APP") or getattr(settings, "STACKSTATE_APP", None):
        hint = 'It is a module, a colon and the name in it, as in STACKSTATE_APP = "proj.celery:app".'
        return checks.Warning(told, hint=hint, id=UNKNOWN_APP)
    if len(all_extensions()) > 1:
        return checks.Warning(
            told, hint='Name the one whose runs to show: STACKSTATE_APP = "proj.celery:app".', id=SEVERAL_APPS
        )
    hint = (
        "Import your Celery app when Django starts (in the project's __init__.py), "
        'or name it: STACKSTATE_APP = "proj.celery:app".'
    )
    return checks.Warning(told, hint=hint, id=NO_APP)


def _stores(found: Any, databases: Collection[str]) -> Iterator[checks.CheckMessage]:
    try:
        options = found.settings
        urls = {"stackstate_url": options.url, "stackstate_runs_url": options.runs_url}
        places = {name: resolve_url(url, found.app) for name, url in urls.items() if url is not None}
    except ConfigurationError as error:
        hint = "Settings are read from the Celery app's configuration; the README lists them."
        yield checks.Warning(f"A setting of celery-stackstate is wrong: {error}", hint=hint, id=BAD_SETTINGS)
        return
    if options.url == DEFAULT_URL:
        yield checks.Warning(
            f"stackstate_url is not set: state, keys and runs are kept in {hide_password(places['stackstate_url'])}, "
            "which only the processes of this machine see.",
            hint="Set it to a place that all machines reach, or to that file if there is but one machine.",
            id=NO_STORE,
        )
    timeout = min(PATIENCE, options.store_timeout)
    for name, url in places.items():
        if _may_be_asked(url, databases):
            yield from _store(name, url, prefix=options.prefix, timeout=timeout)


def _may_be_asked(url: str, databases: Collection[str]) -> bool:
    """Return whether to connect: to Django's own databases only where that was asked for, to no file there is not."""
    parts = urlsplit(url)
    if parts.scheme == "django":
        return (parts.netloc or "default") in databases
    if parts.scheme == "sqlite":
        path = Path(parts.path.removeprefix("/"))
        return path.exists() or not os.access(path.parent, os.W_OK)
    return True


def _store(name: str, url: str, *, prefix: str, timeout: float) -> Iterator[checks.CheckMessage]:
    shown = hide_password(url)
    try:
        store = open_store(url, prefix=prefix, timeout=timeout)
        try:
            doubts = store.check()
        finally:
            store.close()
    except StackStateError as error:
        yield checks.Warning(
            f"The store that {name} names does not answer: {error}",
            hint=f"It was asked at {shown} for at most {timeout:g} seconds. The admin says so, too, until it answers.",
            id=STORE_AWAY,
        )
        return
    for doubt in doubts:
        yield checks.Warning(f"The store that {name} names may not keep a promise: {doubt}", id=STORE_PROMISES)
