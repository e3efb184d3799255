"""Publishing under an idempotency key: one message for many requests, or a message that follows another run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_stackstate.errors import (
    DuplicateRun,
    IdempotencyConflict,
    NewerFormat,
    StackStateError,
    StoreUnavailable,
    TooManyDeliveries,
)
from celery_stackstate.header import HEADER
from celery_stackstate.key_record import RESERVED, Request, Reservation, Ticket
from celery_stackstate.keys import ONE_RUN
from celery_stackstate.outcome import describe
from celery_stackstate.publishing import tidings
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.publishing.options import KeyOptions
from celery_stackstate.publishing.publication import Outgoing, Publication, may_be_sent
from celery_stackstate.publishing.request import (
    OWN_MESSAGE,
    make_request,
    of_message,
    refuse_old_protocol,
    refuse_what_a_key_cannot_do,
)
from celery_stackstate.receiving import INTERRUPTS

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)


def publish(outgoing: Outgoing, ours: KeyOptions) -> Any:
    """Publish a keyed request, if it creates a run; else return the handle of the run that has the key.

    A request that brings an id or callbacks of its own gets a message of its own even as a duplicate: a follower.
    """
    outgoing.extension.warn_about_default_store()
    if outgoing.options.get("task_id") is not None:
        outgoing = outgoing.with_options(task_id=str(outgoing.options["task_id"]))
    try:
        refuse_what_a_key_cannot_do(outgoing, ours)
        request = make_request(outgoing, ours)
    except StackStateError as error:
        return refuse(outgoing, error)
    return _published(outgoing, request, ours)


def publish_watched(outgoing: Outgoing) -> Any:
    """Publish a run without a key that is to be published again when it is lost: its record comes first."""
    run_id = str(outgoing.options.get("task_id") or uuid4())
    outgoing = outgoing.with_options(task_id=run_id)
    refuse_old_protocol(outgoing)
    request = Request(
        ONE_RUN,
        run_id,
        outgoing.envelope.name,
        fingerprint="",
        on_failure="keep",
        ttl=outgoing.extension.settings.idempotency_ttl,
        deliveries=getattr(outgoing.task, "max_deliveries", None),
        task_id=run_id,
        rerun=True,
        anew=not outgoing.is_dispatched,  # a caller may use an id again; what follows a run may be published twice
        **of_message(outgoing, needed_for="lost_policy='rerun'"),
    )
    return _published(outgoing, request, KeyOptions(run_id))


def recover(extension: StackState, store_key: bytes) -> None:
    """Publish the run of a key again when nobody is left who publishes or runs it; one that was begun too often fails.

    Raises:
        StoreUnavailable: The store did not answer.
        Exception: The broker did not take the message; the run stays as it was found.
    """
    keys = extension.key_protocol
    reservation = keys.revive(store_key)
    if reservation is None:
        _give_up(extension, store_key)
        return
    if reservation.record.envelope is None:
        keys.abandon(reservation)
        return
    republish(extension, reservation)


def _give_up(extension: StackState, store_key: bytes) -> None:
    """Record the failure of a run that was begun too often and is dead, if it is."""
    poisoned = extension.key_protocol.poisoned(store_key, describe(TooManyDeliveries()))
    if poisoned is not None:
        tidings.poisoned(extension, poisoned)


def republish(extension: StackState, reservation: Reservation) -> None:
    """Publish a run again that was revived, as its envelope says it was asked for."""
    record, ticket = reservation.record, reservation.ticket
    assert record.envelope is not None  # noqa: S101 - the callers looked
    envelope = Envelope.load(record.envelope)
    header = {"id": ticket.task_id, "after_epoch": tidings.lost(extension, reservation.lost), **_parts(reservation)}
    headers = {**envelope.options.get("headers", {}), HEADER: header}
    options = {**envelope.options, "headers": headers, "task_id": ticket.task_id}
    try:
        extension.app.send_task(envelope.name, envelope.args, envelope.kwargs, **options)
    except BaseException:
        _quietly(extension.key_protocol.abandon, reservation)
        raise
    _quietly(extension.key_protocol.confirm, reservation)


def refuse(outgoing: Outgoing, error: StackStateError) -> Any:
    """Raise `error`; where Celery publishes what follows a task that is done, that run fails of it instead."""
    if not outgoing.is_dispatched or (outgoing.task is not None and not hasattr(outgoing.task, "record_runs")):
        raise error
    run_id = str(outgoing.options.get("task_id") or uuid4())
    refused = {"error": type(error).__name__, "message": str(error)}
    publication = Publication(outgoing.extension, outgoing.task, run_id, {"refused": refused})
    return outgoing.with_options(task_id=run_id).publish(publication)


# -- what becomes of a request -------------------------------------------------------------------------------------


def _published(outgoing: Outgoing, request: Request, ours: KeyOptions) -> Any:
    """Reserve, and do what the answer calls for."""
    extension = outgoing.extension
    outgoing = outgoing.with_options(result_cls=outgoing.result_class)
    try:
        if request.rerun:
            extension.key_protocol.watch(request)
        reservation = extension.key_protocol.reserve(request)
        if reservation.record.state == RESERVED and not reservation.created:
            extension.key_protocol.watch(request)  # whoever is publishing it may have died, and nobody may call again
        if reservation.poisoned:
            _give_up(extension, reservation.ticket.store_key)
    except StoreUnavailable as error:
        if extension.settings.publish_outage == "raise" and not outgoing.is_dispatched:
            raise
        return publish_unreserved(outgoing, request, error)
    except NewerFormat as error:
        return refuse(outgoing, error)
    except (IdempotencyConflict, DuplicateRun) as error:
        name = "mismatch" if isinstance(error, IdempotencyConflict) else "duplicate"
        tidings.duplicate(extension, outgoing.envelope.name, error.task_id, ours.idempotency_key, name=name)
        return refuse(outgoing, error)
    if reservation.created:
        return _created(outgoing, reservation)
    return _duplicate(outgoing, reservation.ticket, ours.on_duplicate)


def _duplicate(outgoing: Outgoing, leader: Ticket, on_duplicate: str) -> Any:
    tidings.duplicate(outgoing.extension, leader.task, leader.task_id, leader.key)
    if on_duplicate == "raise":
        text = f"the idempotency key {leader.key!r} belongs to the run {leader.task_id} of {leader.task}"
        return refuse(outgoing, DuplicateRun(text, key=leader.key, task_id=leader.task_id))
    if _has_own_message(outgoing, leader):
        return _follow(outgoing, leader)
    return _handle(outgoing, leader, created=False)


def _created(outgoing: Outgoing, reservation: Reservation) -> Any:
    """Publish the run of a reservation: at once, or when the transaction is committed that the reservation joined."""
    if outgoing.extension.store.in_transaction():
        later = outgoing.for_later()
        _when_committed(outgoing, reservation.ticket, lambda: _publish_committed(later, reservation))
        result = None
    else:
        result = _publish_created(outgoing, reservation)
    if reservation.revived and _has_own_message(outgoing, reservation.ticket):
        return _follow(outgoing, reservation.ticket)
    if result is None:
        return _handle(outgoing, reservation.ticket, created=True)
    result.created, result._ticket = True, reservation.ticket
    return result


def _publish_committed(outgoing: Outgoing, reservation: Reservation) -> None:
    """Publish, unless a savepoint that was set by hand has taken the reservation back, of which no hook is told."""
    try:
        if outgoing.extension.key_protocol.record(reservation.ticket.store_key) is None:
            return
    except (StoreUnavailable, NewerFormat):
        pass  # its worker finds out
    _publish_created(outgoing, reservation)


def _publish_created(outgoing: Outgoing, reservation: Reservation) -> Any:
    if reservation.revived and reservation.record.envelope is not None:
        return republish(outgoing.extension, reservation)
    return _publish_reserved(_as_leader(outgoing, reservation), reservation)


def _as_leader(outgoing: Outgoing, reservation: Reservation) -> Outgoing:
    """Return the message that begins the run. That of another, whose own is lost, goes without who waits for it."""
    ticket = reservation.ticket
    if reservation.revived and _has_own_message(outgoing, ticket):
        outgoing = outgoing.with_options(**dict.fromkeys(OWN_MESSAGE))
    if reservation.record.window is not None:
        outgoing = outgoing.with_options(countdown=reservation.record.window.delay / 1_000_000, eta=None)
    return outgoing.with_options(task_id=ticket.task_id)


def _publish_reserved(outgoing: Outgoing, reservation: Reservation) -> Any:
    keys, ticket = outgoing.extension.key_protocol, reservation.ticket
    publication = Publication(outgoing.extension, outgoing.task, ticket.task_id, _parts(reservation))
    publication.after_epoch = tidings.lost(outgoing.extension, reservation.lost)
    publication.in_background = True
    try:
        result = outgoing.publish(publication)
    except BaseException as error:
        if not reservation.revived and not may_be_sent(outgoing, publication, error):
            _quietly(keys.release, reservation)
            raise
        tidings.replaced(outgoing.extension, reservation)
        _quietly(keys.confirm if publication.sent else keys.abandon, reservation)
        raise
    tidings.replaced(outgoing.extension, reservation)
    _confirm(outgoing.extension, reservation)
    return result


def _confirm(extension: StackState, reservation: Reservation) -> None:
    """Note in the background that the message is out; at once where a transaction of the caller holds the key."""
    confirm = extension.key_protocol.confirm
    if extension.store.in_transaction():
        _quietly(confirm, reservation)
    else:
        extension.recorder.together(confirm, reservation)


def _parts(reservation: Reservation) -> dict[str, Any]:
    """Return what the message's header says of the key. A debounced run is claimed under its own id."""
    ticket = reservation.ticket
    if reservation.record.window is None:
        return {"ticket": ticket.dump()}
    return {"ticket": _of_one_run(ticket).dump(), "window": ticket.dump()}


