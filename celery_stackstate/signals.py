"""Signals of this package, for alerts and metrics; connected like those of Celery.

Each is sent in the process that learned of it, when the fact was recorded or, while the store is down, put aside.
`sender` is the name of the task. A receiver that raises is logged; one that is slow delays the history, so keep it
quick. An end that two processes saw (a killed child's, say) may be told twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.utils.dispatch import Signal

from celery_stackstate.facts import END
from celery_stackstate.records import FINISHED, LOST

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState
    from celery_stackstate.stores.base import RunWrite

__all__ = ["duplicate_suppressed", "run_finished", "run_lost"]

#: A recorded run has ended: `app`, `run_id`, `status`, `error` or None, `retries`, `runtime` in seconds or None.
run_finished = Signal(name="run_finished", providing_args={"app", "run_id", "status", "error", "retries", "runtime"})
#: Nobody is left who runs a recorded run: `app`, `run_id`, `error`. A rerun or a late success may still follow.
run_lost = Signal(name="run_lost", providing_args={"app", "run_id", "error"})
#: A request was suppressed, since a run has its key: `app`, `run_id` (of that run), `key`.
duplicate_suppressed = Signal(name="duplicate_suppressed", providing_args={"app", "run_id", "key"})


def tell(extension: StackState, write: RunWrite) -> None:
    """Send what a fact that was just recorded is for others."""
    standing, sender = write.standing, write.facts.task
    if standing is None or not any(event.uid.startswith(END) for event in write.events):
        return
    if standing.status in FINISHED:
        runtime = None
        if standing.started is not None and standing.finished is not None:
            runtime = max(0, standing.finished - standing.started) / 1_000_000
        run_finished.send(
            sender,
            app=extension.app,
            run_id=write.run_id,
            status=standing.status,
            error=standing.error,
            retries=standing.retries,
            runtime=runtime,
        )
    elif standing.status == LOST and any(event.name == "lost" for event in write.events):
        run_lost.send(sender, app=extension.app, run_id=write.run_id, error=standing.error)
