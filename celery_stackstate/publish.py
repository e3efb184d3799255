"""Publishing: every message of an app with the extension passes here, whoever sends it and by whatever call.

A message gets a header that says when it was enqueued and, with an idempotency key, which run it belongs to. Our
options are taken out before Celery sees them, so that they never reach the broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

from kombu.exceptions import EncodeError
from kombu.utils import json as kombu_json

from celery_stackstate import facts
from celery_stackstate.errors import ConfigurationError, DuplicateRun, StoreUnavailable
from celery_stackstate.facts import now_micros
from celery_stackstate.fingerprint import bind_arguments, fingerprint
from celery_stackstate.header import HEADER, read_ticket
from celery_stackstate.key_record import Record, Reservation, Ticket
from celery_stackstate.keys import APP_SCOPE, check_key, scope_of, ttl_micros
from celery_stackstate.records import LOST, micros_of
from celery_stackstate.stores.base import RunFacts

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

CANVAS_OPTIONS = ("group_id", "chord", "chain")


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """The options of `apply_async` that are ours."""

    idempotency_key: str | None = None
    idempotency_ttl: float | None = None
    idempotency_scope: str = "task"
    idempotency_on_failure: str = "release"
    on_duplicate: str = "return"


OPTION_NAMES = tuple(field.name for field in fields(KeyOptions))
_CHOICES = {
    "idempotency_scope": ("task", "app"),
    "idempotency_on_failure": ("release", "keep"),
    "on_duplicate": ("return", "raise"),
}


@dataclass(slots=True)
class Publication:
    """One publish under way in this context, for the signal receivers that see it."""

    extension: StackState
    task: Any
    ticket: Ticket | None = None
    after_epoch: int = 0
    queue: str | None = None
    stamped: bool = False


class HeldKey(Protocol):
    """The key of the run whose body is running in this context."""

    ticket: Ticket

    def pass_on(self) -> None:
        """Record that the run goes on with a message that is about to be published."""

    def fail(self) -> None:
        """Record that the run has failed."""


held_key: ContextVar[HeldKey | None] = ContextVar("stackstate_held_key", default=None)
_current: ContextVar[Publication | None] = ContextVar("stackstate_publication", default=None)


def current() -> Publication | None:
    """Return the publish under way in this context, or None."""
    return _current.get()


def attach(extension: StackState) -> None:
    """Let every publish of the extension's app pass through `send`."""
    original = extension.app.send_task

    def send_task(name: str, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
        return send(extension, original, name, args, kwargs, *rest, **options)

    extension.app.send_task = send_task


def send(
    extension: StackState,
    original: Callable[..., Any],
    name: str,
    args: Any,
    kwargs: Any,
    *rest: Any,
    **options: Any,
) -> Any:
    """Publish as `Celery.send_task` does, under an idempotency key if the options hold one."""
    ours, options = take_options(options)
    task = options.get("task_type") or extension.app._tasks.get(name)
    carried = _carried_ticket(options)
    _refuse_keys_further_on(options)
    publication = Publication(extension, task, carried)

    def publish() -> Any:
        with _publishing(publication):
            return original(name, args, kwargs, *rest, **options)

    if carried is not None:
        return _publish_carried(carried, publish)
    if ours.idempotency_key is None:
        return publish()
    _refuse_what_a_key_cannot_do(extension, name, task, options)
    extension.warn_about_default_store()
    reservation = _reserve(extension, ours, name, task, args or (), kwargs or {}, options)
    if not reservation.created:
        return _duplicate(extension, reservation, task, ours.on_duplicate, options)
    options["task_id"] = reservation.ticket.task_id
    publication.ticket = reservation.ticket
    publication.after_epoch = _note_lost(extension, reservation)
    result = _publish_reserved(publication, reservation, publish)
    result.created = True
    return result


def take_options(options: Mapping[str, Any]) -> tuple[KeyOptions, dict[str, Any]]:
    """Split our options off, checked; an option that is None counts as not given.

    Raises:
        ConfigurationError: An option has an unknown value, or needs a key that was not given.
        InvalidKey: The key cannot be one.
    """
    mine = {name: options[name] for name in OPTION_NAMES if options.get(name) is not None}
    rest = {name: value for name, value in options.items() if name not in OPTION_NAMES}
    unknown = [name for name in rest if name.startswith("idempot")]
    if unknown:  # Celery would take it for a property of the message, and nobody would miss the promise
        raise ConfigurationError(f"{unknown[0]} is not an option; there are {', '.join(OPTION_NAMES)}")
    for name, choices in _CHOICES.items():
        if name in mine and mine[name] not in choices:
            raise ConfigurationError(f"{name} must be {' or '.join(map(repr, choices))}, not {mine[name]!r:.80}")
    ttl_micros(mine.get("idempotency_ttl"))
    if "idempotency_key" in mine:
        check_key(mine["idempotency_key"], "idempotency_key")
    elif mine:
        raise ConfigurationError(f"{', '.join(mine)} was given without an idempotency_key")
    return KeyOptions(**mine), rest


def _refuse_what_a_key_cannot_do(extension: StackState, name: str, task: Any, options: Mapping[str, Any]) -> None:
    if name.startswith("celery."):
        raise ConfigurationError(f"idempotency_key cannot be used with {name}, which runs other tasks; key those tasks")
    if task is not None and not hasattr(task, "record_runs"):
        raise ConfigurationError(f"idempotency_key needs {name} to be a StateTask, for a worker to keep its promise")
    if extension.app.conf.task_protocol != 2:
        raise ConfigurationError("idempotency_key needs task_protocol 2, whose messages have headers")
    for option in CANVAS_OPTIONS:
        if options.get(option):
            raise ConfigurationError(
                f"idempotency_key cannot be given to a member of a canvas ({option}): its siblings would share it. "
                f"Publish the task by itself, or start the canvas from a task that has a key"
            )
    if options.get("task_id"):
        raise ConfigurationError("give task_id or idempotency_key, not both: with a key the id is derived from it")


def _refuse_keys_further_on(options: Mapping[str, Any]) -> None:
    """Refuse a key on what follows before the first part is out: in the worker it would fail a task that is done."""
    if any(_holds_key(options.get(name)) for name in ("chain", "chord", "link", "link_error")):
        raise ConfigurationError(
            "idempotency_key cannot be given to a member of a canvas, nor to a link: its id is fixed before it is "
            "published. Start the canvas from a task that has a key"
        )


def _holds_key(part: Any) -> bool:
    if isinstance(part, (list, tuple)):
        return any(map(_holds_key, part))
    if not isinstance(part, Mapping):
        return False
    inner = part.get("kwargs") or {}
    return bool((part.get("options") or {}).get("idempotency_key")) or any(
        _holds_key(inner.get(name)) for name in ("tasks", "header", "body")
    )


def _reserve(
    extension: StackState,
    ours: KeyOptions,
    name: str,
    task: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Reservation:
    arguments = bind_arguments(None if task is None else task.run, args, kwargs)
    ttl = ours.idempotency_ttl
    micros = ttl_micros(ttl)
    return extension.idempotency.reserve(
        scope=APP_SCOPE if ours.idempotency_scope == "app" else scope_of("task", name),
        key=str(ours.idempotency_key),
        task=name,
        fingerprint=fingerprint(name, arguments, kombu_json.dumps),
        on_failure=ours.idempotency_on_failure,
        ttl=extension.settings.idempotency_ttl if micros is None else micros / 1_000_000,
        expires=_expiry_micros(options.get("expires")),
    )


def _expiry_micros(expires: Any) -> int | None:
    if isinstance(expires, (int, float)):
        return now_micros() + round(expires * 1_000_000)
    return micros_of(expires)


def _publish_reserved(publication: Publication, reservation: Reservation, publish: Callable[[], Any]) -> Any:
    keys = publication.extension.idempotency
    try:
        result = publish()
    except BaseException as error:
        never_sent = isinstance(error, EncodeError) or not publication.stamped
        _quietly(keys.release if never_sent else keys.abandon, reservation)
        raise
    _quietly(keys.confirm, reservation)
    return result


def _publish_carried(ticket: Ticket, publish: Callable[[], Any]) -> Any:
    """Publish the message with which a run goes on: the key passes to it first, so that it is not taken for a copy."""
    held = held_key.get()
    if held is None or held.ticket != ticket:
        return publish()
    held.pass_on()
    try:
        return publish()
    except BaseException:
        held.fail()
        raise


def _quietly(change: Callable[[Reservation], None], reservation: Reservation) -> None:
    try:
        change(reservation)
    except StoreUnavailable as error:
        logger.warning("The idempotency key %r stays reserved for now: %s", reservation.ticket.key, error)


def _duplicate(
    extension: StackState, reservation: Reservation, task: Any, on_duplicate: str, options: Mapping[str, Any]
) -> Any:
    ticket = reservation.ticket
    if on_duplicate == "raise":
        raise DuplicateRun(
            f"the idempotency key {ticket.key!r} belongs to the run {ticket.task_id} of {ticket.task}",
            key=ticket.key,
            task_id=ticket.task_id,
        )
    make = options.get("result_cls") or (task.AsyncResult if task is not None else extension.app.AsyncResult)
    result = make(ticket.task_id)
    result.created = False
    return result


def _note_lost(extension: StackState, reservation: Reservation) -> int:
    """Record that the attempt is lost that this publish replaces; return its epoch."""
    lost = reservation.lost
    if lost is None:
        return 0
    record_lost(extension, lost)
    return lost.epoch


def record_lost(extension: StackState, lost: Record) -> None:
    """Record in the history that the attempt of a RUNNING record is lost: its process is gone."""
    extension.recorder.record(
        facts.ended(
            lost.ticket.task_id,
            RunFacts(task=lost.ticket.task, key=lost.ticket.key),
            lost.epoch,
            LOST,
            execution=lost.token,
            worker=lost.worker,
            keep=extension.settings.retention,
            data={"error_type": "Lost", "error": f"{lost.worker} (pid {lost.pid}) is gone; nobody is left who runs it"},
        )
    )


@contextmanager
def _publishing(publication: Publication) -> Iterator[None]:
    token = _current.set(publication)
    try:
        yield
    finally:
        _current.reset(token)


def _carried_ticket(options: Mapping[str, Any]) -> Ticket | None:
    """Return the ticket of a message that goes on with a run: a retry, a copy sent again, or what replaces the task."""
    carried = (options.get("headers") or {}).get(HEADER)
    ticket = read_ticket(carried)
    held = held_key.get()
    for known in (ticket, held.ticket if held is not None else None):
        if known is not None and known.task_id == options.get("task_id"):
            return known
    return None