def _of_one_run(ticket: Ticket) -> Ticket:
    return replace(ticket, scope=ONE_RUN, key=ticket.task_id)


def _when_committed(outgoing: Outgoing, ticket: Ticket, publish: Callable[[], Any]) -> None:
    """Publish when the caller's transaction is committed. Then nobody is there any more to take an error."""

    def work() -> None:
        try:
            publish()
        except INTERRUPTS:
            raise
        except Exception as error:
            logger.error(
                "%s[%s] of the idempotency key %r could not be published when its transaction was committed; the same "
                "call again makes up for it: %r",
                outgoing.envelope.name,
                ticket.task_id,
                ticket.key,
                error,
            )

    outgoing.extension.store.on_commit(work)


def _has_own_message(outgoing: Outgoing, leader: Ticket) -> bool:
    if outgoing.options.get("task_id") == leader.task_id:
        return False
    return any(outgoing.options.get(name) for name in OWN_MESSAGE)


def _follow(outgoing: Outgoing, leader: Ticket) -> Any:
    """Publish a message of its own that adopts the outcome of the run that has the key."""
    run_id = str(outgoing.options.get("task_id") or uuid4())
    publication = Publication(outgoing.extension, outgoing.task, run_id, {"follow": leader.dump()})
    return _publish_ticketed(outgoing.with_options(task_id=run_id), publication, leader, created=False)


