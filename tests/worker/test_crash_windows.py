"""Idempotency keys where processes die: at each place there is, found by a run that lives, not by guessing."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery import Celery, chain
from pytest_celery import CeleryTestWorker

from celery_stackstate import StackState
from tests.killing import FOLDER, PREFIX, Place, begin, deaths, places, plan, steps
from tests.nodes import StartWorker
from tests.services import RedisServer
from tests.waiting import wait_for
from tests.worker.probes import exited, key_state, messages, notes, push, record, wait_for_note

LONG = os.environ.get("STACKSTATE_TEST_LONG") == "1"
LEASE, PUBLISH_LEASE = 2.0, 1.0
SHORT = {"stackstate_worker_lease": LEASE, "stackstate_publish_lease": PUBLISH_LEASE}
#: Longer than any recovery: what finds a reservation of somebody who died finds it within its lease.
LONG_LEASE = 8.0
START_DEADLINE = 6.0
FOUND_EARLY = {**SHORT, "stackstate_publish_lease": LONG_LEASE}
#: A killed process is noticed after two renewals; what finds the run busy looks again after up to 1.2 leases; CPU.
RECOVERY = 2 * LEASE / 3 + 2 * 1.2 * LEASE + LONG_LEASE + LEASE / 2 + 10

pytestmark = pytest.mark.worker(app="tests.worker.app_crashes", conf=SHORT, broker="redis")
long = pytest.mark.skipif(not LONG, reason="set STACKSTATE_TEST_LONG=1")
STORES = ["sqlite", "redis", pytest.param("postgresql", marks=long)]
SQLITE = ["sqlite", pytest.param("redis", marks=long), pytest.param("postgresql", marks=long)]


@pytest.fixture(autouse=True)
def kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the scenarios are written down."""
    folder = tmp_path / "kills"
    folder.mkdir()
    monkeypatch.setenv(FOLDER, str(folder))
    return folder


@pytest.fixture
def store_kind() -> str:
    """Which store; a parametrized test overrides it."""
    return "sqlite"


