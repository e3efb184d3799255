"""Entries and runs in one Redis or Valkey: shared by all hosts, each verb one script in one round trip.

Every key of one prefix carries the hash tag `{stackstate:<prefix>}`, so that a script stays in one slot of a cluster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from celery_stackstate.errors import CounterRange, NotACounter
from celery_stackstate.stores import redis_check, rules
from celery_stackstate.stores import redis_run_data as data
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, Put, PutResult, RunWrite, StoredEntry, check_key
from celery_stackstate.stores.batches import in_batches
from celery_stackstate.stores.redis_client import ScriptClient
from celery_stackstate.stores.redis_runs import RedisRuns

if TYPE_CHECKING:
    from typing_extensions import Self

#: So many keys of ended entries one script of `scan` may pass over, and so many `purge` may drop.
BUDGET = 5000
BATCH = 500
#: So many writes are sent before the first answer is read.
PIPELINE = 100

Shown = Sequence[Any]


class RedisStore(RedisRuns):
    """A store in a Redis or Valkey, through the connections of redis-py.

    | URL | the server in charge |
    |---|---|
    | `redis://user:password@host:6379/0`, `valkey://...` | this one |
    | `sentinel://user:password@host:26379,host2:26379/master-name/0` | the master that these Sentinels name |
    | `redis+cluster://user:password@host:7000,host2:7001` | the node with the slot of the prefix, asked of these |

    `rediss://`, `valkeys://` and `rediss+cluster://` encrypt, `sentinel://...?ssl=true` too, the Sentinels included.
    User and password are those of the data servers; those of the Sentinels are the options `sentinel_username` and
    `sentinel_password`. redis-py's options are taken from the URL (`ssl_ca_certs`, `client_name`, ...), except those
    that would break the promises of a store; `max_connections` (default 50) bounds the connections of one process.

    A failover is an outage: calls raise StoreUnavailable until there is a new server in charge, which is then found
    without a restart. What the old one acknowledged last may be lost with it. The same goes for a slot of a cluster
    while it moves: lists, history and new keys wait until it has arrived.
    """

    schemes = ("redis", "rediss", "valkey", "valkeys", "sentinel", "redis+cluster", "rediss+cluster")
    shared_between_hosts = True

    def __init__(self, client: ScriptClient, base: bytes) -> None:
        self._client = client
        self._base = base
        self._index = base + b"keys"
        self._expiry = base + b"ends"
        self._entries = base + b"e:"

    @classmethod
    def from_url(cls, url: str, *, prefix: str, timeout: float) -> Self:
        """Make a store of a URL of one of the forms above."""
        # Percent signs in place of braces: the tag ends where it should, whatever the prefix says.
        base = b"{stackstate:%s}:" % quote(rules.check_prefix(prefix), safe="").encode()
        return cls(ScriptClient(url, rules.check_timeout(timeout), base), base)

    def check(self) -> list[str]:
        """Connect; refuse a server that is too old, and warn of one that evicts or forgets."""
        self._client.run("get", [self._entries])
        redis_check.check_layout(self._client, self._base + b"layout")
        return redis_check.warnings(self._client)

    def server(self) -> str:
        """Ask the server for its version."""
        return redis_check.server(self._client)

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
        guard: Guard | None = None,
    ) -> PutResult:
        """Write `key` if it is as expected, atomically."""
        rules.check_put(key, value, expect, ttl, expires)
        args = _put_args(key, value, expect, ttl, expires, linger)
        now, applied, shown = self._client.run("put", *self._guarded(key, args, guard))
        if applied == 2:
            raise GuardFailed
        return PutResult(applied == 1, _entry(key, shown, now))

    def put_and_append(
        self,
        key: bytes,
        value: bytes | int,
        writes: Sequence[RunWrite],
        *,
        expect: Expect | int = Expect.ANY,
        ttl: int | None = None,
        linger: int = 0,
    ) -> PutResult:
        """Put, and append where that is applied, in one script."""
        rules.check_put(key, value, expect, ttl, None)
        added = data.flattened([rules.kept(write) for write in writes])
        args = (*_put_args(key, value, expect, ttl, None, linger), self._base, *added)
        now, applied, shown = self._client.run("put_and_append", self._keys(key), args)
        return PutResult(applied == 1, _entry(key, shown, now), appended=applied == 1)

    def put_all(self, puts: Sequence[Put]) -> None:
        """Put each that is as expected, in one round trip for each hundred."""
        for put in puts:
            rules.check_put(put.key, put.value, put.expect, None, None)
        calls = [(self._keys(put.key), _put_args(put.key, put.value, put.expect, None, None, 0)) for put in puts]
        deadline = self._client.deadline()
        in_batches(calls, PIPELINE, lambda some: len(self._client.run_each("put", some, deadline=deadline)))

    def remove(self, key: bytes, *, expect: Expect | int = Expect.ANY) -> StoredEntry | None:
        """Remove the live entry of `key` and return it, atomically."""
        rules.check_remove(key, expect)
        now, shown = self._client.run("remove", self._keys(key), (key, _expected(expect)))
        return _entry(key, shown, now)

    def remove_all(self, keys: Sequence[bytes], *, expect: Expect | int = Expect.ANY) -> int:
        """Remove those of `keys` that are live and as expected, in one round trip for each hundred."""
        for key in keys:
            rules.check_remove(key, expect)
        calls = [(self._keys(key), (key, _expected(expect))) for key in keys]
        deadline = self._client.deadline()

        def remove(some: Sequence[Any]) -> int:
            return sum(shown is not None for _, shown in self._client.run_each("remove", some, deadline=deadline))

        return in_batches(calls, PIPELINE, remove)

    def add(
        self,
        key: bytes,
        delta: int,
        *,
        ttl: int | None = None,
        expires: int | None = None,
        floor: int | None = None,
        ceiling: int | None = None,
        guard: Guard | None = None,
        prolong: bool = False,
    ) -> int:
        """Add `delta` to the integer at `key` and return the new integer, atomically."""
        rules.check_add(key, delta, ttl, expires)
        bounds = ("" if floor is None else floor, "" if ceiling is None else ceiling)
        args = (key, delta, _moment(ttl), _moment(expires), *bounds, int(prolong))
        outcome, *number = self._client.run("add", *self._guarded(key, args, guard))
        if outcome == b"guard":
            raise GuardFailed
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

    def _guarded(self, key: bytes, args: tuple[Any, ...], guard: Guard | None) -> tuple[list[bytes], tuple[Any, ...]]:
        keys = self._keys(key)
        return (keys, args) if guard is None else ([*keys, self._entries + guard.key], (*args, guard.version))

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


def _put_args(
    key: bytes, value: bytes | int, expect: Expect | int, ttl: int | None, expires: int | None, linger: int
) -> tuple[Any, ...]:
    kind = "b" if isinstance(value, bytes) else "i"
    return key, kind, value, _expected(expect), _moment(ttl), _moment(expires), min(linger, rules.MAX_MOMENT)


def _expected(expect: Expect | int) -> str | int:
    return expect.value if isinstance(expect, Expect) else expect


def _moment(micros: int | None) -> str | int:
    return "" if micros is None else min(micros, rules.MAX_MOMENT)
