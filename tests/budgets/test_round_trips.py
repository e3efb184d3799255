"""What each path costs in round trips to the store: exact, where times are noisy."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker

from celery_stackstate import StackState
from celery_stackstate.recorder import TICK
from celery_stackstate.stores.base import RunQuery
from tests.budgets.apps import an_app
from tests.budgets.counting import Trips, counted
from tests.waiting import wait_for


@pytest.fixture(params=["redis", "postgresql"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    with an_app(request.getfixturevalue(f"{request.param}_url")) as app:
        yield app


@pytest.fixture
def trips(app: Celery) -> Iterator[Trips]:
    store = StackState.of(app).store
    store.get(b"warm")  # connects, makes the tables, loads what is loaded once
    task(app, "nothing").apply_async(idempotency_key="warm")
    StackState.of(app).recorder.flush()
    with counted(store) as trips:
        yield trips


def task(app: Celery, name: str) -> Any:
    return app.tasks[name]


def ticks_since(began: float) -> float:
    """Return how often the recorder's thread may have written by now: once in each of its ticks, and once besides."""
    return 1 + (time.monotonic() - began) / TICK


# -- state -------------------------------------------------------------------------------------------------------------


def test_several_keys_are_deleted_in_one_round_trip(app: Celery, trips: Trips) -> None:
    state = StackState.of(app).state
    for number in range(10):
        state.set(f"k{number}", number)
    state.delete("never")  # loads the script
    state.clear("never")
    trips.clear()
    assert state.delete(*[f"k{number}" for number in range(10)]) == 10
    assert trips.here == 1
    trips.clear()
    assert state.clear() == 0
    assert trips.here == 1


# -- publish -----------------------------------------------------------------------------------------------------------


def test_a_publish_with_history_is_one_round_trip(app: Celery, trips: Trips) -> None:
    task(app, "nothing").delay(1)
    assert (trips.here, trips.behind) == (1, 0)


def test_a_publish_without_history_is_none(app: Celery, trips: Trips) -> None:
    task(app, "unrecorded").delay(1)
    assert (trips.here, trips.behind) == (0, 0)


@pytest.mark.parametrize("name", ["nothing", "unrecorded"])
def test_a_publish_with_a_key_waits_for_one_round_trip(app: Celery, trips: Trips, name: str) -> None:
    result = task(app, name).apply_async((1,), idempotency_key="k")
    assert result.created
    assert trips.here == 1


def test_what_is_told_in_the_background_is_told_before_the_same_process_reads(app: Celery, trips: Trips) -> None:
    keyed = task(app, "nothing").apply_async((1,), idempotency_key="k")
    hot = task(app, "hot").delay(2)
    assert trips.here == 1
    for result, args in ((keyed, [1]), (hot, [2])):
        run = StackState.of(app).runs.get(result.id)
        assert run is not None
        assert (run.status, run.args) == ("QUEUED", args)


def test_publishes_told_in_the_background_share_round_trips(app: Celery, trips: Trips) -> None:
    began = time.monotonic()
    results = [task(app, "hot").delay(number) for number in range(100)]
    wait_for(lambda: trips.behind, message="the first batch")
    wait_for(lambda: not StackState.of(app).recorder._waiting, message="the last batch")
    assert trips.here == 0
    assert trips.behind <= ticks_since(began), "a batch in each, where each would be 100"
    assert {run.id for run in StackState.of(app).runs.list(limit=200)} >= {result.id for result in results}


def test_keyed_publishes_are_confirmed_and_told_in_batches(app: Celery, trips: Trips) -> None:
    def states() -> set[str]:
        keys = StackState.of(app).idempotency
        return {found.state for found in keys.list(task="nothing", limit=200) if found.key != "warm"}

    def told() -> bool:
        return states() == {"PUBLISHED"} and not StackState.of(app).recorder._waiting

    task(app, "nothing").apply_async(idempotency_key="first")
    wait_for(told, message="what one costs: its confirmation, and that it is told")
    one = trips.behind
    trips.clear()
    began = time.monotonic()
    for number in range(100):
        task(app, "nothing").apply_async((number,), idempotency_key=f"k{number}")
    assert trips.here == 100
    StackState.of(app).recorder.flush()
    flushed = trips.here - 100
    wait_for(told, message="the confirmations")
    assert 1 < one < 5
    assert flushed + trips.behind <= one * (1 + ticks_since(began)), "those of a tick cost what one does"


def test_what_a_process_has_still_to_say_is_written_at_its_end(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from celery import Celery\n"
        "from celery_stackstate import StackState, StateTask\n"
        "app = Celery('brief', broker='memory://', task_cls=StateTask)\n"
        "app.conf.stackstate_url = sys.argv[1]\n"
        "@app.task(name='pay')\n"
        "def pay(): ...\n"
        "print(pay.apply_async(idempotency_key='k').id)\n"
    )
    url = f"sqlite:///{tmp_path}/state.sqlite3"
    done = subprocess.run([sys.executable, "-c", code, url], capture_output=True, text=True, check=True)
    app = Celery("brief", broker="memory://", set_as_current=False)
    app.conf.stackstate_url = url
    run = StackState.of(app).runs.get(done.stdout.strip())
    assert run is not None
    assert (run.status, run.key) == ("QUEUED", "k")
    StackState.of(app).close()


