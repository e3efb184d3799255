"""An app of a Django project, whose tasks work in transactions. What a body did it notes in the result backend.

STACKSTATE_TEST_STORE is `alias|URL of its database#prefix` here.
"""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery, Task
from django.db import transaction

from celery_stackstate.django import DjangoStateTask
from tests.stores.django_databases import add_database, configure
from tests.worker.noting import note

PLACE, _, PREFIX = os.environ["STACKSTATE_TEST_STORE"].rpartition("#")
ALIAS, _, DATABASE = PLACE.partition("|")
configure()
add_database(ALIAS, DATABASE)

app = Celery(
    "django",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=DjangoStateTask,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.update(stackstate_url=f"django://{ALIAS}", stackstate_prefix=PREFIX)


class Broken(Exception):
    """What makes a body fail."""


def atomic() -> Any:
    """Begin a transaction in the database of the store."""
    return transaction.atomic(using=ALIAS)


@app.task(bind=True)
def charge(self: Task, amount: int) -> int:
    """Charge; the note says how often it was done."""
    note(app, "charge", id=self.request.id, amount=amount)
    return amount


@app.task
def add_up(amounts: list[int]) -> int:
    """Be the body of a chord."""
    note(app, "add_up", amounts=amounts)
    return sum(amounts)


@app.task(idempotency_key="order:{order}")
def by_attribute(order: int, amount: int) -> int:
    """Charge for an order; the key comes of the arguments."""
    note(app, "by_attribute", order=order)
    return amount


@app.task(lost_policy="rerun")
def watched() -> str:
    """Be brought back when lost, without a key."""
    note(app, "watched")
    return "done"


@app.task(bind=True)
def buy(self: Task, key: str, fails: int) -> str:
    """Write state and charge in one transaction, which is rolled back for the first `fails` attempts."""
    with atomic():
        self.state.increment("bought")
        child = charge.apply_async((5,), idempotency_key=key)
        note(app, "buy", child=child.id, created=child.created, retries=self.request.retries)
        if self.request.retries < fails:
            raise self.retry(countdown=0, max_retries=3)
    return str(child.id)


@app.task
def buy_and_fail(key: str) -> None:
    """Charge in a transaction that is rolled back by a final failure."""
    with atomic():
        charge.apply_async((5,), idempotency_key=key)
        raise Broken(key)


@app.task(bind=True)
@atomic()
def whole(self: Task, key: str, fail: bool) -> str:
    """Be a transaction as a whole."""
    self.state.increment("whole")
    self.timeline.event("working")
    charge.apply_async((5,), idempotency_key=key)
    note(app, "whole")
    if fail:
        raise Broken(key)
    return "done"


class AtomicTask(DjangoStateTask):
    """A task class that makes a transaction of more than the body."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body, and what is around it, in a transaction."""
        with atomic():
            return super().__call__(*args, **kwargs)


@app.task(bind=True, base=AtomicTask)
def wrapped(self: Task, fail: bool) -> str:
    """Be run in a transaction that began before the key was claimed."""
    self.state.increment("wrapped")
    note(app, "wrapped")
    if fail:
        raise Broken("wrapped")
    return "done"
