"""What tests look at from outside: what the bodies did, and what lies in the broker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from celery import Celery
from pytest_celery import CeleryTestWorker

from celery_stackstate import Run, StackState
from celery_stackstate.key_record import Record, store_key
from tests.nodes import ROOT
from tests.waiting import wait_for
from tests.worker.noting import NOTES


def notes(app: Celery, name: str) -> list[dict[str, Any]]:
    """Return the notes of that name, in order."""
    found = [json.loads(line) for line in app.backend.client.lrange(NOTES, 0, -1)]
    return [one for one in found if one["name"] == name]


def wait_for_note(app: Celery, name: str, *, count: int = 1, timeout: float = 10, node: Any = None) -> Any:
    """Wait until there are `count` notes of that name; return the newest."""
    wanted: Callable[[], bool] = lambda: len(notes(app, name)) >= count  # noqa: E731
    wait_for(wanted, timeout=timeout, message=f"{count} notes {name!r}", node=node)
    return notes(app, name)[-1]


def messages(app: Celery) -> list[Any]:
    """Return the messages that wait in the default queue; they stay there."""
    with app.connection_for_read() as connection, connection.channel() as channel:
        queue = app.amqp.queues[app.conf.task_default_queue](channel)
        queue.declare()
        found = []
        while (message := queue.get()) is not None:
            found.append(message)
        for message in found:
            message.requeue()
    return found


def push(app: Celery, message: Any) -> None:
    """Publish a copy of a raw message, as a broker does that delivers it twice."""
    queue = app.conf.task_default_queue
    properties = {name: message.properties.get(name) for name in ("correlation_id", "reply_to", "priority")}
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(
            message.payload,
            exchange="",
            routing_key=queue,
            serializer="json",
            headers=message.headers,
            **{name: value for name, value in properties.items() if value is not None},
        )


def record(app: Celery, key: str, task: str | None) -> Record | None:
    """Return the record of an idempotency key of a task, or (None) of the scope of the whole app."""
    return StackState.of(app).key_protocol.record(store_key("" if task is None else f"task:{task}", key))


def key_state(app: Celery, key: str, task: str | None) -> str:
    """Return the state of a key's record; "" without one."""
    found = record(app, key, task)
    return "" if found is None else found.state


def run_of(app: Celery, run_id: str, *, status: str, timeout: float = 10, node: Any = None) -> Run:
    """Wait until the history says `status` of the run, and return the run."""
    runs = StackState.of(app).runs

    def arrived() -> Run | None:
        found = runs.get(run_id)
        return found if found is not None and found.status == status else None

    try:
        found = wait_for(arrived, timeout=timeout, message=f"{run_id} to be {status} in the history", node=node)
    except BaseException:
        print("the history says:", runs.get(run_id))
        raise
    assert found is not None
    return found


def exited(node: CeleryTestWorker) -> None:
    """Wait until the worker has ended."""
    wait_for(lambda: node.container.status == "exited", message="the worker to end", node=node)


def in_another_process(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, which has the environment of the test's worker."""
    return subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=ROOT, capture_output=True, text=True, timeout=30
    )
