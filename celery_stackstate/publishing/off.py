"""Publishing with an idempotency key where the extension is switched off: nothing reserves it, nothing is recorded."""

from __future__ import annotations

from typing import Any

from celery_stackstate.errors import ConfigurationError, StackStateError
from celery_stackstate.publishing import keyed
from celery_stackstate.publishing.options import KeyOptions
from celery_stackstate.publishing.publication import Outgoing
from celery_stackstate.publishing.request import make_request, refuse_what_a_key_cannot_do


def publish(outgoing: Outgoing, ours: KeyOptions | None) -> Any:
    """Publish as Celery does; a request with a key is refused, or goes out without the promise where it may.

    What Celery publishes as a later part of a canvas is not refused, for that would fail what is under way already: it
    carries its key, for a worker that is switched on to claim it.
    """
    if ours is None:
        return outgoing.pass_through()
    if outgoing.extension.settings.publish_outage == "publish":
        outgoing.extension.warn_once(
            "stackstate_enabled is False: what has an idempotency key is published without its promise, for "
            "stackstate_publish_outage is 'publish'"
        )
        return outgoing.pass_through()
    error = ConfigurationError(
        f"stackstate_enabled is False, so nobody keeps the promise of the idempotency key {ours.idempotency_key!r}: "
        f"{outgoing.envelope.name} was not published. Switch it on, call without a key (idempotency_key=None), or let "
        f"such calls go out without the promise (stackstate_publish_outage='publish')"
    )
    if not outgoing.is_dispatched:
        raise error
    return _publish_unreserved(outgoing, ours, error)


def _publish_unreserved(outgoing: Outgoing, ours: KeyOptions, reason: ConfigurationError) -> Any:
    try:
        refuse_what_a_key_cannot_do(outgoing, ours)
        request = make_request(outgoing, ours)
    except StackStateError as error:
        return keyed.refuse(outgoing, error)
    return keyed.publish_unreserved(outgoing, request, reason)
