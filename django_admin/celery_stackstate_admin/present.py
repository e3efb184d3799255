"""How values look on the pages. All of it may come from a task: it is made harmless to read, and escaped."""

from __future__ import annotations

import json
import re
from datetime import date, datetime, time
from typing import Any

from django.utils import dateformat, timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from celery_stackstate.records import STATUSES

NOTHING = "–"  # noqa: RUF001 - an en dash
LONGEST_TEXT = 200_000

# Controls (but tab and newline), and marks that turn the direction of what follows.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def visible(text: Any) -> str:
    """Return `text` with characters that hide or reorder others written as `\\u202e`, and bounded in length."""
    plain = str(text)
    if len(plain) > LONGEST_TEXT:
        plain = f"{plain[:LONGEST_TEXT]}… ({len(plain):,} characters)"
    return _UNSEEN.sub(lambda found: f"\\u{ord(found.group()):04x}", plain)


def line(text: Any, most: int = 160) -> str:
    """Return `text` as one visible line of at most `most` characters."""
    flat = " ".join(str(text)[: most * 4].split())
    return visible(flat if len(flat) <= most else flat[: most - 1].rstrip() + "…")


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
    return f"(a {type(value).__name__} that is not JSON, or nested too deeply)"


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, (date, time)) else repr(value)


def number(value: float) -> str:
    """Return a number with thousands apart and no needless decimals."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    """Return a time span in at most two units: 240 ms, 12.1 s, 2 min 5 s, 3 d 4 h."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        count, whole = divmod(whole, size)
        if count or parts:
            parts.append(f"{count} {unit}" if count else "")
    return " ".join(part for part in parts[:2] if part)


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
    local, today = (timezone.localtime(one) if timezone.is_aware(one) else one for one in (at, now))
    if local.date() == today.date():
        text = dateformat.format(local, "H:i:s")
    else:
        text = dateformat.format(local, "j M H:i" if local.year == today.year else "j M Y")
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), local.isoformat(" "), text)


def breakable(name: str) -> SafeString:
    """Return a dotted name that may be broken behind its dots and underscores."""
    return format_html_join(SafeString("<wbr>"), "{}", ((part,) for part in re.split(r"(?<=[._])", name)))


def badge(status: str) -> SafeString:
    """Return a status as a pill; its colour only repeats what its text says."""
    return format_html('<span class="ss-badge ss-{}">{}</span>', tone(status), line(status, 20))


def tone(status: str) -> str:
    """Return the CSS name of a status, "other" for an unknown one."""
    return status.lower() if status in STATUSES else "other"


def until(moment: datetime | None, now: datetime) -> str | SafeString:
    """Return how long it is until `moment`, which is in the title. Both are aware."""
    if moment is None:
        return "never"
    left = (moment - now).total_seconds()
    text = f"in {duration(left)}" if left > 0 else "expired"
    local = timezone.localtime(moment)
    return format_html('<time datetime="{}" title="{}">{}</time>', local.isoformat(), local.isoformat(" "), text)
