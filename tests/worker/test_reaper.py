"""What dead workers had becomes LOST, in time; what live ones have never does."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from types import ModuleType

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import Run, StackState, Worker
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import wait_for
from tests.worker.probes import exited, messages, notes, run_of, wait_for_note

LEASE = 2.0
#: As the reaper's docstring has it, with a second for the round on a busy machine.
IN_TIME = 1.5 * LEASE + 1
SHORT = {"stackstate_worker_lease": LEASE, "stackstate_publish_lease": 1}
#: Messages of the dead stay away; or come back, to a worker that starts after this time.
GONE = {**SHORT, "broker_transport_options": {"visibility_timeout": 3600}}
VISIBILITY = 5.0
#: A worker that gets no tasks.
IDLE = ("-Q", "nothing")

pytestmark = pytest.mark.worker(app="tests.worker.app_reaper", conf=GONE, broker="redis", concurrency=1)


def worker_of(app: Celery, node: CeleryTestWorker) -> Worker:
    """Return what is known of the newest start of a worker."""
    return [one for one in StackState.of(app).workers() if one.hostname == node.hostname()][-1]


def names(app: Celery, run_id: str) -> list[str]:
    return [event.name for event in StackState.of(app).runs.events(run_id)]


def statuses(run: Run) -> list[str]:
    return [attempt.status for attempt in run.attempts]


def send_signal(worker: Worker, number: int) -> None:
    """Send a signal to all processes of a worker."""
    for pid in (worker.pid, *worker.processes):
        os.kill(pid, number)


def killed(node: CeleryTestWorker) -> float:
    """Kill a worker with all its processes; return when, on the monotonic clock."""
    node.kill("SIGKILL")
    return time.monotonic()


def is_never(app: Celery, status: str, run_ids: Sequence[str], *, seconds: float) -> None:
    """Assert that the runs do not have the status at any time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for run_id in run_ids:
            run = StackState.of(app).runs.get(run_id)
            assert run is not None
            assert run.status != status, run
        time.sleep(0.1)


