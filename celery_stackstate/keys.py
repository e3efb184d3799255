"""How user keys become store keys, and the checks on keys and expiries that every noun shares.

A store key is `kind NUL scope NUL key`. Users' keys and scopes hold no control characters, so no two of them meet.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

from celery_stackstate.errors import InvalidExpiry, InvalidKey
from celery_stackstate.records import to_micros

MAX_KEY_BYTES = 1024
MAX_SCOPE_BYTES = 255
MAX_TTL = timedelta(days=36_500)

STATE = b"s"
LOCK = b"l"
IDEMPOTENCY = b"i"
EXECUTION = b"x"
OPEN = b"o"
REAPER = b"r"
PRIVATE = b"p"
WORKER = b"w"
ROLL = b"b"
PACE = b"t"
TALLY = b"c"

APP_SCOPE = ""
#: The scope of the records of runs that are to be executed once although nobody gave them a key.
ONE_RUN = "run"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_key(key: Any, what: str = "key", *, most: int = MAX_KEY_BYTES) -> str:
    """Return `key` if it may name something of at most `most` bytes, else raise InvalidKey that says why."""
    if not isinstance(key, str):
        raise InvalidKey(f"{what} must be a str, not {type(key).__name__} ({key!r:.80})")
    if not key:
        raise InvalidKey(f"{what} must not be empty")
    if _CONTROL.search(key):
        raise InvalidKey(f"{what} {key!r:.80} contains a control character")
    if key != key.strip():
        raise InvalidKey(f"{what} {key!r:.80} begins or ends with a blank")
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise InvalidKey(f"{what} {key!r:.80} contains a lone surrogate, which is not text") from None
    if size > most:
        raise InvalidKey(f"{what} {key[:40]!r}... takes {size:,} bytes in UTF-8; {most:,} is the most")
    return str.__str__(key)  # of an Enum member its value, which not every Python formats


def check_key_prefix(prefix: Any) -> str:
    """Return `prefix` if keys may start with it, else raise InvalidKey that says why. The empty one starts all."""
    if prefix == "":
        return ""
    if isinstance(prefix, str):
        check_key(prefix.strip() or "x", "prefix")  # a blank at its end is one inside of a key
        return prefix
    return check_key(prefix, "prefix")


def scope_of(sort: str, name: Any) -> str:
    """Return the scope `sort:name` ("task", "run" or "scope"), or raise InvalidKey."""
    return f"{sort}:{check_key(name, f'{sort} name', most=MAX_SCOPE_BYTES)}"


def pack(kind: bytes, scope: str, key: str = "") -> bytes:
    """Return the store key of `key` (or the common prefix, for an empty key) in `scope`."""
    return b"%s\0%s\0%s" % (kind, scope.encode(), key.encode())


def unpack(packed: bytes) -> tuple[bytes, str, str]:
    """Return the kind, scope and key that `pack` was given."""
    kind, scope, key = packed.split(b"\0", 2)
    return kind, scope.decode(), key.decode()


def ttl_micros(ttl: Any) -> int | None:
    """Return a TTL given in seconds or as a timedelta as microseconds, or raise InvalidExpiry."""
    if ttl is None:
        return None
    if isinstance(ttl, timedelta):
        ttl = ttl.total_seconds()
    if isinstance(ttl, bool) or not isinstance(ttl, (int, float)):
        raise InvalidExpiry(f"ttl must be a number of seconds or a timedelta, not {ttl!r:.80}")
    if not 0 < ttl <= MAX_TTL.total_seconds():
        raise InvalidExpiry(f"ttl must be more than 0 seconds and at most {MAX_TTL.days:,} days, not {ttl!r}")
    return max(1, round(ttl * 1_000_000))


def expiry(ttl: Any, expires_at: Any) -> dict[str, int]:
    """Return the store's `ttl` or `expires` argument for a user's `ttl` or `expires_at`, or raise InvalidExpiry."""
    if ttl is not None and expires_at is not None:
        raise InvalidExpiry("give ttl or expires_at, not both")
    if expires_at is None:
        micros = ttl_micros(ttl)
        return {} if micros is None else {"ttl": micros}
    if not isinstance(expires_at, datetime):
        raise InvalidExpiry(f"expires_at must be a datetime, not {expires_at!r:.80}")
    if expires_at.tzinfo is None or expires_at.utcoffset() is None:
        raise InvalidExpiry(
            f"expires_at {expires_at.isoformat()} has no time zone; give it one, for example timezone.utc"
        )
    return {"expires": max(1, to_micros(expires_at))}
