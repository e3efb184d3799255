"""What type checkers know of decorated tasks where celery-types is installed, without which they are untyped."""

from __future__ import annotations

from celery import Celery, shared_task
from typing_extensions import assert_type

from celery_stackstate import RunResult, StateTask
from celery_stackstate.django import DjangoStateTask

app = Celery("shop", task_cls=StateTask)
site = Celery("site", task_cls=DjangoStateTask)


@app.task(bind=True, max_retries=5)
def import_rows(self: StateTask, name: str) -> int:
    return self.state.increment("rows")


@app.task
def send(to: str) -> None: ...


@site.task(idempotency_key="welcome:{user}", on_duplicate="raise")
def welcome(user: int) -> None: ...


@shared_task(base=StateTask, bind=True)
def index(self: StateTask, page: int) -> None: ...


assert_type(import_rows, StateTask)
assert_type(import_rows.delay("a"), RunResult)
assert_type(import_rows.delay("a").created, bool)
assert_type(import_rows.apply_async(("a",), idempotency_key="import:a").created, bool)
assert_type(send.delay("a@b.c").created, bool)
assert_type(welcome, DjangoStateTask)
assert_type(welcome.delay(1).created, bool)
welcome.delay_on_commit(1)
assert_type(index.delay(1).created, bool)
import_rows.apply_async(("a",), on_duplicate="rais")  # type: ignore[arg-type]
