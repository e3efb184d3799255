"""What a store is given of entries, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1


class Expect(Enum):
    """What must be true of a key for a write to be applied, when it is not a version."""

    ANY = "any"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """One live key as the store holds it. Times are microseconds since 1970 of the store's clock.

    `now` is that clock at the moment of the answer, so that a rule can compare times without a clock of its own.
    """

    key: bytes
    value: bytes | int
    version: int
    expires: int | None
    updated: int
    now: int


@dataclass(frozen=True, slots=True)
class PutResult:
    """The outcome of `put`: the entry as stored when it was applied, else the one that stood in its way (or None).

    `appended` says whether the writes of `put_and_append` were appended with it.
    """

    applied: bool
    entry: StoredEntry | None
    appended: bool = False


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition of a write to one key: that another `key` is live and has exactly this `version`."""

    key: bytes
    version: int


class GuardFailed(Exception):
    """The guard of a write did not hold; nothing changed."""


@dataclass(frozen=True, slots=True)
class Put:
    """One of several writes: as those arguments of `put`."""

    key: bytes
    value: bytes | int
    expect: Expect | int = Expect.ANY


def check_key(key: bytes) -> None:
    """Raise ValueError unless `key` is bytes of a length that every store takes."""
    if not isinstance(key, bytes) or not 1 <= len(key) <= 2048:
        raise ValueError(f"a store key is 1 to 2048 bytes, not {key!r:.80}")


def check_value(value: Any) -> None:
    """Raise TypeError or OverflowError unless `value` is bytes or an int64."""
    if isinstance(value, bool) or not isinstance(value, (bytes, int)):
        raise TypeError(f"a store value is bytes or an integer, not {type(value).__name__}")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise OverflowError(f"{value} is outside the range of int64")


def check_expiry(ttl: int | None, expires: int | None) -> None:
    """Raise ValueError when both are given, or one is not positive."""
    if ttl is not None and expires is not None:
        raise ValueError("give ttl or expires, not both")
    for name, number in (("ttl", ttl), ("expires", expires)):
        if number is not None and number <= 0:
            raise ValueError(f"{name} must be positive, not {number}")
