"""The contract over the Redis store, and what only a server on a wire can do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import (
    DroppedLogs,
    RunFacts,
    RunQuery,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
)
from celery_stackstate.testing import StoreContract
from tests.services import HOST, CuttingProxy, RedisServer, free_port
from tests.waiting import Stopwatch

MAX = 2**53


class TestRedisStore(StoreContract):
    @pytest.fixture
    def store_url(self, redis_url: str) -> str:
        return redis_url


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind(redis_url: str) -> Iterator[None]:
    yield
    client = redis.Redis.from_url(redis_url)
    for pattern in ("{stackstate:*contract-*", "{stackstate:*CONTRACT-*"):
        for key in client.scan_iter(pattern, count=1000):
            client.unlink(key)
    client.close()


@pytest.fixture
def server(redis_server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(redis_server_binary, tmp_path, "--save", "", "--appendonly", "yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def raw(server: RedisServer) -> Iterator[Any]:
    client: Any = redis.Redis(host=HOST, port=server.port)
    yield client
    client.close()


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    store = open_store(server.url, prefix="p", timeout=2.0)
    yield store
    store.close()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server.port)
    yield proxy
    proxy.close()


@pytest.mark.parametrize(
    "url", ["redis://host:port/0", "redis://h/0?no_such=1", "redis://h?max_connections=0", "redis://h?db=x"]
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="stackstate_url"):
        open_store(url)


def test_a_password_in_a_malformed_url_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("redis://user:hunter2@host:port/0")
    assert "hunter2" not in str(caught.value)


def test_without_redis_py_the_error_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['redis'] = None\n"
        "from celery_stackstate.stores import open_store\n"
        "try: open_store('redis://localhost')\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "celery-stackstate[redis]" in run.stdout


def test_a_flushed_script_cache_is_not_noticed(store: Store, raw: Any) -> None:
    store.add(b"c", 1)
    raw.script_flush()
    assert store.add(b"c", 1) == 2


def test_a_restart_of_the_server_is_not_noticed_afterwards(store: Store, server: RedisServer) -> None:
    store.add(b"c", 1)
    server.stop()
    with pytest.raises(StoreUnavailable) as caught:
        store.add(b"c", 1)
    assert caught.value.maybe_applied is False
    server.start()
    assert store.add(b"c", 1) == 2


def test_a_refused_port_is_unavailable_at_once_and_nothing_was_applied() -> None:
    store = open_store(f"redis://{HOST}:{free_port()}", timeout=5)
    watch = Stopwatch()
    for call in (lambda: store.add(b"c", 1), lambda: store.get(b"k"), store.check):
        with pytest.raises(StoreUnavailable) as caught:
            call()
        assert caught.value.maybe_applied is False
    assert watch.seconds < 0.5


def test_a_port_that_never_answers_is_unavailable_within_the_timeout() -> None:
    with socket.create_server((HOST, 0)) as silent:
        store = open_store(f"redis://{HOST}:{silent.getsockname()[1]}", timeout=0.5)
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable) as caught:
            store.add(b"c", 1)
        assert watch.seconds < 0.6
        assert caught.value.maybe_applied is False


def test_a_server_that_stops_answering_is_unavailable_within_the_timeout(server: RedisServer) -> None:
    store = open_store(server.url, timeout=0.5)
    store.add(b"c", 1)
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    try:
        watch = Stopwatch()
        with pytest.raises(StoreUnavailable) as caught:
            store.add(b"c", 1)
        assert watch.seconds < 0.6
        assert caught.value.maybe_applied is True
    finally:
        server._process.send_signal(signal.SIGCONT)
    assert store.add(b"c", 0) in (1, 2)
    store.close()


@pytest.mark.parametrize("verb", ["add", "put", "remove", "append", "put_and_append"])
def test_a_lost_answer_says_maybe_applied_and_nothing_is_sent_twice(proxy: CuttingProxy, raw: Any, verb: str) -> None:
    store = open_store(f"redis://{HOST}:{proxy.port}", timeout=2.0)
    store.add(b"c", 1)
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: store.add(b"c", 1),
        "put": lambda: store.put(b"c", 2),
        "remove": lambda: store.remove(b"c"),
        "append": lambda: store.append([RunWrite("r", 1)]),
        "put_and_append": lambda: store.put_and_append(b"c", 2, [RunWrite("r", 1)]),
    }
    store.put_and_append(b"other", 1, [RunWrite("other", 1)])
    store.put(b"other", 1)
    store.remove(b"other")
    store.append([RunWrite("other", 1)])
    before = raw.info("commandstats")["cmdstat_evalsha"]["calls"]
    proxy.lose_next_answer = True
    with pytest.raises(StoreUnavailable) as caught:
        calls[verb]()
    assert caught.value.maybe_applied is True
    assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 1
    assert store.add(b"c", 0) == {"add": 2, "put": 2, "remove": 0, "append": 1, "put_and_append": 2}[verb]
    assert (store.run("r") is not None) == (verb in ("append", "put_and_append"))
    store.close()


def test_each_verb_is_one_command(store: Store, raw: Any) -> None:
    writes = [
        RunWrite(
            f"r{n}",
            1,
            RunFacts("t"),
            RunStanding(),
            [StoredEvent("u", 1, "n", None, b"")],
            [StoredLog("e", 1, 1, 1, "l", "m")],
        )
        for n in range(5)
    ]
    calls: list[Callable[[], object]] = [
        lambda: store.get(b"k"),
        lambda: store.put(b"k", b"v", ttl=10**9),
        lambda: store.get_many([b"a", b"b", b"k"]),
        lambda: store.add(b"c", 1),
        lambda: store.scan(b"", limit=10),
        lambda: store.remove(b"k"),
        lambda: store.append(writes),
        lambda: store.run("r1"),
        lambda: store.runs(RunQuery(task="t")),
        lambda: store.logs("r1"),
        lambda: store.tally(0, 2**62),
        lambda: store.append([RunWrite("r1", 1, dropped=[DroppedLogs("e", 1, 9)], most_events=5, most_logs=5)]),
        lambda: store.remove_runs(["r3", "r4"]),
    ]
    for call in calls:
        call()
    for number, call in enumerate(calls):
        raw.config_resetstat()
        call()
        stats = raw.info("commandstats")
        sent = {name: stat["calls"] for name, stat in stats.items() if name in ("cmdstat_evalsha", "cmdstat_eval")}
        assert sent == {"cmdstat_evalsha": 1}, number
        assert raw.info("stats")["total_commands_processed"] > 0


def test_every_key_carries_the_tag_of_its_prefix(server: RedisServer, raw: Any) -> None:
    for prefix in ("", "p", "a}b{c", "*?", "\u00e9 \n", "x" * 64):
        raw.flushall()  # of this test's own server
        store = open_store(server.url, prefix=prefix)
        store.put(b"}{k", b"v", ttl=10**9)
        store.append(
            [
                RunWrite(
                    "r}",
                    1,
                    RunFacts("t}{", created=1),
                    RunStanding("S}", forget=10**15),
                    logs=[StoredLog("e", 1, 1, 1, "l", "m")],
                )
            ]
        )
        keys = raw.keys("*")
        assert len(keys) >= 8
        tags = {key[key.index(b"{") : key.index(b"}") + 1] for key in keys}
        assert len(tags) == 1
        assert all(key.startswith(b"{stackstate:") and b"\n" not in key.split(b"}")[0] for key in keys)
        store.close()


def test_a_prefix_longer_than_64_bytes_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stackstate_prefix"):
        open_store("redis://localhost", prefix="\u00e9" * 33)


def test_nothing_is_left_of_ended_entries_and_forgotten_runs(store: Store, raw: Any) -> None:
    for number in range(20):
        store.put(b"k%d" % number, b"v", ttl=1000)
        store.add(b"c%d" % number, 1)
        store.remove(b"c%d" % number)
    log = StoredLog("e", 1, 1, 1, "l", "m")
    facts = RunFacts("t", "q", "k", "p", "o", "g", "h", "i", 1)
    store.append([RunWrite(f"r{n}", 1, facts, RunStanding(worker="w", forget=1), logs=[log]) for n in range(9)])
    time.sleep(0.05)
    while store.purge():
        pass
    assert raw.keys("*") == []


def test_versions_beyond_2_to_the_53_grow_exactly(store: Store, raw: Any) -> None:
    store.put(b"k", b"v")
    raw.hset("{stackstate:p}:e:k", "n", 2**62 + 1)
    entry = store.put(b"k", b"v").entry
    assert entry is not None
    assert entry.version == 2**62 + 2
    assert not store.put(b"k", b"v", expect=2**62 + 3).applied
    assert store.put(b"k", b"v", expect=2**62 + 2).applied


def test_a_removed_key_that_lingers_is_remembered_and_then_gone(store: Store, raw: Any) -> None:
    store.put(b"k", b"v", linger=60_000_000)
    store.remove(b"k")
    assert 50_000 < raw.pttl("{stackstate:p}:e:k") < 61_000
    assert not raw.exists("{stackstate:p}:keys")
    store.put(b"k", b"v")
    assert raw.pttl("{stackstate:p}:e:k") == -1


def test_check_warns_of_eviction_and_of_missing_persistence(store: Store, raw: Any) -> None:
    assert store.check() == []
    raw.config_set("maxmemory-policy", "allkeys-lru")
    raw.config_set("appendonly", "no")
    warnings = "\n".join(store.check())
    assert "allkeys-lru" in warnings
    assert "noeviction" in warnings
    assert "no persistence" in warnings


def test_check_tolerates_a_user_who_may_not_see_info(server: RedisServer, raw: Any) -> None:
    raw.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~{stackstate:*", "+@all", "-info", "-config")
    store = open_store(f"redis://app:secret@{HOST}:{server.port}", timeout=2)
    assert ["INFO" in warning for warning in store.check()] == [True]
    store.close()


def test_a_wrong_password_is_a_configuration_error(server: RedisServer, raw: Any) -> None:
    raw.config_set("requirepass", "secret")
    for user in ("", ":wrong@"):
        store = open_store(f"redis://{user}{HOST}:{server.port}", timeout=2)
        with pytest.raises(ConfigurationError, match="password"):
            store.add(b"c", 1)


def test_a_user_who_may_not_write_is_told_so(server: RedisServer, raw: Any) -> None:
    raw.execute_command("ACL", "SETUSER", "app", "on", ">secret", "~*", "+@read", "+@connection")
    store = open_store(f"redis://app:secret@{HOST}:{server.port}", timeout=2)
    with pytest.raises(ConfigurationError, match="may not do"):
        store.add(b"c", 1)


def test_a_full_server_refuses_and_applies_nothing(store: Store, raw: Any) -> None:
    store.put(b"k", b"v")
    raw.config_set("maxmemory", "1mb")
    with pytest.raises(StoreUnavailable) as caught:
        store.put(b"k", b"w")
    assert caught.value.maybe_applied is False
    with pytest.raises(StoreUnavailable):
        store.add(b"c", 1)
    raw.config_set("maxmemory", "0")
    assert store.get(b"k").value == b"v"  # type: ignore[union-attr]
    assert store.get(b"c") is None


def test_connections_are_bounded(server: RedisServer, raw: Any) -> None:
    store = open_store(server.url + "?max_connections=3", timeout=5)
    before = raw.info("clients")["connected_clients"]
    threads = [threading.Thread(target=lambda: [store.add(b"c", 1) for _ in range(50)]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.add(b"c", 0) == 1000
    assert raw.info("clients")["connected_clients"] - before <= 3
    store.close()
    time.sleep(0.1)
    assert raw.info("clients")["connected_clients"] == before


def test_a_child_opens_its_own_connection(store: Store, raw: Any) -> None:
    store.add(b"c", 1)
    before = raw.info("stats")["total_connections_received"]
    child = os.fork()
    if not child:
        code = 1
        try:
            code = 0 if store.add(b"c", 1) == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert raw.info("stats")["total_connections_received"] == before + 1
    assert store.add(b"c", 1) == 3
    assert raw.info("stats")["total_connections_received"] == before + 1


RIGHTS = ("~{stackstate:*", "+@read", "+@write", "+@scripting", "+@connection", "+time")


def test_a_user_with_no_more_than_the_rights_of_a_store(server: RedisServer, raw: Any) -> None:
    raw.execute_command("ACL", "SETUSER", "app", "on", ">s@cr:et", *RIGHTS)
    store = open_store(f"redis://app:s@cr:et@{HOST}:{server.port}/0", prefix="p", timeout=2)
    store.put(b"k", b"v", ttl=10**9, linger=10**9)
    store.add(b"c", 1)
    store.append([RunWrite("r", 1, RunFacts("t"), RunStanding(forget=1), logs=[StoredLog("e", 1, 1, 1, "l", "m")])])
    assert [entry.key for entry in store.scan(b"")] == [b"c", b"k"]
    assert store.get_many([b"k", b"c"]).keys() == {b"k", b"c"}
    assert (store.run("r"), store.run_names("task"), len(store.runs(RunQuery(task="t")))) == (store.run("r"), ["t"], 1)
    assert len(store.logs("r")) == 1
    assert [tally.runs for tally in store.tally(0, 2**62)] == [1]
    store.append([RunWrite("r", 1, dropped=[DroppedLogs("e", 1, 1)], most_events=0, most_logs=0), RunWrite("s", 1)])
    assert store.remove_runs(["s"]) == 1
    assert store.purge() == 1
    assert store.remove(b"k") is not None
    assert ["INFO" in warning for warning in store.check()] == [True]
    store.close()


@pytest.mark.parametrize("missing", ["-eval", "-evalsha", "-@scripting", "-hset", "-time"])
def test_a_right_that_is_missing_is_told(server: RedisServer, raw: Any, missing: str) -> None:
    raw.execute_command("ACL", "SETUSER", "app", "on", ">secret", *RIGHTS, missing)
    store = open_store(f"redis://app:secret@{HOST}:{server.port}", timeout=2)
    with pytest.raises(ConfigurationError, match="may not do what the store needs"):
        store.put(b"k", b"v")
    store.close()


def test_a_power_failure_that_would_lose_much_is_warned_of(store: Store, raw: Any) -> None:
    raw.config_set("appendfsync", "no")
    assert ["appendfsync" in warning for warning in store.check()] == [True]


def test_a_scan_of_50_costs_the_same_among_1_000_others_and_among_very_many(store: Store, raw: Any) -> None:
    base = b"{stackstate:p}:"

    def fill(start: int, stop: int) -> None:
        """Write entries as the script does; it would take long one by one."""
        for first in range(start, stop, 10_000):
            pipe = raw.pipeline(transaction=False)
            for number in range(first, min(stop, first + 10_000)):
                key = b"other/%d" % number
                pipe.hset(base + b"e:" + key, mapping={"k": "b", "v": "v", "n": 1, "x": "", "u": 1, "l": 0, "p": 0})
                pipe.zadd(base + b"keys", {key: 0})
            pipe.execute()

    def took() -> float:
        times = []
        for _ in range(30):
            began = time.perf_counter()
            assert len(store.scan(b"mine/", limit=50)) == 50
            times.append(time.perf_counter() - began)
        return sorted(times)[15]

    for number in range(60):
        store.put(b"mine/%d" % number, b"v")
    fill(0, 1_000)
    few = took()
    fill(1_000, 1_000_000 if os.environ.get("STACKSTATE_TEST_LONG") else 60_000)
    assert len(store.scan(b"other/", limit=3)) == 3
    assert took() < 3 * few + 0.001


@pytest.mark.parametrize(
    "url",
    [
        *(
            "redis://:s3cr/et@db:6379/0",
            "redis://me:s@s3cr/et@db:6379/0",
            "redis://:s3cr#et@db/0",
            "redis://:s3cr?et@db/0",
        ),
        *(
            "redis://me:s3cr[et@db/0",
            "redis://me:s3cr\u2100et@db/0",
            "sentinel://me:s3cr/et@db/m",
            "redis+cluster://:s3cr/et@db",
        ),
    ],
)
def test_a_password_that_is_not_encoded_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="percent-encoded") as caught:
        open_store(url)
    shown = "".join(traceback.format_exception_only(caught.value))
    assert "s3cr" not in shown
    assert caught.value.__suppress_context__
