"""Of the log of an attempt the newest lines are kept, in memory and in every store."""

from __future__ import annotations

import pytest

from celery_stackstate import facts
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.log_tail import LogLimits, LogTail
from celery_stackstate.payload import Redactor
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import SUCCESS
from celery_stackstate.runs import Runs
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import DroppedLogs, RunFacts, RunWrite, Store, StoredLog

REDACTOR = Redactor(("password",), limit=65_536)


def tail(**limits: int) -> LogTail:
    return LogTail("x", LogLimits(**limits))


def add(log: LogTail, *messages: str) -> None:
    for message in messages:
        log.add(at=1, level=20, logger="shop", message=message)


def attempt(limits: LogLimits, *, retries: int = 0) -> OpenAttempt:
    delivery = Delivery("w", "b", 1, retries, False, None, None)
    epoch = facts.next_epoch() + retries
    return OpenAttempt("r", RunFacts(), epoch, delivery, redactor=REDACTOR, keep=lambda _: 60.0, limits=limits)


def write(store: Store, opened: OpenAttempt) -> None:
    taken = opened.take()
    assert taken is not None
    store.append([taken])


def lines(store: Store) -> list[str]:
    return [line.message for line in Runs(store).logs("r", limit=10_000)]


def test_lines_that_were_not_written_are_forgotten_at_once() -> None:
    log = tail(lines=2)
    add(log, "one", "two", "three")
    taken, dropped = log.take()
    assert ([(line.seq, line.message) for line in taken], dropped) == ([(2, "two"), (3, "three")], [])
    assert log.omitted == 1


def test_lines_that_were_written_are_to_be_deleted_once() -> None:
    log = tail(lines=2)
    add(log, "one", "two")
    log.take()
    add(log, "three", "four", "five")
    taken, dropped = log.take()
    assert [line.message for line in taken] == ["four", "five"]
    assert dropped == [DroppedLogs("x", 1, 2)]
    assert log.take() == ([], [])
    assert log.omitted == 3


def test_bytes_count_as_lines_do() -> None:
    log = tail(bytes=10)
    add(log, "12345", "ééé", "12")
    assert [line.message for line in log.take()[0]] == ["ééé", "12"]
    add(log, "x" * 11)
    assert (log.take()[0], log.omitted) == ([], 4)


def test_no_lines_at_all_may_be_asked_for() -> None:
    log = tail(lines=0)
    add(log, "one")
    assert (log.take(), log.omitted) == (([], []), 1)


@pytest.mark.parametrize("written_every", [1, 3, 100])
def test_a_store_keeps_the_newest_lines_of_an_attempt_however_they_were_written(
    store: Store, written_every: int
) -> None:
    opened = attempt(LogLimits(lines=5))
    for number in range(20):
        opened.log(at=number + 1, level=20, logger="shop", message=f"line {number}")
        if number % written_every == 0:
            write(store, opened)
    opened.end(SUCCESS)
    write(store, opened)
    assert lines(store) == [f"line {number}" for number in range(15, 20)]
    run = Runs(store).get("r")
    assert run is not None
    assert run.attempts[0].omitted_lines == 15


def test_a_run_of_many_attempts_keeps_its_newest_lines_and_events_and_what_was_asked(store: Store) -> None:
    limits = LogLimits(lines=5, run_lines=12)
    for retries in range(400):
        opened = attempt(limits, retries=retries)
        for number in range(2):
            opened.log(at=10 * retries + number + 1, level=20, logger="shop", message=f"{retries}.{number}")
        opened.note("tick", {})
        opened.end(SUCCESS)
        write(store, opened)
    assert lines(store) == [f"{retries}.{number}" for retries in range(394, 400) for number in range(2)]
    events = Runs(store).events("r")
    assert len(events) == facts.MOST_EVENTS
    assert [event.name for event in events[:4]] == ["started", "tick", "success", "started"]
    assert events[-1].execution == opened.execution


def test_what_waits_for_a_store_that_is_down_is_bounded_by_its_bytes() -> None:
    down = open_store("redis://127.0.0.1:1/0", prefix="test", timeout=0.5)
    recorder, size = Recorder(down), 1_048_576
    for number in range(40):
        line = StoredLog("x", number, 1, 20, "shop", "x" * size)
        recorder.post(RunWrite("r", 0, RunFacts(), None, [], [line]))
    assert 8 <= recorder.unrecorded < 16, "the oldest go, so that 32 MiB at most are kept"
    recorder.flush(timeout=0.1)
    assert recorder.unrecorded < 16, "an outage takes nothing more away"
