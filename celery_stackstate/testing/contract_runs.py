"""The contract of runs, a test for each sentence."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from celery_stackstate.stores.base import (
    DroppedLogs,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    Store,
    StoredEvent,
    StoredLog,
)
from celery_stackstate.testing.contract_base import HOSTILE_TEXT, ContractBase, Place
from celery_stackstate.testing.contract_seeds import COLUMNS, T, all_texts, event, events_of, ids, line, row_of, seed


class RunContract(ContractBase):
    """What `append`, `run` and `logs` promise."""

    def test_an_unknown_run_is_none(self, store: Store) -> None:
        assert store.run("r") is None
        assert store.logs("r") == []
        assert store.runs(RunQuery()) == []
        store.append([])

    def test_a_write_comes_back_whole(self, store: Store) -> None:
        facts = RunFacts("t", "q", "k", "p", "o", "g", "h", "i", T, "y")
        standing = RunStanding("FAILURE", "w", 3, 4, T + 1, T + 2, "boom", T + 10**15, "half")
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

    def test_of_equal_rank_the_later_forget_wins_in_every_order(self, store: Store) -> None:
        standings = [
            RunStanding("RETRY", "w0"),
            RunStanding("LOST", "w1", forget=T),
            RunStanding("FAILURE", forget=T + 1),
        ]
        for number, order in enumerate(permutations(range(3))):
            run_id = f"r{number}"
            for which in order:
                store.append([RunWrite(run_id, 7, standing=standings[which])])
            assert (7, standings[2]) == (row_of(store, run_id).rank, row_of(store, run_id).standing)
        assert ids(store, worker="w0") == ids(store, worker="w1") == ids(store, status=("RETRY", "LOST")) == []
        assert len(ids(store, status=("FAILURE",))) == 6

    def test_a_later_forget_does_not_win_over_a_higher_rank(self, store: Store) -> None:
        for first, second in ((1, 2), (2, 1)):
            for rank in (first, second):
                standing = RunStanding(f"S{rank}", forget=None if rank == 2 else T)
                store.append([RunWrite(f"r{first}", rank, standing=standing)])
            assert (2, RunStanding("S2")) == (row_of(store, f"r{first}").rank, row_of(store, f"r{first}").standing)

    @pytest.mark.parametrize("forget", [None, T + 10**15])
    def test_of_equal_rank_and_forget_the_later_arrival_wins(self, store: Store, forget: int | None) -> None:
        for status in ("STARTED", "RETRY"):
            store.append([RunWrite("r", 1, standing=RunStanding(status, worker=status, forget=forget))])
        assert row_of(store).standing == RunStanding("RETRY", worker="RETRY", forget=forget)
        assert ids(store, worker="STARTED") == []

    def test_the_writes_of_a_run_in_any_order_leave_the_same_run(self, store: Store) -> None:
        writes = [
            RunWrite("", 0, RunFacts("t", "q", host="h", created=T), RunStanding(), [event("queued", T)]),
            RunWrite("", 5, RunFacts(key="k"), RunStanding("STARTED", "w"), _events("a", 5), [line("e", 1, T)]),
            RunWrite("", 5, RunFacts(group_id="g"), RunStanding("LOST", forget=T), _events("b", 5)),
            RunWrite("", 9, RunFacts(), RunStanding("SUCCESS", forget=T + 9), _events("c", 5), _lines(2)),
            RunWrite("", 9, RunFacts(), RunStanding("FAILURE"), [event("d", T + 7)], _lines(4)),
        ]
        orders = list(permutations(writes))
        for position in range(len(writes)):
            named = [replace(order[position], run_id=f"r{number:03}") for number, order in enumerate(orders)]
            store.append([replace(write, most_events=12, most_logs=2) for write in named])
        row, events, logs = row_of(store, "r000"), events_of(store, "r000"), store.logs("r000")
        assert (row.rank, row.standing.status, len(events), len(logs)) == (9, "SUCCESS", 12, 2)
        for number in range(len(orders)):
            run_id = f"r{number:03}"
            assert (replace(row, run_id=run_id), events) == store.run(run_id)
            assert logs == store.logs(run_id)
        assert len(orders) == store.count_runs(RunQuery(task="t", group_id="g", host="h", key="k", status=("SUCCESS",)))

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
        lines, events = [line("e", number, T + number) for number in range(1, 6)], _events("u", 20)
        dropped = [DroppedLogs("e", 1, 2)]
        facts, standing = RunFacts(task="t", created=T), RunStanding("STARTED")
        write = RunWrite("r", 1, facts, standing, events, lines, dropped, most_events=15, most_logs=2)
        store.append([write])
        once = store.run("r"), store.logs("r"), store.runs(RunQuery())
        store.append([write, write])
        assert once == (store.run("r"), store.logs("r"), store.runs(RunQuery()))

    def test_the_same_uid_or_line_again_changes_nothing(self, store: Store) -> None:
        store.append([RunWrite("r", 1, events=[StoredEvent("u", T, "n", None, b"1")], logs=[line("e", 1, T, "1")])])
        store.append([RunWrite("r", 1, events=[StoredEvent("u", 5, "m", "e", b"2")], logs=[line("e", 1, 5, "2")])])
        store.append([RunWrite("other", 1, events=[StoredEvent("u", 5, "m", "e", b"2")], logs=[line("e", 1, 5, "2")])])
        assert [StoredEvent("u", T, "n", None, b"1")] == store.run("r")[1]  # type: ignore[index]
        assert [line("e", 1, T, "1")] == store.logs("r")
        assert [line("e", 1, 5, "2")] == store.logs("other")

    def test_events_come_by_time_then_by_uid(self, store: Store) -> None:
        expected = [("e", -5), ("Z", 1), ("a", 1), ("a ", 1), ("\u00e9", 1), ("\uffee", 1), ("\U0001f600", 1), ("b", 2)]
        for uid, at in (*expected[::2], ("c", 2**60), *expected[1::2]):
            store.append([RunWrite("r", 1, events=[event(uid, at)])])
        assert [(found.uid, found.at) for found in events_of(store)] == [*expected, ("c", 2**60)]

    def test_logs_come_by_time_execution_and_number_page_by_page(self, store: Store) -> None:
        lines = [
            line(execution, seq, at)
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
        facts = all_texts(text, T)
        standing = RunStanding(text or "QUEUED", text, 0, error=text, forget=T + 10**15)
        events, logs = [StoredEvent(text, T, text, text, text.encode())], [StoredLog(text, 1, T, 20, text, text)]
        store.append(
            [RunWrite("bystander", 1, RunFacts(created=T)), RunWrite(run_id, 1, facts, standing, events, logs)]
        )
        row = RunRow(run_id, 1, facts, standing)
        assert (row, events) == store.run(run_id)
        assert logs == store.logs(run_id) == store.logs(run_id, execution=text)
        for column in COLUMNS:
            assert [row] == store.runs(replace(RunQuery(), **{column: text})), column  # type: ignore[arg-type, unused-ignore]
        assert [row] == store.runs(RunQuery(status=(standing.status,), ids=(run_id,)))
        assert row in store.runs(RunQuery(text=text))
        assert [text] == store.run_names("task") == store.run_names("host")

    def test_trailing_blanks_and_case_make_different_texts(self, store: Store) -> None:
        for number, text in enumerate(("abc", "abc ", "Abc", "abc\u0301")):
            store.append([RunWrite(text, 1, RunFacts(task=text, created=T + number), RunStanding(worker=text))])
        assert ids(store) == ["abc\u0301", "Abc", "abc ", "abc"]
        assert store.run_names("task") == ["Abc", "abc", "abc ", "abc\u0301"]
        for text in ("abc", "abc ", "Abc", "abc\u0301"):
            assert ids(store, task=text) == ids(store, worker=text) == ids(store, ids=(text,)) == [text]

    def test_names_of_more_than_255_characters_are_refused_and_change_nothing(self, store: Store) -> None:
        good = RunWrite("good", 1)
        for bad in (
            RunWrite("x" * 256, 1),
            RunWrite("r", 1, events=[StoredEvent("x" * 256, T, "n", None, b"")]),
            RunWrite("r", 1, events=[StoredEvent("u", T, "n", "x" * 256, b"")]),
            RunWrite("r", 1, logs=[line("x" * 256, 1, T)]),
            RunWrite("r", 1, dropped=[DroppedLogs("x" * 256, 1, 2)]),
        ):
            with pytest.raises(ValueError, match="255"):
                store.append([good, bad])
        assert store.runs(RunQuery()) == []
        assert store.run("x" * 256) is None
        assert store.logs("x" * 5000, execution="x" * 5000) == []
        assert ids(store, task="x" * 5000, ids=("x" * 5000,)) == []

    def test_long_texts_of_a_summary_are_cut_and_filters_compare_with_what_is_kept(self, store: Store) -> None:
        for number, (text, kept, error) in enumerate(
            (
                ("x" * 5000, "x" * 1024, "x" * 4096),
                ("\u4e2d" * 5000, "\u4e2d" * 341, "\u4e2d" * 1365),
                ("y" * 1024, "y" * 1024, "y" * 1024),
            )
        ):
            run_id = f"r{number}"
            standing = RunStanding(text, text, error=text)
            store.append([RunWrite(run_id, 1, all_texts(text, T), standing)])
            assert all_texts(kept, T) == row_of(store, run_id).facts
            assert RunStanding(kept, kept, error=error) == row_of(store, run_id).standing
            for column in COLUMNS:
                assert ids(store, **{column: kept}) == [run_id]
                assert ids(store, **{column: "x" * 5000}) == []
            assert kept in store.run_names("task")

    def test_other_texts_and_data_may_be_long(self, store: Store) -> None:
        text = "\u00e9" * 500_000
        events, logs = [StoredEvent("u", T, text, None, b"x" * 1_000_000)], [StoredLog("e", 1, T, 20, text, text)]
        store.append([RunWrite("r", 1, RunFacts(created=T), events=events, logs=logs)])
        assert events == store.run("r")[1]  # type: ignore[index]
        assert logs == store.logs("r")

    @pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
    def test_nul_and_lone_surrogates_are_refused_and_change_nothing(self, store: Store, text: str) -> None:
        good = RunWrite("good", 1)
        for bad in (
            RunWrite(text, 1),
            RunWrite("r", 1, RunFacts(task=text)),
            RunWrite("r", 1, RunFacts(root_id=text)),
            RunWrite("r", 1, RunFacts(origin=text)),
            RunWrite("r", 1, standing=RunStanding(text)),
            RunWrite("r", 1, standing=RunStanding(error=text)),
            RunWrite("r", 1, events=[StoredEvent(text, T, "n", None, b"")]),
            RunWrite("r", 1, events=[StoredEvent("u", T, text, None, b"")]),
            RunWrite("r", 1, events=[StoredEvent("u", T, "n", text, b"")]),
            RunWrite("r", 1, logs=[StoredLog(text, 1, T, 20, "l", "m")]),
            RunWrite("r", 1, dropped=[DroppedLogs(text, 1, 2)]),
            RunWrite("r", 1, logs=[StoredLog("e", 1, T, 20, text, "m")]),
            RunWrite("r", 1, logs=[StoredLog("e", 1, T, 20, "l", text)]),
        ):
            with pytest.raises(ValueError, match="NUL or a lone surrogate"):
                store.append([good, bad])
        assert store.runs(RunQuery()) == []

    def test_prefixes_separate_runs(self, store: Store, place: Place) -> None:
        store.append([RunWrite("r", 1, RunFacts(task="t"), logs=[line("e", 1, 1)])])
        other = replace(place, prefix=place.prefix + "x").open()
        assert other.run("r") is None
        assert other.runs(RunQuery()) == []
        assert other.logs("r") == []
        assert other.run_names("task") == []
        other.close()


def _place(lines: list[StoredLog]) -> tuple[int, str, int] | None:
    return (lines[-1].at, lines[-1].execution, lines[-1].seq) if lines else None


def _events(name: str, count: int) -> list[StoredEvent]:
    """Return events of which some have the same time, also as those of another name."""
    return [event(f"{name}{number}", T + number // 2) for number in range(count)]


def _lines(count: int) -> list[StoredLog]:
    return [line("e", number, T + number // 2) for number in range(count)]
