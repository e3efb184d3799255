"""What a URL of the Redis family says: which servers, how to find the one in charge, and how to connect."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores import rules

Address = tuple[str, int]

DEFAULT_MAX_CONNECTIONS = 50
REDIS_PORT = 6379
SENTINEL_PORT = 26379

CLUSTER = ("redis+cluster", "rediss+cluster")
ENCRYPTED = ("rediss", "valkeys", "rediss+cluster")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_ca_path")
FORMS = {
    "sentinel": "sentinel://user:password@host:26379,host2:26379/master-name/0",
    "redis+cluster": "redis+cluster://user:password@host:7000,host2:7001",
    "rediss+cluster": "rediss+cluster://user:password@host:7000,host2:7001",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a store lies. `hosts` are the server itself, or the Sentinels, or some nodes of a cluster."""

    hosts: tuple[Address, ...]
    connection_class: Any
    options: dict[str, Any]
    max_connections: int
    cluster: bool = False
    master: str | None = None
    sentinel_options: dict[str, Any] | None = None


def parse(redis: Any, url: str, timeout: float) -> Target:
    """Read a URL of any scheme that `RedisStore` serves.

    Raises:
        ConfigurationError: It is malformed, or one of its options is wrong or names a file that is not there.
    """
    scheme = url.partition(":")[0]
    try:
        return _target(redis, url, scheme, timeout)
    except (ValueError, TypeError, redis.RedisError) as error:
        if isinstance(error, ConfigurationError):
            raise
        form = FORMS.get(scheme, f"{scheme}://user:password@host:6379/0")
        raise ConfigurationError(
            f"stackstate_url: not a {scheme}:// URL, or one of its options is wrong ({error}); write {form}"
        ) from None  # what the standard library says of an URL may quote its password


def _target(redis: Any, url: str, scheme: str, timeout: float) -> Target:
    parts = _split(url)
    if "@" in parts.path or parts.fragment:
        raise ValueError(rules.ENCODED)
    user, at, names = parts.netloc.rpartition("@")
    path = [unquote(part) for part in parts.path.split("/") if part]
    query = dict(parse_qsl(parts.query))
    encrypted = scheme in ENCRYPTED
    master, sentinel = None, {}
    if scheme == "sentinel":
        if not path:
            raise ValueError("the name of the master is missing")
        master, *path = path
        encrypted = _is_true(query.pop("ssl", "false"))
        sentinel = {
            name: query.pop(f"sentinel_{name}") for name in ("username", "password") if f"sentinel_{name}" in query
        }
    elif scheme not in CLUSTER and "," in names:
        raise ValueError("one host is meant; several are for sentinel:// and redis+cluster://")
    hosts = _hosts(names, SENTINEL_PORT if master else REDIS_PORT)
    # redis-py reads users and options; it gets a URL of the plain form, with a host that is not used.
    plain = f"{'rediss' if encrypted else 'redis'}://{user}{at}localhost/{'/'.join(path)}?{urlencode(query)}"
    connection_class, options, size = _connection(redis, plain, timeout)
    if scheme in CLUSTER and options.get("db"):
        raise ConfigurationError("stackstate_url: a cluster has database 0 only; separate by stackstate_prefix instead")
    if len(path) > 1 or (path and not path[0].isdigit()):
        raise ValueError(f"behind the slash stands the number of a database; {rules.ENCODED}")
    others = {**options, "username": None, "password": None, "db": 0, **sentinel} if master else None
    return Target(hosts, connection_class, options, size, scheme in CLUSTER, master, others)


def _hosts(names: str, port: int) -> tuple[Address, ...]:
    """Return host and port of each `host`, `host:port` or `[::1]:port`; of nothing at all, the local one."""
    parts = [_split(f"//{name}") for name in names.split(",")]
    if len(parts) > 1 and not all(part.hostname for part in parts):
        raise ValueError("a host is missing between the commas")
    return tuple((unquote(part.hostname or "localhost"), _port_of(part) or port) for part in parts)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise ValueError(f"its host cannot be read; {rules.ENCODED}") from None


def _port_of(part: SplitResult) -> int | None:
    try:
        return part.port
    except ValueError:
        raise ValueError(f"a port is a number from 0 to 65535; {rules.ENCODED}") from None


def _is_true(word: str) -> bool:
    if word.lower() not in ("1", "true", "yes", "0", "false", "no"):
        raise ValueError(f"ssl is true or false, not {word!r}")
    return word.lower() in ("1", "true", "yes")


def _connection(redis: Any, url: str, timeout: float) -> tuple[Any, dict[str, Any], int]:
    """Read options with redis-py, and overrule what would break the store's promises."""
    options: dict[str, Any] = redis.connection.parse_url(url)
    size = int(options.pop("max_connections", DEFAULT_MAX_CONNECTIONS))
    if size < 1:
        raise ValueError(f"max_connections must be at least 1, not {size}")
    connection_class = options.pop("connection_class", redis.Connection)
    for name in ("host", "port", "path"):
        options.pop(name, None)
    options.update(_own_options(timeout))
    if connection_class is not redis.Connection and options.get("ssl_cert_reqs", "required") != "none":
        # Older redis-py does not compare the name by itself.
        options.setdefault("ssl_check_hostname", True)
    for name in FILES:
        if name in options and not Path(options[name]).exists():
            raise ValueError(f"{name} names {options[name]}, which does not exist")
    connection_class(**options)
    return connection_class, options, size


def _own_options(timeout: float) -> dict[str, Any]:
    retry = import_module("redis.retry").Retry
    no_backoff = import_module("redis.backoff").NoBackoff
    return {
        "socket_connect_timeout": timeout / 2,
        "socket_timeout": timeout / 2,
        "retry": retry(no_backoff(), 0),
        "retry_on_timeout": False,
        "retry_on_error": [],
        "health_check_interval": 0,
        "decode_responses": False,
        "encoding": "utf-8",
        "encoding_errors": "strict",
        "protocol": 2,
    }
