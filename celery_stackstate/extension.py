"""The extension of one Celery app: its settings, its store, and the nouns over them."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from typing import Any

from celery import Celery, _state
from celery.result import AsyncResult

from celery_stackstate import beat, liveness, signals
from celery_stackstate.attached import all_extensions, extension_of, remember
from celery_stackstate.browse import Browser
from celery_stackstate.config import DEFAULT_URL, Settings, hide_password, read_settings, resolve_url
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.payload import Redactor
from celery_stackstate.publishing import canvas, receivers, repeat
from celery_stackstate.publishing import send as publish
from celery_stackstate.receiving import INTERRUPTS
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import Worker
from celery_stackstate.retention import purge
from celery_stackstate.runs import Runs
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from celery_stackstate.tallies import Tallies
from celery_stackstate.worker import leases, logs
from celery_stackstate.worker import signals as receiving

logger = logging.getLogger(__name__)

_attaching = threading.RLock()


class StackState:
    """Durable state, idempotent enqueue and run history for one Celery app.

    Binding a StateTask to an app attaches the extension by itself; `StackState(app)` does it explicitly, which a
    process needs that only sends tasks by name. Attaching twice gives the same object. Nothing is read before use.
    """

    app: Celery[Any]
    #: How many requests for a run were suppressed of which its history does not know yet, by run and reason.
    suppressed: Counter[tuple[str, str]]
    _warnings: set[str]

    def __new__(cls, app: Celery[Any]) -> StackState:
        with _attaching:
            existing = extension_of(app)
            if existing is None:
                existing = super().__new__(cls)
                existing.app, existing.suppressed, existing._warnings = app, Counter(), set()
                remember(existing)
                publish.attach(existing)
                leases.attach(existing)
                receivers.connect()
                receiving.connect()
                logs.connect()
                beat.connect()
                canvas.attach()
            return existing

    def __repr__(self) -> str:
        return f"<StackState of {self.app.main!r}>"

    @classmethod
    def of(cls, app: Celery[Any]) -> StackState:
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
        extensions = _of_projects(all_extensions() or _attach_by_finalizing())
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

    @property
    def enabled(self) -> bool:
        """Whether the extension does anything of itself. Wrong settings switch nothing off: who needs them says so."""
        try:
            return self.settings.enabled
        except ConfigurationError:
            return True

    @cached_property
    def store(self) -> Store:
        """The store of state and keys."""
        return self._open("stackstate_url", self.settings.url)

    @cached_property
    def runs_store(self) -> Store:
        """The store of the run history."""
        runs_url = self.settings.runs_url
        return self.store if runs_url is None else self._open("stackstate_runs_url", runs_url)

    @property
    def state(self) -> State:
        """The app-wide state, as `self.state` gives it inside a task."""
        return self.state_for(RunContext(run_ttl=self.settings.longest_retention))

    @cached_property
    def browser(self) -> Browser:
        """All state of all scopes, in order."""
        return Browser(self.store)

    @cached_property
    def runs(self) -> Runs:
        """The run history."""
        return Runs(self.runs_store, most=self.settings.most_runs(), settle=self._settle)

    def _settle(self) -> None:
        """Write what this process has still to say of runs, if it ever said anything."""
        if "recorder" in self.__dict__:
            self.recorder.settle()

    @cached_property
    def tallies(self) -> Tallies:
        """The counts of the runs, as workers keep them."""
        return Tallies(self.runs_store)

    @cached_property
    def recorder(self) -> Recorder:
        """What writes the run history."""
        return Recorder(self.runs_store, partial(signals.tell, self), interrupts=INTERRUPTS)

    @cached_property
    def redactor(self) -> Redactor:
        """What decides how much of a payload may be recorded."""
        settings = self.settings
        return Redactor(
            settings.redact, limit=settings.max_payload_bytes, hook=settings.redact_hook, interrupts=INTERRUPTS
        )

    @cached_property
    def idempotency(self) -> Idempotency:
        """The idempotency keys: what is known of one, a list of them, freeing one."""
        return Idempotency(self.key_protocol)

    @cached_property
    def key_protocol(self) -> KeyProtocol:
        """What producers and workers do with the keys."""
        settings = self.settings
        return KeyProtocol(
            self.store,
            prefix=settings.prefix,
            publish_lease=settings.publish_lease,
            max_deliveries=settings.max_deliveries,
            start_deadline=settings.start_deadline,
        )

    def state_for(self, context: RunContext) -> State:
        """Return the app-wide state as seen from `context`."""
        return State(self.store, context, limit=self.settings.max_value_bytes)

    def joining(self, session: Any) -> AbstractContextManager[None]:
        """Let state, counters and keyed publishing join the transaction of a SQLAlchemy session, inside of the block.

        What is published with a key is reserved in that transaction and goes out after its commit, never after a
        rollback. Locks are refused inside; the history is written apart.

        Args:
            session: A `Session` or `scoped_session` on the database of the store.

        Raises:
            ConfigurationError: The store is not in a SQL database of a URL, or the session is not on the same one.
        """
        return self.store.joining(session)

    def rerun(self, run_id: str, **options: Any) -> AsyncResult:
        """Publish what the run `run_id` was asked for once more, as a run of its own that is linked to it.

        It gets no idempotency key, and no part in the group or chord of the old one; what was linked to or chained
        behind the old one follows this one, too.

        Args:
            run_id: The run to repeat.
            options: Those of `send_task`, such as `queue` or `connection`, over those that it was sent with.

        Raises:
            NotRepeatable: What it was asked for was not kept: its task lacks `keep_payload = True`.
            ConfigurationError: An option is one of a key.
            StoreUnavailable: The store cannot be reached now.
        """
        return repeat.repeat(self, run_id, options)

    def repeatable(self, *run_ids: str) -> frozenset[str]:
        """Return those of the runs that `rerun` can repeat.

        Raises:
            StoreUnavailable: The store cannot be reached now.
        """
        return repeat.repeatable(self, run_ids)

    def forget(self, *run_ids: str) -> int:
        """Delete runs with all that the history and `keep_payload` kept of them; return how many there were.

        What is still to happen to a run that has not ended is recorded again.

        Raises:
            StoreUnavailable: The store cannot be reached now.
        """
        repeat.forget(self, run_ids)
        return self.runs.delete(*run_ids)

    def workers(self) -> tuple[Worker, ...]:
        """Return the workers that live, and those that died a short while ago, by hostname and start.

        One that has stopped in peace is not among them.

        Raises:
            StoreUnavailable: The store cannot be reached now.
        """
        return liveness.workers(self.store)

    def purge(self, *, limit: int = 10_000) -> int:
        """Delete up to about `limit` ended entries and runs beyond their retention; return how many.

        Workers do it by themselves; `celery_stackstate.beat.PURGE` is a beat entry for when none is to.
        """
        done = self.runs.purge(limit=limit)
        if self.runs_store is not self.store:
            done += purge(self.store, {}, limit=limit)
        return done

    def check(self) -> list[str]:
        """Connect to the stores and return warnings about promises they may not keep.

        Raises:
            ConfigurationError: A setting is wrong or a store can never work.
            StoreUnavailable: A store cannot be reached now.
        """
        stores = [self.store] if self.runs_store is self.store else [self.store, self.runs_store]
        return [warning for store in stores for warning in store.check()]

    def install(self) -> list[tuple[str, str]]:
        """Create or upgrade the tables that the stores need; return each place with what was done there, if anything.

        Raises:
            ConfigurationError: A setting is wrong, or the account may not make tables.
            StoreUnavailable: A store cannot be reached now.
        """
        places = [(self.where(), self.store)]
        if self.runs_store is not self.store:
            places.append((self.where_runs(), self.runs_store))
        return [(place, done) for place, store in places for done in store.install() or ["nothing to do"]]

    def where(self) -> str:
        """Return the URL of the store with a relative path made absolute, and without a password."""
        return self._shown("stackstate_url", self.settings.url)

    def where_runs(self) -> str:
        """Return the same of the store of the history."""
        runs_url = self.settings.runs_url
        return self.where() if runs_url is None else self._shown("stackstate_runs_url", runs_url)

    def _shown(self, setting: str, url: str) -> str:
        with _about(setting):
            return hide_password(resolve_url(url, self.app))

    def warn_about_default_store(self) -> None:
        """Warn, once, that keys are kept in the default file: a process elsewhere would not find them there."""
        if self.settings.url == DEFAULT_URL:
            self.warn_once(
                f"stackstate_url is not set: idempotency keys are kept in {self.where()}, which only the processes of "
                f"this machine see"
            )

    def warn_once(self, text: str) -> None:
        """Warn of what each of many calls would have to be warned of, once in this process."""
        if text not in self._warnings:
            self._warnings.add(text)
            logger.warning("%s", text)

    def close(self) -> None:
        """Write what history still waits, and close this process's connections. Using it again opens new ones."""
        if "recorder" in self.__dict__:
            self.recorder.flush()
        self.disconnect()

    def disconnect(self) -> None:
        """Close this process's connections, as its end does. Using them again opens new ones."""
        for name in ("store", "runs_store"):
            if name in self.__dict__:
                self.__dict__[name].close()

    @contextmanager
    def replaced_stores(self, settings: Settings, store: Store, runs_store: Store) -> Iterator[None]:
        """Go by other settings and stores inside of the block, in all threads: for tests.

        What was made of the configured ones is put aside as it is, connected or not; at the end what history waits is
        written, the other stores are closed, and the former ones are back.
        """
        aside = {name: self.__dict__[name] for name in _MADE if name in self.__dict__}
        suppressed = self.suppressed
        self.__dict__.update(settings=settings, store=store, runs_store=runs_store, suppressed=Counter())
        self._forget(_MADE - {"settings", "store", "runs_store"})
        try:
            yield
        finally:
            if "recorder" in self.__dict__:
                self.recorder.stop()
            self.disconnect()
            self.__dict__.update(aside, suppressed=suppressed)
            self._forget(_MADE - set(aside))

    def _forget(self, names: AbstractSet[str]) -> None:
        for name in names:
            self.__dict__.pop(name, None)

    def _open(self, setting: str, url: str) -> Store:
        settings = self.settings
        with _about(setting):
            return open_store(resolve_url(url, self.app), prefix=settings.prefix, timeout=settings.store_timeout)


