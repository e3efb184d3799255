"""Where the pages read from, and how its times become Django's and back."""

from __future__ import annotations

from datetime import datetime
from datetime import timezone as dt_timezone
from typing import Any

from django.conf import settings
from django.utils import timezone

from celery_stackstate import StackState
from celery_stackstate.keys import PRIVATE, pack
from celery_stackstate.stores.base import Expect

DAY = 86_400 * 1_000_000


def extension() -> Any:
    """Return the extension whose store is shown; ConfigurationError says why when there is none."""
    return StackState.current()


def first_time(token: str) -> bool:
    """Return whether a form with this one-time token was never sent before, as far as the store remembers: a day."""
    store = extension().store
    key = pack(PRIVATE, "form", token)
    return bool(store.apart(lambda: store.put(key, b"", expect=Expect.ABSENT, ttl=DAY)).applied)


def now() -> datetime:
    """Return the time, aware whatever USE_TZ says, as records have theirs."""
    return datetime.now(dt_timezone.utc)


def to_django(moment: datetime | None) -> datetime | None:
    """Return a record's aware time as the project's models have it: naive when USE_TZ is off."""
    if moment is None or settings.USE_TZ:
        return moment
    return timezone.make_naive(moment, timezone.get_default_timezone())


def from_django(moment: datetime) -> datetime:
    """Return a time of the project's models as an aware one."""
    return timezone.make_aware(moment, timezone.get_default_timezone()) if timezone.is_naive(moment) else moment
