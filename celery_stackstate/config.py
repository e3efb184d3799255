"""The `stackstate_*` settings of a Celery app, read once and validated as a whole."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.records import STATUSES

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

_PREFIX = re.compile(r"[A-Za-z0-9_.-]{0,64}")


@dataclass(frozen=True)
class Settings:
    """Every setting with its default. In the configuration each name is preceded by `stackstate_`."""

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
    #: Lowest level of log lines that are recorded.
    log_level: int = logging.INFO
    #: Most log lines that are kept of one attempt; the rest is counted.
    log_lines: int = 2_000
    #: Seconds for which a run is kept after its last change; a number for all, or a mapping by status.
    run_retention: float | Mapping[str, float] = 7 * DAY
    #: Seconds after its last sign of life that a worker counts as dead.
    worker_lease: float = 30.0
    #: Seconds after which a publish that was never confirmed is taken over by the next call with its key.
    publish_lease: float = 30.0
    #: Seconds for which a key is kept after its run ended.
    idempotency_ttl: float = DAY
    #: How many times the body of a keyed run may be begun by deliveries of one request (its retries not counted).
    max_deliveries: int = 10
    #: What happens when a keyed run is to start and the store is down: "requeue" it, or "run" it without the promise.
    claim_outage: str = "requeue"
    #: Longest time in seconds that a run waits for a busy lock or a live copy of itself before it fails.
    lock_wait_max: float = DAY

    def retention(self, status: str) -> float:
        """Return the seconds for which a run of `status` is kept."""
        if isinstance(self.run_retention, Mapping):
            return self.run_retention.get(status, 7 * DAY)
        return self.run_retention

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
    """Return `url` with its password, if it has one, replaced by stars."""
    parts = urlsplit(url)
    return url if parts.password is None else url.replace(f":{parts.password}@", ":***@", 1)


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
    for key in list(app.conf.keys()):
        if key == "STACKSTATE_APP":  # Django's setting that names the app, seen through Celery's configuration
            continue
        name = str(key).lower().removeprefix(namespace)
        if name.startswith("stackstate_") and name not in names:
            names.append(name)
    return [name.removeprefix("stackstate_") for name in names]


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean stackstate_{close[0]}?" if close else "known are " + ", ".join(sorted(known))
    return f"stackstate_{name} is not a setting of celery-stackstate; {hint}"


# -- checks, one per kind of value ---------------------------------------------------------------------------------


def _fail(setting: str, value: Any, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{setting} must be {wanted}, not {value!r:.80}")


def _url(setting: str, value: Any) -> Any:
    if not isinstance(value, str) or ":" not in value:
        raise _fail(setting, value, "a store URL such as redis://localhost:6379/2")
    return value


def _optional_url(setting: str, value: Any) -> Any:
    return None if value is None else _url(setting, value)


def _prefix(setting: str, value: Any) -> Any:
    if not isinstance(value, str) or not _PREFIX.fullmatch(value):
        raise _fail(setting, value, "at most 64 letters, digits, '_', '.' or '-'")
    return value


def _number(least: float, unit: str) -> Callable[[str, Any], Any]:
    def check(setting: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value < 1e10:
            raise _fail(setting, value, f"a number of {unit}, at least {least:g}")
        return float(value)

    return check


def _integer(least: int, unit: str) -> Callable[[str, Any], Any]:
    def check(setting: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise _fail(setting, value, f"a whole number of {unit}, at least {least}")
        return value

    return check


def _words(setting: str, value: Any) -> Any:
    if isinstance(value, str) or not all(isinstance(word, str) and word for word in value):
        raise _fail(setting, value, "a list of words")
    return tuple(value)


def _level(setting: str, value: Any) -> Any:
    level = logging.getLevelName(value.upper()) if isinstance(value, str) else value
    if isinstance(level, bool) or not isinstance(level, int):
        raise _fail(setting, value, "a logging level such as 'INFO'")
    return level


def _retention(setting: str, value: Any) -> Any:
    seconds = _number(1, "seconds")
    if not isinstance(value, Mapping):
        return seconds(setting, value)
    for status in value:
        if status not in STATUSES:
            raise ConfigurationError(f"{setting} names the status {status!r}; there are {', '.join(STATUSES)}")
    return {status: seconds(f"{setting}[{status!r}]", number) for status, number in value.items()}


def _choice(*choices: str) -> Callable[[str, Any], Any]:
    def check(setting: str, value: Any) -> Any:
        if value not in choices:
            raise _fail(setting, value, " or ".join(map(repr, choices)))
        return value

    return check


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "url": _url,
    "runs_url": _optional_url,
    "prefix": _prefix,
    "store_timeout": _number(0.1, "seconds"),
    "max_value_bytes": _integer(1, "bytes"),
    "max_payload_bytes": _integer(0, "bytes"),
    "redact": _words,
    "log_level": _level,
    "log_lines": _integer(0, "lines"),
    "run_retention": _retention,
    "worker_lease": _number(1, "seconds"),
    "publish_lease": _number(1, "seconds"),
    "idempotency_ttl": _number(1, "seconds"),
    "max_deliveries": _integer(1, "deliveries"),
    "claim_outage": _choice("requeue", "run"),
    "lock_wait_max": _number(1, "seconds"),
}
