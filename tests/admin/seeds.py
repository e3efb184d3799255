"""Runs as a worker would have recorded them, written through the store's own verb."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from celery_stackstate import facts
from celery_stackstate.records import to_micros
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, StoredEvent, StoredLog
from tests.admin.project import extension

NOON = datetime(2026, 11, 22, 12, 0, 1, 204_000, tzinfo=timezone.utc)
SECOND = 1_000_000


def event(uid: str, at: int, name: str, execution: str | None = None, **data: Any) -> StoredEvent:
    """Return an event; `at` is in microseconds."""
    return StoredEvent(uid, at, name, execution, json.dumps(data).encode())


def log(execution: str, seq: int, at: int, message: str, *, level: int = 20, logger: str = "shop.imports") -> StoredLog:
    """Return a log line."""
    return StoredLog(execution, seq, at, level, logger, message)


def write_run(
    run_id: str,
    *,
    task: str | None = "shop.tasks.import_products",
    status: str = "SUCCESS",
    queued: datetime = NOON,
    queue: str = "imports",
    worker: str | None = "celery@w1",
    events: Sequence[StoredEvent] = (),
    logs: Sequence[StoredLog] = (),
    args: Any = (),
    kwargs: Any = None,
    retries: int = 0,
    error: str | None = None,
    ran: float | None = None,
    asked: dict[str, Any] | None = None,
    progress: str | None = None,
    **more: Any,
) -> str:
    """Write one run, queued at `queued`, and return its id.

    `asked` is further data of its publisher's event, `more` are further columns of RunFacts.
    """
    at = to_micros(queued)
    began = at + SECOND if ran is not None else None
    ended = began + round(ran * SECOND) if began is not None and ran is not None else None
    publisher: dict[str, Any] = {"host": "web-1", "pid": 442, "program": "gunicorn"}
    request = event("queued:1", at, "queued", args=list(args), kwargs=kwargs or {}, **publisher, **(asked or {}))
    extension.runs_store.append(
        [
            RunWrite(
                run_id,
                facts.rank(status, at // 1000),
                RunFacts(task=task, queue=queue, created=at, **more),
                RunStanding(
                    status=status,
                    worker=worker,
                    retries=retries,
                    waited=None if began is None else SECOND,
                    started=began,
                    finished=ended,
                    error=error,
                    progress=progress,
                ),
                [request, *events],
                logs,
            )
        ]
    )
    return run_id


def attempt(
    execution: str, start: int, end: int | None, outcome: str | None, *, worker: str = "celery@w1", **ended: Any
) -> list[StoredEvent]:
    """Return the events of one execution; times in microseconds."""
    pid = ended.pop("pid", 418)
    queued_at = ended.pop("queued_at", None)
    wait = None if queued_at is None else start - queued_at
    events = [
        event(
            f"s:{execution}",
            start,
            "started",
            execution,
            worker=worker,
            pid=pid,
            epoch=start // 1000,
            queued_at=queued_at,
            wait=wait,
        )
    ]
    if end is not None and outcome is not None:
        events.append(event(f"e:{execution}", end, outcome, execution, **ended))
    return events
