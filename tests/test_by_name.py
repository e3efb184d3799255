"""Sending by name, in a process in which nothing has made the app's tasks yet: that changes nothing of the promises."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery import Celery, Task, _state, shared_task

from celery_stackstate import ConfigurationError, StackState, StateTask
from celery_stackstate.attached import extension_of
from celery_stackstate.header import HEADER
from celery_stackstate.payload import REDACTED


def make_app(name: str, kind: type[Celery] = Celery, **options: Any) -> Celery:
    app = kind(name, broker="memory://", backend="cache+memory://", set_as_current=False, **options)
    app.conf.stackstate_url = "memory://"
    app.conf.task_default_queue = uuid4().hex  # the broker is one for all apps of the process
    return app


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Take back what a test declares for all apps of the process."""
    before = set(_state._on_app_finalizers)
    yield
    _state._on_app_finalizers.clear()
    _state._on_app_finalizers.update(before)


@pytest.fixture
def app() -> Celery:
    """An app of the base class whose tasks were declared, and not made."""
    made = make_app("by-name", task_cls=StateTask)

    @made.task(name="pay")
    def pay(user: str, password: str = "") -> None: ...

    @made.task(name="quiet", record_runs=False)
    def quiet() -> None: ...

    @made.task(name="once", idempotency_key="once:{number}")
    def once(number: int) -> None: ...

    assert not made.finalized
    return made


