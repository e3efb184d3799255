"""What may be asked of the run history: checked before a store sees it, so that each store gives the same answer."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.records import STATUSES, to_micros
from celery_stackstate.stores.base import RunRow

MOST = 2**31 - 1
#: What `Runs.names` lists the values of.
COLUMNS = ("task", "worker", "queue", "host")


def checked_text(name: str, value: Any) -> str | None:
    """Return what a run is to have, None for anything.

    Raises:
        ConfigurationError: It is no text, or one that no store can hold.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a text or None, not {value!r:.80}")
    if not is_storable(value):
        raise ConfigurationError(f"{name} must be a text without NUL and half characters, not {value!r:.80}")
    return value


def may_be_known(run_id: Any) -> bool:
    """Return whether there can be a run of this id; there is none of one that no store can hold.

    Raises:
        ConfigurationError: It is no text.
    """
    if not isinstance(run_id, str):
        raise ConfigurationError(f"the id of a run must be a text, not {run_id!r:.80}")
    return is_storable(run_id)


def is_storable(text: str) -> bool:
    """Return whether every store can hold a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def checked_moment(name: str, value: Any) -> int | None:
    """Return a moment in microseconds, None for none.

    Raises:
        ConfigurationError: It is no datetime with a time zone.
    """
    if value is None:
        return None
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise ConfigurationError(
            f"{name} must be a datetime with a time zone, such as datetime.now(timezone.utc), not {value!r:.80}"
        )
    return to_micros(value)


def checked_limit(value: Any, name: str = "limit") -> int:
    """Return how much is asked for at most.

    Raises:
        ConfigurationError: It is no whole number from 1 on.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise ConfigurationError(f"{name} must be a whole number from 1 to {MOST:,}, not {value!r:.80}")
    return value


def checked_column(column: Any) -> str:
    """Return a trait of which the values are listed.

    Raises:
        ConfigurationError: It is none.
    """
    if column not in COLUMNS:
        raise ConfigurationError(f"column must be one of {', '.join(COLUMNS)}, not {column!r:.80}")
    return str(column)


def checked_statuses(status: Any) -> tuple[str, ...]:
    """Return the statuses that a run may have, none for any.

    Raises:
        ConfigurationError: One is not a status.
    """
    if status is None:
        return ()
    if not isinstance(status, Iterable):
        raise ConfigurationError(f"status must be one of {', '.join(STATUSES)}, or several, not {status!r:.80}")
    statuses = (status,) if isinstance(status, str) else tuple(status)
    for name in statuses:
        if name not in STATUSES:
            raise ConfigurationError(f"{name!r} is not a status; there are {', '.join(STATUSES)}")
    return statuses


def cursor_behind(row: RunRow) -> str:
    """Return what a page that ends with this row is gone on with."""
    return urlsafe_b64encode(json.dumps([row.facts.created or 0, row.run_id]).encode()).decode()


def checked_cursor(cursor: Any) -> tuple[int, str] | None:
    """Return where a page begins, None for the first.

    Raises:
        ConfigurationError: It is not the `next` of a page.
    """
    if cursor is None:
        return None
    try:
        created, run_id = json.loads(urlsafe_b64decode(cursor.encode()))
        known = isinstance(created, int) and isinstance(run_id, str) and is_storable(run_id)
    except (AttributeError, TypeError, ValueError):
        known = False
    if not known or not 0 <= created < 2**63:
        raise ConfigurationError(f"after={cursor!r:.80} is not the `next` of a page of runs")
    return created, run_id
