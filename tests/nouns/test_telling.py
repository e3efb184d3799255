"""What is told of an attempt is kept as it was told, and whatever goes wrong with a part of it costs that part."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import Redactor
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import SUCCESS
from celery_stackstate.runs import Runs
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, RunWrite, Store
from celery_stackstate.stores.memory import MemoryStore
from celery_stackstate.timeline import Timeline
from tests.waiting import wait_for


class TimeIsUpError(Exception):
    """What a time limit throws into a thread."""


class Closed(Mapping[str, Any]):
    """A row whose connection is closed."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("the row was closed")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Silent(OpenAttempt):
    """An attempt that fails when it is asked for the first time what it has to say."""

    asked = 0

    def take(self) -> RunWrite | None:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("nothing to say")
        return super().take()


class SlowStore(MemoryStore):
    """A memory store in front of which a time limit strikes, as often as is said."""

    strikes = 0

    def append(self, writes: Sequence[RunWrite]) -> None:
        if self.strikes and threading.current_thread() is threading.main_thread():
            self.strikes -= 1
            raise TimeIsUpError
        super().append(writes)


class Scalar:
    """A number as numpy has them."""

    def __init__(self, value: float) -> None:
        self._value = value

    def __float__(self) -> float:
        return float(self._value)


class Whole(Scalar):
    """A whole number as numpy has them."""

    def __index__(self) -> int:
        return int(self._value)


def attempt(run_id: str = "r", kind: type[OpenAttempt] = OpenAttempt) -> OpenAttempt:
    delivery = Delivery("w", "b", 1, 0, False, None, None)
    redactor = Redactor(("password",), limit=1000)
    return kind(
        run_id,
        RunFacts(task="shop"),
        1,
        delivery,
        redactor=redactor,
        keep=lambda _: 60.0,
        limits=LogLimits(),
        interrupts=(TimeIsUpError,),
    )


def taken(opened: OpenAttempt) -> dict[str, dict[str, Any]]:
    """Return what the attempt has to say, by the names of its events."""
    write = opened.take()
    assert write is not None
    return {event.name: json.loads(event.data) for event in write.events}


# -- as it was at the call -----------------------------------------------------------------------------------------


def test_a_report_that_changes_after_the_call_is_told_as_it_was() -> None:
    opened, report = attempt(), {"current": 1, "total": 4, "rows": ["a"], "password": "hunter2"}
    Timeline(opened).state("PROGRESS", report)
    report.update(current=2, rows=Closed())
    told = taken(opened)
    assert told["state"]["meta"] == {"current": 1, "total": 4, "rows": ["a"], "password": "••redacted••"}
    assert (told["progress"]["done"], told["progress"]["total"]) == (1, 4)
    assert "started" in told


def test_a_message_is_told_as_it_was_at_the_call() -> None:
    opened, rows = attempt(), ["a"]
    Timeline(opened).progress(1, 2, rows)  # type: ignore[arg-type]
    rows.append("b")
    assert taken(opened)["progress"]["message"] == "['a']"


def test_what_cannot_be_told_costs_only_itself() -> None:
    opened = attempt()
    timeline = Timeline(opened)
    timeline.event("row", row=Closed())
    timeline.state("PROGRESS", Closed())
    timeline.progress(10**400 // 10**399, None, Closed())  # type: ignore[arg-type]
    opened.succeed(10**5000)
    told = taken(opened)
    assert list(told) == ["started", "row", "state", "progress", "success"]
    assert "RuntimeError" in str(told["row"]["data"])
    assert "RuntimeError" in str(told["state"]["meta"])
    assert told["progress"]["done"] == 10


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (3, 3),
        (2.5, 2.5),
        (Decimal(3), 3),
        (Decimal("0.5"), 0.5),
        (Fraction(1, 4), 0.25),
        (Scalar(7.5), 7.5),
        (Whole(7), 7),
        (10**300, 10**300),
    ],
    ids=["int", "float", "whole Decimal", "Decimal", "Fraction", "scalar", "index", "large"],
)
def test_progress_takes_numbers_of_any_kind(number: Any, shown: float, store: Store) -> None:
    opened = attempt()
    Timeline(opened).progress(number, number)
    opened.end(SUCCESS)
    Recorder(store).finish(opened)
    run = Runs(store).get("r")
    assert run is not None
    assert run.progress is not None
    assert (shown, shown) == (run.progress.done, run.progress.total)


@pytest.mark.parametrize(
    "number",
    [-1, "3", None, True, float("nan"), Decimal("sNaN"), Decimal("Infinity"), 1j, [1], 10**5000],
    ids=["below 0", "text", "nothing", "a flag", "nan", "snan", "infinity", "complex", "list", "digits"],
)
def test_what_is_no_number_is_refused_by_its_name(number: Any) -> None:
    opened = attempt()
    with pytest.raises(ValueError, match="progress needs done as a number of 0 or more, not "):
        Timeline(opened).progress(number, 5)
    if number is not None:
        with pytest.raises(ValueError, match="progress needs total as a number of 0 or more, not "):
            Timeline(opened).progress(5, number)
    assert list(taken(opened)) == ["started"]


# -- the recorder --------------------------------------------------------------------------------------------------


def test_an_attempt_that_fails_to_say_something_keeps_no_other_from_it() -> None:
    store = open_store("memory://")
    recorder = Recorder(store)
    recorder.begin(attempt("before"))
    recorder.begin(attempt("silent", Silent))
    recorder.begin(attempt("behind"))
    wait_for(lambda: store.run("before") and store.run("behind"), message="the starts of both to be written")
    assert store.run("silent") is None
    wait_for(lambda: store.run("silent"), message="its start to be written as well")


def test_a_time_limit_that_strikes_in_a_write_passes_and_the_fact_is_written_later() -> None:
    # given
    store = SlowStore.from_url("memory://", prefix="", timeout=1)
    assert isinstance(store, SlowStore)
    told: list[str] = []
    recorder = Recorder(store, lambda write: told.append(write.run_id), interrupts=(TimeIsUpError,))
    opened = attempt()
    opened.end(SUCCESS)

    # when
    store.strikes = 1
    with pytest.raises(TimeIsUpError):
        recorder.finish(opened)

    # then
    assert told == ["r"]
    wait_for(lambda: store.run("r"), message="the fact to be written")
    found = store.run("r")
    assert found is not None
    assert [event.name for event in found[1]] == ["started", "success"]
    assert recorder.unrecorded == 0


def test_a_time_limit_that_strikes_as_what_waits_is_written_loses_nothing() -> None:
    # given what waits in the background
    store = SlowStore.from_url("memory://", prefix="", timeout=1)
    assert isinstance(store, SlowStore)
    recorder = Recorder(store, interrupts=(TimeIsUpError,))
    store.strikes = 1
    with recorder._mutex:  # keeps the thread of the recorder out
        for number in range(3):
            recorder.post(RunWrite(f"r{number}", 1, RunFacts(task="shop")))

        # when a body reads the history, which writes it first
        with pytest.raises(TimeIsUpError):
            recorder.settle()

    # then
    recorder.settle()
    assert all(store.run(f"r{number}") for number in range(3))
