"""The extension of one Celery app: its settings, its store, and the nouns over them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from functools import cached_property
from typing import Any

from celery import Celery
from celery._state import _get_active_apps

from celery_stackstate import publish
from celery_stackstate.attached import all_extensions, extension_of, remember
from celery_stackstate.browse import Browser
from celery_stackstate.config import DEFAULT_URL, Settings, hide_password, read_settings, resolve_url
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.locks import LockOwner
from celery_stackstate.payload import Redactor
from celery_stackstate.recorder import Recorder
from celery_stackstate.runs import Runs
from celery_stackstate.state import RunContext, State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from celery_stackstate.worker import leases, logs, signals

logger = logging.getLogger(__name__)

_attaching = threading.RLock()


class StackState:
    """Durable state, idempotent enqueue and run history for one Celery app.

    Binding a StateTask to an app attaches the extension by itself; `StackState(app)` does it explicitly, which a
    process needs that only sends tasks by name. Attaching twice gives the same object. Nothing is read before use.
    """

    app: Celery
    _warned = False

    def __new__(cls, app: Celery) -> StackState:
        with _attaching:
            existing = extension_of(app)
            if existing is None:
                existing = super().__new__(cls)
                existing.app = app
                remember(existing)
                publish.attach(existing)
                leases.attach(existing)
                signals.connect()
                logs.connect()
            return existing

    def __repr__(self) -> str:
        return f"<StackState of {self.app.main!r}>"

    @classmethod
    def of(cls, app: Celery) -> StackState:
        """Return the extension of `app`, attaching it when need be."""
        return cls(app._get_current_object() if hasattr(app, "_get_current_object") else app)

    @classmethod
    def current(cls) -> StackState:
        """Return the extension of the only app that has one, or of the one that STACKSTATE_APP names.

        Raises:
            ConfigurationError: No app has one, or several have; says what to do.
        """
        named = _named_app()
        if named:
            return cls.of(_import_app(named))
        extensions = all_extensions() or _attach_by_finalizing()
        if len(extensions) == 1:
            return extensions[0]
        if not extensions:
            raise ConfigurationError(
                "no Celery app with celery-stackstate is loaded in this process: import the module that makes it "
                "(in Django, in your project's __init__.py), or name it: STACKSTATE_APP = 'proj.celery:app'"
            )
        raise ConfigurationError(
            f"{len(extensions)} Celery apps with celery-stackstate are loaded ({', '.join(map(repr, extensions))}); "
            f"say which one is meant: STACKSTATE_APP = 'proj.celery:app', or StackState.of(app)"
        )

    # -- what it owns, each made at first use ----------------------------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        """The validated `stackstate_*` settings of the app."""
        return read_settings(self.app)

    @cached_property
    def store(self) -> Store:
        """The store of state and keys."""
        return self._open(self.settings.url)

    @cached_property
    def runs_store(self) -> Store:
        """The store of the run history."""
        return self.store if self.settings.runs_url is None else self._open(self.settings.runs_url)

    @property
    def state(self) -> State:
        """The app-wide state, as `self.state` gives it inside a task."""
        return self.state_for(RunContext(LockOwner.of_process(), run_ttl=self.settings.longest_retention))

    @cached_property
    def browser(self) -> Browser:
        """All state of all scopes, in order."""
        return Browser(self.store)

    @cached_property
    def runs(self) -> Runs:
        """The run history."""
        return Runs(self.runs_store)

    @cached_property
    def recorder(self) -> Recorder:
        """What writes the run history."""
        return Recorder(self.runs_store)

    @cached_property
    def redactor(self) -> Redactor:
        """What decides how much of a payload may be recorded."""
        return Redactor(self.settings.redact, limit=self.settings.max_payload_bytes)

    @cached_property
    def idempotency(self) -> Idempotency:
        """The protocol of idempotency keys."""
        settings = self.settings
        return Idempotency(
            self.store,
            prefix=settings.prefix,
            publish_lease=settings.publish_lease,
            max_deliveries=settings.max_deliveries,
        )

    def state_for(self, context: RunContext) -> State:
        """Return the app-wide state as seen from `context`."""
        return State(self.store, context, limit=self.settings.max_value_bytes)

    def check(self) -> list[str]:
        """Connect to the stores and return warnings about promises they may not keep.

        Raises:
            ConfigurationError: A setting is wrong or a store can never work.
            StoreUnavailable: A store cannot be reached now.
        """
        stores = [self.store] if self.runs_store is self.store else [self.store, self.runs_store]
        return [warning for store in stores for warning in store.check()]

    def where(self) -> str:
        """Return the URL of the store with a relative path made absolute, and without a password."""
        return hide_password(resolve_url(self.settings.url, self.app))

    def warn_about_default_store(self) -> None:
        """Warn, once, that keys are kept in the default file: a process elsewhere would not find them there."""
        if self._warned or self.settings.url != DEFAULT_URL:
            return
        self._warned = True
        logger.warning(
            "stackstate_url is not set: idempotency keys are kept in %s, which only the processes of this machine see",
            self.where(),
        )

    def close(self) -> None:
        """Write what history still waits, and close this process's connections. Using it again opens new ones."""
        made: dict[str, Any] = self.__dict__
        if "recorder" in made:
            self.recorder.flush()
        for name in ("store", "runs_store"):
            if name in made:
                made[name].close()

    def _open(self, url: str) -> Store:
        settings = self.settings
        return open_store(resolve_url(url, self.app), prefix=settings.prefix, timeout=settings.store_timeout)


def _named_app() -> str | None:
    named = os.environ.get("STACKSTATE_APP")
    if not named and "django.conf" in sys.modules:
        from django.conf import settings

        named = getattr(settings, "STACKSTATE_APP", None) if settings.configured else None
    return named or None


def _attach_by_finalizing() -> list[StackState]:
    """Bind the tasks of the apps in this process, which attaches those that use StateTask; Celery does it lazily."""
    for app in list(_get_active_apps()):
        app.finalize()
    return all_extensions()


def _import_app(path: str) -> Celery:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name or "app")
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"STACKSTATE_APP = {path!r} cannot be imported: {error}") from error
