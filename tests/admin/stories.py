"""Runs that several files of tests look at."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from celery_stackstate.records import to_micros
from tests.admin.seeds import NOON, SECOND, attempt, event, log, write_run

START = to_micros(NOON)
NOW = to_micros(datetime.now(timezone.utc))

TRACEBACK = """Traceback (most recent call last):
  File "/srv/venv/lib/python3.12/site-packages/celery/app/trace.py", line 453, in trace_task
    R = retval = fun(*args, **kwargs)
                 ^^^^^^^^^^^^^^^^^^^^
  File "/srv/shop/feed.py", line 17, in read
    response = httpx.get(url)
  File "/srv/venv/lib/python3.12/site-packages/httpx/_api.py", line 195, in get
    return request(
  File "/usr/lib/python3.12/socket.py", line 845, in create_connection
    raise exceptions[0]
ConnectionRefusedError: [Errno 111] refused

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/shop/tasks.py", line 42, in import_products
    rows = feed.read(url)
  [Previous line repeated 2 more times]
shop.errors.FeedError: no feed
  and a second line
"""


def two_attempts(run_id: str = "two") -> str:
    """Write a run with two attempts, each with lines of several levels."""
    events = [
        *attempt("x1", START, START + SECOND, "retry", error_type="OSError", traceback=TRACEBACK),
        *attempt("x2", START + 2 * SECOND, START + 3 * SECOND, "success"),
    ]
    logs = [
        log("x1", 1, START + 1, "opening the feed"),
        log("x1", 2, START + 2, "the feed is slow", level=30),
        log("x1", 3, START + 3, "the feed refused", level=40, logger="shop.feed"),
        log("x2", 1, START + 2 * SECOND, "opening the Feed again"),
        log("x2", 2, START + 2 * SECOND + 1, "a level of the task's own", level=25),
    ]
    return write_run(run_id, events=events, logs=logs)


def running(*more: Any, logs: int = 2, run_id: str = "live") -> str:
    """Write a run that began ten seconds ago and has logged some lines."""
    events = [*attempt("x1", NOW - 10 * SECOND, None, None, queued_at=NOW - 12 * SECOND), *more]
    lines = [log("x1", n, NOW - 9 * SECOND + n, f"batch {n} stored") for n in range(logs)]
    return write_run(run_id, status="STARTED", queued=moment(NOW - 12 * SECOND), events=events, logs=lines)


def ended(run_id: str = "live") -> None:
    """Write the end of that run."""
    write_run(
        run_id, queued=moment(NOW - 12 * SECOND), events=attempt("x1", NOW - 10 * SECOND, NOW, "success"), ran=10.0
    )


def settled(run_id: str = "done", **more: Any) -> str:
    """Write a run with three attempts, of which one failed and one overlaps another."""
    events = [
        *attempt("x1", NOW - 90 * SECOND, NOW - 80 * SECOND, "lost", queued_at=NOW - 95 * SECOND),
        *attempt("x2", NOW - 70 * SECOND, NOW - 50 * SECOND, "retry", error_type="FeedError", traceback=TRACEBACK),
        *attempt("x3", NOW - 40 * SECOND, NOW - 10 * SECOND, "success"),
        event("c1", NOW - 30 * SECOND, "resumed", "x3", custom=True, data={"row": 230}),
        event("p1", NOW - 20 * SECOND, "progress", "x3", done=342, total=500, message="rows"),
    ]
    logs = [
        log("x2", 1, NOW - 69 * SECOND, "opening the feed"),
        log("x2", 2, NOW - 60 * SECOND, "the feed is slow", level=30),
        log("x3", 1, NOW - 39 * SECOND, "opening the feed again"),
        log("x3", 2, NOW - 29 * SECOND, "price missing\nin two lines", level=40),
    ]
    return write_run(run_id, queued=moment(NOW - 95 * SECOND), events=events, logs=logs, **more)


def moment(micros: int) -> datetime:
    return datetime.fromtimestamp(micros / SECOND, timezone.utc)