def test_a_suppressed_duplicate_waits_for_one_round_trip(app: Celery, trips: Trips) -> None:
    task(app, "nothing").apply_async((1,), idempotency_key="k")
    StackState.of(app).recorder.flush()
    trips.clear()
    assert not task(app, "nothing").apply_async((1,), idempotency_key="k").created
    assert trips.here == 1


# -- an attempt --------------------------------------------------------------------------------------------------------


@pytest.fixture
def worked(app: Celery, trips: Trips) -> Iterator[Callable[..., int]]:
    """Return how many round trips a worker's attempt waited for."""
    with start_worker(app, perform_ping_check=False, shutdown_timeout=30):

        def work(name: str, *args: Any, **options: Any) -> int:
            trips.clear()
            result = task(app, name).apply_async(args, **options)
            runs, keys = StackState.of(app).runs, StackState.of(app).idempotency
            key = options.get("idempotency_key")

            def ended() -> bool:
                if name == "unrecorded":
                    record = keys.get(str(key), task=name)
                    return record is not None and record.state == "SUCCEEDED"
                run = runs.get(result.id)
                return run is not None and run.status == "SUCCESS"

            wait_for(ended, message="the end of the run")
            return trips.elsewhere

        work("nothing", idempotency_key="what a process does once")
        yield work


def test_a_short_attempt_is_one_round_trip(worked: Callable[..., int]) -> None:
    assert worked("nothing") == 1


def test_a_receipt_travels_with_an_attempt_that_begins_at_once(worked: Callable[..., int], app: Celery) -> None:
    worked("nothing")
    extension = StackState.of(app)
    (run,) = extension.runs.list(task="nothing", limit=1)
    stored = extension.runs_store.run(run.id)
    assert stored is not None
    assert [event.name for event in stored[1]] == ["queued", "started", "success"]
    assert [event.name for event in extension.runs.events(run.id)] == ["queued", "received", "started", "success"]


def test_log_lines_travel_with_the_end(worked: Callable[..., int]) -> None:
    assert worked("chatter", 50) == 1


def test_a_keyed_attempt_reads_its_key_claims_it_and_records_the_outcome(
    worked: Callable[..., int], request: pytest.FixtureRequest
) -> None:
    assert worked("unrecorded", idempotency_key="b") == 3
    together = "redis" in request.node.name  # the start goes with the claim, the end with the outcome
    assert worked("nothing", idempotency_key="a") == (3 if together else 4)


def test_a_success_that_a_callback_waits_for_is_recorded_before_it_is_sent(
    worked: Callable[..., int], app: Celery
) -> None:
    linked = {"idempotency_key": "c", "link": task(app, "unrecorded").si(1)}
    assert worked("nothing", **linked) == 5, "the key, its claim, the success, that its callback is out, the end"


def test_attempts_told_in_the_background_share_round_trips(
    worked: Callable[..., int], app: Celery, trips: Trips
) -> None:
    trips.clear()
    began = time.monotonic()
    for number in range(200):
        task(app, "hot").delay(number)
    query = RunQuery(task="hot", status=("SUCCESS",))
    wait_for(lambda: StackState.of(app).store.count_runs(query) == 200, message="all to end", timeout=30)
    assert trips.elsewhere == 0
    assert trips.behind <= ticks_since(began), "the publishes and the attempts of a tick go together"


# -- state -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda state: state.get("a"),
        lambda state: state.set("a", 1, ttl=60),
        lambda state: state.add("a", 1),
        lambda state: state.get_many(["a", "b"]),
        lambda state: state.delete("a"),
        lambda state: state.increment("n"),
        lambda state: state.increment("n", ceiling=10),
        lambda state: list(state.keys("a")),
    ],
    ids=["get", "set", "add", "get_many", "delete", "increment", "increment-ceiling", "keys"],
)
def test_a_state_call_is_one_round_trip(app: Celery, trips: Trips, call: Callable[[Any], Any]) -> None:
    state = StackState.of(app).state
    call(state)  # a server that was just started has yet to get the script
    state.set("a", 0)
    trips.clear()
    call(state)
    assert (trips.here, trips.behind) == (1, 0)


def test_a_lock_is_two_round_trips(app: Celery, trips: Trips) -> None:
    with StackState.of(app).state.lock("another", ttl=60):
        pass
    trips.clear()
    with StackState.of(app).state.lock("l", ttl=60):
        assert trips.here == 1
    assert trips.here == 2


def test_nothing_is_asked_while_nothing_is_done(app: Celery, trips: Trips) -> None:
    time.sleep(3 * TICK)
    assert (trips.here, trips.behind, trips.elsewhere) == (0, 0, 0)
