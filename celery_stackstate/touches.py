"""The state keys and locks that an attempt used, until they are written to its history."""

from __future__ import annotations

from collections.abc import Mapping

from celery_stackstate.keys import LOCK, PACE, STATE, unpack
from celery_stackstate.records import Touched

#: So many keys of one attempt are told, and so many bytes of them; what it used beyond that is not.
MOST_KEYS, MOST_BYTES = 50, 8_192

KINDS: Mapping[bytes, str] = {STATE: "state", LOCK: "lock", PACE: "pace"}


class Touches:
    """Collects store keys in the order of their first use. `own` is the scope of the run, whose keys are left out."""

    __slots__ = ("_bytes", "_keys", "_own", "_told")

    def __init__(self, own: str) -> None:
        self._own = own.encode()
        self._keys: dict[bytes, None] = {}
        self._bytes = self._told = 0

    def add(self, packed: bytes) -> None:
        """Add a key as the store knows it."""
        if packed in self._keys or len(self._keys) >= MOST_KEYS or self._bytes + len(packed) > MOST_BYTES:
            return
        if packed.split(b"\0", 2)[1] != self._own:
            self._keys[packed] = None
            self._bytes += len(packed)

    def untold(self) -> list[tuple[str, str, str]]:
        """Return kind, scope and key of what `told` was not called for."""
        return [(KINDS[kind], scope, key) for kind, scope, key in map(unpack, list(self._keys)[self._told :])]

    def told(self) -> None:
        """Say that what `untold` returns is written."""
        self._told = len(self._keys)


def touched(data: Mapping[str, object]) -> list[Touched]:
    """Return the keys that an event tells of."""
    found = data.get("touched")
    return [Touched(scope, key, kind) for kind, scope, key in found] if isinstance(found, list) else []
