"""Talking to the broker from a page: it answers within a few seconds, or the page says that it does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError

from celery_stackstate_admin.operations import Interrupted
from celery_stackstate_admin.present import line

PATIENCE = 3.0  # seconds
WORKERS_ANSWER = 2.0
# What the transports call their bounds; each takes those that it knows.
BOUNDS: dict[str, Any] = {
    "max_retries": 1,
    "interval_start": 0,
    "interval_step": 0.1,
    "interval_max": 0.1,
    "connect_retries_timeout": PATIENCE,
    "socket_timeout": PATIENCE,
    "socket_connect_timeout": PATIENCE,
    "read_timeout": PATIENCE,
    "write_timeout": PATIENCE,
}


@contextmanager
def connection(app: Any) -> Iterator[Any]:
    """Yield a connection of its own to the app's broker that is known to work.

    Raises:
        Interrupted: The broker does not answer; also from inside of the block.
    """
    found = app.connection_for_write(connect_timeout=PATIENCE, transport_options=BOUNDS)
    failures = (OperationalError, OSError, *found.connection_errors, *found.channel_errors)
    try:
        found.ensure_connection(max_retries=1, timeout=PATIENCE, **_at_once())
        yield found
    except failures as error:
        told = _("The broker does not answer: %(error)s") % {"error": line(error, 200)}
        raise Interrupted(told) from error
    finally:
        found.release()


def revoke(app: Any, run_ids: Sequence[str], *, terminate: bool, workers: int) -> dict[str, Any]:
    """Tell all workers to revoke runs; return what each of those said that answered within two seconds.

    Args:
        app: The Celery app.
        run_ids: The runs.
        terminate: Whether to end the processes in which they run.
        workers: How many answers are waited for, if that many come; 0 for as many as come.

    Raises:
        Interrupted: The broker does not answer.
    """
    with connection(app) as found:
        replies = app.control.revoke(
            list(run_ids),
            terminate=terminate,
            signal="SIGTERM",
            connection=found,
            reply=True,
            timeout=WORKERS_ANSWER,
            limit=workers or None,
        )
    return {name: answer for reply in replies or () for name, answer in reply.items()}


def _at_once() -> dict[str, Any]:
    return {name: BOUNDS[name] for name in ("interval_start", "interval_step", "interval_max")}
