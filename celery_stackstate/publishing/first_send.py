"""The first message that an app sends by name, when nothing has made its tasks yet, and so attached the extension.

Celery makes an app's tasks late, and sending by name needs none of them. So `Celery.send_task` looks, for each app that
has no extension yet, whether it is to have one: because a task was declared with the base class, or an option is ours.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import TYPE_CHECKING, Any

from celery import Celery, _state

from celery_stackstate.attached import extension_of
from celery_stackstate.publishing.options import OPTION_NAMES
from celery_stackstate.publishing.publication import is_let_through
from celery_stackstate.publishing.send import send

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


def attach(base: type[Any], extend: Callable[[Celery], StackState]) -> None:
    """Let all apps send by `send` that have tasks of the class `base`, or use an option of ours.

    Args:
        base: Our base class of tasks.
        extend: Gives an app its extension.
    """
    original = Celery.send_task
    if getattr(original, "_stackstate", None) is base:
        return

    @wraps(original)
    def send_task(self: Celery, name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        extension = extension_of(self)
        if is_let_through(extension):
            return original(self, name, args, kwargs, *rest, **options)  # `send` has let it through
        if extension is None and (not set(OPTION_NAMES).isdisjoint(options) or _uses(self, base)):
            if self.autofinalize:
                self.finalize()
            extension = extend(self)
        if extension is None:
            return original(self, name, args, kwargs, *rest, **options)
        return send(extension, partial(original, self), name, args, kwargs, *rest, **options)

    send_task._stackstate = base  # type: ignore[attr-defined]
    Celery.send_task = send_task


def _uses(app: Celery, base: type[Any]) -> bool:
    """Return whether tasks of the class will be made for an app. Nothing is made, and nothing imported, to know that.

    Once they are made the app has its extension, and so none of them are left.
    """
    return not app.finalized and any(isinstance(kind, type) and issubclass(kind, base) for kind in _kinds(app))


def _kinds(app: Celery) -> Iterator[Any]:
    """Yield the classes that the tasks of an app are declared with: of the app, of its own tasks, of shared ones."""
    yield app.__dict__.get("Task")
    yield _imported(app.task_cls)
    for promise in list(app._pending):
        yield getattr(promise, "_Proxy__kwargs", {}).get("base")
    for finalizer in list(_state._on_app_finalizers):
        names = getattr(getattr(finalizer, "__code__", None), "co_freevars", ())
        options = finalizer.__closure__[names.index("options")].cell_contents if "options" in names else None
        yield options.get("base") if isinstance(options, dict) else None


def _imported(task_class: Any) -> Any:
    """Return a class that may be given by its path; None while its module is not imported."""
    if not isinstance(task_class, str):
        return task_class
    module, _, name = task_class.replace(":", ".").rpartition(".")
    return getattr(sys.modules.get(module), name, None)
