"""Totals and charts add up what was counted before; the answers are those of counting everything, on every store."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import datetime, timedelta, timezone

import pytest

from celery_stackstate import facts, tallies
from celery_stackstate.errors import ConfigurationError
from celery_stackstate.facts import now_micros
from celery_stackstate.keys import TALLY, pack
from celery_stackstate.records import FAILURE, LOST, QUEUED, STARTED, SUCCESS, Counts, from_micros
from celery_stackstate.runs import Runs
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store
from celery_stackstate.tallies import OWN, SECOND, WIDTH, Tallies

HOUR = 3600 * SECOND


def add(store: Store, run_id: str, task: str, status: str, created: int) -> None:
    rank = facts.rank(status, 1)
    standing = RunStanding(status, forget=now_micros() + HOUR)
    store.append([RunWrite(run_id, rank, RunFacts(task=task, created=created), standing)])


def seed(store: Store, *, hours: int, each: int = 3) -> Counter[tuple[str, str]]:
    """Add runs of the last `hours` and return how many have which task and status."""
    now, expected = now_micros(), Counter[tuple[str, str]]()
    for hour in range(hours):
        for number in range(each):
            task, status = ("import", "export")[number % 2], (SUCCESS, FAILURE, STARTED)[(hour + number) % 3]
            add(store, f"{hour}-{number}", task, status, now - hour * HOUR - number * 60 * SECOND)
            expected[task, status] += 1
    return expected


def flat(counts: Counts) -> Counter[tuple[str, str]]:
    return Counter({(task, status): n for task, by in counts.by_task.items() for status, n in by.items()})


def fill(store: Store, *, hours: int) -> int:
    return Tallies(store).write(keep=86_400.0, back=hours * 3600.0, budget=60.0)


def ago(hours: float) -> datetime:
    return datetime.now(timezone.utc) - timedelta(hours=hours)


@pytest.mark.parametrize("counted", [False, True])
def test_counts_are_those_of_all_runs(store: Store, counted: bool) -> None:
    expected = seed(store, hours=3)
    if counted:
        assert fill(store, hours=24) >= 12
    counts = Runs(store).counts(since=ago(4))
    assert (flat(counts), counts.exact, counts.total) == (expected, True, 9)
    assert counts.by_status == {
        status: sum(n for (_, of), n in expected.items() if of == status) for status in (SUCCESS, FAILURE, STARTED)
    }
    only = Runs(store).counts(since=ago(4), task="import")
    assert flat(only) == Counter({key: n for key, n in expected.items() if key[0] == "import"})


def test_steps_share_out_the_whole(store: Store) -> None:
    seed(store, hours=3)
    counts = Runs(store).counts(since=ago(6), step=1800)
    assert sum(sum(bucket.by_status.values()) for bucket in counts.buckets) == counts.total == 9
    starts = [bucket.start for bucket in counts.buckets]
    assert starts == [counts.since + number * timedelta(seconds=1800) for number in range(len(starts))]
    assert counts.since <= ago(6) + timedelta(seconds=1)
    assert counts.since.minute % 10 == counts.since.second == 0


def test_a_run_that_changes_after_it_was_counted_is_counted_again(store: Store) -> None:
    created = now_micros() - 2 * HOUR
    add(store, "slow", "import", STARTED, created)
    fill(store, hours=24)
    store.append([RunWrite("slow", facts.rank(SUCCESS, 2), RunFacts(), RunStanding(SUCCESS))])
    assert flat(Runs(store).counts()) == {("import", SUCCESS): 1}
    assert Runs(store).counts().exact


def test_what_was_counted_stays_when_the_runs_are_purged(store: Store) -> None:
    expected = Counter[tuple[str, str]]()
    for number in range(4):
        add(store, str(number), "import", SUCCESS, now_micros() - 2 * HOUR)
        expected["import", SUCCESS] += 1
    add(store, "newest", "import", SUCCESS, now_micros())
    fill(store, hours=24)
    assert Runs(store).delete("0", "1", "2", "3") == 4
    assert flat(Runs(store).counts())["import", SUCCESS] == 5


def test_what_is_counted_again_keeps_what_was_purged_since(store: Store) -> None:
    created = now_micros() - 2 * HOUR
    for number in range(4):
        add(store, str(number), "import", SUCCESS, created)
    add(store, "lost", "import", LOST, created)
    add(store, "goes on", "import", STARTED, created)
    fill(store, hours=24)
    Runs(store).delete("0", "1", "2")
    store.append([RunWrite("goes on", facts.rank(FAILURE, 2), RunFacts(), RunStanding(FAILURE))])
    for _ in range(2):
        assert flat(Runs(store).counts()) == {("import", SUCCESS): 4, ("import", LOST): 1, ("import", FAILURE): 1}
        store.put(pack(TALLY, "", f"{created - created % WIDTH:020d}"), _aged(store, created))
        fill(store, hours=24)


def _aged(store: Store, created: int) -> bytes:
    """Return what is kept of a bucket as if it had been counted long ago, so that it is due."""
    entry = store.get(pack(TALLY, "", f"{created - created % WIDTH:020d}"))
    assert entry is not None
    assert isinstance(entry.value, bytes)
    value = json.loads(entry.value)
    return json.dumps({**value, "at": value["at"] - HOUR}).encode()


def test_a_number_that_was_cut_is_not_exact(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "CAP", 5)
    for number in range(7):
        add(store, str(number), "import", SUCCESS, now_micros() - 2 * HOUR)
    assert not Runs(store).counts().exact
    fill(store, hours=24)
    assert not Runs(store).counts().exact


def test_an_old_bucket_that_is_over_is_counted_once() -> None:
    store = open_store("memory://")
    add(store, "done", "import", SUCCESS, now_micros() - 5 * HOUR)
    first = fill(store, hours=24)
    assert first >= 30
    assert fill(store, hours=24) <= 2, "only what is still going on"


def test_many_open_buckets_are_told_as_they_were_counted_and_not_as_exact() -> None:
    store = open_store("memory://")
    for number in range(OWN + 5):
        add(store, str(number), "import", QUEUED, now_micros() - number * WIDTH)
    fill(store, hours=24)
    counts = Runs(store).counts()
    assert (counts.total, counts.exact) == (OWN + 5, False)


def test_counting_stops_at_its_budget_and_goes_on_later() -> None:
    store = open_store("memory://")
    add(store, "old", "import", SUCCESS, now_micros() - 10 * HOUR)
    assert Tallies(store).write(keep=86_400.0, back=86_400.0, budget=0.0) == 0
    assert fill(store, hours=24) > 50


def test_an_empty_history_counts_nothing(store: Store) -> None:
    assert fill(store, hours=24) == 0
    counts = Runs(store).counts()
    assert (counts.total, counts.exact, counts.by_task) == (0, True, {})


@pytest.mark.parametrize("step", [0, -600, 700, 0.5])
def test_a_step_that_is_no_whole_ten_minutes_is_refused(step: float) -> None:
    with pytest.raises(ConfigurationError, match="600"):
        Runs(open_store("memory://")).counts(step=step)


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="since"):
        Runs(open_store("memory://")).counts(since=ago(1), until=ago(2))


def test_counting_costs_the_same_whatever_the_number_of_old_runs(tmp_path: object) -> None:
    store = open_store(f"sqlite:///{tmp_path}/many.sqlite3")
    now = now_micros()

    def grow(count: int, begin: int) -> None:
        writes = [
            RunWrite(
                f"r{n}",
                facts.rank(SUCCESS, 1),
                RunFacts(task=f"t{n % 5}", created=now - 2 * HOUR - n * 7 % 3600 * SECOND),
                RunStanding(SUCCESS),
            )
            for n in range(begin, begin + count)
        ]
        for start in range(0, count, 2000):
            store.append(writes[start : start + 2000])

    def took() -> float:
        best = 1e9
        for _ in range(5):
            started = time.perf_counter()
            assert Runs(store).counts(since=from_micros(now - 10 * HOUR)).total > 0
            best = min(best, time.perf_counter() - started)
        return best

    grow(500, 0)
    fill(store, hours=24)
    few = took()
    grow(40_000, 500)
    many = took()
    assert many < 3 * few + 0.01


def test_lost_and_stuck_runs_are_taken_as_workers_counted_them() -> None:
    # given many buckets with a run that is lost, or that nothing has ended for a day
    store, reads = open_store("memory://"), []
    for number in range(2 * OWN):
        add(store, f"lost-{number}", "import", LOST, now_micros() - 2 * HOUR - number * WIDTH)
        add(store, f"stuck-{number}", "import", QUEUED, now_micros() - 30 * HOUR - number * WIDTH)
    fill(store, hours=48)

    # when they are read, just counted
    class Reading:
        def __getattr__(self, name: str) -> object:
            reads.append(name)
            return getattr(store, name)

    counts = Runs(Reading()).counts(since=ago(48))  # type: ignore[arg-type]
    # then nothing is counted but the newest, and all of it is right
    assert (counts.total, counts.exact) == (4 * OWN, True)
    assert reads.count("tally") <= 2


def test_lost_runs_are_counted_again_when_that_is_due() -> None:
    store = open_store("memory://")
    for number in range(OWN + 5):
        add(store, str(number), "import", LOST, now_micros() - 2 * HOUR - number * WIDTH)
    fill(store, hours=24)
    # when workers have not counted for longer than they do
    for entry in store.scan(pack(TALLY, ""), after=None, limit=1000):
        assert isinstance(entry.value, bytes)
        value = json.loads(entry.value)
        store.put(entry.key, json.dumps({**value, "at": value["at"] - 2 * HOUR}).encode())
    store.append([RunWrite("0", facts.rank(SUCCESS, 2), RunFacts(), RunStanding(SUCCESS))])
    counts = Runs(store).counts()
    # then the newest are counted by the reader, the rest is told as it was
    assert (counts.by_status, counts.exact) == ({LOST: OWN + 4, SUCCESS: 1}, False)
