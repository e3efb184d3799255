"""Every ending that Celery knows, and the whole record of each: a test for each row of its table of sequences."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import ModuleType

import pytest
from celery import Celery, __version__
from pytest_celery import CeleryTestWorker, RedisTestBackend, RedisTestBroker

from celery_stackstate import Attempt, Event, Run, StackState
from tests.nodes import RedisProcess, StartWorker, WorkerOptions, WorkerProcess
from tests.waiting import Stopwatch, wait_for
from tests.worker.conftest import environment_of
from tests.worker.probes import exited, messages, notes, wait_for_note

APP = "tests.worker.app_endings"
LEASE = 2.0
SHORT = {"stackstate_worker_lease": LEASE, "stackstate_publish_lease": 1}
CELERY = tuple(int(part) for part in __version__.split(".")[:2])
since_57 = pytest.mark.skipif(CELERY < (5, 7), reason="Celery 5.7 has it first")
BOTH = pytest.mark.worker(broker=None)
#: A body that is to be interrupted goes on for so long; its start has been written after `WRITTEN` seconds.
FOR_EVER, WRITTEN = 60.0, 0.5
#: Seconds after which Redis gives out a message again, as the fixture sets it up. Celery 5.5 looks for such messages as
#: a worker starts, and then not for a long while.
VISIBILITY = 5.0

pytestmark = pytest.mark.worker(app=APP, conf=SHORT, broker="redis")


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt is to have ended; `error` is the beginning of its type and message."""

    status: str
    error: str = ""
    traceback: bool = False
    retries: int = 0
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class Observer:
    """Looks at what the history says of the runs of some workers."""

    app: Celery
    workers: Sequence[CeleryTestWorker]

    def record(
        self, run_id: str, *ends: End, names: str, racing: str = "", status: str = "", timeout: float = 10
    ) -> Run:
        """Return the record of a run that ended so, when all of it is there and nothing is added any more.

        Args:
            run_id: Which run.
            *ends: How each of its attempts ended, in their order.
            names: The timeline.
            racing: Those of it that may come earlier or later than others do, besides "received" and "interrupted".
            status: The run's; that of its last attempt unless it is given.
            timeout: Seconds in which that is to be recorded.
        """
        status = status or ends[-1].status
        expected = (status, [end.status for end in ends], sorted(names.split()))
        try:
            wait_for(lambda: self._seen(run_id) == expected, timeout=timeout, message=str(expected))
        except BaseException:
            print("the history says:", self._seen(run_id), StackState.of(self.app).runs.get(run_id), sep="\n")
            raise
        runs = StackState.of(self.app).runs
        run, events = runs.get(run_id), runs.events(run_id)
        assert run is not None
        self._check(run, events, ends)
        _check_order(events, names.split(), ["received", "interrupted", *racing.split()])
        time.sleep(0.4)  # what is still said about it changes nothing
        assert (run, events) == (runs.get(run_id), runs.events(run_id))
        assert "celery-stackstate failed" not in "".join(worker.logs() for worker in self.workers)
        return run

    def _seen(self, run_id: str) -> tuple[str, list[str], list[str]]:
        runs = StackState.of(self.app).runs
        run, events = runs.get(run_id), runs.events(run_id)
        if run is None:
            return "", [], []
        return run.status, [attempt.status for attempt in run.attempts], sorted(event.name for event in events)

    def _check(self, run: Run, events: Sequence[Event], ends: Sequence[End]) -> None:
        """Assert what holds for the record of every run that has ended."""
        assert run.detailed
        assert run.queue == self.app.conf.task_default_queue
        assert run.publisher is not None
        assert run.publisher.pid == os.getpid()
        assert in_order(run.queued_at, run.finished_at)
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert list(range(1, len(ends) + 1)) == [attempt.number for attempt in run.attempts]
        assert len(ends) == len({attempt.execution for attempt in run.attempts})
        for attempt, end in zip(run.attempts, ends, strict=True):
            self._check_attempt(run, attempt, end)
        if not run.attempts:
            assert (run.started_at, run.wait, run.runtime, run.traceback) == (None, None, None, None)
        elif run.status == run.attempts[-1].status:
            _check_summary(run, run.attempts[-1])
        assert run.result is None or run.status == "SUCCESS"

    def _check_attempt(self, run: Run, attempt: Attempt, end: End) -> None:
        assert attempt.worker in {worker.hostname() for worker in self.workers}
        assert attempt.pid not in {None, 0, os.getpid()}
        assert (attempt.retries, attempt.redelivered) == (end.retries, end.redelivered)
        assert in_order(run.queued_at, attempt.queued_at, attempt.started_at, attempt.finished_at)
        assert attempt.wait is not None
        assert 0 <= attempt.wait <= between(attempt.queued_at, attempt.started_at)
        assert attempt.runtime == between(attempt.started_at, attempt.finished_at)
        assert error_of(attempt).startswith(end.error)
        assert bool(error_of(attempt)) is bool(end.error)
        assert (attempt.traceback is not None) is end.traceback


