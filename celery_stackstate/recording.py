"""Which runs are recorded: those of tasks with the base class, or all; of a very hot task a sample and the failures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from zlib import crc32

from celery_stackstate.attached import extension_of

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


def is_ours(task: Any, header: Any = None) -> bool:
    """Return whether a run has the extension's attention: its task has the base class, or all have it.

    Args:
        task: Whose run.
        header: Our header of its message, if it is at hand.
    """
    extension = extension_of(task.app)
    if extension is None:
        return False
    if hasattr(task, "record_runs") or replaces(header):
        return True
    return extension.settings.record_all and not is_built_in(task.name)


def replaces(header: Any) -> bool:
    """Return whether a message goes on with a run that is recorded, in whose place its task put a canvas."""
    return isinstance(header, Mapping) and bool(header.get("replaces"))


def is_built_in(name: str) -> bool:
    """Return whether a task is one of Celery's own, or of this package."""
    return name.startswith(("celery.", "celery_stackstate."))


def is_recorded(extension: StackState, task: Any, header: Any = None) -> bool:
    """Return whether a run is recorded, by its task (None where it is not known) and our header of its message."""
    if not extension.enabled:
        return False
    if task is None or replaces(header):
        return True
    return getattr(task, "record_runs", extension.settings.record_all) and not is_built_in(task.name)


def recorded_soon(task: Any) -> bool:
    """Return whether a task lets its history be written in the background; it may not be known."""
    return getattr(task, "record_in_background", False) is True


def is_sampled(task: Any, run_id: str, header: Any = None) -> bool:
    """Return whether a run is recorded whatever becomes of it; every process comes to the same answer.

    Args:
        task: Whose run; None where it is not known, and then it is recorded.
        run_id: Which run.
        header: Our header of its message, which says so when its publisher did not know the task.
    """
    share = getattr(task, "record_sample", 1.0)
    if share >= 1.0 or (isinstance(header, Mapping) and (header.get("recorded") or header.get("replaces"))):
        return True
    return crc32(run_id.encode()) < share * 2**32
