"""What a keyed call asks of the store, from its options and those of its task; what cannot be asked is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import _state
from kombu.utils import json as kombu_json

from celery_stackstate.attached import task_named
from celery_stackstate.errors import ConfigurationError, NotInARun
from celery_stackstate.fingerprint import bind_arguments, fingerprint, without_defaults
from celery_stackstate.key_record import Request, Window
from celery_stackstate.keys import APP_SCOPE, scope_of, ttl_micros
from celery_stackstate.publishing.options import KeyOptions, attribute
from celery_stackstate.publishing.publication import Outgoing

#: Options that make a request one that somebody waits for under its own id, or that has callbacks of its own.
OWN_MESSAGE = ("task_id", "group_id", "chord", "chain", "link", "link_error")


def is_watched(outgoing: Outgoing) -> bool:
    """Return whether the reaper looks after runs of the task, also of those without a key."""
    return outgoing.task is not None and getattr(outgoing.task, "lost_policy", "mark") == "rerun"


def refuse_hidden_keys(outgoing: Outgoing) -> None:
    """Refuse `.map`, `.starmap` and `.chunks` of a task with a key: they run its body without publishing it."""
    if outgoing.envelope.name not in ("celery.map", "celery.starmap"):
        return
    inner = outgoing.envelope.kwargs.get("task") or {}
    task = task_named(outgoing.extension.app, inner.get("task"))
    if (inner.get("options") or {}).get("idempotency_key") or attribute(task, "idempotency_key"):
        raise ConfigurationError(
            f"map, starmap and chunks call {inner.get('task')} without publishing it, so its idempotency_key would not "
            f"count; use a group"
        )


def make_request(outgoing: Outgoing, ours: KeyOptions) -> Request:
    """Return what a keyed call asks of the store."""
    extension, envelope, task = outgoing.extension, outgoing.envelope, outgoing.task
    micros = ttl_micros(ours.idempotency_ttl)
    own_id = outgoing.options.get("task_id")
    rerun, window = is_watched(outgoing), _window(ours)
    return Request(
        scope=_scope(outgoing, ours.idempotency_scope),
        key=ours.idempotency_key,
        task=envelope.name,
        fingerprint=_fingerprint(outgoing, ours),
        on_failure=ours.idempotency_on_failure,
        ttl=extension.settings.idempotency_ttl if micros is None else micros / 1_000_000,
        deliveries=getattr(task, "max_deliveries", None),
        rerun=rerun,
        task_id=None if own_id is None else str(own_id),
        replaces=ours.on_duplicate == "replace",
        window=window,
        **of_message(outgoing, needed_for="lost_policy='rerun'" if rerun else "debounce" if window else None),
    )


def of_message(outgoing: Outgoing, *, needed_for: str | None) -> dict[str, Any]:
    """Return what a request says of its message: its times, and what publishes it again if that may be kept."""
    moments = outgoing.envelope.moments()
    keeps = getattr(outgoing.task, "keep_payload", None) is not False
    return {
        "expires": moments.get("expires"),
        "not_before": moments.get("eta", 0),
        "envelope": outgoing.envelope.dump(needed_for=needed_for) if keeps else None,
    }


def _scope(outgoing: Outgoing, scope: str) -> str:
    if scope != "run":
        return APP_SCOPE if scope == "app" else scope_of("task", outgoing.envelope.name)
    parent = _run_above(outgoing.extension.app)
    if outgoing.is_dispatched:
        raise ConfigurationError(
            f"idempotency_scope='run' is for tasks that a run calls; {outgoing.envelope.name} is called by what comes "
            f"before it in its canvas, which is another run each time"
        )
    if parent is None or not parent.request.id:
        raise NotInARun(
            f"idempotency_scope='run' is for tasks that are called in a run of another: {outgoing.envelope.name} was "
            f"called outside of one"
        )
    return scope_of("run", f"{parent.request.id}:{outgoing.envelope.name}")


def _run_above(app: Any) -> Any:
    """Return the task in whose run this is: a run that it applies in its body has another id in each attempt."""
    for task in reversed(_state._task_stack.stack or ()):
        if not task.request.called_directly and not task.request.is_eager:
            return task
    return app.current_worker_task


def _fingerprint(outgoing: Outgoing, ours: KeyOptions) -> str:
    envelope, task, chosen = outgoing.envelope, outgoing.task, ours.idempotency_fingerprint
    arguments: Mapping[str, Any] | None = None
    if chosen is not None:
        try:
            arguments = {"chosen": chosen(*envelope.args, **envelope.kwargs)}
        except Exception as error:
            raise ConfigurationError(f"the idempotency_fingerprint of {envelope.name} raised {error!r}") from error
    elif task is not None:
        bound = bind_arguments(task.run, envelope.args, envelope.kwargs)
        arguments = without_defaults(task.run, bound, kombu_json.dumps)
    return fingerprint(envelope.name, arguments, envelope.args, envelope.kwargs, kombu_json.dumps)


def _window(ours: KeyOptions) -> Window | None:
    if ours.debounce is None:
        return None
    longest = ours.debounce_max_wait or 10 * ours.debounce
    return Window(round(ours.debounce * 1_000_000), round(max(longest, ours.debounce) * 1_000_000))


def refuse_what_a_key_cannot_do(outgoing: Outgoing, ours: KeyOptions) -> None:
    """Raise ConfigurationError for a call whose key nobody could keep the promise of."""
    name, task = outgoing.envelope.name, outgoing.task
    if name.startswith("celery."):
        raise ConfigurationError(f"idempotency_key cannot be used with {name}, which runs other tasks; key those tasks")
    if task is not None and not hasattr(task, "record_runs"):
        raise ConfigurationError(f"idempotency_key needs {name} to be a StateTask, for a worker to keep its promise")
    alone = (*OWN_MESSAGE, "countdown", "eta", "expires")
    if ours.debounce is not None and any(outgoing.options.get(option) for option in alone):
        raise ConfigurationError(f"debounce cannot be combined with {', '.join(alone)}: one run answers many requests")
    refuse_old_protocol(outgoing)


def refuse_old_protocol(outgoing: Outgoing) -> None:
    """Raise ConfigurationError where messages have no headers."""
    if outgoing.extension.app.conf.task_protocol != 2:
        raise ConfigurationError("idempotency_key needs task_protocol 2, whose messages have headers")
