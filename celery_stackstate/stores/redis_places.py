"""Where the server in charge is: at the address of the URL, where the Sentinels say, or where a cluster keeps our slot.

A place remembers an address until a call fails there. Then it searches once for all threads of the process, and not
again right after a search that failed: an outage is no reason for a storm.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from typing import Any

from celery_stackstate.errors import ConfigurationError, StackStateError, StoreUnavailable
from celery_stackstate.stores.redis_url import Address, Target
from celery_stackstate.stores.redis_wire import Wire, code
from celery_stackstate.stores.slots import Slots

SLOTS = 16384

#: So long, in seconds, nobody searches after a search that failed.
REST = (0.05, 0.25)


class Place(ABC):
    """Knows where the server in charge is."""

    #: The server in charge, as far as is known.
    server: Address | None = None

    @abstractmethod
    def find(self, deadline: float) -> Address:
        """Return the server in charge; search for it when it is not known.

        Raises:
            StoreUnavailable: It was not found in time.
            ConfigurationError: It can never be found so.
        """

    @abstractmethod
    def lost(self, address: Address) -> bool:
        """Take note that a call failed at `address`; return whether another search may find a better one."""

    @abstractmethod
    def refused(self, error: Exception, address: Address) -> tuple[bool, Address | None]:
        """Take note of an error that `address` answered. Return whether to send again, and where if only this once."""

    def warnings(self, deadline: float) -> list[str]:
        """Return what is wrong with this place although it works."""
        return []


class Single(Place):
    """One server, always the same."""

    server: Address

    def __init__(self, address: Address) -> None:
        self.server = address

    def find(self, deadline: float) -> Address:
        """Return the server."""
        return self.server

    def lost(self, address: Address) -> bool:
        """Return False: there is no other."""
        return False

    def refused(self, error: Exception, address: Address) -> tuple[bool, Address | None]:
        """Return that nothing is sent again; a node of a cluster has to be named as one."""
        if code(error) in ("MOVED", "ASK"):
            raise ConfigurationError(
                "stackstate_url: this server is a node of a Redis Cluster; write redis+cluster://host:port,host2:port"
            ) from error
        return False, None


class Searching(Place):
    """A place that asks others where the server in charge is."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._one_at_a_time = Slots(1)
        self._rest_until, self._why = 0.0, ""

    def find(self, deadline: float) -> Address:
        """Return the server in charge; search for it when it is not known."""
        slot = self._one_at_a_time.take(deadline - time.monotonic())
        if slot is None:
            raise StoreUnavailable("Redis: still searching for the server in charge", maybe_applied=False)
        try:
            found = self.server or self._searched(deadline)
            self.server = found
            return found
        finally:
            self._one_at_a_time.free.append(slot)

    def lost(self, address: Address) -> bool:
        """Search before the next call, unless somebody already found another server."""
        if self.server == address:
            self.server = None
        return True

    @abstractmethod
    def _search(self, deadline: float) -> Address: ...

    def _searched(self, deadline: float) -> Address:
        if time.monotonic() < self._rest_until:
            raise StoreUnavailable(self._why, maybe_applied=False)
        try:
            return self._search(deadline)
        except StoreUnavailable as error:
            self._why = str(error)
            self._rest_until = time.monotonic() + random.uniform(*REST)  # noqa: S311 - so that not all come at once
            raise


class SentinelPlace(Searching):
    """The master of a name, as Sentinels tell it and as it says of itself."""

    def __init__(self, wire: Wire, sentinel_wire: Wire, sentinels: Sequence[Address], master: str) -> None:
        super().__init__(wire)
        self._sentinel_wire, self._sentinels, self._master = sentinel_wire, sentinels, master

    def refused(self, error: Exception, address: Address) -> tuple[bool, Address | None]:
        """Search again after the answers of a server that is no master any more."""
        demoted = code(error) in ("READONLY", "MASTERDOWN")
        return demoted and self.lost(address), None

    def warnings(self, deadline: float) -> list[str]:
        """Warn when fewer than two Sentinels answer: one cannot agree to a failover."""
        answers = [self._named_by(sentinel, until) for sentinel, until in _shares(self._sentinels, deadline)]
        count = sum(isinstance(answer, tuple) for answer in answers)
        if count >= 2:
            return []
        return [f"Redis Sentinel: {count} of {len(answers)} in stackstate_url answer; name two or more that run"]

    def _search(self, deadline: float) -> Address:
        failures: list[Any] = []
        candidates: set[Address] = set()
        for sentinel, until in _shares(self._sentinels, deadline):
            named = self._named_by(sentinel, until)
            if not isinstance(named, tuple):
                failures.append(named)
            elif named not in candidates:
                candidates.add(named)
                failure = self._doubt(named, until)
                if failure is None:
                    return named
                failures.append(failure)
        if not candidates and not any(failures):
            raise ConfigurationError(f"stackstate_url: no Sentinel knows a master of the name {self._master!r}")
        raise StoreUnavailable(
            f"Redis Sentinel: no master {self._master!r} just now ({'; '.join(map(str, filter(None, failures)))})",
            maybe_applied=False,
        )

    def _named_by(self, sentinel: Address, deadline: float) -> Address | StackStateError | None:
        """Return the address that a Sentinel tells, None if it knows no such master, or why it told nothing."""
        words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._master)
        try:
            answer = self._sentinel_wire.ask(sentinel, words, deadline)
        except StoreUnavailable as error:
            return error
        except self._wire.errors.ResponseError as error:
            failure = self._sentinel_wire.refused(error)
            if isinstance(failure, ConfigurationError):
                raise failure from error
            return failure
        return None if answer is None else (answer[0].decode(), int(answer[1]))

    def _doubt(self, address: Address, deadline: float) -> object:
        """Return why the server at `address` is not the master; None if it is."""
        try:
            role = self._wire.ask(address, ("ROLE",), deadline)[0]
        except StoreUnavailable as error:
            return error
        except self._wire.errors.NoPermissionError:
            return None  # Then a replica tells by refusing the first write.
        except self._wire.errors.ResponseError as error:
            return self._wire.refused(error)
        return None if role == b"master" else f"{address[0]}:{address[1]} is a {role.decode()}"


