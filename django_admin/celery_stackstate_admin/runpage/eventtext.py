"""A run's events in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext

from celery_stackstate.records import Event
from celery_stackstate_admin.present import line, number, preview

#: What bars of the timeline show already, or marks the edges of them.
DRAWN = frozenset(
    {
        *("queued", "received", "started", "retry", "success", "failure", "revoked", "ignored", "rejected"),
        *("lost", "interrupted"),
    }
)
# Shown elsewhere on the page, whole.
_ELSEWHERE = frozenset(
    {
        *("args", "kwargs", "result", "traceback", "payload_truncated", "result_truncated", "touched"),
        *("host", "pid", "program", "priority", "chain", "chord", "group_index", "rerun_of", "omitted_lines"),
    }
)
# What the library's own events carry for its own arithmetic.
_ARITHMETIC = frozenset({"epoch", "boot", "queued_at", "wait", "eta", "expires", "cpu", "peak_memory"})


def label(event: Event) -> str:
    """Return a few words for an event: its name, and for progress how far."""
    if event.name == "progress":
        done, total = event.data.get("done"), event.data.get("total")
        if isinstance(done, (int, float)):
            return number(done) + (f"/{number(total)}" if isinstance(total, (int, float)) else "")
    if event.name == "state" and isinstance(event.data.get("state"), str):
        return line(event.data["state"], 32)
    return line(event.name, 32)


def title(event: Event, offset: str) -> str:
    """Return an event as one line: what, when since the beginning, and its details."""
    return line(gettext("%(event)s at +%(offset)s") % {"event": label(event), "offset": offset}) + _dashed(event)


def _dashed(event: Event) -> str:
    shown = details(event)
    return f" – {line(shown, 200)}" if shown else ""  # noqa: RUF001 - an en dash


def details(event: Event) -> str:
    """Return the data of an event as one line, without what the page shows elsewhere."""
    hidden = _ELSEWHERE | _ARITHMETIC if event.name in DRAWN else frozenset()
    return ", ".join(
        f"{line(name, 40)}: {_plain(value)}" for name, value in _data(event.data).items() if name not in hidden
    )


def _data(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {"data": data}


def _plain(value: Any) -> str:
    return line(value, 120) if isinstance(value, str) else preview(value, 120)
