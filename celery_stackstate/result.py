"""The handle that publishing a task returns."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, assert_will_not_block
from kombu.utils import json as kombu_json

from celery_stackstate.attached import extension_of, task_named
from celery_stackstate.errors import LeaderFailed, StoreUnavailable
from celery_stackstate.key_record import FAILED, RETRYING, RUNNING, SUCCEEDED, Record, Ticket, store_key
from celery_stackstate.keys import ONE_RUN
from celery_stackstate.outcome import restore
from celery_stackstate.positional import also_by_place

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

STATES = {RUNNING: states.STARTED, RETRYING: states.RETRY, SUCCEEDED: states.SUCCESS, FAILED: states.FAILURE}
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
#: Marks what is known of a run that has succeeded with a result that could not be kept with its key.
NOT_KEPT = "not_kept"


class RunResult(AsyncResult):
    """Celery's AsyncResult, which also says whether the call created the run.

    `created` is False for a duplicate: `id` is then that of the run that already has the idempotency key. It says
    nothing on handles that no call of ours returned: those of `AsyncResult(id)` and of the members of a canvas.

    What the result backend does not know, or without a result backend, the record of the key answers: `state`, `result`
    and `get()` work for as long as the key is kept.
    """

    id: str
    created: bool = True
    _ticket: Ticket | None = None

    @also_by_place(AsyncResult.get, "propagate", 2)
    def get(self, timeout: float | None = None, propagate: bool = True, **options: Any) -> Any:
        """Wait until the run has ended, and return its result, as AsyncResult does.

        Args:
            timeout: Most seconds to wait; None waits for ever.
            propagate: Whether to raise what the run has failed of.
            **options: Those of AsyncResult.

        Raises:
            celery.exceptions.TimeoutError: It had not ended.
            LeaderFailed: It has succeeded, and there is no result backend, nor could its result be kept with the key.
        """
        if self._ticket is None:
            return super().get(timeout=timeout, propagate=propagate, **options)
        if options.pop("disable_sync_subtasks", True):
            assert_will_not_block()
        callback, pause = options.pop("callback", None), FIRST_PAUSE
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (meta := self._get_task_meta())["status"] not in states.READY_STATES:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CeleryTimeoutError("The operation timed out.")
            self._wait(min(pause, left), propagate=propagate, **options)
            pause = min(LONGEST_PAUSE, 1.5 * pause)
        if meta.get(NOT_KEPT) and propagate:
            raise _leader_failed(self._ticket, "has succeeded, but its result could not be kept with its key")
        return self.maybe_throw(propagate=propagate, callback=callback)

    def _wait(self, seconds: float, **options: Any) -> None:
        """Wait for the result backend, at most so long: whether a run keeps its result from it, only its end shows."""
        if self._is_kept_from_backend():
            time.sleep(seconds)
            return
        with suppress(CeleryTimeoutError):  # if it is of the task itself, whoever looks next finds it
            super().get(timeout=seconds, disable_sync_subtasks=False, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        made, arguments = super().__reduce__()
        return made, arguments, {"created": self.created, "_ticket": self._ticket}

    def __copy__(self) -> RunResult:
        copied: RunResult = super().__copy__()
        copied.created, copied._ticket = self.created, self._ticket
        return copied

    def _is_kept_from_backend(self) -> bool:
        """Return whether it is known that no result backend will have the result."""
        if isinstance(self.backend, DisabledBackend) or self.ignored:
            return True
        return self._ticket is not None and bool(
            getattr(task_named(self.app, self._ticket.task), "ignore_result", False)
        )

    def _get_task_meta(self) -> dict[str, Any]:
        if self._cache is not None:
            cached: dict[str, Any] = self._cache
            return cached
        without = isinstance(self.backend, DisabledBackend)
        nothing = {"status": states.PENDING, "result": None}
        meta: dict[str, Any] = nothing if without and self._ticket else super()._get_task_meta()
        if self._ticket is None or meta["status"] in states.READY_STATES:
            return meta
        record = self._record()
        if record is None or not (record.ended or meta["status"] == states.PENDING):
            return meta
        known = self._meta_of(record)
        if self._is_kept_from_backend():
            self._maybe_set_cache(known)
        elif known.get(NOT_KEPT):
            return meta  # the backend is about to have it
        return known

    def _record(self) -> Record | None:
        """Return the record of the run, else that of the run to which its key has gone.

        That of a debounced run, once it has begun, is under its own id.
        """
        extension: StackState | None = extension_of(self.app)
        if extension is None or self._ticket is None:
            return None
        try:
            places = (self._ticket.store_key, store_key(ONE_RUN, self._ticket.task_id))
            found = [record for place in places if (record := extension.key_protocol.record(place)) is not None]
        except StoreUnavailable:
            if isinstance(self.backend, DisabledBackend):
                raise
            return None
        generation = self._ticket.generation
        own = next((record for record in found if record.ticket.generation == generation), None)
        return own or next((record for record in found if self._has_taken_over(record)), None)

    def _has_taken_over(self, record: Record) -> bool:
        """Return whether the record is of a later run, which has the key of this one."""
        ticket = self._ticket
        if ticket is None or ticket.unreserved or ticket.task_id != self.id:
            return False  # it may follow that run
        return record.ticket.generation > ticket.generation

    def _meta_of(self, record: Record) -> dict[str, Any]:
        status, result = STATES.get(record.state, states.PENDING), None
        if self._has_taken_over(record):
            status = states.REVOKED
            result = TaskRevokedError(f"its key went to the run {record.ticket.task_id}")
        elif record.state == SUCCEEDED and record.result is not None:
            result = kombu_json.loads(record.result)
        elif record.state == FAILED:
            result = restore(self.backend, record.error) or _leader_failed(record.ticket, "has failed")
        meta = {"status": status, "result": result, "traceback": None, "children": None, "task_id": self.id}
        return {**meta, NOT_KEPT: True} if record.state == SUCCEEDED and record.result is None else meta


def _leader_failed(ticket: Ticket, how: str) -> LeaderFailed:
    return LeaderFailed(f"the run {ticket.task_id} {how}", key=ticket.key, task_id=ticket.task_id)
