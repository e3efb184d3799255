"""How values look on the pages. All of it may come from a task: it is made harmless to read, and escaped."""

from __future__ import annotations

import json
import math
import re
from datetime import date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Any

from django.utils import dateformat, formats, timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext, pgettext_lazy

from celery_stackstate.records import STARTED, STATUSES, Run
from celery_stackstate.visible import one_line
from celery_stackstate.visible import visible as bounded

NOTHING = "–"  # noqa: RUF001 - an en dash
# Whole texts: some languages put the unit first.
_AMOUNTS = {
    "ms": pgettext_lazy("milliseconds", "%(number)s ms"),
    "s": pgettext_lazy("seconds", "%(number)s s"),
    "min": pgettext_lazy("minutes", "%(number)s min"),
    "h": pgettext_lazy("hours", "%(number)s h"),
    "d": pgettext_lazy("days", "%(number)s d"),
}


def visible(text: Any) -> str:
    """Return `text` with characters that hide or reorder others written as `\\u202e`, and bounded in length."""
    return bounded(text, gettext("({number:,} characters)"))


def line(text: Any, most: int = 160) -> str:
    """Return `text` as one visible line of at most `most` characters."""
    return one_line(text, most)


def pretty(value: Any) -> str:
    """Return `value` as indented JSON."""
    try:
        return visible(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))
    except (TypeError, ValueError, RecursionError):
        return _unshowable(value)


def preview(value: Any, most: int = 80) -> str:
    """Return the beginning of `value` as JSON on one line."""
    try:
        return line(json.dumps(value, ensure_ascii=False, default=_plain), most)
    except (TypeError, ValueError, RecursionError):
        return _unshowable(value)


def _unshowable(value: Any) -> str:
    return gettext("(a %(type)s that is not JSON, or nested too deeply)") % {"type": type(value).__name__}


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, (date, time)) else repr(value)


def number(value: float, places: int | None = None) -> str:
    """Return a number as the viewer's language writes it: thousands apart, by default without needless decimals."""
    if not isinstance(value, int) and not math.isfinite(value):
        return str(value)
    if places is None:
        places = 0 if value == int(value) else 2
    return formats.number_format(format(Decimal(value), f".{places}f"), places, force_grouping=True)


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units: 240 ms, 12.1 s, 2 min 5 s, 3 d 4 h."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return amount(number(max(0, seconds) * 1000, 0), "ms")
    if seconds < 59.95:
        return amount(number(seconds, 1), "s")
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(amount(str(count), unit) if count else "")
    return " ".join(part for part in parts[:2] if part)


def so_far(length: str) -> str:
    """Return the length, so far, of what goes on."""
    return gettext("%(duration)s so far") % {"duration": length}


def ran(run: Run, now: datetime) -> str:
    """Return how long the last attempt of a run took, or has taken by `now`."""
    if run.status == STARTED and run.started_at is not None:
        return so_far(duration((now - run.started_at).total_seconds()))
    return duration(run.runtime)


def amount(number: str, unit: str) -> str:
    """Return a number with a unit of time as the viewer's language writes them."""
    return str(_AMOUNTS[unit]) % {"number": number}


def clock(moment: datetime | None, *, precise: bool = False) -> str | SafeString:
    """Return a <time> in the viewer's time zone, with the year only when it is another one."""
    if moment is None:
        return NOTHING
    local = timezone.localtime(moment) if timezone.is_aware(moment) else moment
    year = "" if local.year == datetime.now(local.tzinfo).year else " Y"
    text = dateformat.format(local, f"j M{year} H:i:s") + (f".{local.microsecond // 1000:03d}" if precise else "")
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), local.isoformat(" "), text)


def moment(at: datetime | None, now: datetime) -> str | SafeString:
    """Return a short <time> for a list: the hour for today, else the day and the hour."""
    if at is None:
        return NOTHING
    local = _local(at)
    text = short_time(local, now)
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), local.isoformat(" "), text)


def _local(at: datetime) -> datetime:
    return timezone.localtime(at) if timezone.is_aware(at) else at


def short_time(at: datetime, now: datetime) -> str:
    """Return a time as briefly as it can be told at `now`: the hour for today, else the day and the hour."""
    local, today = _local(at), _local(now)
    if local.date() == today.date():
        return dateformat.format(local, "H:i:s")
    return dateformat.format(local, "j M H:i" if local.year == today.year else "j M Y")


@lru_cache(maxsize=1024, typed=True)  # a text that is marked as safe is another than the same text
def breakable(name: str) -> SafeString:
    """Return a dotted name that may be broken behind its dots and underscores."""
    return format_html_join(SafeString("<wbr>"), "{}", ((part,) for part in re.split(r"(?<=[._])", name)))


@lru_cache(maxsize=1024, typed=True)
def worker(name: str) -> SafeString:
    """Return a worker by its host up to the first dot, with the whole name in the title."""
    front, at, host = line(name, 255).partition("@")
    short, dot, _rest = host.partition(".")
    parts = re.split(r"(?<=[@-])", line(front + at + short + ("…" if dot else ""), 60))
    shown = format_html_join(SafeString("<wbr>"), "{}", ((part,) for part in parts))
    return format_html('<span title="{}">{}</span>', line(name, 255), shown)


@lru_cache(maxsize=64, typed=True)
def badge(status: str) -> SafeString:
    """Return a status as a pill; its colour only repeats what its text says."""
    return format_html('<span class="ss-badge ss-{}">{}</span>', tone(status), line(status, 20))


def tone(status: str) -> str:
    """Return the CSS name of a status, "other" for an unknown one."""
    return status.lower() if status in STATUSES else "other"


def until(moment: datetime | None, now: datetime) -> str | SafeString:
    """Return how long it is until `moment`, which is in the title. Both are aware."""
    if moment is None:
        return gettext("never")
    left = (moment - now).total_seconds()
    text = gettext("in %(duration)s") % {"duration": duration(left)} if left > 0 else gettext("expired")
    local = timezone.localtime(moment)
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), local.isoformat(" "), text)
