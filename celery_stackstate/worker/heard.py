"""Who hears of a success while its attempt goes on."""

from __future__ import annotations

from typing import Any

from celery import Task, signals
from celery.backends.base import DisabledBackend


def is_heard(task: Any) -> bool:
    """Return whether anybody may hear of the success of the current run before its attempt has ended.

    A callback, a hook, a receiver of the signal, or who asks the result backend. Then the key must know of it first:
    who has heard that the run succeeded must not see it run again.
    """
    request = task.request
    if request.callbacks or request.chain or request.chord or len(signals.task_success.receivers) > 1:
        return True
    if any(_is_overridden(task, hook) for hook in ("on_success", "after_return")):
        return True
    ignored = task.ignore_result if request.ignore_result is None else request.ignore_result
    return not (ignored or isinstance(task.backend, DisabledBackend))


def _is_overridden(task: Any, hook: str) -> bool:
    return getattr(getattr(task, hook), "__func__", None) is not getattr(Task, hook)
