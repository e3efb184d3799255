"""`stackstate_enabled = False` in a process that publishes: plain Celery, and no promise that nobody keeps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, group

from celery_stackstate import ConfigurationError, IdempotencyConflict, StackState, StateTask, StoreUnavailable
from celery_stackstate.header import HEADER
from tests.services import HOST, free_port


def make_app(url: str, **settings: Any) -> Celery:
    """Return an app that publishes into memory."""
    app = Celery("off", broker="memory://", backend="cache+memory://", task_cls=StateTask, set_as_current=False)
    app.conf.update({"stackstate_url": url, "stackstate_store_timeout": 0.5, **settings})
    app.task(add, name="add", shared=False)
    app.task(add, name="keyed", shared=False, idempotency_key="add:{x}")
    app.task(add, name="kept", shared=False, keep_payload=True)
    app.task(add, name="watched", shared=False, lost_policy="rerun")
    return app


def add(x: int, y: int = 2) -> int:
    return x + y


def sent(app: Celery) -> list[Any]:
    """Take the messages that were published."""
    found = []
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[app.conf.task_default_queue](channel)
        queue.declare()
        while (message := queue.get(no_ack=True)) is not None:
            found.append(message)
    return found


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue of the test's own: the broker in memory is one for all."""
    return f"queue-{id(request.node)}"


@pytest.fixture
def away(queue: str) -> Celery:
    """An app that is switched off, and whose store nobody could connect to."""
    return make_app(f"redis://{HOST}:{free_port()}", task_default_queue=queue, stackstate_enabled=False)


@pytest.mark.parametrize("name", ["add", "kept", "watched"])
def test_a_call_without_a_key_is_plain_celery_and_asks_no_store(away: Celery, name: str) -> None:
    with pytest.raises(StoreUnavailable):
        StackState.of(away).state.get("x")
    result = away.tasks[name].delay(1)
    (message,) = sent(away)
    assert (message.headers["id"], HEADER in message.headers) == (result.id, False)
    assert result.created is True
    assert "recorder" not in vars(StackState.of(away))


def test_a_call_with_a_key_is_refused_by_the_name_of_the_setting(away: Celery) -> None:
    for call in (
        lambda: away.tasks["add"].apply_async((1,), idempotency_key="k"),
        lambda: away.tasks["keyed"].delay(1),
        lambda: away.send_task("elsewhere", (1,), idempotency_key="k"),
        lambda: away.tasks["add"].s(1).apply_async(idempotency_key="k"),
        lambda: group(away.tasks["add"].s(1), away.tasks["add"].s(2)).apply_async(idempotency_key="k"),
    ):
        with pytest.raises(ConfigurationError, match="stackstate_enabled is False"):
            call()
    assert sent(away) == []
    away.tasks["keyed"].apply_async((1,), idempotency_key=None)
    assert len(sent(away)) == 1


def test_a_wrong_key_or_option_is_refused_as_ever(away: Celery) -> None:
    away.conf.stackstate_publish_outage = "publish"
    for wrong in ({"idempotency_key": ""}, {"idempotency_kee": "k"}, {"debounce": 5}):
        with pytest.raises(ValueError, match=r"idempotency_key|idempotency_kee|debounce"):
            away.tasks["add"].apply_async((1,), **wrong)
    assert sent(away) == []


def test_a_call_with_a_key_goes_out_without_the_promise_where_it_may(
    away: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    away.conf.stackstate_publish_outage = "publish"
    with caplog.at_level(logging.WARNING, "celery_stackstate"):
        results = [away.tasks["add"].apply_async((1,), idempotency_key="k", on_duplicate="raise") for _ in range(2)]
    messages = sent(away)
    assert [message.headers["id"] for message in messages] == [one.id for one in results]
    assert len({one.id for one in results}) == 2
    for message in messages:
        assert HEADER not in message.headers
        assert "idempotency_key" not in message.properties
    (warned,) = [line for line in caplog.messages if "stackstate_enabled is False" in line]
    assert "without its promise" in warned


def test_explicit_state_goes_on_and_what_is_switched_on_again_finds_all_it_had(queue: str, tmp_path: Path) -> None:
    # given
    url = f"sqlite:///{tmp_path}/stackstate.sqlite3"
    conf = {"task_default_queue": queue}
    before = make_app(url, **conf)
    first = before.tasks["add"].apply_async((1,), idempotency_key="k")
    StackState.of(before).state.set("progress", 1)
    StackState.of(before).close()

    # when
    off = make_app(url, **conf, stackstate_enabled=False)
    off.tasks["add"].delay(1)
    with pytest.raises(ConfigurationError):
        off.tasks["add"].apply_async((1,), idempotency_key="k")
    assert StackState.of(off).state.increment("seen") == 1
    StackState.of(off).state.set("progress", StackState.of(off).state.get("progress") + 1)
    StackState.of(off).close()

    # then
    after = make_app(url, **conf)
    again = after.tasks["add"].apply_async((1,), idempotency_key="k")
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict):
        after.tasks["add"].apply_async((2,), idempotency_key="k")
    assert (StackState.of(after).state.get("progress"), StackState.of(after).state.count("seen")) == (2, 1)
    assert [run.id for run in StackState.of(after).runs.list()] == [first.id]


def test_wrong_settings_switch_nothing_off(queue: str) -> None:
    app = make_app("memory://", task_default_queue=queue, stackstate_enabld=False)
    assert StackState.of(app).enabled is True
    with pytest.raises(ConfigurationError, match="did you mean stackstate_enabled"):
        app.tasks["add"].apply_async((1,), idempotency_key="k")
