"""Values to bytes and back, strictly: what would not come back equal and of the same type is refused, with its path.

JSON, with a tag for the types JSON lacks. An integer within int64 is stored as itself, so that a value that is a plain
number is a counter too. Nothing is ever unpickled.

A value has no number of its format: its tags are the format. A tag that is not known here is refused when it is read.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from celery_stackstate.errors import ConfigurationError, NewerFormat, NotSerializable, ValueTooLarge
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN

TAG = "$type"

#: The field of a record, and of a message's header, with the number of its format. Without it the number is 1.
FORMAT = "format"

#: Python reads no integer of more than 4,300 digits from text, unless it is told to.
MOST_BITS = 14_284

#: A value that is nested deeper might be written in one place and too deep to be read in another.
MAX_DEPTH = 100

_TO_TEXT: dict[type, tuple[str, Callable[[Any], str]]] = {
    date: ("date", date.isoformat),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytes: ("bytes", lambda value: b64encode(value).decode("ascii")),
}
_FROM_TEXT: dict[str, Callable[[Any], Any]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": b64decode,
    "tuple": tuple,
    "dict": dict,
}


def encode(value: Any, *, limit: int | None = None) -> bytes | int:
    """Return what a store keeps for `value`.

    Args:
        value: None, bool, int, float, str, list, tuple, dict with str keys, datetime, date, time, Decimal, UUID or
            bytes, nested up to 100 deep.
        limit: Most bytes the encoded value may have.

    Raises:
        NotSerializable: Some part would not come back equal and of the same type; names its path.
        ValueTooLarge: The encoded value is larger than `limit`.
    """
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    text = json.dumps(_plain(value, "value"), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    data = text.encode()
    if limit is not None and len(data) > limit:
        raise ValueTooLarge(
            f"the value takes {len(data):,} bytes, more than stackstate_max_value_bytes ({limit:,}); store the bulk "
            f"elsewhere and keep its address here",
            size=len(data),
            limit=limit,
        )
    return data


def decode(stored: bytes | int) -> Any:
    """Return the value that `encode` was given.

    Raises:
        NewerFormat: A part of it has a type that this release does not know.
        ConfigurationError: A part of it has a time zone that this host does not know.
    """
    if isinstance(stored, int):
        return stored
    return json.loads(stored, object_hook=_untag)


def check_format(found: Mapping[str, Any], known: int, what: str) -> None:
    """Raise NewerFormat, which names `what` it is, when a record has a higher format than the highest that is known."""
    number = found.get(FORMAT, 1)
    if number > known:
        raise NewerFormat(
            f"{what} has format {number}, which a newer celery-stackstate wrote and this one does not know (up to "
            f"{known}): it is left as it is; upgrade this process",
            format=number,
            known=known,
        )


def _plain(value: Any, path: str, depth: int = 0) -> Any:
    kind = type(value)
    if depth > MAX_DEPTH:
        raise NotSerializable(f"the value is nested deeper than {MAX_DEPTH}, or contains itself", path=path[:200])
    if value is None or kind is bool:
        return value
    if kind in _CHECKED:
        return _CHECKED[kind](value, path)
    if kind is list:
        return [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if kind is tuple:
        return {TAG: "tuple", "is": [_plain(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]}
    if kind is dict:
        return _plain_dict(value, path, depth)
    return _tagged(value, path)


def _number(value: int, path: str) -> int:
    if value.bit_length() > MOST_BITS:
        raise NotSerializable(
            f"{path} is an integer of {value.bit_length():,} bits, more than Python reads from text; store bytes",
            path=path,
        )
    return value


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise NotSerializable(f"{path} is {value!r}, which JSON cannot hold", path=path)
    return value


def _clean_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotSerializable(f"{path} contains a lone surrogate, which is not text", path=path) from None
    return text


def _plain_dict(value: dict[Any, Any], path: str, depth: int) -> dict[str, Any]:
    plain = {}
    for key, item in value.items():
        if type(key) is not str:
            raise NotSerializable(
                f"{path} has the key {key!r:.80}: keys must be str, since JSON would turn it into one", path=path
            )
        plain[_clean_text(key, f"{path} (a key)")] = _plain(item, f"{path}[{key!r:.80}]", depth + 1)
    if TAG in plain:
        return {TAG: "dict", "is": [[key, item] for key, item in plain.items()]}
    return plain


def _moment(value: datetime | time, path: str) -> dict[str, Any]:
    """Tag a datetime or time. Of a zone its name is kept: an offset alone would not be equal when the clocks change."""
    name, zone = type(value).__name__, value.tzinfo
    if zone is None or type(zone) is timezone:
        return {TAG: name, "is": value.isoformat()}
    if type(zone) is ZoneInfo and zone.key and _comes_back(value, zone):
        return {TAG: name, "is": value.replace(tzinfo=None).isoformat(), "zone": zone.key, "fold": value.fold}
    raise NotSerializable(
        f"{path} has the tzinfo {zone!r:.80}, which would not come back; store .astimezone(timezone.utc), or use "
        f"zoneinfo",
        path=path,
    )


def _comes_back(value: datetime | time, zone: ZoneInfo) -> bool:
    """Return whether a moment is equal to what is made of it when it is read, with the zone that bears the name then.

    Where the clocks change, Python takes times of two objects for different though the zone is the same.
    """
    try:
        if ZoneInfo(zone.key) is zone:
            return True
    except (ZoneInfoNotFoundError, ValueError):
        return False
    return value.replace(fold=0).utcoffset() == value.replace(fold=1).utcoffset()


_CHECKED: dict[type, Callable[[Any, str], Any]] = {
    int: _number,
    float: _finite,
    str: _clean_text,
    datetime: _moment,
    time: _moment,
}


def _tagged(value: Any, path: str) -> dict[str, str]:
    try:
        name, to_text = _TO_TEXT[type(value)]
    except KeyError:
        raise NotSerializable(
            f"{path} is a {type(value).__qualname__}, which would not come back as one; {_advice(value)}", path=path
        ) from None
    if isinstance(value, Decimal) and value.is_nan():
        raise NotSerializable(f"{path} is {value!r}, which is not equal to itself", path=path)
    return {TAG: name, "is": to_text(value)}


def _advice(value: Any) -> str:
    """Return what to store instead of `value`."""
    name = type(value).__name__
    if is_dataclass(value):
        return f"store dataclasses.asdict(...) of it and read it with get(key, as_type={name})"
    if hasattr(value, "model_dump"):
        return f'store .model_dump(mode="json") of it and read it with get(key, as_type={name})'
    return (
        "store a plain value made of None, bool, int, float, str, list, tuple, dict, datetime, date, time, Decimal, "
        "UUID or bytes"
    )


def _untag(found: dict[str, Any]) -> Any:
    name = found.get(TAG)
    if name is None:
        return found
    from_text = _FROM_TEXT.get(name) if isinstance(name, str) else None
    if from_text is None:
        raise NewerFormat(f"the value has a part of the type {name!r:.80}, which this celery-stackstate does not know")
    value = from_text(found["is"])
    return value.replace(tzinfo=_zone(found["zone"]), fold=found["fold"]) if "zone" in found else value


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ConfigurationError(
            f"the value has the time zone {name!r:.80}, which this host does not know: install or upgrade tzdata"
        ) from error
