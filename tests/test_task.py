"""StateTask without a worker: how it attaches, and what it does in eager mode and called like a function."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from celery import Celery, Task, chain, chord, group, shared_task
from celery.exceptions import TimeoutError as CeleryTimeoutError

from celery_stackstate import (
    ConfigurationError,
    InvalidKey,
    LockBusy,
    NotInARun,
    NotSerializable,
    RunResult,
    StackState,
    StackStateError,
    StateTask,
    StoreUnavailable,
)
from celery_stackstate.key_record import Attempt, Verdict, store_key
from celery_stackstate.keys import ONE_RUN
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import RunQuery


def make_app(**settings: Any) -> Celery:
    app = Celery("eager", broker="memory://", backend="cache+memory://", task_cls=StateTask, set_as_current=False)
    app.conf.update({"stackstate_url": "memory://", "task_always_eager": True, **settings})
    return app


@pytest.fixture
def app() -> Celery:
    return make_app()


@pytest.fixture
def queueing() -> Celery:
    """An app that publishes into memory."""
    return make_app(task_always_eager=False)


def add(x: int, y: int = 2) -> int:
    return x + y


def total(numbers: list[int]) -> int:
    return sum(numbers)


# -- attaching -----------------------------------------------------------------------------------------------------


def test_binding_one_task_attaches_the_extension() -> None:
    app = Celery("base", set_as_current=False)
    app.conf.stackstate_url = "memory://"

    @app.task(base=StateTask, bind=True, shared=False)
    def tracked(self: StateTask) -> Any:
        return self.state.increment("n")

    @app.task(shared=False)
    def plain() -> str:
        return "plain"

    assert tracked() == 1
    assert StackState.of(app).state.get("n") == 1
    assert not isinstance(plain._get_current_object(), StateTask)
    assert plain() == "plain"


def test_two_apps_in_one_process_keep_their_own_state() -> None:
    first, second = make_app(), make_app()

    for number, app in enumerate((first, second)):

        @app.task(bind=True, name="set", shared=False)
        def put(self: StateTask, value: int) -> None:
            self.state.set("k", value)

        app.tasks["set"].delay(number)
    assert [StackState.of(app).state.get("k") for app in (first, second)] == [0, 1]


def test_a_shared_task_uses_the_state_of_the_app_that_runs_it(app: Celery) -> None:
    @shared_task(bind=True, name="shared")
    def shared(self: StateTask) -> int:
        return self.state.increment("shared")

    app.finalize()
    assert app.tasks["shared"].delay().get() == 1
    assert StackState.of(app).state.count("shared") == 1


@pytest.mark.parametrize("name", ["state", "timeline", "step"])
def test_a_class_that_takes_one_of_our_names_is_refused_with_both(app: Celery, name: str) -> None:
    mine = type("MyTask", (StateTask,), {name: "mine"})
    with pytest.raises(ConfigurationError, match=f"MyTask defines '{name}'"):
        app.task(base=mine, name=f"takes-{name}", shared=False)(add).delay(1)


def test_a_base_class_of_the_projects_own_keeps_its_methods(app: Celery) -> None:
    class Audited(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["audited", super().__call__(*args, **kwargs)]

    class Both(Audited, StateTask):
        pass

    task = app.task(base=Both, name="both", shared=False)(add)
    assert task.delay(1).get() == ["audited", 3]
    assert task(1) == ["audited", 3]


# -- eager mode and direct calls -----------------------------------------------------------------------------------


def test_eager_runs_use_state_and_touch_no_record(app: Celery) -> None:
    @app.task(bind=True, shared=False, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0)
    def work(self: StateTask) -> tuple[int, int]:
        self.timeline.progress(1, 2)
        self.timeline.event("halfway")
        tries = self.state.run.increment("tries")
        if tries < 3:
            raise KeyError(tries)
        with self.state.lock("l") as lock:
            assert lock.fence
        return tries, self.request.retries

    result = work.apply_async(idempotency_key="k", on_duplicate="return")
    assert (result.get(), result.created) == ((3, 2), True)
    again = work.apply_async(idempotency_key="k")
    assert again.id != result.id
    assert StackState.of(app).runs.find(RunQuery()) == []
    assert StackState.of(app).store.scan(b"i") == []


def test_a_task_called_like_a_function_has_state_but_no_run(app: Celery) -> None:
    @app.task(bind=True, shared=False)
    def work(self: StateTask, depth: int = 0) -> int:
        self.timeline.progress(1)
        with pytest.raises(NotInARun):
            _ = self.state.run
        self.state.task.increment("n")
        return self.state.task.count("n") if depth == 0 else self(depth - 1)

    assert work() == 1
    assert work(2) == 4


def test_a_busy_lock_raises_in_eager_mode(app: Celery) -> None:
    @app.task(bind=True, shared=False)
    def work(self: StateTask) -> None:
        with self.state.lock("l"):
            pass

    with StackState.of(app).state.lock("l"), pytest.raises(LockBusy):
        work.delay().get()


@pytest.mark.parametrize("keep", [True, False])
def test_an_eager_retry_enters_the_lock_of_what_it_retries_and_its_steps_are_done(app: Celery, keep: bool) -> None:
    called: list[int] = []

    @app.task(bind=True, shared=False, max_retries=3)
    def work(self: StateTask) -> Any:
        with self.state.lock("l", ttl=30, keep_on_retry=keep):
            self.step("call", called.append, 1)
            if self.request.retries < 2:
                raise self.retry(countdown=0)
            return self.request.retries

    assert work.delay().get() == 2
    assert called == [1]
    assert StackState.of(app).state.lock_info("l") is None


def test_a_step_needs_a_run(app: Celery) -> None:
    @app.task(bind=True, shared=False)
    def work(self: StateTask) -> Any:
        return self.step("s", add, 1)

    with pytest.raises(NotInARun):
        work()
    assert work.delay().get() == 3


def test_connections_are_closed_at_exit(tmp_path: Path) -> None:
    script = (
        "import atexit, os\n"
        "def left():\n"
        "    links = (os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd'))\n"
        "    print(sum(link.endswith('s.sqlite3') for link in links))\n"
        "atexit.register(left)\n"  # what was registered first is called last
        "from celery import Celery\n"
        "from celery_stackstate import StackState\n"
        f"app = Celery('x'); app.conf.stackstate_url = 'sqlite:///{tmp_path}/s.sqlite3'\n"
        "StackState(app).state.set('k', 1)\n"
        "left()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["1", "0"]


def test_a_class_based_task_works(app: Celery) -> None:
    class Ship(StateTask):
        name = "ship-class"

        def run(self, number: int) -> int:
            return self.state.increment("shipped", number)

    assert app.register_task(Ship()).delay(3).get() == 3


def test_canvas_works_as_ever(app: Celery) -> None:
    task = app.task(name="add", shared=False)(add)
    sum_up = app.task(name="total", shared=False)(total)
    assert chain(task.s(1), task.s(5))().get() == 8
    assert group(task.s(n) for n in range(3))().get() == [2, 3, 4]
    assert chord([task.s(n) for n in range(3)])(sum_up.s()).get() == 9


# -- publishing ----------------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_handle_of_the_first(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    first = task.apply_async((1,), idempotency_key="k")
    for args, kwargs in (((1,), {}), ((), {"x": 1}), ((1, 2), {}), ((), {"y": 2, "x": 1})):
        again = task.apply_async(args, kwargs, idempotency_key="k")
        assert (again.id, again.created, type(again)) == (first.id, False, RunResult)
    assert first.created
    assert task.apply_async((1,)).created
    run = StackState.of(queueing).runs.get(first.id)
    assert run is not None
    assert (run.status, run.key, run.args, run.task, run.queue) == ("QUEUED", "k", [1], "add", "celery")


def test_what_celery_takes_by_place_is_taken_by_place(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    assert task.apply_async((1,), {}, "mine", idempotency_key="k").id == "mine"
    sent = queueing.send_task("add", (1,), {}, 60, None, "by-name", idempotency_key="other")
    assert sent.id == "by-name"
    run = StackState.of(queueing).runs.get("by-name")
    assert run is not None
    assert run.eta is not None
    with pytest.raises(TypeError, match="takes 5 positional arguments behind 'kwargs', not 6"):
        task.apply_async((1,), {}, "a", None, None, None, None, 7)
    with pytest.raises(TypeError, match="multiple values for task_id"):
        task.apply_async((1,), {}, "a", task_id="b")
    with pytest.raises(CeleryTimeoutError):
        sent.get(0.1, True, 0.05)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"idempotency_key": ""}, InvalidKey),
        ({"idempotency_key": "a\nb"}, InvalidKey),
        ({"idempotency_key": "x" * 1025}, InvalidKey),
        ({"idempotency_key": 7}, InvalidKey),
        ({"idempotency_key": "k", "idempotency_scope": "galaxy"}, ConfigurationError),
        ({"idempotency_key": "k", "idempotency_on_failure": "retry"}, ConfigurationError),
        ({"idempotency_key": "k", "on_duplicate": "drop"}, ConfigurationError),
        ({"idempotency_key": "k", "idempotency_ttl": 0}, ValueError),
        ({"idempotency_ttl": 5}, ConfigurationError),
        ({"idempotency_key": "k", "debounce": 5, "chain": [1]}, ConfigurationError),
        ({"idempotency_key": "k", "args": (object(),)}, NotSerializable),
        ({"idempotency_key": "k", "args": ()}, TypeError),
    ],
)
def test_a_wrong_request_is_refused_with_nothing_reserved_or_published(
    queueing: Celery, options: dict[str, Any], error: type[Exception]
) -> None:
    task = queueing.task(name="add", shared=False)(add)
    with pytest.raises(error):
        task.apply_async(**{"args": (1,), **options})
    extension = StackState.of(queueing)
    assert extension.store.scan(b"i") == []
    assert extension.runs.find(RunQuery()) == []


UNSENDABLE: list[dict[str, Any]] = [
    {"serializer": "nope"},
    {"compression": "nope"},
    {"headers": {"x": object()}},
    {"priority": object()},
    {"queue": "nope"},
    {"countdown": "soon"},
    {"expires": object()},
]


@pytest.mark.parametrize("wrong", UNSENDABLE, ids=[next(iter(wrong)) for wrong in UNSENDABLE])
def test_a_message_that_cannot_be_made_leaves_the_key_free(
    queueing: Celery, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    queueing.conf.broker_url = "filesystem://"  # unlike that in memory it writes messages as text
    queueing.conf.broker_transport_options = dict.fromkeys(
        ("data_folder_in", "data_folder_out", "control_folder"), str(tmp_path)
    )
    task = queueing.task(name="add", shared=False)(add)
    queueing.conf.task_create_missing_queues = False
    with pytest.raises(Exception, match=r".") as caught:
        task.apply_async((1,), idempotency_key="k", **wrong)
    assert not isinstance(caught.value, StackStateError)
    assert StackState.of(queueing).store.scan(b"i") == []
    assert task.apply_async((2,), idempotency_key="k").created


def test_an_error_behind_the_message_leaves_its_run_the_key(queueing: Celery) -> None:
    def result_of(run_id: str) -> Any:
        raise ValueError(run_id)

    StackState(queueing)
    task = queueing.task(name="add", shared=False)(add)
    with pytest.raises(ValueError, match="-") as caught:
        queueing.send_task("add", (1,), idempotency_key="k", queue="behind", result_cls=result_of)
    again = task.apply_async((1,), idempotency_key="k", queue="behind")
    assert (again.id, again.created) == (str(caught.value), False)
    with queueing.connection_for_read() as connection:
        assert connection.default_channel._size("behind") == 1


def end(app: Celery, run_id: str) -> None:
    """Do to the record of a run what a worker does that runs it."""
    keys = StackState.of(app).key_protocol
    record = keys.record(store_key(ONE_RUN, run_id))
    assert record is not None
    claim = keys.claim(record.ticket, Attempt("e", Lease("w", "b"), 1, 1))
    assert claim.verdict is Verdict.RUN
    keys.succeed(claim, "3")


def test_a_call_under_the_id_of_a_run_that_has_ended_is_another_run(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False, lost_policy="rerun")(add)
    for day in range(3):
        result = task.apply_async((day,), task_id="nightly", queue="nights")
        assert (result.id, result.created) == ("nightly", True)
        assert not task.apply_async((day,), task_id="nightly", queue="nights").created
        end(queueing, "nightly")
    with queueing.connection_for_read() as connection:
        assert connection.default_channel._size("nights") == 3


def test_what_follows_a_run_is_published_once_under_its_id(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False, lost_policy="rerun")(add)
    options = {"task_id": "next", "queue": "follows", "parent_id": "before", "root_id": "before"}
    assert task.apply_async((1,), **options).created
    end(queueing, "next")
    assert not task.apply_async((1,), **options).created


def test_a_key_of_a_group_or_chord_merges_no_siblings(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    group(task.s(1), task.s(1)).apply_async(idempotency_key="g")
    chord([task.s(1), task.s(1)], task.s()).apply_async(idempotency_key="c")
    runs = StackState.of(queueing).runs.list(task="add").items
    assert sorted(str(run.key) for run in runs) == ["c/0", "c/1", "g/0", "g/1"]


def test_a_key_on_tasks_that_are_called_without_being_published_is_refused_loudly(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    for refused in (task.map([1]), task.starmap([(1, 2)]), task.chunks([(1, 2)], 1)):
        with pytest.raises(ConfigurationError, match=r"celery\.(map|starmap|chunks)"):
            refused.apply_async(idempotency_key="k")
        with pytest.raises(ConfigurationError, match=r"celery\.(map|starmap|chunks)"):
            refused.set(idempotency_key="k").apply_async()
    assert StackState.of(queueing).store.scan(b"i") == []


@pytest.mark.parametrize("given", ["mine", UUID("00000000-0000-0000-0000-000000000001")])
def test_a_key_with_an_id_gives_the_run_that_id_and_a_duplicate_with_another_follows(
    queueing: Celery, given: Any
) -> None:
    task = queueing.task(name="add", shared=False)(add)
    options = {"idempotency_key": "k", "queue": f"ids-{given}"}
    results = [task.apply_async((1,), **options, **more) for more in ({"task_id": given}, {"task_id": given}, {})]
    follower = task.apply_async((1,), **options, task_id=uuid4())
    assert [(str(given), True), (str(given), False), (str(given), False)] == [(one.id, one.created) for one in results]
    assert not follower.created
    with queueing.connection_for_read() as connection:
        sent = [connection.default_channel.basic_get(options["queue"], no_ack=True) for _ in range(3)]
    assert [str(given), follower.id, None] == [one and one.headers["id"] for one in sent]
    assert sent[1].headers["stackstate"]["follow"]["task_id"] == str(given)


def test_on_duplicate_raise_names_the_run(queueing: Celery) -> None:
    from celery_stackstate import DuplicateRun

    task = queueing.task(name="add", shared=False)(add)
    first = task.apply_async((1,), idempotency_key="k")
    with pytest.raises(DuplicateRun, match=first.id):
        task.apply_async((1,), idempotency_key="k", on_duplicate="raise")


def test_a_task_is_sent_by_name_with_a_key(queueing: Celery) -> None:
    StackState(queueing)
    first = queueing.send_task("elsewhere.pay", (1,), idempotency_key="k")
    again = queueing.send_task("elsewhere.pay", (1,), idempotency_key="k")
    assert (again.id, again.created) == (first.id, False)
    assert [run.task for run in StackState.of(queueing).runs.list()] == ["elsewhere.pay"]


def test_an_unreachable_store_refuses_a_keyed_publish_and_not_a_plain_one(tmp_path: Path) -> None:
    app = make_app(task_always_eager=False, stackstate_url="redis://127.0.0.1:1/0", stackstate_store_timeout=1)
    task = app.task(name="add", shared=False)(add)
    with pytest.raises(StoreUnavailable):
        task.apply_async((1,), idempotency_key="k", queue="outage")
    with pytest.raises(StoreUnavailable):
        StackState.of(app).state.get("k")
    assert task.apply_async((1,), queue="outage").created
    with app.connection_for_read() as connection:
        assert connection.default_channel._size("outage") == 1


def test_our_options_never_reach_the_broker(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    options = {"idempotency_ttl": 60, "idempotency_scope": "app", "idempotency_on_failure": "keep"}
    task.apply_async((1,), idempotency_key="k", on_duplicate="raise", queue="inspected", **options)
    with queueing.connection_for_read() as connection:
        message = connection.default_channel.basic_get("inspected", no_ack=True)
    assert message is not None
    assert not [name for name in message.properties if "idempotency" in name or "duplicate" in name]
    assert set(message.headers["stackstate"]) == {"id", "format", "stamp", "ticket"}
    assert message.headers["stackstate"]["ticket"]["key"] == "k"


def test_plain_celery_options_still_work(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    result = task.apply_async((1,), task_id="mine", countdown=60, queue="other", headers={"x": 1}, priority=3)
    run = StackState.of(queueing).runs.get("mine")
    assert run is not None
    assert (result.id, run.queue, run.status) == ("mine", "other", "QUEUED")
    assert (run.eta is not None, run.priority, run.routing_key) == (True, 3, None)


def test_a_routing_key_that_is_not_the_name_of_the_queue_is_recorded(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    result = task.apply_async((1,), queue="orders", exchange="shop", routing_key="orders.eu")
    run = StackState.of(queueing).runs.get(result.id)
    assert run is not None
    assert (run.queue, run.routing_key) == ("orders", "orders.eu")


def test_a_key_needs_a_task_and_a_protocol_that_can_keep_its_promise(queueing: Celery) -> None:
    plain = Celery("mixed", broker="memory://", set_as_current=False)
    plain.conf.stackstate_url = "memory://"
    StackState(plain)
    with pytest.raises(ConfigurationError, match="StateTask"):
        plain.task(name="add", shared=False)(add).apply_async((1,), idempotency_key="k")
    task = queueing.task(name="add", shared=False)(add)
    queueing.conf.task_protocol = 1
    with pytest.raises(ConfigurationError, match="task_protocol"):
        task.apply_async((1,), idempotency_key="k")


def test_a_key_on_a_link_counts_when_the_link_is_published(queueing: Celery) -> None:
    task = queueing.task(name="add", shared=False)(add)
    for name in ("link", "link_error"):
        assert task.apply_async((1,), **{name: task.s(2).set(idempotency_key="k")}).created
    extension = StackState.of(queueing)
    assert (len(extension.runs.list().items), extension.store.scan(b"i")) == (2, [])


def test_an_eager_failure_is_not_recorded(app: Celery) -> None:
    task = app.task(name="add", shared=False)(add)
    assert task.delay("x").failed()
    assert StackState.of(app).runs.list().items == ()


def test_a_task_id_that_is_no_text_is_recorded_as_one(queueing: Celery) -> None:
    import uuid

    task = queueing.task(name="add", shared=False)(add)
    run_id = uuid.uuid4()
    task.apply_async((1,), task_id=run_id)
    assert StackState.of(queueing).runs.get(str(run_id)) is not None
