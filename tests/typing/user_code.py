"""A project's code as type checkers see it: mypy and pyright, strict, with and without celery-types."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict

from celery import Celery
from typing_extensions import assert_type

from celery_stackstate import (
    Attempt,
    Counts,
    Entry,
    Event,
    KeyRecord,
    Lock,
    LockBusy,
    LockInfo,
    LogLine,
    Pace,
    Page,
    Progress,
    Run,
    RunResult,
    RunTree,
    StackState,
    State,
    StateTask,
    Worker,
)

app = Celery("shop", task_cls=StateTask)
stackstate = StackState(app)


@dataclass
class Cursor:
    row: int


class Totals(TypedDict):
    rows: int


@app.task(bind=True)
def import_rows(self: StateTask, name: str) -> int:
    state = self.state
    assert_type(state, State)
    assert_type(state.task, State)
    assert_type(state.run, State)
    assert_type(state.scope("mail"), State)
    assert_type(state.get("rows", 0), int)
    assert_type(state.get("name", default="nobody"), str)
    assert_type(state.get("anything"), Any)
    assert_type(state.get("cursor", as_type=Cursor), Cursor | None)
    assert_type(state.get("cursor", Cursor(0), as_type=Cursor), Cursor)
    assert_type(state.get("totals", None, as_type=Totals), Totals | None)
    assert_type(state.get("totals", 0, as_type=Totals), Totals | int)
    assert_type(state.get_many(["a", "b"]), dict[str, Any])
    assert_type(state.entry("a"), Entry | None)
    assert_type(state.set("a", {"price": Decimal("1.5")}, ttl=timedelta(hours=1), if_version=3), int)
    assert_type(state.set("a", 1, expires_at=datetime.now(timezone.utc)), int)
    assert_type(state.add("a", 1), bool)
    assert_type(state.update("names", longer, default=["a"], ttl=60), list[str])
    assert_type(state.pop("a"), Any)
    assert_type(state.pop("rows", 0), int)
    assert_type(state.delete("a", "b", if_version=3), int)
    assert_type(state.touch("a", ttl=60), bool)
    assert_type(state.keys("a:"), Page[str])
    assert_type(state.items("a:", limit=10), Page[Entry])
    assert_type(state.clear("a:"), int)
    assert_type(state.run.increment("rows", by=2, ttl=3600, ceiling=100), int)
    assert_type(state.decrement("rows", by=2, floor=0), int)
    assert_type(state.task.count("rows"), int)
    assert_type(state.scope("mail").reset("sent"), int)
    with state.lock("rebuild", ttl=30, on_busy="skip") as lock:
        assert_type(lock, Lock)
        assert_type(lock.fence, int)
        assert_type(lock.remaining, float)
        lock.check()
        state.set("built", True, fence=lock)
    assert_type(state.lock("rebuild").acquire(), bool)
    state.lock("rebuild").release()
    assert_type(state.lock_info("rebuild"), LockInfo | None)
    assert_type(state.force_release("rebuild"), bool)
    state.lock("rebuild", on_busy="skpi")  # type: ignore[arg-type]
    state.lock("rebuild", on_lock_lost="ignore")  # type: ignore[arg-type]
    pace = state.throttle("gateway", 10, per=1.0, burst=5)
    assert_type(pace, Pace)
    assert_type(pace.ok, bool)
    assert_type(pace.retry_after, float)
    pace.or_retry()
    assert_type(self.step("charge", charge, 500, currency="EUR"), str)
    self.timeline.progress(1, 10, "row 1")
    self.timeline.event("imported", rows=10)
    return 10


def longer(names: Any) -> list[str]:
    return [*names, "b"]


def charge(amount: int, *, currency: str) -> str:
    return f"{amount} {currency}"


class Importer(StateTask):
    name = "shop.importer"
    idempotency_key = "import:{name}"
    idempotency_ttl = timedelta(hours=1)
    idempotency_scope = "app"
    idempotency_on_failure = "keep"
    idempotency_fingerprint = len
    on_duplicate = "raise"
    debounce = 5
    debounce_max_wait = 60.0
    single_execution = True
    lost_policy = "rerun"
    max_deliveries = 3
    keep_payload = True
    record_runs = True
    record_in_background = True
    record_sample = 0.5

    def run(self, name: str) -> int:
        assert_type(self.state.get("rows", 0), int)
        return 0


class Misspelt(StateTask):
    idempotency_scope = "application"  # type: ignore[assignment]
    idempotency_on_failure = "free"  # type: ignore[assignment]
    on_duplicate = "rais"  # type: ignore[assignment]
    lost_policy = "return"  # type: ignore[assignment]


def publish(task: StateTask) -> None:
    result = task.apply_async(("a",), idempotency_key="import:a", on_duplicate="return", idempotency_ttl=60)
    assert_type(result, RunResult)
    assert_type(result.created, bool)
    assert_type(task.delay("a", rows=3), RunResult)
    assert_type(task.AsyncResult(result.id), RunResult)
    task.apply_async(("a",), queue="imports", countdown=5, idempotency_scope="run", idempotency_on_failure="keep")
    task.apply_async(("a",), on_duplicate="rais")  # type: ignore[arg-type]
    task.apply_async(("a",), idempotency_scope="application")  # type: ignore[arg-type]
    task.apply_async(("a",), idempotency_on_failure="free")  # type: ignore[arg-type]


def look(run_id: str) -> None:
    run = stackstate.runs.get(run_id)
    assert_type(run, Run | None)
    if run is not None:
        assert_type(run.attempts, tuple[Attempt, ...])
        assert_type(run.progress, Progress | None)
        assert_type(run.queued_at, datetime | None)
    page = stackstate.runs.list(status=("FAILURE", "LOST"), since=datetime.now(timezone.utc), limit=10)
    assert_type(page, Page[Run])
    stackstate.runs.list(status="FAILED")  # type: ignore[arg-type]
    assert_type(stackstate.runs.children(run_id, limit=5), Page[Run])
    assert_type(stackstate.runs.count(cap=100), int)
    assert_type(stackstate.runs.names("task"), list[str])
    assert_type(stackstate.runs.delete(run_id, "another"), int)
    assert_type(stackstate.runs.purge(limit=1_000), int)
    assert_type([one.id for one in page], list[str])
    assert_type(stackstate.runs.events(run_id), list[Event])
    assert_type(stackstate.runs.logs(run_id), list[LogLine])
    assert_type(stackstate.runs.tree(run_id), RunTree | None)
    assert_type(stackstate.runs.counts(), Counts)
    assert_type(stackstate.workers(), tuple[Worker, ...])
    assert_type(stackstate.idempotency.get("import:a", task="shop.importer"), KeyRecord | None)
    assert_type(stackstate.idempotency.list(task="shop.importer"), Page[KeyRecord])
    assert_type(stackstate.idempotency.tasks(), tuple[str, ...])
    assert_type(stackstate.idempotency.reset("import:a", task="shop.importer"), bool)
    assert_type(stackstate.state.for_run(run_id).get("rows", 0), int)


def wait_for_a_lock() -> float:
    try:
        with stackstate.state.lock("rebuild", wait=1):
            return 0.0
    except LockBusy as busy:
        assert_type(busy.retry_after, float)
        return busy.retry_after


def own(session: Any, run_id: str) -> None:
    assert_type(StackState.of(app), StackState)
    assert_type(StackState.current(), StackState)
    with stackstate.joining(session):
        stackstate.state.set("a", 1)
    stackstate.rerun(run_id, queue="slow").forget()
    assert_type(stackstate.repeatable(run_id), frozenset[str])
    assert_type(stackstate.forget(run_id), int)
    assert_type(stackstate.purge(limit=1_000), int)
    assert_type(stackstate.check(), list[str])
    assert_type(stackstate.install(), list[tuple[str, str]])
    assert_type(stackstate.where(), str)
    assert_type(stackstate.where_runs(), str)
    stackstate.close()
    stackstate.disconnect()
