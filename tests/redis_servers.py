"""Redis servers that work together: a cluster, and a master with its Sentinels."""

from __future__ import annotations

import time
from binascii import crc_hqx
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.stores import open_store
from tests.services import HOST, RedisServer, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

MASTER = "the-master"


def wait_until(true: Callable[[], object], what: str, seconds: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come true in {seconds} s")
        time.sleep(0.05)


def slot_of(prefix: str) -> int:
    """Return the slot of the keys of a prefix."""
    return crc_hqx(f"stackstate:{prefix}".encode(), 0) % 16384


class RedisCluster:
    """Three masters without replicas, on free ports."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self.nodes = [self._node(str(number)) for number in range(3)]

    def __enter__(self) -> Self:
        """Start the nodes, give each a third of the slots and let them meet."""
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        for number, node in enumerate(self.nodes):
            node.start()
            slots = (number * 16384 // 3, (number + 1) * 16384 // 3 - 1)
            self.command(node, "CLUSTER", "ADDSLOTSRANGE", *slots)
        for node in self.nodes[1:]:
            self.command(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, node.options[-1])
        wait_until(self.is_ok, "a cluster of three")

    def __exit__(self, *_: object) -> None:
        """End the nodes."""
        for node in self.nodes:
            node.stop()

    @property
    def url(self) -> str:
        """The URL of the cluster."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes)}"

    def command(self, node: RedisServer, *words: Any) -> Any:
        """Run a command on one node and return its bare answer."""
        connection: Any = redis.Connection(host=HOST, port=node.port)
        connection.send_command(*words)
        try:
            return connection.read_response()
        finally:
            connection.disconnect()

    def is_ok(self) -> bool:
        """Return whether every node sees all slots served and knows all nodes."""
        infos = [self.command(node, "CLUSTER", "INFO") for node in self.nodes]
        known = b"cluster_known_nodes:%d\r" % len(self.nodes)
        return all(b"cluster_state:ok" in info and known in info for info in infos)

    def owner(self, prefix: str) -> RedisServer:
        """Return the node that serves a prefix."""
        slot = slot_of(prefix)
        ranges = self.command(self.nodes[0], "CLUSTER", "SLOTS")
        port = next(owner[1] for first, last, owner, *_ in ranges if first <= slot <= last)
        return next(node for node in self.nodes if node.port == port)

    def other(self, node: RedisServer) -> RedisServer:
        """Return another node."""
        return next(other for other in self.nodes if other is not node)

    def add_replica(self, master: RedisServer) -> None:
        """Start one more node, a replica of `master`, and wait until it is in step."""
        replica = self._node("replica")
        self.nodes.append(replica)
        replica.start()
        self.command(replica, "CLUSTER", "MEET", HOST, master.port, master.options[-1])
        wait_until(self.is_ok, "a cluster of four")
        self.command(replica, "CLUSTER", "REPLICATE", self._id(master))
        wait_until(
            lambda: b"master_link_status:up" in self.command(replica, "INFO", "replication"), "a replica in step"
        )

    def begin_move(self, prefix: str, target: RedisServer) -> None:
        """Tell both sides that the slot of a prefix moves."""
        slot, source = slot_of(prefix), self.owner(prefix)
        self.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self._id(source))
        self.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self._id(target))

    def move_keys(self, prefix: str, target: RedisServer, keys: int = 10**6) -> int:
        """Move up to so many keys; return how many."""
        source, moved = self.owner(prefix), 0
        while moved < keys:
            found = self.command(source, "CLUSTER", "GETKEYSINSLOT", slot_of(prefix), min(100, keys - moved))
            if not found:
                break
            self.command(source, "MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *found)
            moved += len(found)
        return moved

    def end_move(self, prefix: str, target: RedisServer) -> None:
        """Move the keys that are left and give the slot to its new owner."""
        source = self.owner(prefix)
        self.move_keys(prefix, target)
        for node in (target, source, *self.nodes):
            self.command(node, "CLUSTER", "SETSLOT", slot_of(prefix), "NODE", self._id(target))

    def _id(self, node: RedisServer) -> str:
        return str(self.command(node, "CLUSTER", "MYID").decode())

    def _node(self, name: str) -> RedisServer:
        folder = self._folder / name
        folder.mkdir()
        timing = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-port", str(free_port()))
        persistent = ("--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0")
        return RedisServer(self._binary, folder, *persistent, *timing)


class SentinelGroup:
    """A master and a replica under three Sentinels, on free ports."""

    def __init__(self, binary: str, folder: Path) -> None:
        persistent = ("--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0")
        self.servers = []
        for name in ("first", "second"):
            (folder / name).mkdir()
            self.servers.append(RedisServer(binary, folder / name, *persistent))
        self.sentinels = [self._sentinel(binary, folder / f"sentinel{number}") for number in range(3)]

    def __enter__(self) -> Self:
        """Start all and wait until the Sentinels know each other and the replica."""
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        first, second = self.servers
        first.start()
        second.options = (*second.options, "--replicaof", f"{HOST} {first.port}")
        second.start()
        second.options = second.options[:-2]
        for sentinel in self.sentinels:
            sentinel.start()
            # They look every 10 s otherwise; servers before 7.0 cannot be told, and are slower to test.
            with suppress(redis.ResponseError), redis.Redis(host=HOST, port=sentinel.port) as client:
                client.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", 500, "PUBLISH-PERIOD", 250)
        wait_until(self.is_complete, "a group of Sentinels")

    def __exit__(self, *_: object) -> None:
        """End all."""
        for server in (*self.sentinels, *self.servers):
            server.stop()

    @property
    def url(self) -> str:
        """The URL of the master as the Sentinels know it."""
        return f"sentinel://{','.join(f'{HOST}:{sentinel.port}' for sentinel in self.sentinels)}/{MASTER}"

    def master(self) -> RedisServer:
        """Return the server that the Sentinels name."""
        with redis.Redis(host=HOST, port=self.sentinels[0].port) as client:
            _, port = client.sentinel_get_master_addr_by_name(MASTER)
        return next(server for server in self.servers if server.port == int(port))

    def is_complete(self) -> bool:
        """Return whether every Sentinel sees two others and a replica that is in step."""
        return all(self._sees_all(sentinel) for sentinel in self.sentinels)

    def _sees_all(self, sentinel: RedisServer) -> bool:
        with redis.Redis(host=HOST, port=sentinel.port) as client:
            state = client.sentinel_master(MASTER)
            replicas = client.sentinel_slaves(MASTER)
        up = [one for one in replicas if one["flags"] == "slave" and one["master-link-status"] == "ok"]
        return state["num-other-sentinels"] == 2 and state["flags"] == "master" and len(up) == 1

    def _sentinel(self, binary: str, folder: Path) -> RedisServer:
        folder.mkdir()
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {MASTER} {HOST} {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 4000\n"
        )
        return _Sentinel(binary, folder, str(config))


class _Sentinel(RedisServer):
    """A Sentinel: its configuration file comes first."""

    def _command(self) -> list[str]:
        binary, *rest = super()._command()
        return [binary, *self.options, "--sentinel", *rest[: -len(self.options)]]


def add_until(url: str, prefix: str, stop: str) -> tuple[int, int, list[str]]:
    """Add 1 to a counter until the file `stop` exists; return how often it went well or perhaps, and what else came."""
    store = open_store(url, prefix=prefix, timeout=2)
    done = perhaps = 0
    others: list[str] = []
    while not Path(stop).exists():
        try:
            store.add(b"counter", 1)
            done += 1
        except StoreUnavailable as error:
            perhaps += error.maybe_applied
            time.sleep(0.01)
        except Exception as error:
            others.append(repr(error))
    store.close()
    return done, perhaps, others
