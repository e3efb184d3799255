"""Entries and runs in one Redis or Valkey: shared by all hosts, each verb one script in one round trip.

Every key of one prefix carries the hash tag `{stackstate:<prefix>}`, so that a script stays in one slot of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from celery_stackstate.errors import ConfigurationError, CounterRange, NotACounter
from celery_stackstate.stores import rules
from celery_stackstate.stores.base import Expect, PutResult, StoredEntry, check_key
from celery_stackstate.stores.redis_client import ScriptClient
from celery_stackstate.stores.redis_runs import RedisRuns

if TYPE_CHECKING:
    from typing_extensions import Self

OLDEST_SERVER = (6, 2)

#: So many keys of ended entries one script of `scan` may pass over, and so many `purge` may drop.
BUDGET = 5000
BATCH = 500

Shown = Sequence[Any]


class RedisStore(RedisRuns):
    """A store in the Redis that `redis://` or `rediss://` names, through redis-py.

    redis-py's options are taken from the URL (`ssl_ca_certs`, `client_name`, ...), except those that would break the
    promises of a store; `max_connections` (default 50) bounds the connections of one process.
    """

    schemes = ("redis", "rediss")
    shared_between_hosts = True

    def __init__(self, client: ScriptClient, prefix: str) -> None:
        self._client = client
        # Percent signs in place of braces: the tag ends where it should, whatever the prefix says.
        self._base = b"{stackstate:%s}:" % quote(prefix, safe="").encode()
        self._index = self._base + b"keys"
        self._expiry = self._base + b"ends"
        self._entries = self._base + b"e:"

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of a `redis://` or `rediss://` URL."""
        return cls(ScriptClient(url, rules.check_timeout(timeout)), rules.check_prefix(prefix))

    def check(self) -> list[str]:
        """Connect; refuse a server that is too old, and warn of one that evicts or forgets."""
        self._client.run("get", [self._entries])
        try:
            info = _parsed(self._client.command("INFO"))
        except ConfigurationError:
            return [
                "Redis does not show INFO to this user: make sure of maxmemory-policy noeviction and of persistence"
            ]
        version = info.get("redis_version", "")
        if _numbers(version) < OLDEST_SERVER:
            raise ConfigurationError(f"stackstate_url: the server is Redis {version}; the store needs 6.2 or newer")
        warnings = []
        policy = info.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            warnings.append(
                f"Redis has maxmemory-policy {policy}: under memory pressure it deletes locks and idempotency keys; "
                "set noeviction"
            )
        if info.get("role") == "slave":
            warnings.append("Redis is a replica: writes will fail; name the primary in stackstate_url")
        if info.get("aof_enabled") == "0" and not self._snapshots():
            warnings.append("Redis has no persistence: a restart loses everything; set appendonly yes")
        return warnings

    def _snapshots(self) -> bool:
        """Return whether the server saves snapshots; True as well where it does not tell."""
        try:
            answer = self._client.command("CONFIG", "GET", "save")
        except ConfigurationError:
            return True
        return len(answer) < 2 or bool(answer[1])

    def close(self) -> None:
        """Close this process's connections. A later call opens new ones."""
        self._client.close()

    # -- entries ---------------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> StoredEntry | None:
        """Return the live entry of `key`, or None."""
        check_key(key)
        now, shown = self._client.run("get", [self._entries + key])
        return _entry(key, shown, now)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, StoredEntry]:
        """Return the live entries among `keys`, in one round trip."""
        for key in keys:
            check_key(key)
        if not keys:
            return {}
        now, *found = self._client.run("get", [self._entries + key for key in keys])
        entries = (_entry(key, shown, now) for key, shown in zip(keys, found, strict=True))
        return {entry.key: entry for entry in entries if entry is not None}

    def put(
        self,
        key: bytes,
        value: bytes | int,
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        expires: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Write `key` if it is as expected, atomically."""
        rules.check_put(key, value, expect, ttl, expires)
        kind = "b" if isinstance(value, bytes) else "i"
        linger = min(linger, rules.MAX_MOMENT)
        args = (key, kind, value, _expected(expect), _moment(ttl), _moment(expires), linger)
        now, applied, shown = self._client.run("put", self._keys(key), args)
        return PutResult(applied == 1, _entry(key, shown, now))

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        now, shown = self._client.run("remove", self._keys(key), (key, _expected(expect)))
        return _entry(key, shown, now)

    def add(
        self,
        key: bytes,
        delta: int,
        *,
        ttl: int | None = None,
        expires: int | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
    ) -> int:
        """Add `delta` to the integer at `key` and return the new integer, atomically."""
        rules.check_add(key, delta, ttl, expires)
        bounds = ("" if floor is None else floor, "" if ceiling is None else ceiling)
        args = (key, delta, _moment(ttl), _moment(expires), *bounds)
        outcome, *number = self._client.run("add", self._keys(key), args)
        if outcome == b"type":
            raise NotACounter(f"the key {key!r:.80} holds bytes, not a counter")
        if outcome == b"range":
            raise CounterRange(value=int(number[0]))
        return int(number[0])

    def scan(self, prefix: bytes, *, after: bytes | None = None, limit: int = 100) -> list[StoredEntry]:
        """Return up to `limit` live entries whose keys start with `prefix` and are greater than `after`, by key."""
        begin: bytes | None = b"[" + prefix if after is None or after < prefix else b"(" + after
        stop = rules.key_after(prefix)
        end = b"+" if stop is None else b"(" + stop
        entries: list[StoredEntry] = []
        deadline = self._client.deadline()
        while begin is not None and len(entries) < limit:
            args = (self._entries, begin, end, limit - len(entries), BUDGET)
            now, begin, *found = self._client.run("scan", [self._index, self._expiry], args, deadline=deadline)
            pairs = zip(found[::2], found[1::2], strict=True)
            entries += [entry for key, shown in pairs if (entry := _entry(key, shown, now)) is not None]
        return entries

    def _keys(self, key: bytes) -> list[bytes]:
        return [self._entries + key, self._index, self._expiry]

    # -- upkeep ----------------------------------------------------------------------------------------------------

    def purge(self, *, limit: int = 1000) -> int:
        """Drop up to `limit` ended entries from the indexes and delete forgotten runs; return how many."""
        purged = 0
        deadline = self._client.deadline()
        while purged < limit:
            args = (self._entries, min(BATCH, limit - purged))
            done = self._client.run("purge", [self._index, self._expiry], args, deadline=deadline)
            purged += done
            if not done:
                break
        return purged + self._purge_runs(limit - purged, deadline)


def _entry(key: bytes, shown: Shown | None, now: bytes) -> StoredEntry | None:
    if shown is None:
        return None
    kind, value, version, expires, updated = shown
    number_or_bytes = int(value) if kind == b"i" else value
    return StoredEntry(key, number_or_bytes, int(version), int(expires) if expires else None, int(updated), int(now))


def _expected(expect: Expect | int) -> str | int:
    return expect.value if isinstance(expect, Expect) else expect


def _moment(micros: int | None) -> str | int:
    return "" if micros is None else min(micros, rules.MAX_MOMENT)


def _parsed(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
