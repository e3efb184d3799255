"""An app whose tasks carry the options of idempotency as attributes. What a body did it notes in a Redis."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import Any

from celery import Celery, Task

from celery_stackstate import StateTask
from tests.worker.noting import note

app = Celery(
    "features",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=StateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]


@app.task(bind=True, idempotency_key="order:{order}")
def ship(self: Task, order: int, note_text: str = "") -> str:
    """Ship an order, once."""
    note(app, "ship", id=self.request.id, order=order)
    return f"shipped {order}"


@app.task(bind=True, idempotency_key=lambda order, trace=None: f"o{order}" if order else None)
def by_function(self: Task, order: int, trace: str | None = None) -> int:
    """Have a key unless the order is 0."""
    note(app, "by_function", id=self.request.id)
    return order


@app.task(bind=True, idempotency_key="{order}", idempotency_fingerprint=lambda order, at=None: order)
def volatile(self: Task, order: int, at: float | None = None) -> int:
    """Have an argument that differs at each request."""
    note(app, "volatile", id=self.request.id)
    return order


@app.task(bind=True, idempotency_key="child:{number}", idempotency_scope="run")
def child(self: Task, number: int) -> int:
    """Be called by a parent that retries."""
    note(app, "child", id=self.request.id, number=number)
    return number


@app.task(bind=True, max_retries=3)
def parent(self: Task, failures: int) -> list[bool]:
    """Start two children, then fail some times."""
    created = [child.delay(number).created for number in (1, 2)]
    note(app, "parent", created=created)
    if self.request.retries < failures:
        raise self.retry(countdown=0)
    return created


@app.task
def helper() -> bool:
    """Start a child."""
    created: bool = child.delay(3).created
    return created


@app.task(bind=True, max_retries=3)
def parent_by_helper(self: Task) -> None:
    """Start a child in each of two attempts, by a task that is applied in the body."""
    note(app, "parent", created=helper.apply().result)
    if not self.request.retries:
        raise self.retry(countdown=0)


@app.task(bind=True, debounce=1.5, debounce_max_wait=3, idempotency_key="index:{page}")
def index(self: Task, page: int, text: str = "") -> str:
    """Index a page as it was last saved."""
    note(app, "index", id=self.request.id, text=text, args=self.request.args, kwargs=self.request.kwargs)
    return text


@app.task(debounce=0.5, idempotency_key="login:{user}", keep_payload=True)
def sign_in(user: int, password: str) -> str:
    """Be told the password."""
    note(app, "sign_in", password=password)
    return "in"


@app.task(bind=True, debounce=0.5, idempotency_key="fragile:{page}", max_retries=2)
def fragile_index(self: Task, page: int, text: str = "") -> str:
    """Fail once, and go on with the last text."""
    note(app, "fragile_index", id=self.request.id, text=text)
    if not self.request.retries:
        raise self.retry(countdown=0)
    return text


@app.task(bind=True)
def plain(self: Task, number: int) -> int:
    """Note."""
    note(app, "plain", id=self.request.id, number=number)
    return number


@app.task(bind=True)
def slow(self: Task, seconds: float) -> str:
    """Take a while."""
    note(app, "slow", id=self.request.id)
    time.sleep(seconds)
    return "slow"


@app.task(bind=True, ignore_result=True)
def forgetful(self: Task, number: int) -> dict[str, Any]:
    """Return what the result backend is not to keep."""
    return {"number": number}


@app.task(bind=True)
def fails(self: Task, text: str) -> None:
    """Fail."""
    raise ValueError(text)


@app.task(bind=True, single_execution=True, acks_late=True)
def single(self: Task, seconds: float) -> str:
    """Run once whatever is delivered."""
    note(app, "single", id=self.request.id, began=time.time())
    time.sleep(seconds)
    note(app, "single-end", id=self.request.id)
    return "single"


@app.task(lost_policy="rerun", keep_payload=True)
def kept(number: int) -> int:
    """Come back, and be run again."""
    note(app, "kept", number=number)
    return number


@app.task(bind=True, lost_policy="rerun")
def patient(self: Task, seconds: float) -> str:
    """Take a while."""
    note(app, "patient", id=self.request.id)
    time.sleep(seconds)
    return "patient"


@app.task(bind=True, lost_policy="rerun", max_deliveries=3)
def survivor(self: Task, until: int, how: str = "child") -> str:
    """Be killed until the body was begun `until` times."""
    note(app, "survivor", id=self.request.id, retries=self.request.retries)
    begun = sum(1 for line in app.backend.client.lrange("stackstate-test-notes", 0, -1) if b'"survivor"' in line)
    if begun < until:
        if how == "wait":
            time.sleep(60)
        os.kill(os.getppid() if how == "worker" else os.getpid(), signal.SIGKILL)
        time.sleep(60)
    return "survived"
