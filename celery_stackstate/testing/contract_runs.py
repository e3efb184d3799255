"""The contract of runs, a test for each sentence."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from celery_stackstate.stores.base import (
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
)
from celery_stackstate.testing.contract_base import HOSTILE_TEXT, LONG, ContractBase, Place, clock, wait_past

T = 1_700_000_000_000_000


def row_of(store: Store, run_id: str = "r") -> RunRow:
    found = store.run(run_id)
    assert found is not None
    return found[0]


def seed(store: Store, count: int, **options: Any) -> None:
    """Append runs r000, r001, ... of which each three share one `created`."""
    store.append([_write(number, **options) for number in range(count)])


def _write(number: int, **standing: Any) -> RunWrite:
    facts = RunFacts(task=f"task{number % 2}", queue=f"q{number % 5}", created=T + number // 3)
    status = ("SUCCESS", "FAILURE", "STARTED")[number % 3]
    return RunWrite(f"r{number:03}", 1, facts, RunStanding(status=status, worker=f"w{number % 4}", **standing))


def ids(store: Store, **query: Any) -> list[str]:
    return [row.run_id for row in store.runs(RunQuery(**query))]


class RunContract(ContractBase):
    """What `append`, `run` and `logs` promise."""

    def test_an_unknown_run_is_none(self, store: Store) -> None:
        assert store.run("r") is None
        assert store.logs("r") == []
        assert store.runs(RunQuery()) == []
        store.append([])

    def test_a_write_comes_back_whole(self, store: Store) -> None:
        facts = RunFacts("t", "q", "k", "p", "o", T)
        standing = RunStanding("FAILURE", "w", 3, 4, T + 1, T + 2, "boom", T + 10**15)
        events = [StoredEvent("u", T, "started", "e", bytes(range(256))), StoredEvent("v", T, "n", None, b"")]
        store.append([RunWrite("r", 2**53 - 1, facts, standing, events)])
        assert (RunRow("r", 2**53 - 1, facts, standing), events) == store.run("r")
        assert [RunRow("r", 2**53 - 1, facts, standing)] == store.runs(RunQuery())

    def test_one_call_writes_many_runs(self, store: Store) -> None:
        seed(store, 120)
        assert store.count_runs(RunQuery()) == 120

    def test_the_first_writer_of_each_fact_wins(self, store: Store) -> None:
        store.append([RunWrite("r", 1, RunFacts(task="first", created=T))])
        store.append([RunWrite("r", 2, RunFacts(task="second", queue="q", created=T + 5))])
        store.append([RunWrite("r", 3, RunFacts(queue="other"))])
        assert RunFacts(task="first", queue="q", created=T) == row_of(store).facts
        assert ids(store, task="first", queue="q") == ["r"]
        assert ids(store, task="second") == []

    def test_the_highest_rank_wins_as_a_whole_in_every_order(self, store: Store) -> None:
        standings = [
            RunStanding("QUEUED", forget=T + 10**15),
            RunStanding("STARTED", "w1", 1, started=T),
            RunStanding("SUCCESS", None, 2, finished=T + 1),
        ]
        for number, order in enumerate(permutations(range(3))):
            run_id = f"r{number}"
            for rank in order:
                store.append([RunWrite(run_id, rank, standing=standings[rank])])
            assert (2, standings[2]) == (row_of(store, run_id).rank, row_of(store, run_id).standing)
            assert ids(store, status=("SUCCESS",), ids=(run_id,)) == [run_id]
            assert ids(store, worker="w1", ids=(run_id,)) == []
        assert ids(store, worker="w1") == ids(store, status=("STARTED",)) == []

    def test_facts_and_standing_merge_alike_in_every_order(self, store: Store) -> None:
        writes = [
            RunWrite("", 0, RunFacts(task="t", created=T), RunStanding("QUEUED")),
            RunWrite("", 5, RunFacts(queue="q"), RunStanding("STARTED", "w", started=T + 1)),
            RunWrite("", 7, RunFacts(key="k"), None, [StoredEvent("u", T, "n", None, b"")]),
            RunWrite("", 9, RunFacts(), RunStanding("SUCCESS", "w", finished=T + 2)),
        ]
        seen = set()
        for number, order in enumerate(permutations(writes)):
            run_id = f"r{number:02}"
            for write in order:
                store.append([replace(write, run_id=run_id)])
            seen.add((row_of(store, run_id).rank, row_of(store, run_id).facts, row_of(store, run_id).standing))
        assert len(seen) == 1
        assert ids(store, task="t", queue="q", key="k", status=("SUCCESS",), worker="w") == ids(store)
        assert len(ids(store)) == 24

    def test_equal_rank_replaces(self, store: Store) -> None:
        for status in ("STARTED", "RETRY"):
            store.append([RunWrite("r", 1, standing=RunStanding(status, worker=status))])
        assert row_of(store).standing == RunStanding("RETRY", worker="RETRY")

    def test_a_column_left_none_in_a_winning_write_becomes_none(self, store: Store) -> None:
        store.append([RunWrite("r", 1, standing=RunStanding("RETRY", "w", 1, 2, 3, 4, "boom", T + 10**15))])
        store.append([RunWrite("r", 2, standing=RunStanding("STARTED"))])
        assert row_of(store).standing == RunStanding("STARTED")

    def test_a_write_without_standing_creates_the_run_and_changes_no_ranked_column(self, store: Store) -> None:
        store.append([RunWrite("r", 99, RunFacts(task="t"))])
        assert row_of(store).standing == RunStanding()
        assert ids(store, status=("QUEUED",)) == ["r"]
        store.append([RunWrite("r", 1, standing=RunStanding("STARTED", "w"))])
        assert row_of(store).standing == RunStanding("STARTED", "w")
        store.append([RunWrite("r", 99, RunFacts(key="k"))])
        assert row_of(store).standing == RunStanding("STARTED", "w")
        assert row_of(store).rank == 1

    def test_appending_twice_is_the_same_as_once(self, store: Store) -> None:
        event, log = StoredEvent("u", T, "n", "e", b"x"), StoredLog("e", 1, T, 20, "l", "m")
        write = RunWrite("r", 1, RunFacts(task="t", created=T), RunStanding("STARTED"), [event], [log])
        store.append([write])
        once = store.run("r"), store.logs("r"), store.runs(RunQuery())
        store.append([write, write])
        assert once == (store.run("r"), store.logs("r"), store.runs(RunQuery()))

    def test_the_same_uid_or_line_again_changes_nothing(self, store: Store) -> None:
        store.append([RunWrite("r", 1, events=[StoredEvent("u", T, "n", None, b"1")], logs=[_line("e", 1, T, "1")])])
        store.append([RunWrite("r", 1, events=[StoredEvent("u", 5, "m", "e", b"2")], logs=[_line("e", 1, 5, "2")])])
        store.append([RunWrite("other", 1, events=[StoredEvent("u", 5, "m", "e", b"2")], logs=[_line("e", 1, 5, "2")])])
        assert [StoredEvent("u", T, "n", None, b"1")] == store.run("r")[1]  # type: ignore[index]
        assert [_line("e", 1, T, "1")] == store.logs("r")
        assert [_line("e", 1, 5, "2")] == store.logs("other")

    def test_events_come_by_time_then_by_arrival(self, store: Store) -> None:
        for uid, at in (("c", 3), ("z", 1), ("a", 1), ("m", 1), ("b", 2)):
            store.append([RunWrite("r", 1, events=[StoredEvent(uid, at, "n", None, b"")])])
        assert [event.uid for event in store.run("r")[1]] == ["z", "a", "m", "b", "c"]  # type: ignore[index]

    def test_logs_come_by_time_execution_and_number_page_by_page(self, store: Store) -> None:
        lines = [
            _line(execution, seq, at)
            for at in (-5, 1, 2**60)
            for execution in ("", "a", "ab", "b")
            for seq in (-1, 2, 10)
        ]
        unique = {(line.execution, line.seq): line for line in lines}
        lines = [replace(line, seq=number) for number, line in enumerate(lines)]
        assert len(unique) < len(lines)
        store.append([RunWrite("r", 1, logs=lines[::-1])])
        expected = sorted(lines, key=lambda line: (line.at, line.execution, line.seq))
        assert expected == store.logs("r")
        paged: list[StoredLog] = []
        while page := store.logs("r", after=_place(paged), limit=5):
            paged += page
        assert expected == paged
        assert [line for line in expected if line.execution == "a"] == store.logs("r", execution="a")
        assert store.logs("r", execution="a", limit=2) == store.logs("r", execution="a")[:2]

    @pytest.mark.parametrize("text", HOSTILE_TEXT)
    def test_hostile_text_comes_back_and_is_found_in_every_field(self, store: Store, text: str) -> None:
        run_id = text or "r"
        facts = RunFacts(text, text, text, text, text, T)
        standing = RunStanding(text or "QUEUED", text, 0, error=text, forget=T + 10**15)
        events, logs = [StoredEvent(text, T, text, text, text.encode())], [StoredLog(text, 1, T, 20, text, text)]
        store.append(
            [RunWrite("bystander", 1, RunFacts(created=T)), RunWrite(run_id, 1, facts, standing, events, logs)]
        )
        row = RunRow(run_id, 1, facts, standing)
        assert (row, events) == store.run(run_id)
        assert logs == store.logs(run_id) == store.logs(run_id, execution=text)
        for column in ("task", "queue", "key", "parent_id", "root_id", "worker"):
            assert [row] == store.runs(replace(RunQuery(), **{column: text})), column  # type: ignore[arg-type, unused-ignore]
        assert [row] == store.runs(RunQuery(status=(standing.status,), ids=(run_id,)))
        assert row in store.runs(RunQuery(text=text))
        assert [text] == store.run_names("task")

    def test_prefixes_separate_runs(self, store: Store, place: Place) -> None:
        store.append([RunWrite("r", 1, RunFacts(task="t"), logs=[_line("e", 1, 1)])])
        other = replace(place, prefix=place.prefix + "x").open()
        assert other.run("r") is None
        assert other.runs(RunQuery()) == []
        assert other.logs("r") == []
        assert other.run_names("task") == []
        other.close()


def _line(execution: str, seq: int, at: int, message: str = "m") -> StoredLog:
    return StoredLog(execution, seq, at, 20, "logger", message)


def _place(lines: list[StoredLog]) -> tuple[int, str, int] | None:
    return (lines[-1].at, lines[-1].execution, lines[-1].seq) if lines else None


class ListContract(ContractBase):
    """What `runs`, `count_runs`, `run_names` and the purging of runs promise."""

    def test_runs_are_listed_newest_first(self, store: Store) -> None:
        seed(store, 20)
        assert [f"r{number:03}" for number in reversed(range(20))] == ids(store)

    def test_runs_are_listed_oldest_first_when_asked(self, store: Store) -> None:
        seed(store, 20)
        assert [f"r{number:03}" for number in range(20)] == ids(store, oldest_first=True)

    @pytest.mark.parametrize("oldest_first", [False, True])
    @pytest.mark.parametrize(
        "filters",
        [{}, {"task": "task1"}, {"status": ("SUCCESS", "STARTED")}, {"text": "R0"}, {"queue": "q1", "task": "task0"}],
    )
    def test_pages_join_to_the_whole_though_times_tie(
        self, store: Store, oldest_first: bool, filters: dict[str, Any]
    ) -> None:
        seed(store, 40)
        whole = store.runs(RunQuery(oldest_first=oldest_first, **filters))
        paged: list[RunRow] = []
        after: tuple[int, str] | None = None
        while page := store.runs(RunQuery(oldest_first=oldest_first, after=after, limit=4, **filters)):
            paged += page
            after = (page[-1].facts.created or 0, page[-1].run_id)
        assert whole == paged
        offset = store.runs(RunQuery(oldest_first=oldest_first, offset=3, limit=5, **filters))
        assert whole[3:8] == offset

    @pytest.mark.parametrize(
        "filters",
        [
            {"status": ("SUCCESS",)},
            {"status": ("SUCCESS", "FAILURE", "SUCCESS")},
            {"status": ("UNKNOWN",)},
            {"task": "task1", "worker": "w3"},
            {"queue": "q2", "status": ("FAILURE", "STARTED")},
            {"ids": ("r001", "r005", "unknown", "r001")},
            {"ids": ()},
            {"ids": ("r001", "r002"), "task": "task1"},
            {"since": T + 3, "until": T + 7},
            {"since": T + 3, "until": T + 3},
            {"text": "TASK1", "status": ("SUCCESS",)},
            {"text": "r01"},
            {"text": "%"},
            {"task": "task0", "worker": "w0", "queue": "q0", "status": ("SUCCESS",), "since": T},
        ],
    )
    def test_each_filter_that_is_given_holds(self, store: Store, filters: dict[str, Any]) -> None:
        seed(store, 60)
        expected = [f"r{number:03}" for number in reversed(range(60)) if _passes(number, filters)]
        assert expected == ids(store, **filters)
        assert len(expected) == store.count_runs(RunQuery(**filters))

    def test_since_is_inclusive_and_until_exclusive(self, store: Store) -> None:
        store.append([RunWrite(f"r{n}", 1, RunFacts(created=T + n)) for n in range(5)])
        assert ids(store, since=T + 1, until=T + 4) == ["r3", "r2", "r1"]
        assert ids(store, since=T + 1, until=T + 4, oldest_first=True, limit=2) == ["r1", "r2"]
        assert ids(store, since=T + 1, until=T + 4, after=(T + 3, "r3"), limit=1) == ["r2"]

    def test_text_is_a_substring_of_id_task_key_or_error_in_any_case(self, store: Store) -> None:
        store.append(
            [
                RunWrite("id-NEEDLE-1", 1, RunFacts(created=T + 4)),
                RunWrite("b", 1, RunFacts(task="my.Needle.task", created=T + 3)),
                RunWrite("c", 1, RunFacts(key="needle:\u00c9", created=T + 2)),
                RunWrite("d", 1, RunFacts(created=T + 1), RunStanding("FAILURE", error="no needLE here")),
                RunWrite("e", 1, RunFacts(queue="needle", parent_id="needle", created=T), RunStanding(worker="needle")),
            ]
        )
        assert ids(store, text="nEEdle") == ["id-NEEDLE-1", "b", "c", "d"]
        assert ids(store, text="NEEDLE:\u00e9") == ["c"]

    def test_a_run_of_unknown_created_is_listed_by_its_first_write(self, store: Store) -> None:
        before = clock(store)
        store.append([RunWrite("r", 1, standing=RunStanding("STARTED"))])
        assert ids(store, since=before) == ["r"]
        store.append([RunWrite("r", 2, RunFacts(created=T), RunStanding("SUCCESS"))])
        assert ids(store, since=before) == []
        assert ids(store, until=T + 1) == ids(store, status=("SUCCESS",)) == ["r"]
        assert ids(store, status=("STARTED",)) == []

    def test_counting_ignores_the_page_and_stops_at_the_cap(self, store: Store) -> None:
        seed(store, 40)
        page = RunQuery(limit=1, offset=30, after=(T + 5, "r015"))
        assert store.count_runs(page) == 40
        for filters in ({}, {"task": "task1"}, {"text": "r"}, {"status": ("SUCCESS", "FAILURE")}):
            assert store.count_runs(RunQuery(**filters), cap=7) == 7

    def test_names_are_sorted_and_distinct(self, store: Store) -> None:
        seed(store, 30)
        store.append([RunWrite("none", 1)])
        assert store.run_names("task") == ["task0", "task1"]
        assert store.run_names("worker") == ["w0", "w1", "w2", "w3"]
        assert store.run_names("queue", limit=2) == ["q0", "q1"]
        with pytest.raises(ValueError, match="task, worker, queue"):
            store.run_names("error")

    def test_purge_deletes_forgotten_runs_with_everything_and_no_other(self, store: Store) -> None:
        now = clock(store)
        event, log = StoredEvent("u", T, "n", None, b""), _line("e", 1, T)
        for run_id, forget in (("past", now - 1), ("future", now + LONG), ("never", None)):
            standing = RunStanding("SUCCESS", "w", forget=forget)
            store.append([RunWrite(run_id, 1, RunFacts("t", "q", "k", "p", "o", T), standing, [event], [log])])
        assert store.purge() == 1
        assert store.purge() == 0
        assert store.run("past") is None
        assert store.logs("past") == []
        assert ids(store) == ["never", "future"]
        for filters in ({"task": "t"}, {"worker": "w"}, {"key": "k"}, {"root_id": "o"}, {"status": ("SUCCESS",)}):
            assert store.count_runs(RunQuery(**filters)) == 2
        store.append([RunWrite("past", 1)])
        assert store.run("past")[1] == []  # type: ignore[index]

    def test_a_forget_that_a_later_write_takes_back_is_not_purged(self, store: Store) -> None:
        store.append([RunWrite("r", 1, standing=RunStanding("FAILURE", forget=1))])
        store.append([RunWrite("r", 2, standing=RunStanding("STARTED"))])
        assert store.purge() == 0
        assert store.run("r") is not None

    def test_purge_of_many_runs_goes_in_batches(self, store: Store) -> None:
        seed(store, 250, forget=1)
        wait_past(store, clock(store))
        purged = 0
        while done := store.purge(limit=60):
            assert done <= 60
            purged += done
        assert (purged, store.count_runs(RunQuery())) == (250, 0)


def _passes(number: int, filters: dict[str, Any]) -> bool:
    write = _write(number)
    standing = write.standing
    assert standing is not None
    assert write.facts.created is not None
    have = {"task": write.facts.task, "queue": write.facts.queue, "worker": standing.worker}
    if any(filters.get(name, value) != value for name, value in have.items()):
        return False
    if filters.get("status") and standing.status not in filters["status"]:
        return False
    if "ids" in filters and write.run_id not in filters["ids"]:
        return False
    if not filters.get("since", 0) <= write.facts.created < filters.get("until", 2**62):
        return False
    return filters.get("text", "").lower() in f"{write.run_id} {write.facts.task}"
