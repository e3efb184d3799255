"""Receivers of Celery's signals: what happens to a run becomes facts of its history.

They run in every process that publishes or executes. None raises: Celery would log it, and history is never worth a
task.
"""

from __future__ import annotations

from celery import signals

from celery_stackstate.worker import in_body, in_parent

RECEIVERS = {
    signals.task_received: in_parent.on_received,
    signals.task_revoked: in_parent.on_revoked,
    signals.task_unknown: in_parent.on_unknown,
    signals.task_prerun: in_body.on_prerun,
    signals.task_success: in_body.on_success,
    signals.task_failure: in_body.on_failure,
    signals.task_retry: in_body.on_retry,
    signals.task_postrun: in_body.on_postrun,
    signals.worker_process_shutdown: in_body.on_process_shutdown,
}


def connect() -> None:
    """Connect all receivers; connecting again changes nothing."""
    for signal, receiver in RECEIVERS.items():
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_stackstate.{receiver.__name__}")
