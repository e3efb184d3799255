"""Which app has which extension: the one list of a process, below all that needs to look one up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from celery import Celery

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

_attached: WeakValueDictionary[int, StackState] = WeakValueDictionary()


def remember(extension: StackState) -> None:
    """Note that `extension` is attached to its app; the app keeps it alive."""
    extension.app._stackstate = extension
    _attached[id(extension.app)] = extension


def extension_of(app: Celery) -> StackState | None:
    """Return the extension that is attached to `app`, or None."""
    found: StackState | None = app.__dict__.get("_stackstate")
    return found


def working_extension_of(app: Celery) -> StackState | None:
    """Return the extension that is attached to `app` and not switched off, or None."""
    found = extension_of(app)
    return found if found is not None and found.enabled else None


def attached_to(task: Any) -> StackState:
    """Return the extension of a task of which it is known that its app has one."""
    found = extension_of(task.app)
    assert found is not None  # noqa: S101 - `is_ours` said so, or binding the task attached it
    return found


def task_named(app: Celery, name: Any) -> Any:
    """Return the task of a name, None for one that this process does not have.

    Celery makes an app's tasks late, as it finalizes the app; the project may have that left to itself.
    """
    return (app.tasks if app.finalized or app.autofinalize else app._tasks).get(name)


def all_extensions() -> list[StackState]:
    """Return the extensions of all apps in this process."""
    return list(_attached.values())
