"""A broker that takes every message and gives it to nobody, for tests without a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from celery.app import backends
from kombu.connection import Connection
from kombu.transport import memory

TRANSPORT = f"{__name__}:Transport"
RESULTS = "cache+memory://"


class Channel(memory.Channel):
    """A channel whose messages go nowhere."""

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        """Take a message: it was serialized and routed as any other."""

    def _put_fanout(self, exchange: str, message: Any, routing_key: Any = None, **kwargs: Any) -> None:
        """Take a broadcast; no worker answers it."""


class Transport(memory.Transport):
    """A transport whose messages go nowhere."""

    Channel = Channel


@contextmanager
def offline(app: Celery[Any]) -> Iterator[None]:
    """Let `app` reach neither its broker nor its result backend inside of the block.

    Messages are made, and then dropped; results are kept in memory, where the app keeps results at all.
    """
    aside = {name: getattr(app, name) for name in ("_pool", "_local", "_backend_cache")}
    results: dict[Any, Any] = {}
    producers, make_backend = app.amqp._producer_pool, app._get_backend

    def connection(*_: Any, **__: Any) -> Connection:
        return Connection(transport=TRANSPORT)

    def backend() -> Any:
        configured = app.backend_cls or app.conf.result_backend
        if not configured or str(configured).startswith("disabled"):
            return make_backend()
        kind, url = backends.by_url(RESULTS, app.loader)
        made: Any = kind(app=app, url=url)
        made.client.cache = results  # Celery's own is that of the process
        return made

    app._pool = app._backend_cache = app.amqp._producer_pool = None
    app._local = threading.local()
    app.__dict__.update(connection_for_write=connection, connection_for_read=connection, _get_backend=backend)
    try:
        yield
    finally:
        for name in ("connection_for_write", "connection_for_read", "_get_backend"):
            del app.__dict__[name]
        for name, value in aside.items():
            setattr(app, name, value)
        app.amqp._producer_pool = producers
