"""What lies below a place of the state, as folders: read by leaping over what a folder holds, never by a scan of it."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.records import Page
from celery_stackstate.stores.base import Store

#: Where keys are parted.
SEPARATORS = ":/"
#: Entries above this number in a folder are not counted.
MOST_COUNTED = 50
STEP = 100
MOST_STEPS = 20

_BEHIND = b"\xff"  # greater than every byte of UTF-8
_PART = re.compile(rb"[^:/\x00]*[:/]")
_SCOPE = re.compile(rb"[^\x00]*\x00")


@dataclass(frozen=True, slots=True)
class Folder:
    """A beginning that keys have in common: `name` is the scope where scopes are listed, else the beginning of the key.

    `count` is how many entries begin so, None when they are more than `MOST_COUNTED`.
    """

    name: str
    count: int | None


@dataclass(slots=True)
class Found:
    """What one walk found: the counts in order, and the place where it ended, None when it saw everything."""

    counts: dict[bytes, int] = field(default_factory=dict)
    end: bytes | None = None


def folders(store: Store, kinds: Sequence[bytes], within: bytes, *, after: str | None, limit: int) -> Page[Folder]:
    """Return one page of the folders whose keys, behind their kind, begin with `within`.

    Without a NUL in `within` the folders are scopes, else the next parts of keys.
    """
    start, cut = _from_cursor(after), key_part if b"\0" in within else scope_part
    walks = [walk(store, kind + b"\0" + within, cut, after=start, limit=limit) for kind in kinds]
    # Behind the place where the first walk ended, the others may have folders that this one did not reach.
    end = min((found.end for found in walks if found.end is not None), default=None)
    counts: dict[bytes, int] = {}
    for found in walks:
        for name, number in found.counts.items():
            if end is None or name <= end:
                counts[name] = counts.get(name, 0) + number
    names = sorted(counts)
    if len(names) > limit:
        names = names[:limit]
        end = names[-1] + _BEHIND
    page = tuple(Folder(_text(within, name), _counted(counts[name])) for name in names)
    return Page(page, None if end is None else urlsafe_b64encode(end).decode())


def walk(store: Store, base: bytes, cut: Callable[[bytes], bytes | None], *, after: bytes | None, limit: int) -> Found:
    """Return up to `limit` folders below `base` behind `after`, in a bounded number of steps."""
    found = Found()
    place = after
    for _ in range(MOST_STEPS):
        entries = store.scan(base, after=None if place is None else base + place, limit=STEP)
        last: bytes | None = None
        for entry in entries:
            place = entry.key[len(base) :]
            last = cut(place)
            if last is None:
                continue
            if last not in found.counts and len(found.counts) == limit:
                found.end = next(reversed(found.counts)) + _BEHIND
                return found
            found.counts[last] = found.counts.get(last, 0) + 1
        if len(entries) < STEP:
            return found
        if last is not None and found.counts[last] > MOST_COUNTED:
            place = last + _BEHIND
    if last is not None:  # it may go on: what is told of it is that it holds many
        found.counts[last] = MOST_COUNTED + 1
        place = last + _BEHIND
    found.end = place
    return found


def key_part(rest: bytes) -> bytes | None:
    """Return the next part of a key with the separator that ends it, None for a key that has no further part."""
    part = _PART.match(rest)
    return None if part is None else part.group()


def scope_part(rest: bytes) -> bytes | None:
    """Return what is left of a scope, with the NUL that ends it."""
    part = _SCOPE.match(rest)
    return None if part is None else part.group()


def _text(within: bytes, name: bytes) -> str:
    """Return the scope, or the beginning of the key, that `within` and `name` make together."""
    whole = within + name
    scope, _, key = whole.partition(b"\0")
    return (key if b"\0" in within else scope).decode()


def _counted(number: int) -> int | None:
    return number if number <= MOST_COUNTED else None


def _from_cursor(cursor: str | None) -> bytes | None:
    if cursor is None:
        return None
    try:
        place = urlsafe_b64decode(cursor.encode())
        if urlsafe_b64encode(place).decode() == cursor:
            return place
    except ValueError:
        pass
    raise ConfigurationError(f"after={cursor!r:.80} is not the `next` of a page of folders")
