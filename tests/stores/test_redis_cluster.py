"""The contract over a Redis Cluster, and what happens to a store whose slot moves or whose node dies."""

from __future__ import annotations

import multiprocessing
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunQuery, RunStanding, RunWrite, Store, StoredEvent, StoredLog
from celery_stackstate.testing import StoreContract
from tests.redis_servers import RedisCluster, add_until, wait_until
from tests.services import HOST, RedisServer, free_port
from tests.waiting import Stopwatch


class TestRedisCluster(StoreContract):
    @pytest.fixture
    def store_url(self, redis_cluster: RedisCluster) -> str:
        return redis_cluster.url


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> RedisCluster:
    wait_until(redis_cluster.is_ok, "a sound cluster")
    return redis_cluster


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(cluster: RedisCluster, prefix: str) -> Iterator[Store]:
    store = open_store(cluster.url, prefix=prefix, timeout=2)
    yield store
    store.close()


def a_run(number: int) -> RunWrite:
    event, log = StoredEvent("u", 1, "n", None, b"x"), StoredLog("e", 1, 1, 20, "l", "m")
    return RunWrite(f"r{number}", 1, RunFacts("t", "q", created=number), RunStanding(worker="w"), [event], [log])


@pytest.mark.parametrize(
    "url", ["redis+cluster://h:1,h:port", "redis+cluster://h:1,,h:2", "redis+cluster://h/3", "redis+cluster://h?db=1"]
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="stackstate_url"):
        open_store(url)


def test_any_one_node_leads_to_all_prefixes(cluster: RedisCluster) -> None:
    owners: set[int] = set()
    for number in range(200):
        if len(owners) == 3:
            break
        prefix = uuid.uuid4().hex
        store = open_store(f"redis+cluster://{HOST}:{cluster.nodes[number % 3].port}", prefix=prefix)
        store.put(b"k", b"v")
        owners.add(cluster.owner(prefix).port)
        store.close()
    assert len(owners) == 3


def test_seeds_that_are_down_or_silent_are_passed_over(cluster: RedisCluster, prefix: str) -> None:
    cluster_seed = f"{HOST}:{cluster.nodes[0].port}"
    with socket.create_server((HOST, 0)) as silent:
        seeds = f"{HOST}:{free_port()},{HOST}:{silent.getsockname()[1]},{cluster_seed}"
        for _ in range(3):
            store = open_store(f"redis+cluster://{seeds}", prefix=prefix, timeout=2)
            store.add(b"c", 1)
            store.close()


def test_a_call_is_one_round_trip_to_one_node(cluster: RedisCluster, store: Store, prefix: str) -> None:
    store.get(b"k")
    before = {node.port: commands(cluster, node) for node in cluster.nodes}
    for _ in range(10):
        store.get(b"k")
    after = {node.port: commands(cluster, node) for node in cluster.nodes}
    owner = cluster.owner(prefix).port
    assert {port: after[port] - before[port] for port in after} == {port: 10 if port == owner else 0 for port in after}


def commands(cluster: RedisCluster, node: RedisServer) -> int:
    stats = cluster.command(node, "INFO", "commandstats").decode()
    return sum(map(int, re.findall(r"cmdstat_eval(?:sha)?:calls=(\d+)", stats)))


def test_a_node_named_as_a_single_server_is_told_apart(cluster: RedisCluster, prefix: str) -> None:
    other = cluster.other(cluster.owner(prefix))
    with pytest.raises(ConfigurationError, match=r"redis\+cluster://"):
        open_store(f"redis://{HOST}:{other.port}", prefix=prefix).get(b"k")


def test_a_single_server_named_as_a_cluster_is_told_apart(redis_url: str) -> None:
    url = redis_url.replace("redis://", "redis+cluster://").removesuffix("/0")
    with pytest.raises(ConfigurationError, match="no cluster"):
        open_store(url).get(b"k")


