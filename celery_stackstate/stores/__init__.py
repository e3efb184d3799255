"""Stores by URL: the built-in ones, and those that other distributions register."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores.base import Store

#: The entry-point group in which a distribution registers `scheme = package.module:StoreClass`.
ENTRY_POINT_GROUP = "celery_stackstate.stores"

BUILTIN = {
    "memory": "celery_stackstate.stores.memory:MemoryStore",
    "sqlite": "celery_stackstate.stores.sqlite:SQLiteStore",
    "django": "celery_stackstate.stores.django.store:DjangoStore",
    "redis": "celery_stackstate.stores.redis:RedisStore",
    "rediss": "celery_stackstate.stores.redis:RedisStore",
    "valkey": "celery_stackstate.stores.redis:RedisStore",
    "valkeys": "celery_stackstate.stores.redis:RedisStore",
    "sentinel": "celery_stackstate.stores.redis:RedisStore",
    "redis+cluster": "celery_stackstate.stores.redis:RedisStore",
    "rediss+cluster": "celery_stackstate.stores.redis:RedisStore",
    "postgresql": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "postgres": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "postgresql+psycopg": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "mysql": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "mysql+pymysql": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "mariadb": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
    "mariadb+pymysql": "celery_stackstate.stores.sqlalchemy:SQLAlchemyStore",
}


def open_store(url: str, *, prefix: str = "", timeout: float = 5.0) -> Store:
    """Make the store that `url` names, without connecting.

    Args:
        url: For example `sqlite:////var/lib/shop/stackstate.sqlite3` or `redis://localhost:6379/2`.
        prefix: Name of the environment; stores with different prefixes share nothing.
        timeout: Longest time in seconds that one call may take.

    Raises:
        ConfigurationError: Unknown scheme, malformed URL, or a driver that is not installed (names the extra).
    """
    return _store_class(url).from_url(url, prefix=prefix, timeout=timeout)


def _store_class(url: str) -> type[Store]:
    scheme = url.partition(":")[0] if isinstance(url, str) else ""
    if scheme in BUILTIN:
        module, _, name = BUILTIN[scheme].partition(":")
        found: type[Store] = getattr(import_module(module), name)
        return found
    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        if entry_point.name == scheme:
            loaded: type[Store] = entry_point.load()
            return loaded
    raise ConfigurationError(
        f"stackstate_url: no store serves the scheme {scheme!r}; known schemes are {', '.join(sorted(BUILTIN))}. "
        f"A store of your own registers in the entry-point group {ENTRY_POINT_GROUP!r}."
    )
