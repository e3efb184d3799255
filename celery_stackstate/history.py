"""How a run's events become the record that is shown: one attempt per execution, whatever order they arrived in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery_stackstate import facts
from celery_stackstate.facts import PHASES
from celery_stackstate.latest import load_progress
from celery_stackstate.records import (
    FAILURE,
    STARTED,
    SUCCESS,
    Attempt,
    ChainPlace,
    Progress,
    Publisher,
    Run,
    RunTree,
    Touched,
    from_micros,
)
from celery_stackstate.stores.base import RunRow, StoredEvent
from celery_stackstate.touches import touched

ENDINGS = frozenset({"retry", "success", "failure", "revoked", "ignored", "rejected", "lost", "interrupted"})
STATUS_OF = {"interrupted": "LOST"}


@dataclass
class _Execution:
    start: StoredEvent | None = None
    end: StoredEvent | None = None
    started: Mapping[str, Any] = field(default_factory=dict)
    ended: Mapping[str, Any] = field(default_factory=dict)


def summary(row: RunRow) -> Run:
    """Return the run as a list shows it."""
    known, standing = row.facts, row.standing
    runtime = None
    if standing.started is not None and standing.finished is not None:
        runtime = max(0, standing.finished - standing.started) / 1_000_000
    return Run(
        id=row.run_id,
        task=known.task,
        status=standing.status,
        queue=known.queue,
        worker=standing.worker,
        key=known.key,
        retries=standing.retries,
        queued_at=from_micros(known.created),
        started_at=from_micros(standing.started),
        finished_at=from_micros(standing.finished),
        parent_id=known.parent_id,
        root_id=known.root_id or (None if known.parent_id else row.run_id),
        group_id=known.group_id,
        host=known.host,
        origin=known.origin,
        error=standing.error,
        wait=None if standing.waited is None else standing.waited / 1_000_000,
        runtime=runtime,
        duplicated=known.duplicated is not None,
        progress=load_progress(standing.progress),
    )


def assemble(row: RunRow, events: Iterable[StoredEvent]) -> Run:
    """Return the whole record of a run."""
    events = [
        event for event in told_once(events) if not event.uid.startswith(facts.NOTE)
    ]  # a task's own may be called so
    attempts = _attempts(events)
    request = _request(events)
    if debounced := _last(events, facts.DEBOUNCED):  # the body got another payload, which may have been whole
        request = {**request, "payload_truncated": None, **debounced}
    last_end = next((attempt for attempt in reversed(attempts) if attempt.status == row.standing.status), None)
    ending = _last(events, "success" if row.standing.status == SUCCESS else row.standing.status.lower())
    return replace(
        summary(row),
        detailed=True,
        args=request.get("args"),
        kwargs=request.get("kwargs"),
        payload_truncated=bool(request.get("payload_truncated")),
        result=ending.get("result") if row.standing.status == SUCCESS else None,
        result_truncated=bool(ending.get("result_truncated")),
        traceback=ending.get("traceback") if row.standing.status == FAILURE else None,
        eta=from_micros(request.get("eta")),
        expires=from_micros(request.get("expires")),
        routing_key=request.get("routing_key"),
        priority=request.get("priority"),
        publisher=_publisher(request, row.facts.origin),
        chord_id=request.get("chord"),
        chain=ChainPlace(*request["chain"]) if request.get("chain") else None,
        replaced_by=_last(events, "revoked").get("replaced_by"),
        rerun_of=request.get("rerun_of"),
        reruns=tuple(data["run"] for data in _all(events, "rerun")),
        duplicates=sum(data.get("count", 0) for data in _all(events, "duplicate")),
        meta=_last(events, "state").get("meta"),
        progress=_progress(events),
        attempts=attempts,
        touched=_touched(events),
        worker=last_end.worker if last_end else row.standing.worker,
    )


def tree_of(root: Run, others: Iterable[Run]) -> RunTree:
    """Return `root` with those of the others that come from it, at any depth; the rest is left out."""
    children: dict[str, list[Run]] = {}
    for run in others:
        if run.parent_id is not None:
            children.setdefault(run.parent_id, []).append(run)
    found = [root]
    for run in found:  # grows while it is walked
        found += children.pop(run.id, ())
    parents: dict[str | None, list[RunTree]] = {}
    for run in reversed(found):
        tree = RunTree(run, tuple(reversed(parents.pop(run.id, []))))
        parents.setdefault(None if run is root else run.parent_id, []).append(tree)
    return parents[None][0]


def told_once(events: Iterable[StoredEvent]) -> list[StoredEvent]:
    """Return events with each receipt, and each end once.

    Celery, or two processes, tell some ends twice: of these the last counts, for it says more. Of a loss the first
    does: whoever takes the run up later finds again what was lost long ago. A receipt is told by the start of its
    attempt, and by itself if that was long in coming.
    """
    told: dict[tuple[str, str], str] = {}
    events = _with_receipts(list(events))
    for event in events:
        if event.uid.startswith(facts.END) and not (event.name == "lost" and _end_of(event) in told):
            told[_end_of(event)] = event.uid
    return [event for event in events if told.get(_end_of(event), event.uid) == event.uid]


def _with_receipts(events: list[StoredEvent]) -> list[StoredEvent]:
    known = {(event.at, json.loads(event.data).get("worker")) for event in events if event.name == "received"}
    missing = []
    for event in events:
        said = json.loads(event.data) if event.name == "started" and event.uid.startswith("started:") else {}
        at, worker = said.get("received"), said.get("worker")
        if at is not None and (at, worker) not in known:
            receipt = {"worker": worker, "boot": said.get("boot")}
            missing.append(StoredEvent(f"received:{at}:{worker}", at, "received", None, json.dumps(receipt).encode()))
    return sorted([*events, *missing], key=lambda event: (event.at, event.uid)) if missing else events


def _end_of(event: StoredEvent) -> tuple[str, str]:
    """Return which end an event tells: its uid without the time."""
    return event.name, event.uid.rpartition(":")[0]


def _publisher(request: Mapping[str, Any], origin: str | None) -> Publisher | None:
    if not request.get("host"):
        return None
    return Publisher(request["host"], request.get("pid", 0), request.get("program", ""), origin)


def _request(events: Iterable[StoredEvent]) -> dict[str, Any]:
    """Return what was asked: by the publisher's first event, or by the start where the publisher said nothing.

    A message that goes on with a run does not repeat the arguments.
    """
    for name in ("queued", "started"):
        for event in events:
            if event.name == name:
                data: dict[str, Any] = json.loads(event.data)
                if "args" in data:
                    return data
    return {}


def _attempts(events: Iterable[StoredEvent]) -> tuple[Attempt, ...]:
    executions: dict[str, _Execution] = {}
    for event in events:
        if event.execution is None:
            continue
        execution = executions.setdefault(event.execution, _Execution())
        if event.name == "started":
            execution.start, execution.started = event, json.loads(event.data)
        elif event.name in ENDINGS and _outranks(event, execution.end):
            execution.end, execution.ended = event, json.loads(event.data)
    known = [(name, execution) for name, execution in executions.items() if execution.start or execution.end]
    known.sort(key=lambda item: _order(item[1]))
    return tuple(_attempt(name, number, execution) for number, (name, execution) in enumerate(known, 1))


def _order(execution: _Execution) -> tuple[int, int]:
    first = execution.start or execution.end
    return (execution.started.get("epoch", 0), first.at if first else 0)


def _outranks(event: StoredEvent, other: StoredEvent | None) -> bool:
    return other is None or PHASES.index(_status(event)) >= PHASES.index(_status(other))


def _status(event: StoredEvent) -> str:
    return STATUS_OF.get(event.name, event.name.upper())


def _attempt(name: str, number: int, execution: _Execution) -> Attempt:
    start, end, started, ended = execution.start, execution.end, execution.started, execution.ended
    runtime = max(0, end.at - start.at) / 1_000_000 if start and end else None
    wait = started.get("wait")
    return Attempt(
        execution=name,
        number=number,
        status=_status(end) if end else STARTED,
        worker=started.get("worker") or ended.get("worker"),
        pid=started.get("pid") or ended.get("pid"),
        retries=started.get("retries", 0),
        redelivered=bool(started.get("redelivered")),
        queued_at=from_micros(started.get("queued_at")),
        started_at=from_micros(start.at if start else None),
        finished_at=from_micros(end.at if end else None),
        wait=None if wait is None else wait / 1_000_000,
        runtime=runtime,
        cpu_time=ended.get("cpu"),
        peak_memory=ended.get("peak_memory"),
        error_type=ended.get("error_type"),
        error=ended.get("error"),
        traceback=ended.get("traceback"),
        omitted_lines=ended.get("omitted_lines", 0),
    )


def _first(events: Iterable[StoredEvent], name: str) -> dict[str, Any] | None:
    for event in events:
        if event.name == name:
            found: dict[str, Any] = json.loads(event.data)
            return found
    return None


def _all(events: Iterable[StoredEvent], name: str) -> list[dict[str, Any]]:
    return [json.loads(event.data) for event in events if event.name == name and event.execution is None]


def _last(events: list[StoredEvent], name: str) -> dict[str, Any]:
    return _first(reversed(events), name) or {}


def _touched(events: Iterable[StoredEvent]) -> tuple[Touched, ...]:
    """Return what all attempts together used of the state."""
    telling = (event for event in events if event.execution is not None and b'"touched"' in event.data)
    return tuple(dict.fromkeys(one for event in telling for one in touched(json.loads(event.data))))


def _progress(events: list[StoredEvent]) -> Progress | None:
    for event in reversed(events):
        if event.name == "progress":
            data = json.loads(event.data)
            moment = from_micros(event.at)
            assert moment is not None  # noqa: S101 - for the type checker
            return Progress(data["done"], data.get("total"), data.get("message"), moment)
    return None