def _check_summary(run: Run, last: Attempt) -> None:
    """Assert that a run says of itself what its last attempt says."""
    of_run = (run.worker, run.retries, run.started_at, run.finished_at, run.wait, run.runtime, run.error or "")
    of_last = (last.worker, last.retries, last.started_at, last.finished_at, last.wait, last.runtime, error_of(last))
    assert of_last == of_run
    assert (last.traceback if run.status == "FAILURE" else None) == run.traceback


def _check_order(events: Sequence[Event], expected: Sequence[str], racing: Sequence[str]) -> None:
    """Assert the order of a timeline, but for what two processes say at about the same time."""
    names = [event.name for event in events]
    assert [name for name in names if name not in racing] == [name for name in expected if name not in racing]
    if "received" in names and "started" in names:
        assert names.index("queued") < names.index("received") < names.index("started")
    for execution in {event.execution for event in events} - {None}:
        assert next(event.name for event in events if event.execution == execution) == "started"


def in_order(*moments: datetime | None) -> bool:
    known = [moment for moment in moments if moment is not None]
    return len(known) == len(moments) and known == sorted(known)


def between(first: datetime | None, last: datetime | None) -> float:
    assert first is not None
    assert last is not None
    return (last - first) / timedelta(seconds=1)


def error_of(attempt: Attempt) -> str:
    return "" if attempt.error_type is None else f"{attempt.error_type}: {attempt.error}"


@pytest.fixture
def seen(app: Celery, celery_worker: CeleryTestWorker) -> Observer:
    """What the history says of the test's own worker."""
    return Observer(app, [celery_worker])


def begun(seen: Observer, name: str, *, count: int = 1) -> int:
    """Return the process of the body of that name, when its start has been written."""
    pid: int = wait_for_note(seen.app, name, count=count, node=seen.workers[0])["pid"]
    time.sleep(WRITTEN)
    return pid


# -- on one worker for all -----------------------------------------------------------------------------------------


@pytest.fixture(scope="class")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ModuleType, CeleryTestWorker]]:
    """A worker, with a broker and stores of its own, and the module of its app."""
    folder, options = tmp_path_factory.mktemp("endings"), WorkerOptions(app=APP, conf=SHORT)
    broker, backend = RedisTestBroker(RedisProcess(folder)), RedisTestBackend(RedisProcess(folder))
    with ExitStack() as stack:
        for server in (broker, backend):
            stack.callback(server.teardown)
            server.container.start()
            server.ready()
        environment = environment_of(options, broker, backend, f"sqlite:///{folder}/stackstate.sqlite3")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.delitem(sys.modules, APP, raising=False)
            patch.setattr("celery._state._tls.current_app", None)
            tasks = importlib.import_module(APP)
        stack.callback(tasks.app.close)
        worker = CeleryTestWorker(WorkerProcess(options, "celery", folder, environment), tasks.app)
        stack.callback(worker.teardown)
        worker.container.start()
        worker.ready()
        yield tasks, worker


