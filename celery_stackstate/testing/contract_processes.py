"""The contract under concurrency: several processes at once, threads, and a fork."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from celery_stackstate.errors import CounterRange
from celery_stackstate.stores.base import (
    Expect,
    RunFacts,
    RunQuery,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
)
from celery_stackstate.testing.contract_base import LONG, ContractBase, Place, together

PROCESSES = 8


def add_many(store: Store, _: int, times: int) -> list[int]:
    return [store.add(b"c", 1) for _ in range(times)]


def take_if_absent(store: Store, number: int, rounds: int) -> list[bool]:
    return [store.put(b"lock%d" % n, number, expect=Expect.ABSENT, ttl=LONG).applied for n in range(rounds)]


def add_up_to(store: Store, _: int, times: int, ceiling: int) -> int:
    refused = 0
    for _ in range(times):
        try:
            store.add(b"c", 1, ceiling=ceiling)
        except CounterRange:
            refused += 1
    return times - refused


def count_by_version(store: Store, _: int, times: int) -> int:
    done = 0
    while done < times:
        entry = store.get(b"c")
        value = entry.value if entry else 0
        assert isinstance(value, int)
        done += store.put(b"c", value + 1, expect=entry.version if entry else Expect.ABSENT).applied
    return done


def put_and_remove(store: Store, number: int, times: int) -> list[int]:
    versions = []
    for _ in range(times):
        entry = store.put(b"k", number, linger=LONG).entry
        assert entry is not None
        versions.append(entry.version)
        store.remove(b"k", expect=entry.version)
    return versions


def append_each(store: Store, number: int, times: int) -> None:
    for turn in range(times):
        rank = turn * PROCESSES + number
        uid, at = f"{number}-{turn}", 1_000 + turn
        facts = RunFacts(task="t", created=at) if number % 2 else RunFacts(queue="q")
        event, log = StoredEvent(uid, at, "n", None, b""), StoredLog(str(number), turn, at, 20, "l", "m")
        standing = RunStanding(f"S{rank}", str(number))
        store.append([RunWrite("r", rank, facts, standing, [event], [log], most_events=1000, most_logs=1000)])
        store.append([RunWrite("short", rank, facts, standing, [event], [log], most_events=30, most_logs=20)])


def write_or_purge(store: Store, number: int, times: int) -> int:
    if number % 2:
        return sum(store.purge(limit=20) for _ in range(times))
    for turn in range(times):
        store.put(b"live%d-%d" % (number, turn), turn, ttl=LONG)
        store.put(b"short%d-%d" % (number, turn), turn, ttl=1)
        store.append(
            [RunWrite(f"live{number}-{turn}", 1), RunWrite(f"x{number}-{turn}", 1, standing=RunStanding(forget=1))]
        )
    return 0


class ProcessContract(ContractBase):
    """What holds when several processes use the store at once."""

    def test_no_addition_is_lost_or_returned_twice(self, place: Place, store: Store) -> None:
        results = together(place, PROCESSES, add_many, 100)
        assert list(range(1, PROCESSES * 100 + 1)) == sorted(value for values in results for value in values)
        assert store.add(b"c", 0) == PROCESSES * 100

    def test_exactly_one_of_sixteen_finds_the_key_absent(self, place: Place, store: Store) -> None:
        results = together(place, 16, take_if_absent, 20)
        assert [sum(takers) for takers in zip(*results, strict=True)] == [1] * 20
        winners = [store.get(b"lock%d" % n).value for n in range(20)]  # type: ignore[union-attr]
        assert [takers.index(True) for takers in zip(*results, strict=True)] == winners

    def test_a_ceiling_is_reached_exactly(self, place: Place, store: Store) -> None:
        assert sum(together(place, PROCESSES, add_up_to, 40, 150)) == 150
        assert store.add(b"c", 0) == 150

    def test_a_version_lets_one_writer_through(self, place: Place, store: Store) -> None:
        assert sum(together(place, 4, count_by_version, 30)) == 120
        assert store.add(b"c", 0) == 120

    def test_no_version_is_given_twice_and_each_process_sees_them_grow(self, place: Place) -> None:
        results = together(place, 4, put_and_remove, 60)
        assert all(sorted(versions) == versions for versions in results)
        assert len({version for versions in results for version in versions}) == 4 * 60

    def test_writers_of_one_run_merge_in_any_order(self, place: Place, store: Store) -> None:
        together(place, PROCESSES, append_each, 20)
        found = store.run("r")
        assert found is not None
        row, events = found
        rank = 20 * PROCESSES - 1
        assert (rank, f"S{rank}", "7") == (row.rank, row.standing.status, row.standing.worker)
        assert (row.facts.task, row.facts.queue) == ("t", "q")
        assert len(events) == len(store.logs("r")) == PROCESSES * 20
        short = store.run("short")
        assert short is not None
        assert (replace(row, run_id="short"), events[:10] + events[-20:]) == short
        assert store.logs("r")[-20:] == store.logs("short")
        assert {found.run_id for found in store.runs(RunQuery(status=(f"S{rank}",)))} == {"r", "short"}
        assert store.count_runs(RunQuery(status=("S0", "S1", "S2"))) == 0

    def test_purge_beside_writers_touches_nothing_live(self, place: Place, store: Store) -> None:
        together(place, 4, write_or_purge, 40)
        assert len(store.scan(b"live", limit=1000)) == 80
        assert store.count_runs(RunQuery(text="live")) == 80

    def test_threads_share_one_store(self, store: Store) -> None:
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda _: add_many(store, 0, 50), range(8)))
        assert list(range(1, 401)) == sorted(value for values in results for value in values)

    def test_a_forked_child_and_its_parent_both_go_on(self, store: Store, open_store: Callable[[], Store]) -> None:
        store.add(b"c", 1)
        children = []
        for _ in range(3):
            child = os.fork()
            if not child:
                code = 1
                try:
                    before = store.add(b"c", 0)
                    after = [store.add(b"c", 1) for _ in range(50)][-1]
                    store.close()
                    code = 0 if after >= before + 50 and store.get(b"c") is not None else 2
                finally:
                    os._exit(code)
            children.append(child)
            for _ in range(50):
                store.add(b"c", 1)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
        expected = 301 if store.shared_between_processes else 151
        assert store.add(b"c", 0) == open_store().add(b"c", 0) == expected
