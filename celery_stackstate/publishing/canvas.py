"""Keys of canvases: a group or chord has one key, and each of its tasks another that is derived from it.

Celery hands the options of a group or chord to each of its tasks, and when a task is published nobody can tell whose
option it was. So keys are derived from the canvas as it was written, before Celery flattens groups in groups and makes
chords of the groups in chains: the caller's call publishes a copy whose tasks have keys of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from celery import canvas
from celery.canvas import Signature

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.keys import check_key

KEY = "idempotency_key"
CANVASES = ("group", "chord", "chain")


def attach() -> None:
    """Let the groups, chords and chains of this process derive the keys of their tasks; doing it again does nothing."""
    for kind in (canvas.group, canvas.chord, canvas._chain):
        _wrap(kind, "apply_async", _deriving)
    for kind in (canvas.xmap, canvas.xstarmap, canvas.chunks):
        _wrap(kind, "apply_async", _refusing)
    _wrap(canvas.chord, "__init__", _settling)
    _wrap(canvas, "maybe_unroll_group", _unrolling)


def _wrap(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    original = getattr(owner, name)
    if not hasattr(original, "_stackstate"):
        wrapped: Any = wraps(original)(wrap(original))
        wrapped._stackstate = True
        setattr(owner, name, wrapped)


def _deriving(original: Any) -> Any:
    def apply_async(self: Any, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        given_body = kwargs.get("body") if kwargs and self.subtask_type == "chord" else None
        if KEY not in options and not _has_keys([self, given_body]):
            return original(self, args, kwargs, *rest, **options)
        own, parts = {**_ours(self.options), **_ours(options)}, {}
        if given_body:
            parts, kwargs = {"body": given_body}, {name: value for name, value in kwargs.items() if name != "body"}
        options = {name: value for name, value in options.items() if not _is_ours(name)}
        return original(_keyed(_copy(self, own, **parts), {}), args, kwargs, *rest, **options)

    return apply_async


def _refusing(original: Any) -> Any:
    def apply_async(self: Any, *args: Any, **options: Any) -> Any:
        _check(self.task, {**_ours(self.options), **_ours(options)})
        return original(self, *args, **options)

    return apply_async


def _settling(original: Any) -> Any:
    def __init__(self: Any, header: Any, *rest: Any, **options: Any) -> None:
        original(self, _settled(header), *rest, **options)

    return __init__


def _unrolling(original: Any) -> Any:
    def maybe_unroll_group(group: Any) -> Any:
        return group if original(group) is group else original(_settled(group))

    return maybe_unroll_group


def _settled(part: Any) -> Any:
    """Move the key of a group to its tasks: Celery is going to take them out of it, and drops its options."""
    return _keyed(part, {}) if isinstance(part, canvas.group) and KEY in part.options else part


def _is_ours(name: str) -> bool:
    return name.startswith(("idempotency_", "debounce")) or name == "on_duplicate"


def _ours(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return our options. One that is None is not given, except for the key: None says that there is no key."""
    return {name: value for name, value in options.items() if _is_ours(name) and (value is not None or name == KEY)}


def _has_keys(part: Any) -> bool:
    """Return whether a canvas in `part` has a key. What Celery would take from a generator is not looked at."""
    if type(part) in (list, tuple):
        return any(map(_has_keys, part))
    if not isinstance(part, dict) or part.get("subtask_type") not in CANVASES:
        return False
    return KEY in part["options"] or any(_has_keys(part["kwargs"].get(name)) for name in ("tasks", "header", "body"))


def _keyed(part: Any, given: Mapping[str, Any], app: Any = None) -> Any:
    """Return a copy of `part` whose tasks have keys of their own. What it says itself goes before what is given."""
    sig = part if isinstance(part, Signature) else Signature.from_dict(part, app=app)
    kind, ours = sig.subtask_type, {**given, **_ours(sig.options)}
    _check(sig.task, ours)
    if kind == "chain":
        turns = bool(sig.tasks) and sig.tasks[0].get("subtask_type") in ("group", "chord")  # or a chord's body lacks it
        steps = [_keyed(step, {} if n else ours if turns else given, sig._app) for n, step in enumerate(sig.tasks)]
        return _copy(sig, ours if turns else _ours(sig.options), tasks=steps)
    if kind not in CANVASES:
        return _copy(sig, ours)
    kept = {} if KEY in ours else ours
    if kind == "group":
        return _copy(sig, kept, tasks=_numbered(sig.tasks, ours, sig._app))
    body = None if sig.body is None else _keyed(sig.body, _derived(ours, "body"), sig._app)
    tasks = sig.clone().tasks  # not in a group any more, in which freezing has put them
    return _copy(sig, kept, header=_numbered(tasks, ours, sig._app), body=body)


def _numbered(tasks: Any, ours: Mapping[str, Any], app: Any) -> Any:
    return type(tasks)(_keyed(task, _derived(ours, number), app) for number, task in enumerate(tasks))


def _derived(ours: Mapping[str, Any], name: int | str) -> dict[str, Any]:
    if KEY not in ours:
        return {}
    return {**ours, KEY: None if ours[KEY] is None else check_key(f"{ours[KEY]}/{name}", KEY)}


def _check(name: str, ours: Mapping[str, Any]) -> None:
    """Refuse what a key cannot be combined with in a canvas, before anything of it is published."""
    if ours.get(KEY) is None or not name.startswith("celery.") or name == "celery.chain":
        return
    check_key(ours[KEY], KEY)
    if name not in ("celery.group", "celery.chord"):  # Celery takes no options of chunks, nor until 5.6 of a map
        raise ConfigurationError(f"{KEY} cannot be used with {name}, which runs other tasks; use a group")
    for option in ("debounce", "debounce_max_wait", *(["idempotency_fingerprint"] if name == "celery.chord" else [])):
        if option in ours:  # a fingerprint is a function, which does not travel to the worker that publishes the body
            raise ConfigurationError(f"{option} cannot be given to a {name[7:]}, only to a single task")


def _copy(sig: Any, ours: Mapping[str, Any], **parts: Any) -> Any:
    """Return a copy with these of our options, and with these parts."""
    copy = sig.clone()
    rest = {name: value for name, value in copy.options.items() if not _is_ours(name)}
    copy.update(args=sig.args, immutable=sig.immutable, options={**rest, **ours})
    copy["kwargs"] = {**copy["kwargs"], **parts}
    return copy
