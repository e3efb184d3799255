"""Values to bytes and back, strictly: what would not come back equal and of the same type is refused, with its path.

JSON, with a tag for the types JSON lacks. An integer within int64 is stored as itself, so that a value that is a plain
number is a counter too. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from celery_stackstate.errors import NotSerializable, ValueTooLarge
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN

TAG = "$type"

_TO_TEXT: dict[type, tuple[str, Callable[[Any], str]]] = {
    datetime: ("datetime", datetime.isoformat),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
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
            bytes, nested as deep as you like.
        limit: Most bytes the encoded value may have.

    Raises:
        NotSerializable: Some part would not come back equal and of the same type; names its path.
        ValueTooLarge: The encoded value is larger than `limit`.
    """
    if type(value) is int and INT64_MIN <= value <= INT64_MAX:
        return value
    try:
        text = json.dumps(_plain(value, "value"), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        data = text.encode()
    except RecursionError:
        raise NotSerializable("the value is nested too deeply or contains itself") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise NotSerializable(f"the value cannot be written as JSON: {error}") from None
    if limit is not None and len(data) > limit:
        raise ValueTooLarge(
            f"the value takes {len(data):,} bytes, more than stackstate_max_value_bytes ({limit:,}); store the bulk "
            f"elsewhere and keep its address here",
            size=len(data),
            limit=limit,
        )
    return data


def decode(stored: bytes | int) -> Any:
    """Return the value that `encode` was given."""
    if isinstance(stored, int):
        return stored
    return json.loads(stored, object_hook=_untag)


def _plain(value: Any, path: str) -> Any:
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value
    if kind is str:
        return _clean_text(value, path)
    if kind is float:
        if not math.isfinite(value):
            raise NotSerializable(f"{path} is {value!r}, which JSON cannot hold", path=path)
        return value
    if kind is list:
        return [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]
    if kind is tuple:
        return {TAG: "tuple", "is": [_plain(item, f"{path}[{index}]") for index, item in enumerate(value)]}
    if kind is dict:
        return _plain_dict(value, path)
    return _tagged(value, path)


def _clean_text(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise NotSerializable(f"{path} contains a lone surrogate, which is not text", path=path) from None
    return text


def _plain_dict(value: dict[Any, Any], path: str) -> dict[str, Any]:
    plain = {}
    for key, item in value.items():
        if type(key) is not str:
            raise NotSerializable(
                f"{path} has the key {key!r:.80}: keys must be str, since JSON would turn it into one", path=path
            )
        plain[_clean_text(key, f"{path} (a key)")] = _plain(item, f"{path}[{key!r:.80}]")
    if TAG in plain:
        return {TAG: "dict", "is": [[key, item] for key, item in plain.items()]}
    return plain


def _tagged(value: Any, path: str) -> dict[str, str]:
    try:
        name, to_text = _TO_TEXT[type(value)]
    except KeyError:
        raise NotSerializable(
            f"{path} is a {type(value).__qualname__}, which would not come back as one; store a plain value made of "
            f"None, bool, int, float, str, list, tuple, dict, datetime, date, time, Decimal, UUID or bytes",
            path=path,
        ) from None
    if value != value:  # noqa: PLR0124 - Decimal("NaN") is the value meant here
        raise NotSerializable(f"{path} is {value!r}, which is not equal to itself", path=path)
    return {TAG: name, "is": to_text(value)}


def _untag(found: dict[str, Any]) -> Any:
    name = found.get(TAG)
    return found if name is None else _FROM_TEXT[name](found["is"])
