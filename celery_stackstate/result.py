"""The handle that publishing a task returns."""

from __future__ import annotations

import time
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
LONGEST_PAUSE = 1.0


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
        """
        if self._is_kept_by_backend() or self._ticket is None:
            return super().get(timeout=timeout, propagate=propagate, **options)
        if options.get("disable_sync_subtasks", True):
            assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = 0.05
        while not self.ready():
            if deadline is not None and time.monotonic() + pause > deadline:
                raise CeleryTimeoutError("The operation timed out.")
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)
        return self.maybe_throw(propagate=propagate, callback=options.get("callback"))

    def __reduce__(self) -> tuple[Any, ...]:
        made, arguments = super().__reduce__()
        return made, arguments, {"created": self.created, "_ticket": self._ticket}

    def __copy__(self) -> RunResult:
        copied: RunResult = super().__copy__()
        copied.created, copied._ticket = self.created, self._ticket
        return copied

    def _is_kept_by_backend(self) -> bool:
        """Return whether the result backend has the result, or is going to get it."""
        if isinstance(self.backend, DisabledBackend):
            return False
        meta = super()._get_task_meta()
        if meta["status"] in states.READY_STATES or self._ticket is None:
            return True
        record = self._record()
        task = task_named(self.app, self._ticket.task)
        ended = record is not None and (record.ended or self._has_taken_over(record))
        return not ended and not getattr(task, "ignore_result", False)

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
        if record is not None and (record.ended or meta["status"] == states.PENDING):
            meta = self._meta_of(record)
            self._maybe_set_cache(meta)
        return meta

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
            result = restore(self.backend, record.error) or LeaderFailed(
                f"the run {record.ticket.task_id} has failed", key=record.ticket.key, task_id=record.ticket.task_id
            )
        return {"status": status, "result": result, "traceback": None, "children": None, "task_id": self.id}