def test_check_looks_at_the_node_in_charge(cluster: RedisCluster, store: Store, prefix: str) -> None:
    assert store.check() == []
    owner = cluster.owner(prefix)
    cluster.command(owner, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert ["allkeys-lru" in warning for warning in store.check()] == [True]
    finally:
        cluster.command(owner, "CONFIG", "SET", "maxmemory-policy", "noeviction")


def test_a_user_with_no_more_than_the_rights_of_a_store(cluster: RedisCluster, prefix: str) -> None:
    rules = ("on", ">s@crt", "~{stackstate:*", "+@read", "+@write", "+@scripting", "+@connection", "+time")
    for node in cluster.nodes:
        cluster.command(node, "ACL", "SETUSER", "app", *rules)
    for node in cluster.nodes:
        store = open_store(f"redis+cluster://app:s@crt@{HOST}:{node.port}", prefix=prefix)
        store.add(b"c", 1)
        store.close()


def test_a_moved_slot_is_followed_at_once(cluster: RedisCluster, store: Store, prefix: str) -> None:
    target = cluster.other(cluster.owner(prefix))
    store.add(b"c", 1)
    store.append([a_run(1)])
    cluster.begin_move(prefix, target)
    cluster.end_move(prefix, target)
    assert store.add(b"c", 1) == 2
    assert store.run("r1") is not None
    assert cluster.owner(prefix) is target


@pytest.mark.parametrize("moved", range(1, 24, 3))
def test_no_call_sees_or_changes_half_a_slot(cluster: RedisCluster, prefix: str, moved: int) -> None:
    # Given a slot of which some keys have moved
    store, hasty = (open_store(cluster.url, prefix=prefix, timeout=seconds) for seconds in (2, 0.12))
    store.put(b"timed", b"v", ttl=10**9)
    for number in range(3):
        store.put(b"k%d" % number, number)
        store.append([a_run(number)])
    target = cluster.other(cluster.owner(prefix))
    cluster.begin_move(prefix, target)
    cluster.move_keys(prefix, target, moved)
    # When every verb is tried
    check_what_answers(hasty)
    appended = is_done(lambda: hasty.append([a_run(0), a_run(7)]))
    removed = is_done(lambda: hasty.remove_runs(["r2", "r9"]))
    created = is_done(lambda: hasty.put(b"new", b"v"))
    is_done(hasty.purge)
    cluster.end_move(prefix, target)
    # Then what stands at the end is what stood before, and what was answered; a call without an answer may be done
    before, new = {b"timed", b"k0", b"k1", b"k2"}, {b"new"}
    found = {entry.key for entry in store.scan(b"")}
    assert before | (new if created else set()) <= found <= before | new
    ids = {row.run_id for row in store.runs(RunQuery(task="t"))}
    assert (
        {"r0", "r1"} | ({"r7"} if appended else set())
        <= ids
        <= {"r0", "r1", "r2", "r7"} - ({"r2"} if removed else set())
    )
    assert all(store.run(run_id)[1] and store.logs(run_id) for run_id in ids)  # type: ignore[index]
    store.close()
    hasty.close()


def check_what_answers(store: Store) -> None:
    """Each reading verb answers all there is, or nothing."""
    expected: list[tuple[Callable[[], Any], Any]] = [
        (lambda: [store.get(b"k%d" % n).value for n in range(3)], [0, 1, 2]),  # type: ignore[union-attr]
        (lambda: sorted(store.get_many([b"k0", b"k2"])), [b"k0", b"k2"]),
        (lambda: len(store.scan(b"")), 4),
        (lambda: len(store.runs(RunQuery())), 3),
        (lambda: len(store.runs(RunQuery(ids=("r0", "r1", "r2")))), 3),
        (lambda: len(store.run("r1")[1]), 1),  # type: ignore[index]
        (lambda: len(store.logs("r1")), 1),
        (lambda: [tally.runs for tally in store.tally(0, 2**62)], [3]),
    ]
    for call, answer in expected:
        found: list[Any] = []
        if is_done(lambda call=call, found=found: found.append(call())):  # type: ignore[misc]
            assert [answer] == found


def is_done(call: Callable[[], object]) -> bool:
    """Return whether there was an answer. Without one it may be done all the same."""
    try:
        call()
    except StoreUnavailable:
        return False
    return True


def test_no_addition_is_lost_or_doubled_while_a_slot_moves_to_and_fro(
    cluster: RedisCluster, prefix: str, tmp_path: Path
) -> None:
    store, stop = open_store(cluster.url, prefix=prefix, timeout=2), tmp_path / "stop"
    store.put(b"timed", b"v", ttl=10**9)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(4, mp_context=spawn) as processes:
        futures = [processes.submit(add_until, cluster.url, prefix, str(stop)) for _ in range(4)]
        try:
            wait_until(lambda: store.add(b"counter", 0) > 100, "that all add")
            for _ in range(3):
                target = cluster.other(cluster.owner(prefix))
                cluster.begin_move(prefix, target)
                for _ in range(3):
                    cluster.move_keys(prefix, target, 1)
                    time.sleep(0.2)
                cluster.end_move(prefix, target)
                before = store.add(b"counter", 0)
                time.sleep(0.5)
                assert store.add(b"counter", 0) > before + 20
        finally:
            stop.touch()
        done, perhaps, others = zip(*(future.result(30) for future in futures), strict=True)
    total = store.add(b"counter", 0)
    assert others == ([], [], [], [])
    assert sum(done) <= total <= sum(done) + sum(perhaps)
    assert min(done) > 10
    store.close()


def test_a_replica_takes_over_from_a_dead_node(redis_server_binary: str, tmp_path: Path) -> None:
    with RedisCluster(redis_server_binary, tmp_path) as cluster:
        # Given a store whose node has a replica
        prefix = next(name for name in "abcdefgh" if cluster.owner(name) is not cluster.nodes[0])
        store = open_store(cluster.url, prefix=prefix, timeout=1)
        owner = cluster.owner(prefix)
        cluster.add_replica(owner)
        store.add(b"c", 1)
        assert cluster.command(owner, "WAIT", 1, 2000) == 1
        # When the node dies, then the store goes on at the replica
        owner.kill()
        wait_until(lambda: is_done(lambda: store.add(b"c", 1)), "a write", 15)
        assert store.add(b"c", 0) == 2
        wait_until(lambda: cluster.owner(prefix) is cluster.nodes[3], "that all know the new owner")
        store.close()


def test_a_dead_node_is_an_outage_until_it_is_back(cluster: RedisCluster, prefix: str) -> None:
    # Given a store in use whose node dies
    store = open_store(cluster.url, prefix=prefix, timeout=1)
    store.add(b"c", 5)
    owner = cluster.owner(prefix)
    owner.kill()
    try:
        # When many threads call, then each ends in time and says so
        outcomes: list[tuple[object, float]] = []
        threads = [threading.Thread(target=lambda: outcomes.append(outcome(store))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [isinstance(error, StoreUnavailable) for error, _ in outcomes] == [True] * 16
        assert max(seconds for _, seconds in outcomes) < 1.2
        assert is_unavailable_in_time(store, until=time.monotonic() + 2)
    finally:
        owner.start()
    # And the same store goes on where it was
    wait_until(cluster.is_ok, "the cluster as before")
    wait_until(lambda: is_done(lambda: store.get(b"c")), "that the store is back", 5)
    assert store.add(b"c", 1) == 6
    store.close()


def outcome(store: Store) -> tuple[object, float]:
    watch, result = Stopwatch(), None
    try:
        store.add(b"c", 1)
    except Exception as error:
        result = error
    return result, watch.seconds


def is_unavailable_in_time(store: Store, until: float) -> bool:
    while time.monotonic() < until:
        error, seconds = outcome(store)
        assert isinstance(error, StoreUnavailable)
        assert error.maybe_applied is False
        assert seconds < 1.2
    return True