class ClusterPlace(Searching):
    """The node of a Redis Cluster that owns the slot of one hash tag."""

    def __init__(self, wire: Wire, seeds: Sequence[Address], tag: bytes) -> None:
        super().__init__(wire)
        self._seeds, self._nodes = seeds, list(seeds)
        self._slot = crc_hqx(tag, 0) % SLOTS

    def refused(self, error: Exception, address: Address) -> tuple[bool, Address | None]:
        """Follow the slot to where it is or goes, and try again what a cluster may serve in a moment."""
        reason = code(error)
        if reason in ("MOVED", "ASK"):
            named = _address(str(error).rpartition(" ")[2], address)
            if reason == "ASK":
                return True, named
            self.server = named
        elif reason == "CLUSTERDOWN":
            self.lost(address)
        return reason in ("MOVED", "CLUSTERDOWN", "TRYAGAIN"), None

    def _search(self, deadline: float) -> Address:
        failure: object = "the slot is served by nobody"
        for node, until in _shares(self._nodes, deadline):
            try:
                owner = self._owner_by(node, until)
            except StoreUnavailable as error:
                failure = error
                continue
            if owner is not None:
                return owner
        raise StoreUnavailable(
            f"Redis Cluster: no node tells who serves slot {self._slot} ({failure})", maybe_applied=False
        )

    def _owner_by(self, node: Address, deadline: float) -> Address | None:
        """Return the owner of the slot as `node` knows it, and remember the other nodes it knows."""
        try:
            ranges = self._wire.ask(node, ("CLUSTER", "SLOTS"), deadline)
        except self._wire.errors.NoPermissionError:
            return node  # It answers MOVED if the slot is elsewhere.
        except self._wire.errors.ResponseError as error:
            if "cluster support disabled" in str(error):
                raise ConfigurationError(
                    "stackstate_url: this server is no cluster; write redis://host:port"
                ) from error
            raise self._wire.refused(error) from error
        known = {(_host(told, node), int(port)) for _, _, *nodes in ranges for told, port, *_ in nodes}
        self._nodes = [*self._seeds, *known.difference(self._seeds)]
        for first, last, owner, *_ in ranges:
            if first <= self._slot <= last:
                return _host(owner[0], node), int(owner[1])
        return None


def _host(told: bytes | None, asked: Address) -> str:
    """Return the host that a node tells; one that does not know its own name means the host that was asked."""
    return told.decode() if told and told != b"?" else asked[0]


def _address(told: str, asked: Address) -> Address:
    host, _, port = told.rpartition(":")
    return _host(host.encode(), asked), int(port)


def _shares(addresses: Sequence[Address], deadline: float) -> Iterator[tuple[Address, float]]:
    """Yield the addresses in any order, each with the moment until which it may take: a silent one leaves time."""
    shuffled = random.sample(addresses, len(addresses))
    for left, address in zip(range(len(shuffled), 0, -1), shuffled, strict=True):
        now = time.monotonic()
        yield address, now + (deadline - now) / (left + 1)


def place_of(target: Target, wire: Wire, tag: bytes) -> Place:
    """Return the place that a URL names."""
    if target.master is not None:
        told = target.sentinel_options or {}
        sentinel_wire = Wire("Sentinel", wire.errors, target.connection_class, told, wire.timeout)
        return SentinelPlace(wire, sentinel_wire, target.hosts, target.master)
    return ClusterPlace(wire, target.hosts, tag) if target.cluster else Single(target.hosts[0])
