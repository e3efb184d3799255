"""The contract over a master that Sentinels name, and how a store gets over a failover."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from celery_stackstate.testing import StoreContract
from tests.redis_servers import MASTER, SentinelGroup, wait_until
from tests.services import HOST, RedisServer, free_port
from tests.waiting import Stopwatch

#: Seconds that a failover of this group may take: to notice (1), to agree and to promote.
FAILOVER = 15


class TestRedisSentinel(StoreContract):
    @pytest.fixture
    def store_url(self, redis_sentinels: SentinelGroup) -> str:
        return redis_sentinels.url


@pytest.fixture
def group(redis_sentinels: SentinelGroup) -> SentinelGroup:
    wait_until(redis_sentinels.is_complete, "a sound group")
    return redis_sentinels


@pytest.fixture
def store(group: SentinelGroup) -> Iterator[Store]:
    store = open_store(group.url, prefix=uuid.uuid4().hex, timeout=1)
    yield store
    store.close()


def client_of(server: RedisServer) -> Any:
    return redis.Redis(host=HOST, port=server.port)


@pytest.mark.parametrize(
    "url",
    ["sentinel://h:1,h:2", "sentinel://h/m/x", "sentinel://h/m/0/1", "sentinel://h/m?ssl=perhaps", "sentinel://h:p/m"],
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sentinel://user:password@host"):
        open_store(url)


def test_the_database_is_the_one_of_the_url(group: SentinelGroup) -> None:
    store = open_store(f"{group.url}/3", prefix="numbered")
    store.put(b"k", b"v")
    with redis.Redis(host=HOST, port=group.master().port, db=3) as client:
        assert client.exists("{stackstate:numbered}:e:k")
    store.close()


def test_a_name_that_no_sentinel_knows_is_a_mistake(group: SentinelGroup) -> None:
    with pytest.raises(ConfigurationError, match="'other'"):
        open_store(group.url.replace(MASTER, "other")).get(b"k")


def test_sentinels_that_are_down_are_passed_over_and_told(group: SentinelGroup) -> None:
    up = f"{HOST}:{group.sentinels[0].port}"
    store = open_store(f"sentinel://{HOST}:{free_port()},{up}/{MASTER}", timeout=2)
    store.put(b"k", b"v")
    assert ["1 of 2" in warning for warning in store.check()] == [True]
    store.close()
    store = open_store(f"sentinel://{HOST}:{free_port()},{HOST}:{free_port()}/{MASTER}", timeout=2)
    with pytest.raises(StoreUnavailable, match="refused") as caught:
        store.put(b"k", b"v")
    assert caught.value.maybe_applied is False


def test_check_finds_nothing_wrong(store: Store) -> None:
    assert store.check() == []


def test_sentinels_have_users_of_their_own(group: SentinelGroup) -> None:
    for sentinel in group.sentinels:
        client_of(sentinel).execute_command("ACL", "SETUSER", "watcher", "on", ">l@ok", "+sentinel")
    store = open_store(f"{group.url}?sentinel_username=watcher&sentinel_password=l%40ok")
    store.put(b"k", b"v")
    store.close()
    with pytest.raises(ConfigurationError, match="sentinel_password"):
        open_store(f"{group.url}?sentinel_username=watcher&sentinel_password=other").get(b"k")


def test_a_child_finds_the_master_itself(store: Store) -> None:
    store.add(b"c", 1)
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if store.add(b"c", 1) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.add(b"c", 1) == 3


def test_writes_resume_on_the_promoted_replica_when_the_master_is_killed(group: SentinelGroup, store: Store) -> None:
    # Given a store in use, with its replica in step
    store.add(b"c", 1)
    master = group.master()
    assert client_of(master).wait(1, 2000) == 1
    # When the master is killed while many threads call
    ended = threading.Event()
    calls: list[tuple[float, object]] = []
    threads = [threading.Thread(target=call_until, args=(store, ended, calls)) for _ in range(8)]
    for thread in threads:
        thread.start()
    try:
        master.kill()
        # Then every call ends in time, and writes resume without a restart
        wait_until(lambda: group.master() is not master, "a failover", FAILOVER)
        wait_until(lambda: is_written(store), "a write", 3)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        master.start()
    assert max(seconds for seconds, _ in calls) < 1.2
    assert {type(error) for _, error in calls} <= {StoreUnavailable, type(None)}
    # And the old master comes back as a replica without anybody noticing
    wait_until(group.is_complete, "a sound group", FAILOVER)
    before = store.add(b"c", 0)
    assert [store.add(b"c", 1) for _ in range(3)] == [before + 1, before + 2, before + 3]


def call_until(store: Store, ended: threading.Event, calls: list[tuple[float, object]]) -> None:
    while not ended.is_set():
        watch, outcome = Stopwatch(), None
        try:
            store.add(b"d", 1)
        except Exception as error:
            outcome = error
        calls.append((watch.seconds, outcome))
        ended.wait(0.02)


def is_written(store: Store) -> bool:
    try:
        store.add(b"c", 1)
    except StoreUnavailable:
        return False
    return True


def test_a_master_that_hangs_is_left_for_the_new_one(group: SentinelGroup, store: Store) -> None:
    store.add(b"c", 1)
    master = group.master()
    master.pause()
    try:
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable) as caught:
            store.add(b"c", 1)
        assert watch.seconds < 1.2
        assert caught.value.maybe_applied is True
        wait_until(lambda: is_written(store), "a write", FAILOVER)
        wait_until(lambda: group.master() is not master, "that every Sentinel knows")
    finally:
        master.resume()
    wait_until(group.is_complete, "a sound group", FAILOVER)
    assert is_written(store)


def test_a_master_that_is_demoted_alive_gets_no_more_writes(group: SentinelGroup, store: Store) -> None:
    # Given idle connections to a master that has become a replica
    store.add(b"c", 1)
    master = group.master()
    wait_until(lambda: failed_over(group), "that Sentinel agrees", FAILOVER)
    wait_until(lambda: group.master() is not master, "a failover", FAILOVER)
    wait_until(group.is_complete, "a sound group", FAILOVER)
    # Then the next call finds the new one by itself
    assert store.add(b"c", 1) == 2
    assert client_of(group.master()).role()[0] in (b"master", "master")


def failed_over(group: SentinelGroup) -> bool:
    try:
        client_of(group.sentinels[0]).execute_command("SENTINEL", "FAILOVER", MASTER)
    except redis.ResponseError:
        return False
    return True


def test_a_refused_write_finds_the_new_master_in_the_same_call(group: SentinelGroup, store: Store) -> None:
    # Given a store that believes in the replica
    store.add(b"c", 1)
    replica = next(server for server in group.servers if server is not group.master())
    store._client._pool.place.server = (HOST, replica.port)  # type: ignore[attr-defined]
    # When it writes there, then nothing is lost but time
    assert store.add(b"c", 1) == 2