# -- what dead workers had -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker_store", ["sqlite", "redis"], indirect=True)
def test_all_that_a_killed_worker_had_is_lost_in_time_and_it_leaves_the_roll(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a worker with a run in its body, one that was tried once, one that waits, one for later, and none other
    node = start_worker()
    tried = tasks.try_again_later.delay()
    run_of(app, tried.id, status="RETRY")
    running, waiting = tasks.take.delay("running", 60), tasks.take.delay("waiting", 0)
    later = tasks.take.apply_async(("later", 0), countdown=60)
    run_of(app, running.id, status="STARTED")
    for result in (waiting, later):
        run_of(app, result.id, status="RECEIVED")
    wait_for(lambda: names(app, tried.id).count("received") == 2, message="the retry to be received")
    queued = tasks.take.apply_async(("queued", 0), queue="elsewhere")
    other = start_worker(args=IDLE)

    # when
    since = killed(node)

    # then
    found = {}
    for result in (running, waiting, later, tried):
        left = since + IN_TIME - time.monotonic()
        found[result.id] = run_of(app, result.id, status="LOST", timeout=left, node=other)
    assert statuses(found[running.id]) == ["LOST"]
    assert "nobody is left who runs it" in str(found[running.id].error)
    assert statuses(found[tried.id]) == ["RETRY"]
    for result in (waiting, later):
        run = found[result.id]
        assert (run.attempts, run.worker, run.finished) == ((), node.hostname(), False)
        assert "had its message" in str(run.error)
        assert names(app, result.id) == ["queued", "received", "lost"]
    assert len(found) == len({one["run_id"] for one in notes(app, "lost")}) == len(notes(app, "lost"))

    # and it is known as dead for a few rounds
    assert not worker_of(app, node).live
    assert worker_of(app, other).live
    gone = lambda: [one.hostname for one in StackState.of(app).workers()] == [other.hostname()]  # noqa: E731
    wait_for(gone, timeout=3 * LEASE, message="the dead worker to leave the roll")
    assert run_of(app, queued.id, status="QUEUED").error is None


def test_a_run_that_is_killed_before_it_tells_of_its_start_is_lost(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    node = start_worker()
    start_worker(args=IDLE)
    result = tasks.kill_all.apply_async(countdown=1)
    run_of(app, result.id, status="RECEIVED")

    # when
    exited(node)
    since = time.monotonic()

    # then
    run = run_of(app, result.id, status="LOST", timeout=since + IN_TIME - time.monotonic())
    assert (run.attempts, names(app, result.id)) == ((), ["queued", "received", "lost"])


@pytest.mark.worker(conf=SHORT)
def test_a_lost_message_that_is_delivered_again_makes_the_run_go_on(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a run that waited in a worker which died
    node = start_worker()
    first = tasks.take.delay("first", 60)
    run_of(app, first.id, status="STARTED")
    result = tasks.take.delay("second", 0)
    run_of(app, result.id, status="RECEIVED")
    start_worker(args=IDLE)
    since = killed(node)
    run_of(app, result.id, status="LOST")

    # when the broker gives it to another
    time.sleep(max(0.0, since + VISIBILITY + 1 - time.monotonic()))
    other = start_worker()

    # then
    run = run_of(app, result.id, status="SUCCESS", timeout=20, node=other)
    assert (statuses(run), run.attempts[0].redelivered, run.error) == (["SUCCESS"], True, None)
    assert StackState.of(app).runs.get(first.id).status == "LOST"  # type: ignore[union-attr]


def test_a_worker_that_comes_back_under_its_name_keeps_what_it_gets_itself(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    node = start_worker()
    old = tasks.take.apply_async(("old", 0), countdown=60)
    run_of(app, old.id, status="RECEIVED")
    first = worker_of(app, node)

    # when
    killed(node)
    node.restart()
    new = tasks.take.apply_async(("new", 0), countdown=60)
    running = tasks.take.delay("running", 6 * LEASE)
    run_of(app, new.id, status="RECEIVED")

    # then it finds what its former start had, and nothing of its own
    run_of(app, old.id, status="LOST", node=node)
    second = worker_of(app, node)
    assert (second.hostname, second.live) == (first.hostname, True)
    assert second.boot != first.boot
    wait_for(lambda: len(StackState.of(app).workers()) == 1, message="its former start to leave the roll")
    is_never(app, "LOST", [new.id, running.id], seconds=LEASE)


# -- a message that is delivered again -----------------------------------------------------------------------------


@pytest.mark.worker(broker="rabbitmq", conf=SHORT)
def test_an_attempt_that_a_dead_worker_left_below_a_success_is_closed(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a copy of the message that succeeds before anybody knows that the first attempt is lost
    node = start_worker()
    result = tasks.take_at_first.delay("twice", 60)
    run_of(app, result.id, status="STARTED")
    other = start_worker()
    since = killed(node)
    run = run_of(app, result.id, status="SUCCESS")
    assert statuses(run) == ["STARTED", "SUCCESS"]

    # then
    closed = lambda: statuses(run_of(app, result.id, status="SUCCESS")) == ["LOST", "SUCCESS"]  # noqa: E731
    wait_for(closed, timeout=since + IN_TIME - time.monotonic(), message="the first to be closed", node=other)


# -- who lives -----------------------------------------------------------------------------------------------------


def test_a_worker_that_was_stopped_for_longer_than_its_lease_corrects_what_was_said_of_it(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    node = start_worker()
    start_worker(args=IDLE)
    result = tasks.take.delay("stopped", 7)
    waiting = tasks.take.delay("waiting", 0)
    run_of(app, result.id, status="STARTED")
    run_of(app, waiting.id, status="RECEIVED")
    worker = worker_of(app, node)

    # when
    send_signal(worker, signal.SIGSTOP)
    try:
        for lost in (result, waiting):
            run_of(app, lost.id, status="LOST", timeout=6)
        assert not worker_of(app, node).live
    finally:
        send_signal(worker, signal.SIGCONT)

    # then
    for one in (result, waiting):
        run = run_of(app, one.id, status="SUCCESS", node=node)
        assert (statuses(run), run.error) == (["SUCCESS"], None)
    wait_for(lambda: worker_of(app, node).live, message="its lease")


@pytest.mark.parametrize("pool", [pytest.param(p, marks=pytest.mark.worker(pool=p)) for p in ("prefork", "solo")])
def test_long_runs_and_what_waits_behind_them_are_never_marked(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, pool: str
) -> None:
    node = start_worker()
    start_worker(args=IDLE)
    running = tasks.take.delay("running", 3.5 * LEASE)
    waiting = tasks.take.delay("waiting", 0)
    wait_for_note(app, "running", node=node)
    if pool == "prefork":
        run_of(app, waiting.id, status="RECEIVED")
    for result in (running, waiting):
        run = run_of(app, result.id, status="SUCCESS", timeout=15)
        assert statuses(run) == ["SUCCESS"]
        assert "lost" not in names(app, result.id)


def test_a_warm_shutdown_is_no_death_and_what_it_gives_back_is_not_lost(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a worker that stops for longer than its lease
    node = start_worker()
    other = start_worker(args=IDLE)
    running, waiting = tasks.take.delay("running", 2 * LEASE), tasks.take.delay("waiting", 0)
    run_of(app, running.id, status="STARTED")
    run_of(app, waiting.id, status="RECEIVED")

    # when
    node.kill("SIGTERM")
    exited(node)

    # then
    run_of(app, running.id, status="SUCCESS", timeout=1)
    assert [other.hostname()] == [one.hostname for one in StackState.of(app).workers()]
    assert len(messages(app)) == 1
    is_never(app, "LOST", [running.id, waiting.id], seconds=2.5 * LEASE)
    assert "lost" not in names(app, running.id)


class TestAnOutage:
    """Of the store, for longer than the leases last."""

    @pytest.fixture
    def worker_store(self, store_server: RedisServer) -> str:
        return store_server.url

    @pytest.mark.parametrize("how", ["stop", "pause"])
    def test_nobody_who_lives_is_marked_when_the_store_comes_back(
        self, app: Celery, tasks: ModuleType, start_worker: StartWorker, store_server: RedisServer, how: str
    ) -> None:
        # given workers of which each looks after the others
        nodes = [start_worker(wait=False) for _ in range(3)]
        for node in nodes:
            node.ready()
        running = [tasks.take.delay(f"run-{number}", 5 * LEASE) for number in range(3)]
        for result in running:
            run_of(app, result.id, status="STARTED")
        waiting = [tasks.take.apply_async((f"later-{number}", 0), countdown=6 * LEASE) for number in range(3)]
        for result in waiting:
            run_of(app, result.id, status="RECEIVED")

        # when
        (store_server.stop if how == "stop" else store_server.pause)()
        time.sleep(1.7 * LEASE)
        (store_server.start if how == "stop" else store_server.resume)()

        # then
        for result in (*running, *waiting):
            run = run_of(app, result.id, status="SUCCESS", timeout=20)
            assert statuses(run) == ["SUCCESS"]
            assert "lost" not in names(app, result.id)
        assert [one.live for one in StackState.of(app).workers()] == [True] * 3


# -- workers() -----------------------------------------------------------------------------------------------------


@pytest.mark.worker(concurrency=2)
def test_the_workers_tell_who_they_are(app: Celery, start_worker: StartWorker) -> None:
    # given
    before = datetime.now(timezone.utc)
    nodes = [start_worker(), start_worker(pool="threads")]
    complete = lambda: sum(len(one.processes) for one in StackState.of(app).workers()) == 3  # noqa: E731
    wait_for(complete, message="the processes to be listed")

    # then
    found = StackState.of(app).workers()
    assert sorted(node.hostname() for node in nodes) == [one.hostname for one in found]
    now = datetime.now(timezone.utc)
    for one in found:
        assert one.live
        assert one.host == os.uname().nodename
        assert before <= one.started_at <= one.seen_at <= now + timedelta(seconds=1)
        assert (one.pid in one.processes) is (len(one.processes) == 1)
        for pid in (one.pid, *one.processes):
            os.kill(pid, 0)

    # when
    nodes[0].kill("SIGTERM")
    exited(nodes[0])

    # then
    assert [nodes[1].hostname()] == [one.hostname for one in StackState.of(app).workers()]
