"""How the commands print values, times and text: for people, and as JSON for programs."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.text import Text

from celery_stackstate import codec
from celery_stackstate.browse import Unreadable
from celery_stackstate.visible import inert, one_line, visible

#: How wide a pipe is; lines that may be longer go there as they are.
ENDLESS = 100_000
NOTHING = "-"
STYLES = {
    **{"SUCCESS": "green", "FAILURE": "red", "LOST": "bold red", "REJECTED": "red", "STARTED": "cyan"},
    **{"RECEIVED": "blue", "QUEUED": "blue", "RETRY": "yellow", "REVOKED": "magenta", "IGNORED": "dim"},
}
_BREAKS = re.compile(r"[\r\n\t]+")
#: Unseen characters that JSON writes as two.
_HIGH_UNSEEN = re.compile("[\U000e0000-\U000e007f]")
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def console(*, error: bool = False) -> Console:
    """Return where to print; made anew for each command, since a test or a shell may have changed the streams."""
    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else ENDLESS
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def print_text(out: Console, text: Text) -> None:
    """Print foreign text, broken between words where the terminal ends, and never in a pipe."""
    text.rstrip()
    out.print(text, soft_wrap=not out.is_terminal)


def print_json(records: Iterable[Any]) -> None:
    """Print each record as one JSON object on a line."""
    for record in records:
        print(json.dumps(plain(record), ensure_ascii=True))


def plain(value: Any) -> Any:
    """Return a record of the library, or a value of the state, as JSON has it: times in ISO 8601, bytes in base64."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, (datetime, date, time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return str(value) if isinstance(value, (Decimal, UUID)) else value


def cell(value: Any, most: int | None = None) -> str:
    """Return foreign text, or nothing, as one harmless line, of at most `most` characters."""
    if value is None or value == "":
        return NOTHING
    text = str(value)
    return inert(_BREAKS.sub(" ", text).rstrip()) if most is None else one_line(text, most)


def status(name: str) -> Text:
    """Return a status in its colour."""
    return Text(visible(name), style=STYLES.get(name, ""))


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


def clock(moment: datetime | None, *, seconds: bool = False) -> str:
    """Return a time in the zone of this machine in as few words as `--since` reads.

    Of today the hour, of another day of this year the day as well, of another year the day alone. With `seconds` no
    part of it is left out.
    """
    if moment is None:
        return NOTHING
    local, today = moment.astimezone(), now().astimezone()
    if local.date() == today.date():
        return local.strftime("%H:%M:%S")
    if local.year == today.year:
        return local.strftime("%m-%d %H:%M:%S" if seconds else "%m-%d %H:%M")
    return local.strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d")


def whole_clock(moment: datetime | None) -> str:
    """Return a time in the zone of this machine in full, with that zone."""
    return NOTHING if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def left(moment: datetime | None, *, now: datetime | None = None) -> str:
    """Return how long it is until `moment`."""
    if moment is None:
        return "never"
    seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else "over"


def now() -> datetime:
    """Return the present."""
    return datetime.now(timezone.utc)


def value_line(value: Any) -> str:
    """Return a value as JSON on one line, as people read it."""
    return json.dumps(plain(value), ensure_ascii=False)


def tagged(value: Any) -> Any:
    """Return a value of the state as JSON that `state set` takes back: what JSON lacks has a tag with its type."""
    if isinstance(value, Unreadable):
        return plain(value)
    encoded = codec.encode(value)
    return encoded if isinstance(encoded, int) else json.loads(encoded)


def value_text(value: Any) -> str:
    """Return a value of the state as indented JSON that `state set` takes back; what is unseen is written out."""
    text = json.dumps(tagged(value), indent=2, ensure_ascii=False)
    return inert(_HIGH_UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text))