@pytest.fixture
def worker_store(store_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a store that kills its process where a scenario says so."""
    if store_kind == "sqlite":
        yield f"{PREFIX}sqlite:///{tmp_path}/stackstate.sqlite3"
    elif store_kind == "postgresql":
        yield PREFIX + request.getfixturevalue("postgresql_url")
    else:
        folder = tmp_path / "store"
        folder.mkdir()
        server = RedisServer(request.getfixturevalue("redis_server_binary"), folder, "--save", "", "--appendonly", "no")
        server.start()
        yield PREFIX + server.url
        server.stop()


def in_a_process(work: Callable[[], Any]) -> int:
    """Do `work` in a process of its own, and return how that ended."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(20)
    assert process.exitcode is not None
    return process.exitcode


def names_of(app: Celery, kind: str) -> list[str]:
    return [one["of"] for one in notes(app, kind)]


def settled(app: Celery, task: Any, name: str, node: Any = None, timeout: float = 10) -> None:
    is_settled: Callable[[], bool] = lambda: key_state(app, name, task.name) == "SUCCEEDED"  # noqa: E731
    wait_for(is_settled, timeout=timeout, message=f"{name} to be SUCCEEDED", node=node)


def has_died(name: str, node: Any = None) -> None:
    wait_for(lambda: deaths(name) == 1, timeout=60, message=f"{name} to die", node=node)


# -- the producer --------------------------------------------------------------------------------------------------


def called(task: Any, name: str) -> int:
    """Call a task in a process of its own, as its scenario has it."""

    def call() -> None:
        begin(name)
        task.apply_async((name,), idempotency_key=name)
        StackState.of(task.app).recorder.flush()  # what follows in the background

    return in_a_process(call)


@pytest.mark.parametrize("store_kind", STORES)
def test_a_producer_that_dies_anywhere_in_the_call_loses_no_run_and_makes_no_second(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, store_kind: str
) -> None:
    # given one that lives, and one that dies at each of the places that it showed
    plan("lives")
    assert called(tasks.late, "lives") == 0
    deadly = {f"dies-{number}": place for number, place in enumerate(places(steps("lives")))}
    assert len(deadly) == 8, steps("lives")
    for name, place in deadly.items():
        plan(name, place)
        assert called(tasks.late, name) == -9
    calls = ["lives", *deadly]
    held = {name: record(app, name, tasks.late.name) for name in calls}
    published = {message.headers["id"] for message in messages(app)}

    # when each call is repeated, at once and after the lease
    ids: dict[str, set[str]] = {name: set() for name in calls}
    for pause in (0, PUBLISH_LEASE + 0.1):
        time.sleep(pause)
        for name in calls:
            ids[name].add(tasks.late.apply_async((name,), idempotency_key=name).id)

    # then the run has one id, that of what the dead one had left
    for name, found in held.items():
        assert len(ids[name]) == 1
        assert found is None or {found.ticket.task_id} == ids[name]
    assert published <= set().union(*ids.values())

    # and it runs once
    worker = start_worker()
    for name in calls:
        assert app.AsyncResult(ids[name].pop()).get(timeout=10) == [name]
        settled(app, tasks.late, name, worker)
    wait_for(lambda: messages(app) == [], node=worker)
    time.sleep(0.5)  # the last of the copies
    assert sorted(calls) == sorted(names_of(app, "body"))


def test_one_repeated_call_is_enough_also_within_the_lease_of_the_dead(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a producer that died before its message went out, and one call that takes it for alive
    plan("it", Place("before_task_publish"))
    assert called(tasks.late, "it") == -9
    result = tasks.late.apply_async(("it",), idempotency_key="it")
    assert not result.created

    # then a worker publishes it when the lease is over
    worker = start_worker()
    assert result.get(timeout=PUBLISH_LEASE + LEASE / 2 + 10) == ["it"]
    settled(app, tasks.late, "it", worker)
    assert names_of(app, "body") == ["it"]


# -- a process of the worker's pool --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """One way to die: in a call of which shape, where, and how often its body is then begun in all."""

    shape: str
    place: Place
    bodies: int


def call_of(tasks: ModuleType, task: Any, shape: str, name: str, queue: str | None = None) -> Any:
    """Call a task with its key, and with what follows it in this shape."""
    effect = tasks.effect.s().set(idempotency_key=f"effect/{name}")
    if shape == "link":
        link = [effect, tasks.unkeyed_effect.s()]
        return task.apply_async((name,), idempotency_key=name, queue=queue, link=link)
    if shape == "chain":
        return chain(task.s(name).set(idempotency_key=name, queue=queue), effect).apply_async()
    return task.apply_async((name,), idempotency_key=name, queue=queue)


def shapes_of(kind: str, store_kind: str) -> list[str]:
    """Return what follows the calls of a task: each thing over each store takes minutes."""
    if kind in ("parent", "retried"):
        return ["plain"]
    return ["plain", "link", "chain"] if LONG else ["plain", "link" if store_kind == "redis" else "chain"]


def bodies(taken: list[str], place: Place) -> int:
    """Return how often the body is begun when it dies there: again, unless its success was recorded."""
    claimed = next(number for number, step in enumerate(taken) if step.endswith(" * RUNNING"))
    recorded = next(number for number, step in enumerate(taken) if step.endswith((" * SUCCEEDED", " * RETRYING")))
    dies = [number for number, step in enumerate(taken) if step == place.step][place.nth - 1]
    return 2 if claimed < dies < recorded or (dies == recorded and place.when == "before") else 1


def deaths_of(
    tasks: ModuleType, kind: str, store_kind: str, *, whole: bool = False, node: Any = None, queue: str | None = None
) -> dict[str, Death]:
    """Run each shape of a task alive, and return each death there is in it, by name."""
    found = {}
    for shape in shapes_of(kind, store_kind):
        name = f"{kind}-{shape}-lives"
        plan(name)
        call_of(tasks, getattr(tasks, kind), shape, name, queue)
        wait_for(partial(has_ended, name), message=f"{name} to end", node=node)
        time.sleep(0.2)  # what is behind it
        for number, place in enumerate(places(sure(steps(name)), whole=whole)):
            found[f"{kind}-{shape}-{number}"] = Death(shape, place, bodies(sure(steps(name)), place))
    return found


def sure(taken: list[str]) -> list[str]:
    """Return the steps that are taken each time.

    A claim that meets the producer's note that it has published is made again; and the end is put into the history by
    another thread if that comes first.
    """
    end = taken.index("task_postrun")
    claims = [number for number, step in enumerate(taken) if step.endswith(" * RUNNING")]
    ends = [number for number in (end - 1, end + 1) if taken[number : number + 1] == ["append"]]
    return [step for number, step in enumerate(taken) if number not in {*claims[1:], *ends}]


def has_ended(name: str) -> bool:
    return "task_postrun" in steps(name)


def recovers_everywhere(app: Celery, tasks: ModuleType, kind: str, store_kind: str, node: CeleryTestWorker) -> None:
    # given
    task, deadly = getattr(tasks, kind), deaths_of(tasks, kind, store_kind, node=node)
    for name, death in deadly.items():
        plan(name, death.place)

    # when
    results = {name: call_of(tasks, task, death.shape, name) for name, death in deadly.items()}
    for name in deadly:
        has_died(name, node)

    # then
    began = time.monotonic()
    for name, result in results.items():
        result.get(timeout=RECOVERY)
        settled(app, task, name, node)
    print(f"{len(deadly)} deaths; results {time.monotonic() - began:.1f} s after the last")
    happens_once(app, tasks, kind, store_kind, deadly, node)
    print(f"effects {time.monotonic() - began:.1f} s after the last")


def happens_once(
    app: Celery, tasks: ModuleType, kind: str, store_kind: str, deadly: dict[str, Death], node: CeleryTestWorker
) -> None:
    """Check what was done of the runs that died: effects with keys once, bodies as often as the deaths say."""
    shapes = {f"{kind}-{shape}-lives": shape for shape in shapes_of(kind, store_kind)}
    shapes.update({name: death.shape for name, death in deadly.items()})
    followed = sorted(name for name, shape in shapes.items() if shape != "plain" or kind == "parent")
    linked = {name for name, shape in shapes.items() if shape == "link"}
    wait_for(lambda: set(followed) <= set(names_of(app, "effect")), timeout=RECOVERY, message="all effects", node=node)
    wait_for(lambda: linked <= set(names_of(app, "unkeyed")), timeout=RECOVERY, message="all callbacks", node=node)
    wait_for(lambda: messages(app) == [], timeout=RECOVERY, message="the queue to be empty", node=node)
    assert followed == sorted(names_of(app, "effect"))
    counted = Counter(names_of(app, "body"))
    assert {name: (death.bodies, str(death.place)) for name, death in deadly.items()} == {
        name: (counted[name], str(death.place)) for name, death in deadly.items()
    }


@pytest.mark.worker(concurrency=4, conf=FOUND_EARLY)
@pytest.mark.parametrize("store_kind", STORES)
def test_a_child_that_dies_anywhere_is_followed_by_the_redelivery(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_kind: str
) -> None:
    recovers_everywhere(app, tasks, "late", store_kind, celery_worker)


@long
@pytest.mark.worker(concurrency=4, conf=FOUND_EARLY)
@pytest.mark.parametrize("store_kind", STORES)
def test_a_child_that_dies_anywhere_in_a_call_that_its_body_makes_makes_it_once(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_kind: str
) -> None:
    recovers_everywhere(app, tasks, "parent", store_kind, celery_worker)


@pytest.mark.worker(concurrency=4, broker="rabbitmq", conf=FOUND_EARLY)
@pytest.mark.parametrize("kind", ["parent", pytest.param("late", marks=long)])
def test_a_child_that_dies_anywhere_is_followed_by_the_redelivery_of_rabbitmq(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, kind: str
) -> None:
    recovers_everywhere(app, tasks, kind, "sqlite", celery_worker)


@pytest.mark.worker(concurrency=4)
def test_a_child_that_dies_anywhere_on_its_way_to_a_retry_loses_no_run(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    # given
    deadly = deaths_of(tasks, "retried", "sqlite", node=celery_worker)
    for name, death in deadly.items():
        plan(name, death.place)

    # when
    results = {name: tasks.retried.apply_async((name,), idempotency_key=name) for name in deadly}

    # then the redelivery goes on, and meets what was sent for the retry
    for name, result in results.items():
        has_died(name, celery_worker)
        assert result.get(timeout=RECOVERY) == [name]
    wait_for(lambda: messages(app) == [], timeout=RECOVERY, node=celery_worker)
    time.sleep(1.2 * LEASE)  # a copy that waits to look again
    for name in deadly:
        began, ended = ([one["at"] for one in notes(app, kind) if one["of"] == name] for kind in ("body", "left"))
        assert 2 <= len(began) <= 4, (name, deadly[name])
        assert all(left <= begun for left, begun in zip(ended, began[1:], strict=False)), (name, began, ended)
        assert key_state(app, name, tasks.retried.name) == "SUCCEEDED"


@long
@pytest.mark.worker(concurrency=4)
@pytest.mark.parametrize("store_kind", STORES)
def test_a_run_that_dies_anywhere_and_then_anywhere_again_is_recovered(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_kind: str
) -> None:
    # given one in five of the pairs of places in a run with a next step, so that each place comes first and second
    deadly = [
        death.place
        for death in deaths_of(tasks, "late", store_kind, node=celery_worker).values()
        if death.shape == "chain"
    ]
    pairs = {f"pair-{number}": pair for number, pair in enumerate(islice(product(deadly, deadly), 0, None, 5))}
    for name, pair in pairs.items():
        plan(name, *pair)

    # when
    results = {name: call_of(tasks, tasks.late, "chain", name) for name in pairs}

    # then
    for name, result in results.items():
        assert result.get(timeout=10 * RECOVERY) == name
    wait_for(lambda: messages(app) == [], timeout=RECOVERY, node=celery_worker)
    counted = Counter(names_of(app, "body"))
    assert all(1 <= counted[name] <= 3 for name in pairs), counted
    assert {name: 1 for name in pairs} == {name: names_of(app, "effect").count(name) for name in pairs}
    assert all(key_state(app, name, tasks.late.name) == "SUCCEEDED" for name in pairs)


@pytest.mark.worker(concurrency=4, conf=FOUND_EARLY)
@pytest.mark.parametrize("store_kind", SQLITE)
def test_a_child_that_dies_anywhere_with_an_early_acknowledgement_is_followed_by_the_next_call(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, store_kind: str
) -> None:
    # given
    deadly = deaths_of(tasks, "early", store_kind, node=celery_worker)
    for name, death in deadly.items():
        plan(name, death.place)
        call_of(tasks, tasks.early, death.shape, name)
    for name in deadly:
        has_died(name, celery_worker)

    # when the caller repeats its call until the run has succeeded
    for name, death in deadly.items():
        succeeds = partial(repeated, app, tasks, tasks.early, name, death.shape)
        wait_for(succeeds, timeout=RECOVERY, message=f"{name}: {death}", node=celery_worker)

    # then the result takes the place of the failure that Celery has told of
    for name, death in deadly.items():
        result = tasks.early.apply_async((name,), idempotency_key=name)
        wait_for(result.successful, timeout=RECOVERY, message=f"{name}: {death}", node=celery_worker)
        assert result.get(timeout=1) == [name]
    happens_once(app, tasks, "early", store_kind, deadly, celery_worker)


def repeated(app: Celery, tasks: ModuleType, task: Any, name: str, shape: str, queue: str | None = None) -> bool:
    """Repeat a call, unless its run has succeeded; return whether it has."""
    if key_state(app, name, task.name) == "SUCCEEDED":
        return True
    call_of(tasks, task, shape, name, queue)
    time.sleep(0.2)
    return False


# -- the whole worker ----------------------------------------------------------------------------------------------


def most_telling(deadly: dict[str, Death]) -> dict[str, Death]:
    """Return the deaths around the writes that tell the most; each takes a worker of its own."""
    ends = (" * RUNNING", " * SUCCEEDED", " * SUCCEEDED dispatched", " RESERVED")
    telling = {name: death for name, death in deadly.items() if death.shape == "chain"}
    return deadly if LONG else {name: death for name, death in telling.items() if death.place.step.endswith(ends)}


@pytest.mark.worker(
    concurrency=1, conf={**SHORT, "stackstate_publish_lease": LONG_LEASE, "stackstate_start_deadline": START_DEADLINE}
)
@pytest.mark.parametrize("store_kind", SQLITE)
@pytest.mark.parametrize("kind", ["late", "early"])
def test_a_worker_that_dies_anywhere_with_all_its_processes_is_followed_by_another(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, kind: str, store_kind: str
) -> None:
    # given a worker for each place, some at a time, that dies there
    task, alive = getattr(tasks, kind), start_worker(args=("-Q", "alive"))
    deadly = most_telling(deaths_of(tasks, kind, store_kind, whole=True, node=alive, queue="alive"))
    for some in batched(list(deadly), 8):
        workers = {name: start_worker(wait=False, args=("-Q", name)) for name in some}
        for name, worker in workers.items():
            worker.ready()
            plan(name, deadly[name].place)
            call_of(tasks, task, deadly[name].shape, name, queue=name)
        for name, worker in workers.items():
            has_died(name, worker)
            exited(worker)

    # when another takes their queues; without a redelivery the caller repeats its call
    rescuer, began = start_worker(concurrency=2, args=("-Q", ",".join(["celery", *deadly]))), time.monotonic()
    for name, death in deadly.items():
        if kind == "early":
            succeeds = partial(repeated, app, tasks, task, name, death.shape)
            wait_for(succeeds, timeout=RECOVERY + START_DEADLINE, message=f"{name}: {death}", node=rescuer)
        settled(app, task, name, rescuer, timeout=RECOVERY)
    print(f"{len(deadly)} deaths; recorded {time.monotonic() - began:.1f} s after the start of another worker")

    # then the next call knows the result
    for name, death in deadly.items():
        result = task.apply_async((name,), idempotency_key=name)
        wait_for(result.successful, timeout=RECOVERY, message=f"{name}: {death}", node=rescuer)
        assert (False, [name]) == (result.created, result.get(timeout=1))
        if kind == "early":
            call_of(tasks, task, death.shape, name)  # with the callbacks that the dead worker may not have sent
    happens_once(app, tasks, kind, store_kind, deadly, rescuer)


def batched(names: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(names), size):
        yield names[start : start + size]


# -- copies --------------------------------------------------------------------------------------------------------


@pytest.mark.worker(concurrency=2)
@pytest.mark.parametrize("store_kind", SQLITE)
def test_copies_of_a_message_before_while_and_after_the_run_are_one_body_and_one_callback(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, store_kind: str
) -> None:
    # given copies that two workers take at once, others while it runs, and others after it
    result = tasks.slow.apply_async(("it", 1.5), idempotency_key="it", link=tasks.unkeyed_effect.s())
    (message,) = messages(app)
    for _ in range(3):
        push(app, message)
    workers = [start_worker(wait=False), start_worker(wait=False)]
    wait_for_note(app, "body", node=workers[0])
    for _ in range(2):
        push(app, message)
    assert result.get(timeout=10) == ["it"]
    wait_for_note(app, "unkeyed", node=workers[0])
    for _ in range(2):
        push(app, message)

    # when all of them have been looked at
    looked_at = lambda: sum(worker.logs().count(f"{result.id}] ignored") for worker in workers)  # noqa: E731
    wait_for(lambda: messages(app) == [] and looked_at() >= 7, timeout=20, message="all copies", node=workers[0])
    time.sleep(2 * 1.2)  # what was sent again

    # then
    assert names_of(app, "body") == ["it"]
    assert names_of(app, "unkeyed") == ["it"]


@pytest.mark.worker(concurrency=2)
def test_a_copy_that_comes_while_the_callbacks_go_out_does_not_send_them_again(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given a run that has succeeded, whose process is busy with its callback
    result = tasks.late.apply_async(("it",), idempotency_key="it", link=tasks.slow_to_publish.s())
    (message,) = messages(app)
    worker = start_worker()
    settled(app, tasks.late, "it", worker)

    # when
    push(app, message)
    wait_for(lambda: f"{result.id}] ignored" in worker.logs(), message="the copy to be put off", node=worker)
    assert names_of(app, "unkeyed") == []

    # then
    assert result.get(timeout=10) == ["it"]
    wait_for_note(app, "unkeyed", node=worker)
    time.sleep(2 * 1.2)  # the copy comes back
    assert names_of(app, "body") == ["it"]
    assert names_of(app, "unkeyed") == ["it"]


def invisible(seconds: int) -> dict[str, Any]:
    """Return settings with which Redis delivers again what was not acknowledged for so long."""
    options = {"visibility_timeout": seconds, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    return {**SHORT, "broker_transport_options": options}


@pytest.mark.worker(concurrency=2, count=2, conf=invisible(3))
def test_a_run_longer_than_the_visibility_timeout_is_one_body(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.busy.apply_async(("it", 7), idempotency_key="it")
    assert result.get(timeout=15) == "it"
    wait_for(lambda: messages(app) == [], timeout=10)
    time.sleep(1.2 * LEASE)  # a copy that waits to look again
    assert (names_of(app, "began"), names_of(app, "ended")) == (["it"], ["it"])


@pytest.mark.worker(concurrency=2, conf=invisible(3))
def test_a_run_longer_than_the_visibility_timeout_is_not_lost_with_its_worker(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given copies that other workers have put off
    result = tasks.busy_first.apply_async(("it", 60), idempotency_key="it")
    wait_for_note(app, "began", node=celery_worker)
    other = start_worker()
    wait_for(lambda: f"{result.id}] ignored" in other.logs() + celery_worker.logs(), message="a copy", node=other)
    assert len(names_of(app, "began")) == 1

    # when
    celery_worker.kill("SIGKILL")
    died = time.time()

    # then its lease is waited for, not less
    assert result.get(timeout=LEASE + 2 * (3 + 1) + 2 * 1.2 * LEASE + 5) == "it"
    first, second = notes(app, "began")
    assert first["at"] < died < second["at"]
    assert len(names_of(app, "ended")) == 1


@pytest.mark.worker(concurrency=1, count=3, conf=invisible(2))
def test_an_eta_beyond_the_visibility_timeout_is_one_execution(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType
) -> None:
    result = tasks.busy.apply_async(("it", 0.5), idempotency_key="it", countdown=6)
    assert result.get(timeout=15) == "it"
    time.sleep(2 + 1 + 1)  # the last copies
    assert (names_of(app, "began"), names_of(app, "ended")) == (["it"], ["it"])


# -- poison, shutdown, purge, reset --------------------------------------------------------------------------------


@long
@pytest.mark.worker(concurrency=1, conf={**invisible(2), "stackstate_max_deliveries": 3})
def test_a_task_that_always_kills_its_whole_worker_stops_with_a_reason(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    result = tasks.poison.apply_async(("it",), {"whole": True}, idempotency_key="it")
    for count in (1, 2, 3):
        worker = start_worker(wait=False)
        wait_for_note(app, "body", count=count, timeout=15, node=worker)
        exited(worker)
    worker = start_worker()
    with pytest.raises(Exception, match="begun 3 times"):
        result.get(timeout=15)
    assert len(names_of(app, "body")) == 3
    wait_for(lambda: key_state(app, "it", tasks.poison.name) == "FAILED", node=worker)


@pytest.mark.parametrize("kind", ["busy_first", "early_busy_first"])
def test_a_cold_shutdown_in_the_body_loses_no_run(
    celery_worker: CeleryTestWorker, app: Celery, tasks: ModuleType, start_worker: StartWorker, kind: str
) -> None:
    # given
    task = getattr(tasks, kind)
    first = task.apply_async(("it", 60), idempotency_key="it")
    wait_for_note(app, "began", node=celery_worker)

    # when
    celery_worker.kill("SIGQUIT")
    exited(celery_worker)
    worker = start_worker()

    # then the redelivery or the next call goes on with it
    def succeeds() -> bool:
        if kind == "early_busy_first":
            assert task.apply_async(("it", 60), idempotency_key="it").id == first.id
            time.sleep(0.2)
        return key_state(app, "it", task.name) == "SUCCEEDED"

    wait_for(succeeds, timeout=RECOVERY, message="the run to go on", node=worker)
    again = task.apply_async(("it", 60), idempotency_key="it")
    assert (first.id, False) == (again.id, again.created)
    assert again.get(timeout=5) == "it"
    assert len(names_of(app, "began")) == 2


@pytest.mark.worker(conf={**SHORT, "stackstate_start_deadline": 1})
def test_a_purged_run_is_published_again_by_the_next_call_after_the_start_deadline(
    app: Celery, tasks: ModuleType, start_worker: StartWorker
) -> None:
    # given
    first = tasks.late.apply_async(("it",), idempotency_key="it")
    assert app.control.purge() == 1
    assert not tasks.late.apply_async(("it",), idempotency_key="it").created

    # when
    time.sleep(1.1)
    again = tasks.late.apply_async(("it",), idempotency_key="it")

    # then
    assert (first.id, True) == (again.id, again.created)
    start_worker()
    assert again.get(timeout=10) == ["it"]
    assert names_of(app, "body") == ["it"]


@pytest.mark.parametrize("purged", [True, False])
def test_a_reset_frees_the_key_at_once_and_an_old_message_does_nothing(
    app: Celery, tasks: ModuleType, start_worker: StartWorker, purged: bool
) -> None:
    # given a message of before that is gone, or that is still queued
    first = tasks.late.apply_async(("it",), idempotency_key="it")
    if purged:
        app.control.purge()
    assert StackState.of(app).idempotency.reset("it", task=tasks.late.name)

    # when
    second = tasks.late.apply_async(("it",), idempotency_key="it")

    # then
    assert (second.created, second.id != first.id) == (True, True)
    worker = start_worker(concurrency=1)
    assert second.get(timeout=10) == ["it"]
    wait_for(lambda: purged or f"{first.id}] ignored" in worker.logs(), message="the old message", node=worker)
    assert names_of(app, "body") == ["it"]
