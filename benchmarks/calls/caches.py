"""Caches that projects keep such state in: Django's on Redis, and diskcache."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.calls.common import TTL, Calls, key, value
from benchmarks.servers import Servers


def of_django(servers: Servers) -> Calls:
    """Return the calls of Django's cache on Redis; it has neither locks nor paces, so projects write them with add."""
    from django.conf import settings

    backend = "django.core.cache.backends.redis.RedisCache"
    settings.configure(CACHES={"default": {"BACKEND": backend, "LOCATION": servers.redis_url(2)}})
    from django.core.cache import cache

    cache.set("benchmarks:counter", 0)

    def lock(n: int) -> None:
        cache.add("benchmarks:lock", n, TTL)
        cache.delete("benchmarks:lock")

    return {
        "set": lambda n: cache.set(key(n), value(n), None),
        "get": lambda n: cache.get(key(n)),
        "increment": lambda n: cache.incr("benchmarks:counter"),
        "add": lambda n: cache.add(f"benchmarks:added:{n}", value(n), TTL),
        "lock + unlock": lock,
    }


def of_diskcache(servers: Servers) -> Calls:
    """Return the calls of diskcache."""
    diskcache: Any = import_module("diskcache")
    cache = diskcache.Cache(f"{servers.folder}/diskcache")

    def lock(_: int) -> None:
        with diskcache.Lock(cache, "benchmarks:lock", expire=TTL):
            pass

    return {
        "set": lambda n: cache.set(key(n), value(n)),
        "get": lambda n: cache.get(key(n)),
        "increment": lambda n: cache.incr("benchmarks:counter"),
        "add": lambda n: cache.add(f"benchmarks:added:{n}", value(n), expire=TTL),
        "lock + unlock": lock,
    }