def publish_unreserved(outgoing: Outgoing, request: Request, error: StackStateError) -> Any:
    """Publish without a reservation, flagged: the worker finds out whether another run has the key.

    A debounced request without a window becomes a run of its own after its delay: it leaves the key to the next one.
    """
    keys = outgoing.extension.key_protocol
    run_id = outgoing.options.get("task_id") or request.task_id or str(uuid4())
    ticket = replace(keys.unreserved(request), task_id=run_id)
    logger.warning("The idempotency key %r could not be reserved, its worker decides: %s", ticket.key, error)
    if request.window is not None:
        ticket = _of_one_run(ticket)
        outgoing = outgoing.with_options(countdown=request.window.delay / 1_000_000, eta=None)
    parts: dict[str, Any] = {"ticket": ticket.dump()}
    publication = Publication(outgoing.extension, outgoing.task, ticket.task_id, parts)
    return _publish_ticketed(outgoing.with_options(task_id=ticket.task_id), publication, ticket, created=True)


def _publish_ticketed(outgoing: Outgoing, publication: Publication, ticket: Ticket, *, created: bool) -> Any:
    """Publish what has reserved nothing: at once, or when the caller's transaction is committed."""
    if outgoing.extension.store.in_transaction():
        later, own = outgoing.for_later(), replace(ticket, task_id=str(publication.run_id))
        _when_committed(outgoing, own, lambda: later.publish(publication))
        result = _handle(outgoing, own, created=created)
    else:
        result = outgoing.publish(publication)
    result.created, result._ticket = created, ticket
    return result


def _handle(outgoing: Outgoing, ticket: Ticket, *, created: bool) -> Any:
    result = outgoing.result_class(ticket.task_id)
    result.created, result._ticket = created, ticket
    return result


def _quietly(change: Callable[[Reservation], None], reservation: Reservation) -> None:
    try:
        change(reservation)
    except StoreUnavailable as error:
        logger.warning("The idempotency key %r stays reserved for now: %s", reservation.ticket.key, error)