def headers_of(app: Celery) -> list[dict[str, Any]]:
    """Return the headers of what was sent."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[app.conf.task_default_queue](channel)
        queue.declare()
        while (message := queue.get(no_ack=True)) is not None:
            found.append({**message.headers, "properties": message.properties})
    return found


def test_a_key_counts_in_the_first_call(app: Celery) -> None:
    first = app.send_task("pay", ("me",), idempotency_key="k")
    again = app.send_task("pay", ("me",), idempotency_key="k")
    assert (first.created, again.created, again.id) == (True, False, first.id)
    (header,) = headers_of(app)
    assert "idempotency_key" not in header["properties"]


def test_the_attributes_of_the_task_count_in_the_first_call(app: Celery) -> None:
    assert app.send_task("once", (1,)).id == app.send_task("once", (1,)).id
    quiet = app.send_task("quiet")
    assert [run.task for run in StackState.of(app).runs.list()] == ["once"]
    assert StackState.of(app).runs.get(quiet.id) is None


@pytest.mark.parametrize("attached", [False, True], ids=["by itself", "by hand"])
def test_an_argument_by_position_is_redacted_by_the_name_of_its_parameter(app: Celery, attached: bool) -> None:
    if attached:
        StackState(app)
    sent = app.send_task("pay", ("me", "hunter2"))
    run = StackState.of(app).runs.get(sent.id)
    assert run is not None
    assert run.args == ["me", REDACTED]


@pytest.mark.parametrize("name", ["once", "quiet"])
def test_the_attributes_count_where_the_extension_was_attached_by_hand(app: Celery, name: str) -> None:
    StackState(app)
    sent = [app.send_task(name, (1,) if name == "once" else ()).id for _ in range(2)]
    assert len(StackState.of(app).runs.list()) == (1 if name == "once" else 0)
    assert len(set(sent)) == (1 if name == "once" else 2)


def test_of_a_task_that_is_not_here_the_names_of_arguments_are_unknown(app: Celery) -> None:
    by_position, by_name = app.send_task("far", ("me", "hunter2")), app.send_task("far", (), {"password": "hunter2"})
    runs = StackState.of(app).runs
    shown = [run for sent in (by_position, by_name) if (run := runs.get(sent.id)) is not None]
    assert [(run.args, run.kwargs) for run in shown] == [(["me", "hunter2"], {}), ([], {"password": REDACTED})]


def test_one_task_with_the_base_class_is_enough() -> None:
    app = make_app("one")

    @app.task(name="plain")
    def plain() -> None: ...

    @app.task(base=StateTask, name="tracked")
    def tracked() -> None: ...

    sent = app.send_task("tracked")
    assert [run.id for run in StackState.of(app).runs.list()] == [sent.id]


def test_a_shared_task_with_the_base_class_is_enough() -> None:
    app = make_app("sharing")

    @shared_task(base=StateTask, name="shared-with-base")
    def shared() -> None: ...

    sent = app.send_task("shared-with-base")
    assert [run.id for run in StackState.of(app).runs.list()] == [sent.id]


def test_a_base_class_that_is_given_by_its_path_is_enough() -> None:
    app = make_app("path", task_cls="celery_stackstate.task:StateTask")
    assert app.send_task("far", idempotency_key="k").id == app.send_task("far", idempotency_key="k").id
    assert len(headers_of(app)) == 1


def test_an_app_that_uses_nothing_of_ours_is_left_alone() -> None:
    app = make_app("plain")

    @app.task(name="plain")
    def plain() -> None: ...

    other = make_app("other", task_cls="no.such.module:Task")
    for one in (app, other):
        one.send_task("plain", (1,), headers={"mine": 1})
        assert not one.finalized
        assert extension_of(one) is None
        (header,) = headers_of(one)
        assert HEADER not in header
    assert app.Task is not StateTask


def test_an_option_of_ours_is_never_ignored() -> None:
    app = make_app("optional")
    assert app.send_task("far", idempotency_key="k").id == app.send_task("far", idempotency_key="k").id
    with pytest.raises(ConfigurationError, match="without an idempotency_key"):
        make_app("wrong").send_task("far", on_duplicate="raise")


class Counting(Celery):
    """An app with a `send_task` of its own."""

    def send_task(self, name: str, *args: Any, **options: Any) -> Any:
        """Count, and go on."""
        self.__dict__["sent"] = self.__dict__.get("sent", 0) + 1
        return super().send_task(f"shop.{name}", *args, **options)


def test_an_app_with_a_way_of_its_own_to_send_goes_it_once_for_each_message() -> None:
    app = make_app("counting", Counting, task_cls=StateTask)
    sent = [app.send_task("far", idempotency_key=key).id for key in ("first", "second", "second")]
    assert len(set(sent)) == 2
    assert [header["task"] for header in headers_of(app)] == ["shop.far", "shop.far"]
    assert app.__dict__["sent"] == 2


def test_an_app_that_is_finalized_by_hand_is_not_finalized_by_a_message() -> None:
    app = make_app("by-hand", task_cls=StateTask, autofinalize=False)

    @app.task(name="once", idempotency_key="once:{number}")
    def once(number: int) -> None: ...

    assert app.send_task("far", idempotency_key="k").id == app.send_task("far", idempotency_key="k").id
    assert not app.finalized
    app.finalize()
    assert app.send_task("once", (1,)).id == app.send_task("once", (1,)).id


def test_threads_that_send_first_at_once_make_one_extension(app: Celery) -> None:
    barrier, sent = threading.Barrier(8), []

    def send() -> None:
        barrier.wait()
        sent.append(app.send_task("pay", ("me",), idempotency_key="k"))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.id for one in sent}) == 1
    assert [one.created for one in sent].count(True) == 1
    assert len(headers_of(app)) == 1


def test_a_process_that_only_imports_the_tasks_honours_a_key() -> None:
    code = (
        "from celery import Celery\n"
        "from celery_stackstate import StateTask\n"
        "app = Celery('web', broker='memory://', task_cls=StateTask)\n"
        "app.conf.stackstate_url = 'memory://'\n"
        "@app.task(name='pay')\n"
        "def pay(): ...\n"
        "one, two = (app.send_task('pay', idempotency_key='k') for _ in range(2))\n"
        "assert one.id == two.id, 'the key was ignored'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_task_without_the_base_class_is_called_as_ever() -> None:
    app = make_app("called", task_cls=Task)

    @app.task(name="plain")
    def plain() -> None: ...

    plain.delay()
    assert extension_of(app) is None
    assert len(headers_of(app)) == 1