class TestOnOneWorker:
    """Runs that end without their worker; so they share one."""

    @pytest.fixture
    def tasks(self, shared: tuple[ModuleType, CeleryTestWorker]) -> ModuleType:
        return shared[0]

    @pytest.fixture
    def seen(self, shared: tuple[ModuleType, CeleryTestWorker]) -> Observer:
        return Observer(shared[0].app, [shared[1]])

    def test_a_success(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.add.apply_async((1,), {"y": 5})
        run = seen.record(result.id, End("SUCCESS"), names="queued received started success")
        assert (run.task, run.args, run.kwargs, run.result) == (tasks.add.name, [1], {"y": 5}, 6)

    def test_a_success_whose_result_the_backend_does_not_keep(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.forgotten.delay(7)
        run = seen.record(result.id, End("SUCCESS"), names="queued received started success")
        assert (run.args, run.result) == ([7], 7)

    def test_a_countdown(self, seen: Observer, tasks: ModuleType) -> None:
        watch = Stopwatch()
        result = tasks.add.apply_async((1,), countdown=1)
        run = seen.record(result.id, End("SUCCESS"), names="queued received started success")
        (attempt,) = run.attempts
        assert in_order(attempt.queued_at, run.eta, attempt.started_at)
        assert attempt.wait == between(run.eta, attempt.started_at)
        assert 0.9 - watch.late < between(run.queued_at, run.eta) < 1.1

    def test_a_retry_that_succeeds(self, seen: Observer, tasks: ModuleType) -> None:
        watch, result = Stopwatch(), tasks.retried.delay()
        names = "queued received started queued retry received started success"
        first = End("RETRY", "ConnectionError: the shop is closed", traceback=True)
        run = seen.record(result.id, first, End("SUCCESS", retries=1), names=names)
        assert (run.result, run.retries, run.args, run.kwargs) == ("open", 1, [], {})
        assert 0.4 < between(run.attempts[0].finished_at, run.attempts[1].started_at) < 2 + watch.late
        assert in_order(run.attempts[0].started_at, run.attempts[1].queued_at, run.attempts[0].finished_at)

    def test_automatic_retries_that_are_used_up(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.autoretried.delay()
        names = "queued received started queued retry received started failure"
        ends = [End(status, "KeyError: 'always'", True, n) for n, status in enumerate(("RETRY", "FAILURE"))]
        run = seen.record(result.id, *ends, names=names)
        assert "raise KeyError" in str(run.traceback)

    def test_a_failure(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.fail.delay("value")
        end = End("FAILURE", "ValueError: not a number", True)
        run = seen.record(result.id, end, names="queued received started failure")
        assert (run.error, run.args) == (end.error, ["value"])
        assert str(run.traceback).startswith("Traceback (most recent call last):")
        assert str(run.traceback).rstrip().endswith(end.error)

    def test_wrong_arguments(self, seen: Observer, tasks: ModuleType) -> None:
        result = seen.app.send_task(tasks.add.name, (1, 2, 3))
        end = End("FAILURE", "TypeError: add() takes", True)
        run = seen.record(result.id, end, names="queued received started failure")
        assert (run.task, run.args) == (tasks.add.name, [1, 2, 3])

    def test_a_result_that_no_backend_takes(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.unserialisable.delay()
        end = End("FAILURE", "EncodeError: Object of type object is not JSON serializable", True)
        seen.record(result.id, end, names="queued received started failure")

    def test_a_soft_time_limit(self, seen: Observer, tasks: ModuleType) -> None:
        watch, result = Stopwatch(), tasks.too_long_softly.delay()
        end = End("FAILURE", "SoftTimeLimitExceeded: ", True)
        run = seen.record(result.id, end, names="queued received started failure")
        assert 0.9 < between(run.started_at, run.finished_at) < 3 + watch.late

    def test_a_hard_time_limit(self, seen: Observer, tasks: ModuleType) -> None:
        watch, result = Stopwatch(), tasks.too_long.delay()
        end = End("FAILURE", "TimeLimitExceeded: ", True)
        run = seen.record(result.id, end, names="queued received started failure interrupted")
        assert 0.9 < between(run.started_at, run.finished_at) < 3 + watch.late

    def test_an_ignored_run(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.ignore.delay()
        run = seen.record(result.id, End("IGNORED"), names="queued received started ignored")
        assert (run.error, run.result) == (None, None)

    def test_a_run_that_is_replaced(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.replaced.delay(1)
        assert result.get(timeout=10) == 11
        names = "queued received started queued ignored received started success"
        run = seen.record(result.id, End("IGNORED"), End("SUCCESS"), names=names, racing="ignored")
        assert (run.task, run.args, run.result) == (tasks.replaced.name, [1], 11)

    def test_a_rejected_run(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.reject.delay(requeue=False)
        seen.record(result.id, End("REJECTED"), names="queued received started rejected")

    def test_a_run_that_is_rejected_after_its_message_was_acknowledged(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.reject.delay(requeue=True)
        seen.record(result.id, End("REJECTED"), names="queued received started rejected")

    def test_a_rejected_run_whose_message_goes_back(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.reject_late.delay()
        names = "queued received started rejected received started success"
        run = seen.record(result.id, End("REJECTED"), End("SUCCESS", redelivered=True), names=names)
        assert run.result == "taken"

    def test_a_success_whose_handler_fails(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.raises_on_success.delay()
        assert result.get(timeout=10) == "done"
        run = seen.record(result.id, End("SUCCESS"), names="queued received started success")
        assert run.result == "done"

    @pytest.mark.parametrize("hook", ["on_failure", "after_return"])
    def test_a_failure_whose_handler_fails(self, seen: Observer, tasks: ModuleType, hook: str) -> None:
        result = tasks.raises_on_failure.delay(hook)
        error = "RuntimeError: the handler failed" if hook == "on_failure" else "ValueError: the body failed"
        run = seen.record(result.id, End("FAILURE", error, True), names="queued received started failure")
        assert "ValueError: the body failed" in str(run.traceback)

    def test_a_child_that_is_killed(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.take.delay("killed", FOR_EVER)
        pid = begun(seen, "killed")
        os.kill(pid, signal.SIGKILL)
        end = End("FAILURE", "WorkerLostError: ", True)
        run = seen.record(result.id, end, names="queued received started failure", timeout=15)
        assert ("SIGKILL" in str(run.error), pid) == (True, run.attempts[0].pid)

    def test_a_child_that_is_killed_before_its_start_was_written(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.die.delay()
        end = End("FAILURE", "WorkerLostError: ", True)
        run = seen.record(result.id, end, names="queued received started failure", timeout=15)
        assert notes(seen.app, "die")[0]["pid"] == run.attempts[0].pid

    def test_a_child_that_is_killed_and_whose_message_goes_back(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.take_at_first.delay("back", FOR_EVER)
        pid = begun(seen, "back")
        os.kill(pid, signal.SIGKILL)
        run = seen.record(
            result.id,
            End("LOST", "Lost: "),
            End("SUCCESS", redelivered=True),
            names="queued received started lost received started success",
            racing="lost",
            timeout=15,
        )
        assert (run.result, pid) == ("back", run.attempts[0].pid)

    @since_57
    def test_a_child_that_is_killed_and_whose_run_is_retried(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.take_and_retry.delay("retried", FOR_EVER)
        pid = begun(seen, "retried")
        os.kill(pid, signal.SIGKILL)
        first = End("RETRY", "WorkerLostError: ", True)
        names = "queued received started queued retry received started success"
        run = seen.record(result.id, first, End("SUCCESS", retries=1), names=names, timeout=15)
        assert (run.retries, pid) == (1, run.attempts[0].pid)

    def test_a_body_that_ends_its_process(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.exit_process.delay()
        if CELERY < (5, 7):
            seen.record(result.id, End("LOST", "Interrupted: "), names="queued received started interrupted")
        else:
            end = End("FAILURE", "WorkerLostError: ", True)
            seen.record(result.id, end, names="queued received started interrupted failure", timeout=15)

    def test_a_run_that_is_terminated(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.take.delay("terminated", FOR_EVER)
        pid = begun(seen, "terminated")
        result.revoke(terminate=True)
        end = End("REVOKED", "Revoked: it was terminated")
        run = seen.record(result.id, end, names="queued received started revoked interrupted")
        assert pid == run.attempts[0].pid

    def test_a_run_that_is_revoked_before_it_starts(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.add.apply_async((1,), countdown=1)
        result.revoke()
        run = seen.record(result.id, status="REVOKED", names="queued received revoked")
        assert (run.error, run.attempts, run.args) == ("Revoked: it was revoked", (), [1])

    def test_a_run_that_expires_in_the_worker(self, seen: Observer, tasks: ModuleType) -> None:
        result = tasks.add.apply_async((1,), countdown=1, expires=0.5)
        run = seen.record(result.id, status="REVOKED", names="queued received revoked")
        assert (run.error, run.attempts) == ("Revoked: it had expired", ())
        assert in_order(run.queued_at, run.expires, run.finished_at)

    def test_a_task_that_the_worker_does_not_have(self, seen: Observer, tasks: ModuleType) -> None:
        @seen.app.task(name="tests.stranger")
        def stranger(x: int) -> None: ...

        result = stranger.delay(1)
        run = seen.record(result.id, status="FAILURE", names="queued failure")
        assert (run.task, run.args, run.attempts) == ("tests.stranger", [1], ())
        assert str(run.error).startswith("NotRegistered: ")


# -- on workers of their own ---------------------------------------------------------------------------------------


def test_a_run_that_expired_in_the_queue(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    result = tasks.add.apply_async((1,), expires=0.2)
    time.sleep(0.4)
    run = Observer(app, [start_worker()]).record(result.id, status="REVOKED", names="queued revoked")
    assert (run.error, run.attempts) == ("Revoked: it had expired", ())


def test_a_failure_for_want_of_memory(seen: Observer, tasks: ModuleType) -> None:
    result = tasks.fail.delay("memory")
    run = seen.record(result.id, End("FAILURE", "MemoryError: ", True), names="queued received started failure")
    assert run.error == "MemoryError: too much"


def test_a_warm_shutdown(seen: Observer, tasks: ModuleType) -> None:
    result = tasks.take.delay("warm", 1)
    begun(seen, "warm")
    seen.workers[0].kill("SIGTERM")
    exited(seen.workers[0])
    run = seen.record(result.id, End("SUCCESS"), names="queued received started success", timeout=1)
    assert run.result == "warm"


@BOTH
def test_a_cold_shutdown_with_early_acknowledgement(seen: Observer, tasks: ModuleType) -> None:
    result = tasks.take.delay("cold", FOR_EVER)
    pid = begun(seen, "cold")
    seen.workers[0].kill("SIGQUIT")
    exited(seen.workers[0])
    end = End("LOST", "Lost: its worker was stopped")
    run = seen.record(result.id, end, names="queued received started interrupted lost", timeout=1)
    assert (pid, []) == (run.attempts[0].pid, messages(seen.app))


@BOTH
def test_a_cold_shutdown_with_late_acknowledgement(
    seen: Observer, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = tasks.take_at_first.delay("cold", FOR_EVER)
    pid = begun(seen, "cold")
    seen.workers[0].kill("SIGQUIT")
    exited(seen.workers[0])
    run = Observer(app, [*seen.workers, start_worker()]).record(
        result.id,
        End("LOST", "Interrupted: "),
        End("SUCCESS", redelivered=True),
        names="queued received started interrupted received started success",
        timeout=20,
    )
    assert (pid, "cold") == (run.attempts[0].pid, run.result)


def test_a_whole_worker_that_is_killed_with_early_acknowledgement(
    seen: Observer, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = tasks.take.delay("killed", FOR_EVER)
    pid = begun(seen, "killed")
    seen.workers[0].kill("SIGKILL")
    start_worker()
    run = seen.record(result.id, End("LOST", "Lost: "), names="queued received started lost", timeout=2 * LEASE + 2)
    assert (pid, False) == (run.attempts[0].pid, run.finished)


@BOTH
def test_a_whole_worker_that_is_killed_with_late_acknowledgement(
    seen: Observer, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = tasks.take_at_first.delay("killed", FOR_EVER)
    pid = begun(seen, "killed")
    seen.workers[0].kill("SIGKILL")
    time.sleep(VISIBILITY)
    run = Observer(app, [*seen.workers, start_worker()]).record(
        result.id,
        End("LOST", "Lost: "),
        End("SUCCESS", redelivered=True),
        names="queued received started lost received started success",
        racing="lost",
        timeout=20,
    )
    assert (pid, "killed") == (run.attempts[0].pid, run.result)


def test_a_lost_connection_to_the_broker(seen: Observer, app: Celery, tasks: ModuleType) -> None:
    # given
    result = tasks.take_late.delay("twice", 2)
    begun(seen, "twice")

    # when the broker forgets the worker, which comes back and is given the message again
    with app.connection_for_write() as connection:
        connection.default_channel.client.client_kill_filter(_type="normal", skipme=True)

    # then
    names = "queued received started received started success success"
    ends = End("SUCCESS"), End("SUCCESS", redelivered=True)
    run = seen.record(result.id, *ends, names=names, racing="success", timeout=20)
    assert (run.result, [one["pid"] for one in notes(app, "twice")]) == ("twice", [one.pid for one in run.attempts])


@pytest.mark.worker(conf={**SHORT, "broker_transport_options": {"visibility_timeout": 1}})
def test_a_body_longer_than_the_visibility_timeout(
    seen: Observer, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    result = tasks.take_late.delay("twice", 6)
    begun(seen, "twice")
    time.sleep(1)

    # when a worker that starts finds the message, for itself or for the one that runs it
    both = Observer(app, [*seen.workers, start_worker()])
    begun(both, "twice", count=2)
    running = StackState.of(app).runs.get(result.id)
    assert running is not None
    assert (running.status, [one.status for one in running.attempts]) == ("STARTED", ["STARTED", "STARTED"])

    # then
    names = "queued received started received started success success"
    run = both.record(result.id, End("SUCCESS"), End("SUCCESS", redelivered=True), names=names)
    assert (run.result, [one["pid"] for one in notes(app, "twice")]) == ("twice", [one.pid for one in run.attempts])
    first, second = run.attempts
    assert in_order(first.started_at, second.started_at, first.finished_at, second.finished_at)


@pytest.mark.worker(pool="threads")
def test_a_pool_of_threads(seen: Observer, tasks: ModuleType) -> None:
    good, bad = tasks.add.delay(1), tasks.fail.delay("value")
    run = seen.record(good.id, End("SUCCESS"), names="queued received started success")
    seen.record(bad.id, End("FAILURE", "ValueError: ", True), names="queued received started failure")
    assert run.result == 3


@pytest.mark.worker(pool="threads")
def test_a_body_that_ends_its_thread(seen: Observer, tasks: ModuleType) -> None:
    result = tasks.exit_process.delay()
    seen.record(result.id, End("LOST", "Interrupted: "), names="queued received started interrupted")
    assert tasks.add.delay(1).get(timeout=10) == 3
