"""Sending a run again under its own id, later, without using up one of its retries."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, Retry

from celery_stackstate.errors import LockBusy
from celery_stackstate.facts import Stamp, now_micros
from celery_stackstate.header import HEADER, read_stamp

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

LONGEST_WAIT = 30.0


class Postponed(Retry):
    """The run goes on later. Raised through the body; the guard around it publishes the message when it arrives there,
    so that autoretry_for does not count it, and code that swallows it publishes nothing."""


def postponement(request: Any, retry_after: float) -> float:
    """Return for how many seconds to postpone a run that may go on after `retry_after` seconds at the latest."""
    stamp = read_stamp((request.headers or {}).get(HEADER))
    backoff = 2.0 ** min(10, stamp.waits if stamp else 0)
    return min(max(1.0, retry_after), backoff, LONGEST_WAIT) * random.uniform(0.8, 1.2)  # noqa: S311


def waited(request: Any) -> float:
    """Return the seconds since the run began to wait for something."""
    stamp = read_stamp((request.headers or {}).get(HEADER))
    return 0.0 if stamp is None or not stamp.waiting_since else (now_micros() - stamp.waiting_since) / 1_000_000


def publish_again(task: Any, request: Any, countdown: float) -> None:
    """Publish the run's message again: same id, same retries, same callbacks, `countdown` seconds from now."""
    headers = dict(request.headers or {})
    carried = dict(headers.get(HEADER) or {"id": request.id})
    now = now_micros()
    stamp = read_stamp(carried) or Stamp(first=now, at=now, epoch=0, publisher="")
    stamp = replace(stamp, waits=stamp.waits + 1, waiting_since=stamp.waiting_since or now)
    headers[HEADER] = {**carried, "stamp": asdict(stamp), "waits": True}
    signature = task.signature_from_request(request, countdown=countdown, retries=request.retries)
    signature.apply_async(headers=headers, countdown=countdown, retries=request.retries)


def busy_hook(extension: StackState, task: Any, request: Any) -> Callable[[LockBusy, str], NoReturn] | None:
    """Return what a busy lock does to the run of `request`, or None where the run cannot be sent again."""
    if request.is_eager:
        return None

    def busy(error: LockBusy, mode: str) -> NoReturn:
        if mode == "skip":
            raise Ignore(str(error)) from error
        if waited(request) >= extension.settings.lock_wait_max:
            raise error
        raise Postponed(str(error), exc=error, when=postponement(request, error.retry_after)) from error

    return busy
