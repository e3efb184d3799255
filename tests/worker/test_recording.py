"""Lineage, origin, cost, samples, eager runs, reruns and the package's own signals, as real workers tell them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from pytest_celery import CeleryTestWorker

from celery_stackstate import ChainPlace, ConfigurationError, NotRepeatable, Run, RunTree, StackState
from celery_stackstate.facts import now_micros, rank
from celery_stackstate.keys import TALLY, pack
from celery_stackstate.payload import REDACTED
from celery_stackstate.records import Touched
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite
from tests.nodes import StartWorker
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import in_another_process, notes, run_of, wait_for_note

SHORT = {"stackstate_worker_lease": 2, "stackstate_publish_lease": 1}

pytestmark = pytest.mark.worker(app="tests.worker.app_recording", conf=SHORT, broker="redis")


def runs_of(app: Celery, **query: Any) -> list[Run]:
    return list(StackState.of(app).runs.list(**query))


def detailed(app: Celery, run_id: str) -> Run:
    run = StackState.of(app).runs.get(run_id)
    assert run is not None
    return run


def shape(tree: RunTree) -> Any:
    return (tree.run.task or "").rpartition(".")[2], [shape(child) for child in tree.children]


# -- lineage -------------------------------------------------------------------------------------------------------


def test_children_and_their_children_are_a_tree(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    root = tasks.parent.delay(2)
    wait_for(lambda: len(runs_of(app, status="SUCCESS")) == 3, message="all three", node=celery_worker)

    # then
    runs = StackState.of(app).runs
    (child,) = runs.children(root.id)
    (leaf,) = runs.children(child.id)
    assert (child.parent_id, leaf.parent_id, list(runs.children(leaf.id))) == (root.id, child.id, [])
    assert {run.root_id for run in (detailed(app, root.id), child, leaf)} == {root.id}
    tree, below = runs.tree(root.id), runs.tree(child.id)
    assert tree is not None
    assert below is not None
    assert shape(tree) == ("parent", [("parent", [("parent", [])])])
    assert shape(below) == ("parent", [("parent", [])])


def test_a_run_knows_its_place_in_a_chain(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # when
    last = chain(tasks.add.s(1), tasks.add.s(2), tasks.add.s(3)).delay()
    assert last.get(timeout=10) == 8
    run_of(app, last.id, status="SUCCESS", node=celery_worker)

    # then
    ids = [last.parent.parent.id, last.parent.id, last.id]
    expected = [ChainPlace(1, 3), ChainPlace(2, 3), ChainPlace(3, 3)]
    # Who published the last one may say so after that one has ended.
    wait_for(lambda: [detailed(app, run_id).chain for run_id in ids] == expected, message="all places to be told")
    alone = tasks.add.delay(1)
    assert run_of(app, alone.id, status="SUCCESS", node=celery_worker).chain is None


def test_members_of_a_chord_know_their_group_and_who_waits_for_them(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = chord([tasks.add.s(n) for n in range(3)], tasks.total.s()).delay()
    assert result.get(timeout=10) == 9
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    members = [detailed(app, member.id) for member in result.parent.results]
    assert {member.chord_id for member in members} == {result.id}
    assert {member.group_id for member in members} == {result.parent.id}
    assert {run.id for run in runs_of(app, group=result.parent.id)} == {member.id for member in members}


def test_a_member_of_a_chain_that_is_retried_keeps_its_place(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    last = chain(tasks.add.si(1), tasks.flaky.si(2)).delay()
    run = run_of(app, last.id, status="SUCCESS", node=celery_worker)
    assert (run.chain, len(run.attempts), run.result) == (ChainPlace(2, 2), 3, "open")


@pytest.mark.parametrize(("name", "result"), [("fan_out", [2, 3, 4]), ("gather", 9), ("one_by_one", 6)])
def test_a_run_that_a_canvas_replaces_ends_as_that_ends(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, name: str, result: Any
) -> None:
    replaced = getattr(tasks, name).delay(3)
    assert replaced.get(timeout=15) == result
    run = run_of(app, replaced.id, status="SUCCESS", node=celery_worker)
    assert (run.task, run.result) == (getattr(tasks, name).name, result)
    assert [attempt.status for attempt in run.attempts] == ["IGNORED", "SUCCESS"]


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize(("number", "status", "result"), [(3, "SUCCESS", 3), (-1, "FAILURE", None)])
def test_a_run_that_a_task_without_the_base_class_replaces_ends_as_that_ends(
    celery_worker: CeleryTestWorker,
    app: Celery,
    tasks: ModuleType,
    number: int,
    status: str,
    result: Any,
    key: str | None,
) -> None:
    replaced = tasks.by_plain.apply_async((number,), idempotency_key=key)
    run = run_of(app, replaced.id, status=status, node=celery_worker)
    assert (run.task, run.result) == (tasks.by_plain.name, result)
    attempts = lambda: [attempt.status for attempt in detailed(app, replaced.id).attempts]  # noqa: E731
    wait_for(lambda: attempts() == ["IGNORED", status], message="both attempts", node=celery_worker)
    assert ("nothing is counted" in str(run.error)) == (status == "FAILURE")


@pytest.mark.parametrize("name", ["fan_out", "gather", "one_by_one"])
def test_a_keyed_run_that_a_canvas_replaces_has_its_key_to_the_end(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, name: str
) -> None:
    task = getattr(tasks, name)
    first = task.apply_async((3,), idempotency_key="k")
    run_of(app, first.id, status="SUCCESS", node=celery_worker)

    def state() -> str | None:
        record = StackState.of(app).idempotency.get("k", task=task.name)
        return None if record is None else record.state

    wait_for(lambda: state() == "SUCCEEDED", message="the key to be settled", node=celery_worker)
    again = task.apply_async((3,), idempotency_key="k")
    assert (again.id, again.created, again.get(timeout=5)) == (first.id, False, first.get(timeout=5))


@pytest.mark.parametrize("kind", ["group", "chord", "chain"])
def test_a_run_that_a_canvas_replaces_fails_with_a_part_of_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, kind: str
) -> None:
    replaced = tasks.fan_out_to_failure.delay(kind)
    run = run_of(app, replaced.id, status="FAILURE", node=celery_worker)
    assert "refunds are not paid" in str(run.error)
    assert tasks.pay.name in str(run.error)
    assert [attempt.status for attempt in run.attempts] == ["IGNORED"]


# -- who asked -----------------------------------------------------------------------------------------------------


@pytest.fixture
def asking(tasks: ModuleType) -> Iterator[Any]:
    yield tasks.asks
    tasks.asks.__dict__.clear()


def test_a_run_and_its_children_tell_who_asked(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, asking: Any
) -> None:
    # when
    asking.user = "user:7"
    root = tasks.parent.delay(1)
    asking.user = None
    other = tasks.add.delay(1)
    wait_for(lambda: len(runs_of(app, status="SUCCESS")) == 3, message="all three", node=celery_worker)

    # then
    asked = runs_of(app, origin="user:7")
    assert len(asked) == 2
    assert asked[-1].id == root.id
    run = detailed(app, root.id)
    assert run.publisher is not None
    assert (run.publisher.pid, run.publisher.host, run.publisher.origin) == (
        os.getpid(),
        socket.gethostname(),
        "user:7",
    )
    assert (run.origin, run.host) == ("user:7", socket.gethostname())
    assert detailed(app, other.id).origin is None
    assert len(runs_of(app, host=socket.gethostname())) == 3
    child = detailed(app, asked[0].id)
    assert child.publisher is not None
    assert child.publisher.pid != os.getpid()


def test_an_origin_that_cannot_be_told_keeps_no_message_back(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, asking: Any, caplog: pytest.LogCaptureFixture
) -> None:
    asking.user = "nobody knows"
    run = run_of(app, tasks.add.delay(1).id, status="SUCCESS", node=celery_worker)
    assert run.origin is None
    assert "stackstate_origin failed" in caplog.text
    asking.user = "token=hunter2\0" + "x" * 1000
    run = run_of(app, tasks.add.delay(1).id, status="SUCCESS", node=celery_worker)
    assert run.origin is not None
    assert "hunter2" not in run.origin
    assert len(run.origin) <= 255


# -- what it cost --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=pytest.mark.worker(pool=pool)) for pool in ("prefork", "threads", "solo")]
)
def test_an_attempt_tells_its_processor_time_and_memory(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, pool: str
) -> None:
    rested = run_of(app, tasks.rest.delay(0.4).id, status="SUCCESS", node=celery_worker).attempts[0]
    burnt = run_of(app, tasks.burn.delay(0.4, 64).id, status="SUCCESS", node=celery_worker).attempts[0]
    assert rested.cpu_time is not None
    assert burnt.cpu_time is not None
    assert rested.peak_memory is not None
    assert burnt.peak_memory is not None
    assert rested.runtime is not None
    assert rested.cpu_time < 0.3 < rested.runtime
    assert 0.3 < burnt.cpu_time < 5
    assert burnt.peak_memory > 64 * 1_048_576
    if pool == "prefork":  # Linux counts what the process was before it became the worker, elsewhere
        assert burnt.peak_memory - rested.peak_memory > 32 * 1_048_576


@pytest.mark.worker(pool="gevent")
def test_green_threads_do_not_tell_what_they_cannot_know(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    pytest.importorskip("gevent")
    attempt = run_of(app, tasks.rest.delay(0.2).id, status="SUCCESS", node=celery_worker).attempts[0]
    assert attempt.cpu_time is None
    assert attempt.runtime is not None
    assert attempt.runtime >= 0.2


@pytest.mark.worker(env={"COUNT_APPENDS": "1"}, concurrency=1)
def test_a_short_attempt_costs_one_write_and_a_long_one_is_seen_while_it_runs(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    for number in range(20):
        last = tasks.chatter.delay(number)
    run_of(app, last.id, status="SUCCESS", node=celery_worker)

    # then
    written = [one for one in notes(app, "append") if one["thread"] == "MainThread"]
    assert len(written) == 20
    assert [one["events"] for one in written] == [[["started", "success"]]] * 20
    assert not [one for one in notes(app, "append") if ["started"] in one["events"]], "no start went by itself"

    # when
    watch, long = Stopwatch(), tasks.rest.delay(3)
    started = wait_for_note(app, "append", count=21, node=celery_worker)
    run = detailed(app, long.id)
    assert (run.status, started["thread"]) == ("STARTED", "stackstate-recorder")
    assert run.started_at is not None
    assert time.time() - run.started_at.timestamp() < 1.5 + watch.late


@pytest.mark.parametrize("worker_store", ["sqlite", "redis", "postgresql"], indirect=True)
@pytest.mark.worker(env={"COUNT_APPENDS": "1"}, concurrency=1)
def test_the_claim_of_a_key_carries_the_start_where_that_costs_no_round_trip(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, worker_store: str
) -> None:
    # when
    results = [tasks.look_at_oneself.apply_async(idempotency_key=f"look:{number}") for number in range(10)]
    for result in results:
        run_of(app, result.id, status="SUCCESS", node=celery_worker)

    # then
    carried = not worker_store.startswith("postgresql")
    seen = {result.get(timeout=10) for result in results}
    assert seen == ({"STARTED"} if carried else seen - {"STARTED"})
    written = [one["events"] for one in notes(app, "append") if one["thread"] == "MainThread"]
    assert written == [[["success"] if carried else ["started", "success"]]] * 10
    for result in results:
        (attempt,) = detailed(app, result.id).attempts
        assert (attempt.status, attempt.started_at is not None) == ("SUCCESS", True)


@pytest.mark.worker(env={"COUNT_APPENDS": "1", "RUNS_ELSEWHERE": "1"}, concurrency=1)
def test_the_start_of_a_keyed_run_goes_to_where_the_history_is(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.look_at_oneself.apply_async(idempotency_key="look")
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    written = [one["events"] for one in notes(app, "append") if one["thread"] == "MainThread"]
    assert written == [[["started", "success"]]]
    assert StackState.of(app).store.run(result.id) is None


def test_the_record_names_the_keys_and_locks_that_a_run_used(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    name = tasks.use_state.name
    before = [
        Touched("", "shop:1", "state"),
        Touched("", "shop:2", "state"),
        Touched(f"task:{name}", "done", "state"),
        Touched("scope:mail", "gateway", "pace"),
        Touched("", "rebuild", "lock"),
    ]
    after = [*before, Touched("", "shop:3", "state")]
    runs = StackState.of(app).runs

    # when
    short = tasks.use_state.delay(0)
    run_of(app, short.id, status="SUCCESS", node=celery_worker)
    long = tasks.use_state.delay(1.5)

    # then
    assert list(detailed(app, short.id).touched) == after
    wait_for(lambda: detailed(app, long.id).touched, message="the keys of a run that goes on", node=celery_worker)
    assert list(detailed(app, long.id).touched) == before
    run_of(app, long.id, status="SUCCESS", node=celery_worker)
    assert list(detailed(app, long.id).touched) == after
    assert [event.name for event in runs.events(long.id)] == ["queued", "received", "started", "success"]
    assert all("touched" not in event.data for event in runs.events(short.id))


def test_lines_are_written_while_the_attempt_goes_on(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.chatter.delay(200, 0.02)
    runs = StackState.of(app).runs
    wait_for(lambda: len(runs.logs(result.id)) >= 40, message="the first lines", node=celery_worker)
    assert detailed(app, result.id).status == "STARTED"
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    assert [line.message for line in runs.logs(result.id)] == [f"line {number}" for number in range(200)]


@pytest.mark.worker(conf={**SHORT, "stackstate_log_limits": {"lines": 50}})
def test_the_newest_lines_of_a_long_attempt_are_kept(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.chatter.delay(300, 0.01)
    run = run_of(app, result.id, status="SUCCESS", node=celery_worker)
    lines = [line.message for line in StackState.of(app).runs.logs(result.id)]
    assert lines == [f"line {number}" for number in range(250, 300)]
    assert run.attempts[0].omitted_lines == 250


def test_warnings_and_prints_are_part_of_the_log(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.warn.delay()
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    told = "\n".join(f"{line.level} {line.message}" for line in StackState.of(app).runs.logs(result.id))
    assert "by a warning" in told
    assert "WARNING by print" in told
    assert "CRITICAL by a logger" in told


# -- what a task tells of itself -----------------------------------------------------------------------------------


def test_what_a_task_tells_the_result_backend_is_in_its_history(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    run = run_of(app, tasks.import_rows.delay(500).id, status="SUCCESS", node=celery_worker)
    assert run.meta == {"current": 500, "total": 500, "password": REDACTED}
    assert run.progress is not None
    assert (run.progress.done, run.progress.total) == (500, 500)
    events = StackState.of(app).runs.events(run.id)
    assert 1 <= len([event for event in events if event.name == "state"]) <= 5, "not one for each call"


# -- samples, and tasks without the base class ---------------------------------------------------------------------


def test_of_a_hot_task_only_failures_are_recorded_and_those_in_full(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # when
    for _ in range(10):
        tasks.hot.delay()
    failed = tasks.hot.delay(fail=True)
    run = run_of(app, failed.id, status="FAILURE", node=celery_worker)

    # then
    assert [one.id for one in runs_of(app)] == [failed.id]
    assert (run.kwargs, run.error) == ({"fail": True}, "ValueError: hot and wrong")
    assert [line.message for line in StackState.of(app).runs.logs(failed.id)] == ["hot"]
    retried = run_of(app, tasks.hot_retried.delay().id, status="FAILURE", node=celery_worker)
    assert [attempt.status for attempt in retried.attempts] == ["FAILURE"]
    assert len(runs_of(app)) == 2


def test_a_sample_is_the_same_for_publisher_and_worker(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    count = 60
    for _ in range(count):
        tasks.lukewarm.delay()
    last = tasks.add.delay(1)
    run_of(app, last.id, status="SUCCESS", node=celery_worker)

    def sampled() -> list[Run]:
        return runs_of(app, task=tasks.lukewarm.name, limit=200)

    wait_for(lambda: {run.status for run in sampled()} == {"SUCCESS"}, message="all to end", node=celery_worker)
    assert 10 < len(sampled()) < 50
    for run in sampled():
        assert detailed(app, run.id).publisher is not None
        assert len(detailed(app, run.id).attempts) == 1


ELSEWHERE = """
import json, os
from celery import Celery
from celery_stackstate import StackState

