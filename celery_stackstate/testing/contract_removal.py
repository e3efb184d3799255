"""The contract of what is deleted of runs, a test for each sentence."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from celery_stackstate.stores.base import (
    FIRST_EVENTS,
    DroppedLogs,
    RunFacts,
    RunQuery,
    RunStanding,
    RunWrite,
    Store,
    StoredLog,
)
from celery_stackstate.testing.contract_base import LONG, ContractBase, clock, wait_past
from celery_stackstate.testing.contract_seeds import COLUMNS, T, all_texts, event, events_of, ids, line, seed


def whole(run_id: str, text: str = "x", *, forget: int | None = None) -> RunWrite:
    """Return the write of a run that has everything a run can have."""
    standing = RunStanding("SUCCESS", text, forget=forget)
    return RunWrite(run_id, 1, all_texts(text, T), standing, [event("u")], [line("e", 1, T)])


def assert_nothing_is_left(store: Store, run_id: str) -> None:
    """Look for what is left of a run, also under the same id once more."""
    assert store.run(run_id) is None
    assert store.logs(run_id) == []
    assert run_id not in ids(store)
    store.append([RunWrite(run_id, 1)])
    assert events_of(store, run_id) == []
    assert store.logs(run_id) == []
    assert store.remove_runs([run_id]) == 1


class BoundContract(ContractBase):
    """What `dropped`, `most_events` and `most_logs` of a write promise."""

    def test_dropped_lines_are_deleted_from_first_to_last_both_included(self, store: Store) -> None:
        lines = [line(execution, seq, T + seq) for execution in ("a", "b") for seq in range(1, 10)]
        store.append([RunWrite("r", 1, logs=lines), RunWrite("other", 1, logs=lines)])
        store.append(
            [RunWrite("r", 1, dropped=[DroppedLogs("a", 1, 3), DroppedLogs("b", 9, 9), DroppedLogs("c", 1, 9)])]
        )
        kept = [
            entry for entry in lines if (entry.execution, entry.seq) not in {("a", 1), ("a", 2), ("a", 3), ("b", 9)}
        ]
        assert kept == sorted(store.logs("r"), key=lambda entry: entry.execution)
        assert store.logs("r", execution="a", limit=2) == [line("a", 4, T + 4), line("a", 5, T + 5)]
        assert len(lines) == len(store.logs("other"))

    def test_lines_are_dropped_whatever_their_numbers_and_times(self, store: Store) -> None:
        numbers = (-(2**63), -(2**60) - 1, -1, 0, 1, 255, 256, 2**32 - 1, 2**32, 2**53 + 1, 2**60, 2**60 + 1, 2**63 - 1)
        lines = [StoredLog("e", seq, -seq - 1, 20, "l", "m") for seq in numbers]
        for first, last in ((-(2**63), -1), (0, 255), (256, 2**32), (2**53, 2**53 + 1), (2**60, 2**60), (5, 4)):
            run_id = f"r{first}"
            store.append([RunWrite(run_id, 1, logs=lines, dropped=[DroppedLogs("e", first, last)])])
            expected = [seq for seq in numbers if not first <= seq <= last]
            assert expected == sorted(entry.seq for entry in store.logs(run_id)), (first, last)
            store.append([RunWrite(run_id, 1, dropped=[DroppedLogs("e", -(2**63), 2**63 - 1)])])
            assert store.logs(run_id) == []

    def test_dropping_lines_that_are_not_there_changes_nothing(self, store: Store) -> None:
        store.append([RunWrite("r", 1, dropped=[DroppedLogs("e", 1, 10**6)])])
        assert (ids(store), store.logs("r")) == (["r"], [])
        store.append(
            [RunWrite("r", 1, logs=[line("e", 5, T)], dropped=[DroppedLogs("e", 6, 9), DroppedLogs("e", 1, 4)])]
        )
        assert store.logs("r") == [line("e", 5, T)]

    def test_a_dropped_line_can_be_written_again(self, store: Store) -> None:
        store.append([RunWrite("r", 1, logs=[line("e", 1, T)])])
        store.append([RunWrite("r", 1, dropped=[DroppedLogs("e", 1, 1)])])
        store.append([RunWrite("r", 1, logs=[line("e", 1, T + 5)])])
        assert [line("e", 1, T + 5)] == store.logs("r")

    def test_the_newest_lines_are_kept_of_all_executions(self, store: Store) -> None:
        lines = [line(execution, seq, T + seq // 2) for execution in ("b", "a") for seq in range(20)]
        store.append([RunWrite("r", 1, logs=lines), RunWrite("other", 1, logs=lines)])
        ordered = store.logs("r")
        for most in (100, 40, 39, 13, 1, 0):
            store.append([RunWrite("r", 1, most_logs=most)])
            assert ordered[max(0, 40 - most) :] == store.logs("r"), most
        assert len(store.logs("other")) == 40

    def test_lines_beyond_the_bound_go_with_the_write_that_brings_them(self, store: Store) -> None:
        for number in range(12):
            store.append([RunWrite("r", 1, logs=[line("e", number, T + number)], most_logs=5)])
            assert len(store.logs("r")) == min(5, number + 1)
        assert [entry.seq for entry in store.logs("r")] == [7, 8, 9, 10, 11]

    @pytest.mark.parametrize("most", [100, 30, 29, FIRST_EVENTS + 1, FIRST_EVENTS, 3, 1, 0])
    def test_the_oldest_events_and_the_newest_are_kept(self, store: Store, most: int) -> None:
        events = [event(f"u{number:02}", T + number // 3) for number in range(30)]
        store.append([RunWrite("r", 1, events=events[::-1], most_events=most), RunWrite("other", 1, events=events)])
        oldest = min(FIRST_EVENTS, most)
        newest = max(oldest, len(events) - (most - oldest))
        assert events[:oldest] + events[newest:] == events_of(store)
        assert events == events_of(store, "other")

    def test_events_of_one_time_are_kept_by_the_bytes_of_their_uids(self, store: Store) -> None:
        uids = ["-", "A", "B", "Z", "_", "a", "a ", "b", "\u00e9", "\u4e2d", "\uffee", "\U0001f600", "\U0001f601"]
        store.append([RunWrite("r", 1, events=[event(uid) for uid in uids[::-1]], most_events=12)])
        assert [found.uid for found in events_of(store)] == uids[:10] + uids[11:]

    def test_events_are_kept_by_their_times_whatever_the_order_of_arrival(self, store: Store) -> None:
        times = (-(2**62), -1, 0, 1, 2**32 - 1, 2**32, 2**53, 2**53 + 1, 2**53 + 2, 2**60, 2**60 + 1, 2**61, 2**62)
        events = [event(f"u{number}", at) for number, at in enumerate(times)]
        for shift in range(len(events)):
            run_id = f"r{shift}"
            for found in events[shift:] + events[:shift]:
                store.append([RunWrite(run_id, 1, events=[found], most_events=11)])
            assert events[:10] + events[-1:] == events_of(store, run_id)

    def test_without_a_bound_everything_is_kept(self, store: Store) -> None:
        events, lines = [event(f"u{n}") for n in range(300)], [line("e", n, T) for n in range(300)]
        store.append([RunWrite("r", 1, events=events, logs=lines)])
        store.append([RunWrite("r", 1)])
        assert (len(events_of(store)), len(store.logs("r"))) == (300, 300)

    def test_what_the_bounds_leave_does_not_depend_on_the_order_of_writes(self, store: Store) -> None:
        writes: list[dict[str, Any]] = [
            {"events": [event(f"{name}{n}", T + n) for n in range(6)], "logs": [line(name, n, T + n) for n in range(6)]}
            for name in "abcd"
        ]
        seen = set()
        for number, order in enumerate(permutations(writes)):
            run_id = f"r{number}"
            for content in order:
                store.append([RunWrite(run_id, 1, **content, most_events=14, most_logs=5)])
            uids = tuple(found.uid for found in events_of(store, run_id))
            seen.add((uids, tuple((entry.execution, entry.seq) for entry in store.logs(run_id))))
        ((uids, kept),) = seen
        assert uids == ("a0", "b0", "c0", "d0", "a1", "b1", "c1", "d1", "a2", "b2", "a5", "b5", "c5", "d5")
        assert kept == (("d", 4), ("a", 5), ("b", 5), ("c", 5), ("d", 5))


class RemovalContract(ContractBase):
    """What `remove_runs` and the purging of runs promise."""

    def test_removed_runs_are_gone_with_everything_and_no_other(self, store: Store) -> None:
        store.append([whole("a"), whole("b"), whole("c"), whole("d", "y")])
        assert store.remove_runs(["a", "c", "d"]) == 3
        for column in COLUMNS:
            assert ids(store, **{column: "x"}) == ["b"]
            assert ids(store, **{column: "y"}) == []
        assert store.count_runs(RunQuery(status=("SUCCESS",))) == 1
        assert sum(tally.runs for tally in store.tally(0, 2**62)) == 1
        assert len(events_of(store, "b")) == len(store.logs("b")) == 1
        for run_id in ("a", "c", "d"):
            assert_nothing_is_left(store, run_id)

    def test_removing_counts_the_runs_there_were(self, store: Store) -> None:
        seed(store, 5)
        assert store.remove_runs([]) == 0
        assert store.remove_runs(["unknown"]) == 0
        assert store.remove_runs(["r001", "unknown", "r001", "r003"]) == 2
        assert store.remove_runs(["r001", "r003"]) == 0
        assert ids(store) == ["r004", "r002", "r000"]

    def test_many_runs_are_removed_at_once(self, store: Store) -> None:
        seed(store, 350)
        assert store.remove_runs([f"r{number:03}" for number in range(1, 400)]) == 349
        assert ids(store) == ["r000"]

    def test_a_removed_run_is_not_purged_and_can_begin_anew(self, store: Store) -> None:
        store.append([whole("r", forget=1)])
        assert store.remove_runs(["r"]) == 1
        assert store.purge() == 0
        store.append([RunWrite("r", 0, RunFacts("other", created=T + 1), RunStanding("QUEUED"))])
        assert store.purge() == 0
        assert ids(store, task="other", since=T + 1) == ["r"]
        assert ids(store, worker="x") == []

    def test_names_that_no_run_has_may_linger_and_others_are_listed(self, store: Store) -> None:
        store.append([whole("a", "gone"), whole("b", "here"), whole("c", "here")])
        store.remove_runs(["a", "b"])
        for column in ("task", "worker", "queue", "host"):
            assert "here" in store.run_names(column)
            assert {"here"} <= set(store.run_names(column)) <= {"here", "gone"}

    def test_purge_deletes_forgotten_runs_with_everything_and_no_other(self, store: Store) -> None:
        now = clock(store)
        for run_id, forget in (("past", now - 1), ("future", now + LONG), ("never", None)):
            store.append([whole(run_id, forget=forget)])
        assert store.purge() == 1
        assert store.purge() == 0
        assert ids(store) == ["never", "future"]
        for column in COLUMNS:
            assert store.count_runs(RunQuery(**{column: "x"})) == 2  # type: ignore[arg-type]
        assert store.count_runs(RunQuery(status=("SUCCESS",))) == 2
        assert len(events_of(store, "never")) == len(store.logs("never")) == 1
        assert_nothing_is_left(store, "past")

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
