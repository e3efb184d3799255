"""The extension of a project's app over stores of one test's own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery import Celery, _state
from celery.contrib.testing.app import UnitLogging

from celery_stackstate.attached import all_extensions
from celery_stackstate.config import Settings, read_settings, resolve_url
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.extension import StackState
from celery_stackstate.renewal import renewer
from celery_stackstate.stores import open_store
from celery_stackstate.testing.clock import ClockedStore, StoreClock
from celery_stackstate.worker import logs
from celery_stackstate.worker.leases import LeaseStep

if TYPE_CHECKING:
    from celery_stackstate.stores.base import Store

MEMORY = "memory://"


def project_app() -> Celery[Any]:
    """Return the app of the project: that of STACKSTATE_APP, or the only one with the extension.

    Raises:
        ConfigurationError: There is none, or there are several; says what to do.
    """
    try:
        return StackState.current().app
    except ConfigurationError as error:
        of_projects = [one for one in all_extensions() if not isinstance(one.app.log, UnitLogging)]
        if len(of_projects) == 1:  # the others are left from tests of their own
            return of_projects[0].app
        raise ConfigurationError(
            f"{error}. In tests: let the fixture stackstate_app of your conftest.py return it"
        ) from None


@contextmanager
def standing_in(
    app: Celery[Any], clock: StoreClock, *, url: str = MEMORY, runs_url: str = MEMORY
) -> Iterator[StackState]:
    """Give the extension of `app` stores of its own inside of the block, of `clock` those that are in memory.

    Eager runs are recorded as well. It is on, also where the project has switched it off for its tests.
    """
    extension = StackState.of(app)
    settings = dataclasses.replace(
        read_settings(extension.app),
        url=url,
        runs_url=None if runs_url == url else runs_url,
        record_eager=True,
        enabled=True,
    )
    store = _opened(url, settings, extension.app, clock)
    runs_store = store if settings.runs_url is None else _opened(runs_url, settings, extension.app, clock)
    with extension.replaced_stores(settings, store, runs_store):
        try:
            yield extension
        finally:
            renewer.forget_all()  # a test that failed may have left locks behind


@contextmanager
def current(app: Celery[Any]) -> Iterator[None]:
    """Let shared tasks be those of `app` inside of the block, in this thread."""
    before = _state._tls.current_app
    app.set_current()
    try:
        yield
    finally:
        _state._tls.current_app = before


@contextmanager
def logging_to_runs() -> Iterator[None]:
    """Let what tasks log become the log of their run inside of the block, as in a worker."""
    root = logging.getLogger()
    if logs._handler in root.handlers:
        yield
        return
    root.addHandler(logs._handler)
    try:
        yield
    finally:
        root.removeHandler(logs._handler)


def renew_leases(workers: list[Any]) -> None:
    """Let workers of this process say that they live, where the store does not know it any more."""
    for worker in workers:
        for step in getattr(worker, "steps", ()):
            if isinstance(step, LeaseStep):
                step.renew(worker)


def clock_of(extension: StackState) -> StoreClock:
    """Return the clock of the extension's stores.

    Raises:
        ConfigurationError: They go by a clock that nobody can move.
    """
    if isinstance(extension.store, ClockedStore):
        return extension.store.clock
    raise ConfigurationError(
        f"the clock of {extension.where()} is its own and cannot be moved; that of {MEMORY} can be"
    )


def _opened(url: str, settings: Settings, app: Celery[Any], clock: StoreClock) -> Store:
    if url == MEMORY:
        return ClockedStore.of(clock)
    return open_store(resolve_url(url, app), prefix=settings.prefix, timeout=settings.store_timeout)
