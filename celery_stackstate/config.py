"""The `stackstate_*` settings of a Celery app, read once and validated as a whole."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from celery_stackstate import setting_checks as checks
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.records import FAILURE, LOST, STATUSES

DEFAULT_URL = "sqlite:///stackstate.sqlite3"
DEFAULT_REDACT = (
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "api_key",
    "apikey",
    "private_key",
    "cookie",
)
DAY = 86_400.0
#: Failures are looked for later than successes.
DEFAULT_RETENTION: Mapping[str, float] = {FAILURE: 30 * DAY, LOST: 30 * DAY}

#: Up to the last @, since a password may hold what belongs encoded: / ? # @ and the colon.
_SECRET_LOGIN = re.compile(r"(?<=://)([^/?#:]*):.*@", re.DOTALL)
_SECRET_OPTION = re.compile(r"(?<=[?&])(\w*(?:password|passwd|passfile|secret)\w*)=[^&]*", re.IGNORECASE)


@dataclass(frozen=True)
class Settings:
    """Every setting with its default. In the configuration each name is preceded by `stackstate_`."""

    #: False makes the extension a pass-through: nothing is recorded, and publishing with a key is refused (or goes out
    #: without the promise, by `publish_outage`). State that the project reads and writes itself goes on.
    enabled: bool = True
    #: Where state, keys and runs are kept.
    url: str = DEFAULT_URL
    #: Where the run history is kept, when it is elsewhere.
    runs_url: str | None = None
    #: Name of the environment (letters, digits, `_`, `.`, `-`): environments in one store share nothing.
    prefix: str = ""
    #: Longest time in seconds that one store call may take.
    store_timeout: float = 5.0
    #: Most bytes one value of the state may take.
    max_value_bytes: int = 262_144
    #: Most bytes that the recorded arguments, and the recorded result, of a run may each take.
    max_payload_bytes: int = 65_536
    #: Words that mark an argument, key or header whose value is not recorded.
    redact: tuple[str, ...] = DEFAULT_REDACT
    #: A function, or its dotted path, that has the last word on what is recorded: it gets what a value is ("args",
    #: "kwargs", "result", "event", "error" or "log") and the value, and returns what is recorded in its place.
    redact_hook: Callable[[str, Any], Any] | None = None
    #: A function, or its dotted path, that names who asks for what is published just now: a user, a request.
    origin: Callable[[], str | None] | None = None
    #: True records the runs of tasks without the base class, too.
    record_all: bool = False
    #: True records eager runs, too.
    record_eager: bool = False
    #: Lowest level of log lines that are recorded.
    log_level: int = logging.INFO
    #: How much of a log is kept, the newest: `lines` and `bytes` of an attempt, `run_lines` of all attempts of a run.
    log_limits: LogLimits = field(default_factory=LogLimits)
    #: Seconds for which a run is kept after its last change; a number for all, or a mapping by status.
    run_retention: float | Mapping[str, float] = field(default_factory=lambda: DEFAULT_RETENTION)
    #: How many ended runs are kept, the newest; a number for each status that ends a run, or a mapping by status.
    run_limits: int | Mapping[str, int] | None = None
    #: Seconds after its last sign of life that a worker counts as dead.
    worker_lease: float = 30.0
    #: Seconds after which a publish that was never confirmed is taken over by the next call with its key.
    publish_lease: float = 30.0
    #: Seconds for which a key is kept after its run ended.
    idempotency_ttl: float = DAY
    #: Seconds after its publishing (or ETA) at which a run that no worker began counts as lost: the next call with its
    #: key publishes it again, under its id.
    start_deadline: float = DAY
    #: How many times the body of a keyed run may be begun by deliveries of one request (its retries not counted).
    max_deliveries: int = 10
    #: What happens when a keyed run is to start and the store is down, or its worker is switched off: "requeue" it, or
    #: "run" it without the promise.
    claim_outage: str = "requeue"
    #: What happens to a keyed publish when the store is down: "raise", or "publish" and let the worker decide; or where
    #: the extension is switched off: "raise", or "publish" it without the promise.
    publish_outage: str = "raise"
    #: Longest time in seconds that a run waits for a busy lock, a live copy of itself or the run it follows.
    lock_wait_max: float = DAY

    def retention(self, status: str) -> float:
        """Return the seconds for which a run of `status` is kept."""
        if isinstance(self.run_retention, Mapping):
            return self.run_retention.get(status, DEFAULT_RETENTION.get(status, 7 * DAY))
        return self.run_retention

    def most_runs(self) -> dict[str, int]:
        """Return how many runs are kept of each status that has such a limit."""
        if isinstance(self.run_limits, Mapping):
            return dict(self.run_limits)
        return {} if self.run_limits is None else dict.fromkeys(checks.ENDED, self.run_limits)

    @property
    def longest_retention(self) -> float:
        """The longest time in seconds for which a run of any status is kept."""
        return max(self.retention(status) for status in STATUSES)


def read_settings(app: Celery) -> Settings:
    """Read the settings of `app`.

    Raises:
        ConfigurationError: A name is unknown (suggests the right one) or a value is wrong (names the setting).
    """
    given = {}
    known = {field.name for field in fields(Settings)}
    for name in _configured_names(app):
        if name not in known:
            raise ConfigurationError(_unknown(name, known))
        given[name] = app.conf.get(f"stackstate_{name}")
    return Settings(**{name: _CHECKS[name](f"stackstate_{name}", value) for name, value in given.items()})


def resolve_url(url: str, app: Celery) -> str:
    """Return `url` with a relative SQLite path made absolute.

    It lies in Django's BASE_DIR, else beside the app's main module; never in the current directory, which differs
    between the web process, the worker and the shell.
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        return url
    path = parts.path.removeprefix("/")
    if parts.netloc or not path:
        raise ConfigurationError(
            f"stackstate_url: {url!r} names no file; write sqlite:///file.sqlite3, or sqlite:////absolute/file.sqlite3"
        )
    absolute = path if path.startswith("/") else str(_base_directory(app) / path)
    query = f"?{parts.query}" if parts.query else ""
    return f"sqlite:///{absolute}{query}"


