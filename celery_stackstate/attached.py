"""Which app has which extension: the one list of a process, below all that needs to look one up."""

from __future__ import annotations

from typing import TYPE_CHECKING
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


def all_extensions() -> list[StackState]:
    """Return the extensions of all apps in this process."""
    return list(_attached.values())
