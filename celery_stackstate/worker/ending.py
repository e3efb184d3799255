"""The end of an attempt as the worker's parent tells it, for a process that may not have begun to say anything."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from celery_stackstate import details, facts
from celery_stackstate.attempt import Delivery
from celery_stackstate.facts import next_epoch, now_micros
from celery_stackstate.header import HEADER, read_stamp
from celery_stackstate.history import ENDINGS
from celery_stackstate.publishing.receivers import facts_of
from celery_stackstate.recording import is_recorded, is_sampled
from celery_stackstate.records import FAILURE, LOST, micros_of
from celery_stackstate.stores.base import RunWrite, StoredEvent
from celery_stackstate.worker import leases

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

#: For so long, in so many steps, a process that is still there may say itself that its attempt began.
PATIENCE, STEPS = 1.0, 10
#: Microseconds by which the clock of the parent may be ahead when it says when a process accepted a message.
SLACK = 1_000
#: What is said of an attempt while nobody knows more.
UNDECIDED = frozenset({"interrupted", "lost"})


def is_there(pid: int) -> bool:
    """Return whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


class Ending:
    """What the parent knows of a delivery that has ended, at the moment when it learns of it.

    Args:
        task: Whose run.
        run_id: Which run.
        status: How it ended.
        data: Of the event.
        request: The worker's request; None when it is not known any more.
        message: The headers.
    """

    def __init__(
        self, task: Any, run_id: str, status: str, data: Mapping[str, Any], *, request: Any, message: Mapping[str, Any]
    ) -> None:
        self.pid: int = getattr(request, "worker_pid", None) or 0
        self._task, self._run_id, self._status, self._data = task, run_id, status, data
        self._request, self._message = request, message
        self._carried, self._stamp = message.get(HEADER), read_stamp(message.get(HEADER))
        self._at = now_micros()
        accepted = getattr(request, "time_start", None)
        self._accepted = self._at if accepted is None else round(accepted * 1_000_000)
        self._sampled = is_sampled(task, run_id, self._carried)

    def is_recorded(self, extension: StackState) -> bool:
        """Return whether it belongs into the history; of a run outside of the sample only a failure does."""
        return is_recorded(extension, self._task, self._carried) and (self._sampled or self._status == FAILURE)

    def record(self, extension: StackState) -> None:
        """Write how the attempt ended that is open in the process, with its start when that was never written."""
        events = self._events(extension)
        for _ in range(STEPS):
            if not self.pid or self._has_spoken(events) or not is_there(self.pid):
                break
            time.sleep(PATIENCE / STEPS)
            events = self._events(extension)
        begun = self._begun(events)
        ended = {event.execution for event in events if event.name in ENDINGS - UNDECIDED}
        start = next((event for event in reversed(begun) if event.execution not in ended), None)
        if start is not None:
            extension.recorder.record(self._end(extension, start))
        elif not self.pid:
            extension.recorder.record(self._end(extension, None))
        elif not any(map(self._is_of_this_delivery, begun)):  # else it has ended: Celery says some endings twice
            start = self._missing_start(extension)
            end = self._end(extension, start)
            extension.recorder.record(replace(end, events=[start, *end.events]))

    def _events(self, extension: StackState) -> list[StoredEvent]:
        found = extension.runs_store.run(self._run_id)
        return found[1] if found else []

    def _begun(self, events: list[StoredEvent]) -> list[StoredEvent]:
        """Return the starts of the attempts on this worker, of those in the process when that is known."""
        worker = self._message.get("hostname")
        starts = [(event, json.loads(event.data)) for event in events if event.name == "started"]
        return [
            event
            for event, data in starts
            if worker in (None, data.get("worker"))
            and (not self.pid or data.get("pid") == self.pid)
            and data.get("epoch", self._epoch) >= self._epoch  # else it is of an earlier message, of a worker that died
        ]

    def _is_of_this_delivery(self, start: StoredEvent) -> bool:
        """Return whether a start is not one of an earlier attempt in the same process."""
        return start.at >= self._accepted - SLACK

    def _has_spoken(self, events: list[StoredEvent]) -> bool:
        """Return whether the process has said all that it can say: its start, or that it was interrupted."""
        mine = {start.execution for start in self._begun(events) if self._is_of_this_delivery(start)}
        if self._status == LOST:
            return any(event.execution in mine and event.name in ENDINGS for event in events)
        return bool(mine) or not self._sampled

    def _missing_start(self, extension: StackState) -> StoredEvent:
        """Return the start of an attempt whose process died before it could say that it had begun."""
        info, stamp, lease = self._request.delivery_info or {}, self._stamp, leases.of_this_worker(None)
        delivery = Delivery(
            worker=self._message.get("hostname") or lease.worker,
            boot=lease.boot,
            pid=self.pid,
            retries=self._message.get("retries") or 0,
            redelivered=bool(info.get("redelivered")),
            queued_at=stamp.at if stamp else None,
            eta=micros_of(self._message.get("eta")),
            received_at=self._carried.get("received") if isinstance(self._carried, Mapping) else None,
        )
        asked = (
            None
            if self._sampled and stamp
            else details.arguments(extension, self._task, self._request.args, self._request.kwargs)
        )
        execution, epoch = f"unseen-{self.pid}-{self._accepted}", max(self._epoch + 1, self._accepted // 1000)
        return delivery.start(execution, at=self._accepted, epoch=epoch, payload=asked or {})

    @property
    def _epoch(self) -> int:
        return self._stamp.epoch if self._stamp else 0

    def _end(self, extension: StackState, start: StoredEvent | None) -> RunWrite:
        began = json.loads(start.data) if start else {}
        info = getattr(self._request, "delivery_info", None) or {}
        return facts.ended(
            self._run_id,
            facts_of({**self._message, "task": self._task.name}, self._stamp, queue=info.get("routing_key")),
            began.get("epoch") or next_epoch(self._epoch),
            self._status,
            execution=start.execution if start else None,
            worker=self._message.get("hostname"),
            retries=began.get("retries", self._message.get("retries") or 0),
            waited=began.get("wait"),
            started=start.at if start else None,
            at=None if self._status == LOST else self._at,
            keep=extension.settings.retention,
            data=self._data,
        )
