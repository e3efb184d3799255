"""Publishing: every message of an app with the extension passes here, whoever sends it and by whatever call.

A message gets a header that says when it was enqueued and, with an idempotency key, which run it belongs to. Our
options are taken out before Celery sees them, so that they never reach the broker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery_stackstate.attached import task_named
from celery_stackstate.errors import StackStateError
from celery_stackstate.header import HEADER, is_repetition, read_ticket
from celery_stackstate.positional import by_name
from celery_stackstate.publishing import keyed, off
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.publishing.options import complete, take_options
from celery_stackstate.publishing.publication import Outgoing, Publication, held_key
from celery_stackstate.publishing.request import is_watched, refuse_hidden_keys

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


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
    """Publish as `Celery.send_task` does, under an idempotency key if the options or the task have one."""
    mine, options = take_options(by_name(original, "kwargs", rest, options))
    task = options.get("task_type") or task_named(extension.app, name)
    serializer = options.get("serializer") or extension.app.conf.task_serializer
    outgoing = Outgoing(extension, original, task, Envelope(name, args or (), kwargs or {}, options, serializer))
    if _goes_on(outgoing, mine):
        return _publish_carried(outgoing) if extension.enabled else outgoing.pass_through()
    refuse_hidden_keys(outgoing)
    try:
        ours = complete(task, mine, outgoing.envelope.args, outgoing.envelope.kwargs)
    except StackStateError as error:
        return keyed.refuse(outgoing, error)
    if not extension.enabled:
        return off.publish(outgoing, ours)
    if ours is not None:
        return keyed.publish(outgoing, ours)
    if is_watched(outgoing):
        return keyed.publish_watched(outgoing)
    return outgoing.publish()


def _goes_on(outgoing: Outgoing, mine: Mapping[str, Any]) -> bool:
    """Return whether the message goes on with a run that was begun or published before: it makes no new request.

    A message that says so by its retries alone does not when a key was given with the call; nor one that repeats
    another run and was not published before.
    """
    run_id = outgoing.options.get("task_id")
    carried = (outgoing.options.get("headers") or {}).get(HEADER)
    held = held_key.get()
    return run_id is not None and (
        (isinstance(carried, Mapping) and carried.get("id") == run_id and not is_repetition(carried))
        or (held is not None and held.ticket.task_id == run_id)
        or (bool(outgoing.options.get("retries")) and mine.get("idempotency_key") is None)
    )


def _publish_carried(outgoing: Outgoing) -> Any:
    """Publish the message with which a run goes on: the key passes to it first, so that it is not taken for a copy."""
    carried = (outgoing.options.get("headers") or {}).get(HEADER)
    held = held_key.get()
    ticket = read_ticket(carried)
    if ticket is None and held is not None and held.ticket.task_id == outgoing.options.get("task_id"):
        ticket = held.ticket  # what replaces the task
    after_epoch = carried.get("after_epoch", 0) if isinstance(carried, Mapping) else 0
    publication = Publication(outgoing.extension, outgoing.task, after_epoch=after_epoch, goes_on=True)
    if ticket is not None:
        publication.run_id, publication.parts = ticket.task_id, {"ticket": ticket.dump()}
    if held is None or held.ticket != ticket:
        return outgoing.publish(publication)
    held.pass_on(outgoing.envelope)
    try:
        return outgoing.publish(publication)
    except BaseException as error:
        held.fail(error)
        raise