#: The names of what an extension makes at first use, and keeps.
_MADE = frozenset(name for name, value in vars(StackState).items() if isinstance(value, cached_property))


@contextmanager
def _about(setting: str) -> Iterator[None]:
    """Let an error about the URL of a store name the setting that it is in."""
    try:
        yield
    except ConfigurationError as error:
        raise ConfigurationError(str(error).replace("stackstate_url:", f"{setting}:", 1)) from error.__cause__


@atexit.register
def _close_all() -> None:
    for extension in all_extensions():
        try:
            extension.close()
        except Exception:
            logger.debug("A connection was not closed at exit", exc_info=True)


def _named_app() -> str | None:
    named = os.environ.get("STACKSTATE_APP")
    if not named and "django.conf" in sys.modules:
        from django.conf import settings

        named = getattr(settings, "STACKSTATE_APP", None) if settings.configured else None
    return named or None


def _of_projects(extensions: list[StackState]) -> list[StackState]:
    """Leave out Celery's own app, of threads that have no other: it has a copy of each task that names no app."""
    chosen = [one for one in extensions if one.app is not _state.default_app or one.app.main != "default"]
    return chosen or extensions


def _attach_by_finalizing() -> list[StackState]:
    """Bind the tasks of the apps in this process, which attaches those that use StateTask; Celery does it lazily."""
    for app in list(_state._get_active_apps()):
        app.finalize()
    return all_extensions()


def _import_app(path: str) -> Celery:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name or "app")
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"STACKSTATE_APP = {path!r} cannot be imported: {error}") from error