app = Celery("elsewhere", broker=os.environ["STACKSTATE_TEST_BROKER"])
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.update(stackstate_url=os.environ["STACKSTATE_TEST_STORE"], task_default_queue="{queue}")
StackState(app)
print(app.send_task("{name}").id)
"""


def test_a_run_whose_publisher_did_not_know_the_task_is_no_part_of_a_sample(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    sent = in_another_process(ELSEWHERE.format(name=tasks.hot.name, queue=app.conf.task_default_queue))
    assert sent.returncode == 0, sent.stderr
    run = run_of(app, sent.stdout.strip(), status="SUCCESS", node=celery_worker)
    assert len(run.attempts) == 1


def test_a_task_without_the_base_class_is_not_recorded(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    assert tasks.plain.delay(1).get(timeout=10) == 1
    assert runs_of(app) == []


@pytest.mark.worker(conf={**SHORT, "stackstate_record_all": True})
def test_all_tasks_may_be_recorded(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # when
    good, bad = tasks.plain.delay(1), tasks.plain.delay(-1)

    # then
    run = run_of(app, good.id, status="SUCCESS", node=celery_worker)
    assert (run.args, run.result, run.worker) == ([1], 1, celery_worker.hostname())
    assert [line.message for line in StackState.of(app).runs.logs(good.id)] == ["plain"]
    assert run_of(app, bad.id, status="FAILURE", node=celery_worker).error == "ValueError: negative"
    result = group(tasks.plain.s(n) for n in range(2)).delay()
    assert result.get(timeout=10) == [0, 1]
    assert {(run.task or "").partition(".")[0] for run in runs_of(app)} == {"tests"}, "no helper tasks of Celery's own"


# -- eager runs ----------------------------------------------------------------------------------------------------

EAGER = {"task_always_eager": True, "stackstate_record_eager": True}


@pytest.mark.worker(conf={**SHORT, **EAGER})
def test_eager_runs_are_recorded_when_asked_for(app: Celery, tasks: ModuleType) -> None:
    # when
    good, bad, flaky = tasks.add.delay(1), tasks.burn.delay("x", 1), tasks.flaky.delay(2)

    # then
    run = run_of(app, good.id, status="SUCCESS")
    assert (run.args, run.result, run.host, len(run.attempts)) == ([1], 3, socket.gethostname(), 1)
    assert run_of(app, bad.id, status="FAILURE").attempts[0].error_type == "TypeError"
    retried = run_of(app, flaky.id, status="SUCCESS")
    assert [attempt.status for attempt in retried.attempts] == ["RETRY", "RETRY", "SUCCESS"]


@pytest.mark.worker(conf={**SHORT, **EAGER, "task_eager_propagates": True})
def test_an_eager_run_that_propagates_is_a_failure(app: Celery, tasks: ModuleType) -> None:
    with pytest.raises(TypeError):
        tasks.burn.delay("x", 1)
    (run,) = runs_of(app)
    failed = detailed(app, run.id)
    assert (failed.status, failed.attempts[0].error_type, failed.args) == ("FAILURE", "TypeError", ["x", 1])
    assert "TypeError" in (failed.traceback or "")


@pytest.mark.worker(conf={**SHORT, "task_always_eager": True})
def test_eager_runs_are_not_recorded_by_default(app: Celery, tasks: ModuleType) -> None:
    assert tasks.add.delay(1).get() == 3
    assert runs_of(app) == []


# -- run again -----------------------------------------------------------------------------------------------------


def test_a_run_is_run_again_with_what_was_asked_for_and_both_know_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    stackstate = StackState.of(app)
    first = tasks.pay.apply_async((7,), {"token": "hunter2"}, idempotency_key="order:7", expires=60)
    run_of(app, first.id, status="SUCCESS", node=celery_worker)

    # when
    again = stackstate.rerun(first.id)
    run = run_of(app, again.id, status="SUCCESS", node=celery_worker)

    # then
    assert (run.rerun_of, run.key, run.expires, run.kwargs) == (first.id, None, None, {"token": REDACTED})
    assert [one["token"] for one in notes(app, "paid")] == ["hunter2", "hunter2"]
    wait_for(lambda: detailed(app, first.id).reruns == (again.id,), message="the first to know of it")
    third = stackstate.rerun(again.id)
    assert run_of(app, third.id, status="SUCCESS", node=celery_worker).rerun_of == again.id
    assert tasks.pay.apply_async((7,), {"token": "hunter2"}, idempotency_key="order:7").created is False


def test_what_followed_a_run_follows_its_repetition_as_runs_of_their_own(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given what is linked to it, and a chain behind it that ends in a chord
    stackstate = StackState.of(app)
    paid = tasks.pay.si(7)
    paid.link(tasks.add.si(4))
    last = chain(paid, tasks.add.si(1), group(tasks.add.si(2), tasks.add.si(3)), tasks.total.s()).delay()
    run_of(app, last.id, status="SUCCESS", node=celery_worker)
    first = next(run for run in runs_of(app, task=tasks.pay.name))
    wait_for(lambda: len(runs_of(app)) == 6, message="what is linked to it", node=celery_worker)
    before = {run.id for run in runs_of(app)}

    # when
    again = stackstate.rerun(first.id)

    # then
    wait_for(lambda: len(runs_of(app)) == 12, message="as many runs", node=celery_worker)
    wait_for(lambda: {run.status for run in runs_of(app)} == {"SUCCESS"}, message="their ends", node=celery_worker)
    new = [run for run in runs_of(app) if run.id not in before]
    assert sorted(run.result for run in map(lambda one: detailed(app, one.id), new) if run.result != "paid") == [
        3,
        4,
        5,
        6,
        9,
    ]
    assert {run.root_id or run.id for run in new} == {again.id}
    assert [one["order"] for one in notes(app, "paid")] == [7, 7]


def test_the_repetition_of_a_chords_member_is_no_member_nor_is_what_follows_it(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    stackstate = StackState.of(app)
    whole = chord([chain(tasks.pay.si(1), tasks.add.si(1)), tasks.add.si(2)], tasks.total.s()).delay()
    assert whole.get(timeout=15) == 7
    (first,) = runs_of(app, task=tasks.pay.name)
    again = stackstate.rerun(first.id)
    children = stackstate.runs.children
    wait_for(lambda: children(again.id), message="what follows it", node=celery_worker)
    (follower,) = children(again.id)
    run = run_of(app, follower.id, status="SUCCESS", node=celery_worker)
    assert (run.result, run.group_id, run.chord_id) == (3, None, None)
    assert len(runs_of(app, task=tasks.total.name)) == 1


def test_options_of_a_repetition(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    stackstate = StackState.of(app)
    first = tasks.pay.apply_async((7,), headers={"tenant": "a", "trace": "1"})
    again = stackstate.rerun(first.id, headers={"trace": "2"}, task_id="again", priority=3)
    run = run_of(app, again.id, status="SUCCESS", node=celery_worker)
    assert (run.id, run.priority, run.rerun_of) == ("again", 3, first.id)
    with pytest.raises(ConfigurationError, match="debounce, idempotency_key: a run that repeats another has no key"):
        stackstate.rerun(first.id, idempotency_key="k", debounce=1)


def test_what_was_not_kept_cannot_be_run_again(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    done = tasks.add.delay(1)
    run_of(app, done.id, status="SUCCESS", node=celery_worker)
    with pytest.raises(NotRepeatable, match="keep_payload=True"):
        StackState.of(app).rerun(done.id)
    with pytest.raises(NotRepeatable):
        StackState.of(app).rerun("unknown")


# -- signals of our own --------------------------------------------------------------------------------------------


def test_the_end_of_a_run_is_told_to_whom_it_concerns(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    good, bad, flaky = tasks.add.delay(1), tasks.pay.delay(-1), tasks.flaky.delay(1)
    for result, status in ((good, "SUCCESS"), (bad, "FAILURE"), (flaky, "SUCCESS")):
        run_of(app, result.id, status=status, node=celery_worker)
    wait_for_note(app, "finished", count=3, node=celery_worker)
    told = {one["run_id"]: one for one in notes(app, "finished")}
    assert len(notes(app, "finished")) == 3
    assert (told[good.id]["status"], told[good.id]["error"], told[good.id]["task"]) == ("SUCCESS", None, tasks.add.name)
    assert (told[bad.id]["status"], told[bad.id]["error"]) == ("FAILURE", "ValueError: refunds are not paid")
    assert told[flaky.id]["runtime"] >= 0


def test_a_run_that_nobody_is_left_to_run_is_told(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    worker = start_worker()
    result = tasks.rest.delay(60)
    run_of(app, result.id, status="STARTED", node=worker)
    worker.kill("SIGKILL")
    other = start_worker()
    run = run_of(app, result.id, status="LOST", timeout=15, node=other)
    told = wait_for_note(app, "lost", node=other)
    assert (told["run_id"], told["task"], told["error"]) == (result.id, tasks.rest.name, run.error)
    assert "is gone" in told["error"]


def test_a_suppressed_duplicate_is_told_and_counted(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    first = tasks.add.apply_async((1,), idempotency_key="k")
    for _ in range(3):
        assert tasks.add.apply_async((1,), idempotency_key="k").created is False
    told = notes(app, "duplicate")
    assert [(one["run_id"], one["key"], one["task"]) for one in told] == [(first.id, "k", tasks.add.name)] * 3
    wait_for(lambda: detailed(app, first.id).duplicates == 3, message="the history to count them", node=celery_worker)
    assert [run.id for run in runs_of(app, duplicated=True)] == [first.id]
    assert detailed(app, first.id).duplicated


# -- another store -------------------------------------------------------------------------------------------------


@pytest.mark.worker(env={"RUNS_ELSEWHERE": "1"})
def test_the_history_may_be_kept_in_another_store_than_state_and_keys(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    stackstate = StackState.of(app)
    first = tasks.pay.apply_async((7,), idempotency_key="order:7")
    run = run_of(app, first.id, status="SUCCESS", node=celery_worker)
    assert (run.key, [line.message for line in stackstate.runs.logs(run.id)]) == ("order:7", [])
    assert tasks.pay.apply_async((7,), idempotency_key="order:7").created is False
    assert stackstate.store.run(first.id) is None
    assert stackstate.runs_store.run(first.id) is not None
    record = stackstate.idempotency.get("order:7", task=tasks.pay.name)
    assert record is not None
    assert (record.run_id, record.state) == (first.id, "SUCCEEDED")
    assert run_of(app, stackstate.rerun(first.id).id, status="SUCCESS", node=celery_worker).rerun_of == first.id
    assert len(stackstate.workers()) == 1


# -- purge ---------------------------------------------------------------------------------------------------------


@pytest.mark.worker(conf={**SHORT, "stackstate_run_limits": {"SUCCESS": 3}})
def test_a_beat_entry_purges(app: Celery, tasks: ModuleType, start_worker: StartWorker) -> None:
    from celery_stackstate.beat import PURGE

    # given: more runs than are to be kept, which ended an hour ago
    hour_ago = now_micros() - 3_600_000_000
    store = StackState.of(app).runs_store
    for number in range(8):
        standing = RunStanding("SUCCESS", finished=hour_ago + number, forget=now_micros() + 3_600_000_000)
        known = RunFacts(task=tasks.add.name, created=hour_ago + number)
        store.append([RunWrite(f"r{number}", rank("SUCCESS", 1), known, standing)])

    # when
    worker = start_worker()
    app.send_task(PURGE["task"], **PURGE["options"])

    # then
    wait_for(lambda: len(runs_of(app)) == 3, message="the purge", node=worker)
    run_of(app, tasks.add.delay(1).id, status="SUCCESS", node=worker)
    assert {run.task for run in runs_of(app)} == {tasks.add.name}, "the purge is no run"
    assert len(runs_of(app)) == 4


def test_workers_count_runs_by_themselves(celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType) -> None:
    # given
    for number in range(3):
        run_of(app, tasks.add.delay(number).id, status="SUCCESS", node=celery_worker)
    run_of(app, tasks.pay.delay(-1).id, status="FAILURE", node=celery_worker)
    stackstate = StackState.of(app)

    # then
    counts = stackstate.runs.counts()
    assert (counts.by_status, counts.exact) == ({"SUCCESS": 3, "FAILURE": 1}, True)
    assert counts.by_task[tasks.add.name] == {"SUCCESS": 3}
    wait_for(
        lambda: stackstate.runs_store.scan(pack(TALLY, "")) != [],
        message="a worker to keep its count",
        node=celery_worker,
    )