def hide_password(url: str) -> str:
    """Return `url` with every password in it, also those among its options, replaced by stars."""
    return _SECRET_OPTION.sub(r"\1=***", _SECRET_LOGIN.sub(r"\1:***@", url))


def _base_directory(app: Celery) -> Path:
    base_dir = None
    if os.environ.get("DJANGO_SETTINGS_MODULE") or "django.conf" in sys.modules:
        from django.conf import settings

        base_dir = getattr(settings, "BASE_DIR", None) if settings.configured or _has_django_settings() else None
    if base_dir:
        return Path(base_dir).resolve()
    module = sys.modules.get(app.main or "__main__")
    origin = getattr(module, "__file__", None)
    if origin:
        return Path(origin).resolve().parent
    raise ConfigurationError(
        f"stackstate_url: a relative SQLite path needs a place to start from. The app is called {app.main!r}, which is "
        f"no module of this process, and there is no Django BASE_DIR. Write an absolute path "
        f"(sqlite:////var/lib/shop/stackstate.sqlite3), or call the app by its module: Celery(__name__)"
    )


def _has_django_settings() -> bool:
    return bool(os.environ.get("DJANGO_SETTINGS_MODULE"))


def _configured_names(app: Celery) -> list[str]:
    namespace = f"{app.namespace}_".lower() if app.namespace else ""
    names = []
    for key in map(str, list(app.conf.keys())):
        if key == "STACKSTATE_APP":  # Django's setting that names the app, seen through Celery's configuration
            continue
        name = key.lower().removeprefix(namespace)
        if not name.startswith("stackstate_"):
            continue
        if key.isupper() and not (namespace and key.lower().startswith(namespace)):
            _check_foreign(key, name, namespace)
        elif name not in names:
            names.append(name)
    return [name.removeprefix("stackstate_") for name in names]


def _check_foreign(key: str, name: str, namespace: str) -> None:
    """Refuse one of our settings where Celery does not find it; others with such a name are the project's own."""
    if name.removeprefix("stackstate_") in _CHECKS:
        right = f"{namespace}{name}".upper() if namespace else name
        raise ConfigurationError(f"{key} is not read as a setting of Celery: call it {right}")


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean stackstate_{close[0]}?" if close else "known are " + ", ".join(sorted(known))
    return f"stackstate_{name} is not a setting of celery-stackstate; {hint}"


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "enabled": checks.flag,
    "url": checks.url,
    "runs_url": checks.optional_url,
    "prefix": checks.prefix,
    "store_timeout": checks.number(0.1, "seconds"),
    "max_value_bytes": checks.integer(1, "bytes"),
    "max_payload_bytes": checks.integer(0, "bytes"),
    "redact": checks.words,
    "log_level": checks.level,
    "redact_hook": checks.function,
    "origin": checks.function,
    "record_all": checks.flag,
    "record_eager": checks.flag,
    "log_limits": checks.log_limits,
    "run_retention": checks.retention,
    "run_limits": checks.limits,
    "worker_lease": checks.number(1, "seconds"),
    "publish_lease": checks.number(1, "seconds"),
    "idempotency_ttl": checks.number(1, "seconds"),
    "start_deadline": checks.number(1, "seconds"),
    "max_deliveries": checks.integer(1, "deliveries"),
    "claim_outage": checks.choice("requeue", "run"),
    "publish_outage": checks.choice("raise", "publish"),
    "lock_wait_max": checks.number(1, "seconds"),
}
