"""Whether what a test looks for can be there at all: an assertion that nothing could fail is an error of the test."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from celery.canvas import Signature

from celery_stackstate.fingerprint import signature
from celery_stackstate.recording import is_built_in
from celery_stackstate.testing.enqueued import Wanted


def name_of(task: Any) -> str:
    """Return the name of a task, of a signature, or what is one already.

    Raises:
        TypeError: It is none of these.
    """
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise TypeError(f"{task!r} is no task: give the task, its name, or a signature of it")
    return name


def check_task(name: str, task: Any) -> None:
    """Make sure that it is a task which is looked for, and nothing beside it.

    Raises:
        ValueError: It is a canvas, or another task of Celery's own; or a signature with arguments.
    """
    if is_built_in(name):
        raise ValueError(f"{name} is of Celery itself, and is not noted: look for the tasks that it is made of")
    if isinstance(task, Signature) and (task.args or task.kwargs):
        raise ValueError(f"the arguments of {task!r} are not compared: give them as args= and kwargs=")


def unknown_task(name: str, known: Iterable[str]) -> ValueError:
    """Return the error for the name of a task that the app does not have."""
    near = difflib.get_close_matches(name, [one for one in known if not is_built_in(one)], n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"the app has no task {name!r}{meant} (of one that only other processes have, give app.signature({name!r}))"
    )


def check_arguments(wanted: Wanted, body: Callable[..., Any]) -> None:
    """Make sure that a task takes the arguments that are looked for.

    Raises:
        ValueError: It takes no argument of such a name.
        TypeError: With `args` they are meant as a whole, and are not as the task takes them.
    """
    parameters = signature(body).parameters
    for name in wanted.kwargs or {}:
        if name not in parameters and not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            raise ValueError(f"{wanted.task} has no argument {name!r}; it has {', '.join(parameters) or 'none at all'}")
    if wanted.args is not None:
        try:
            signature(body).bind(*wanted.args, **(wanted.kwargs or {}))
        except TypeError as error:
            raise TypeError(f"{wanted.task} cannot be called with these arguments: {error}") from None
