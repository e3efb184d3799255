"""The contract of lists, counts and names of runs, a test for each sentence."""

from __future__ import annotations

from typing import Any

import pytest

from celery_stackstate.stores.base import RunFacts, RunQuery, RunRow, RunStanding, RunWrite, Store, Tally
from celery_stackstate.testing.contract_base import ContractBase, clock
from celery_stackstate.testing.contract_seeds import COLUMNS, T, a_write, all_texts, ids, seed


class ListContract(ContractBase):
    """What `runs`, `count_runs`, `tally` and `run_names` promise."""

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

    @pytest.mark.parametrize("column", COLUMNS)
    def test_each_column_is_compared_for_equality(self, store: Store, column: str) -> None:
        for number, text in enumerate(("a", "b", "a", None)):
            in_facts = {column: text} if column != "worker" else {}
            standing = RunStanding(worker=text if column == "worker" else None)
            store.append([RunWrite(f"r{number}", 1, RunFacts(created=T + number, **in_facts), standing)])
        assert ids(store, **{column: "a"}) == ["r2", "r0"]
        assert ids(store, **{column: "a"}, oldest_first=True, limit=1) == ["r0"]
        assert ids(store, **{column: "a"}, ids=("r1", "r2", "r3")) == ["r2"]
        assert ids(store, **{column: "A"}) == []
        assert store.count_runs(RunQuery(**{column: "b"})) == 1  # type: ignore[arg-type]

    def test_all_columns_are_compared_at_once(self, store: Store) -> None:
        store.append([RunWrite("r", 1, all_texts("x", T), RunStanding(worker="x"))])
        store.append([RunWrite("other", 1, all_texts("x", T), RunStanding(worker="y"))])
        assert ids(store, **dict.fromkeys(COLUMNS, "x")) == ["r"]

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

    def test_a_tally_counts_by_task_and_status(self, store: Store) -> None:
        seed(store, 60)
        store.append([RunWrite("none", 1, RunFacts(created=T), RunStanding("SUCCESS"))])
        whole = store.tally(T, T + 1000)
        assert [Tally(None, "SUCCESS", 1)] == whole[:1]
        tasks = ("task0", "task1")
        assert [Tally(task, status, 10) for task in tasks for status in ("FAILURE", "STARTED", "SUCCESS")] == whole[1:]
        assert store.tally(T + 1000, T + 2000) == store.tally(T + 5, T + 5) == []

    def test_a_tally_counts_from_since_to_before_until(self, store: Store) -> None:
        seed(store, 60)
        for since, until in ((T, T + 1), (T + 3, T + 7), (T + 19, T + 1000), (0, 2**62)):
            within = store.runs(RunQuery(since=since, until=until, limit=1000))
            expected = {(row.facts.task, row.standing.status) for row in within}
            tallies = store.tally(since, until)
            assert expected == {(tally.task, tally.status) for tally in tallies}
            assert len(within) == sum(tally.runs for tally in tallies)

    def test_a_tally_looks_at_the_newest_runs_up_to_the_cap(self, store: Store) -> None:
        store.append([RunWrite(f"old{n}", 1, RunFacts("old", created=T + n)) for n in range(20)])
        store.append([RunWrite(f"new{n}", 1, RunFacts("new", created=T + 100 + n)) for n in range(20)])
        assert [Tally("new", "QUEUED", 20)] == store.tally(T, T + 1000, cap=20)
        assert [Tally("new", "QUEUED", 20), Tally("old", "QUEUED", 5)] == store.tally(T, T + 1000, cap=25)
        assert store.tally(T, T + 1000, cap=0) == []

    def test_a_tally_follows_a_run_through_its_life(self, store: Store) -> None:
        for rank, status in enumerate(("QUEUED", "STARTED", "SUCCESS")):
            store.append([RunWrite("r", rank, RunFacts("t", created=T), RunStanding(status))])
            assert [Tally("t", status, 1)] == store.tally(T, T + 1)

    def test_a_tally_is_the_one_that_a_store_without_its_own_makes(self, store: Store) -> None:
        seed(store, 50)
        store.append([RunWrite("now", 1), RunWrite("odd", 1, RunFacts("", created=T), RunStanding("+"))])
        for since, until, cap in ((T, T + 1000, 100_000), (0, 2**62, 30), (T + 2, T + 9, 7)):
            assert Store.tally(store, since, until, cap=cap) == store.tally(since, until, cap=cap)

    def test_names_are_sorted_and_distinct(self, store: Store) -> None:
        seed(store, 30)
        hosts = [RunWrite(f"on{number}", 1, RunFacts(host=f"h{number % 3}")) for number in range(6)]
        store.append([RunWrite("none", 1), *hosts])
        assert store.run_names("task") == ["task0", "task1"]
        assert store.run_names("worker") == ["w0", "w1", "w2", "w3"]
        assert store.run_names("host") == ["h0", "h1", "h2"]
        assert store.run_names("queue", limit=2) == ["q0", "q1"]
        with pytest.raises(ValueError, match="task, worker, queue, host"):
            store.run_names("error")


def _passes(number: int, filters: dict[str, Any]) -> bool:
    write = a_write(number)
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
