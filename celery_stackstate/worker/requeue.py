"""Sending a run again under its own id, later, without using up one of its retries."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from celery.exceptions import Ignore, Retry

from celery_stackstate.errors import LockBusy, Throttled
from celery_stackstate.facts import Stamp, now_micros
from celery_stackstate.header import HEADER, is_newer, read_stamp
from celery_stackstate.holding import HeldLocks, Postpone
from celery_stackstate.publishing.envelope import Envelope

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

LONGEST_WAIT = 30.0
#: Longest countdown for a pace: one beyond the broker's visibility timeout would be delivered twice.
LONGEST_PAUSE = 300.0


class Postponed(Retry):
    """The run goes on later. Raised through the body; the guard around it publishes the message when it arrives there,
    so that autoretry_for does not count it, and code that swallows it publishes nothing."""

    published = False

    def publish(self, task: Any) -> None:
        """Publish the run's message again, once."""
        if not self.published:
            self.published = True
            publish_again(task, task.request, self.when)


def postponement(request: Any, retry_after: float) -> float:
    """Return for how many seconds to postpone a run that may go on after `retry_after` seconds at the latest."""
    return min(max(1.0, retry_after), _backoff(request)) * random.uniform(0.8, 1.2)  # noqa: S311


def waited(request: Any) -> float:
    """Return the seconds since the run began to wait for something."""
    stamp = read_stamp((request.headers or {}).get(HEADER))
    return 0.0 if stamp is None or not stamp.waiting_since else (now_micros() - stamp.waiting_since) / 1_000_000


def publish_again(task: Any, request: Any, countdown: float) -> None:
    """Publish the run's message again: same id, same retries, same callbacks, `countdown` seconds from now."""
    headers = dict(request.headers or {})
    carried = dict(headers.get(HEADER) or {"id": request.id})
    now = now_micros()
    stamp = read_stamp(carried) or Stamp(first=now, at=now, epoch=0)
    stamp = replace(stamp, waits=stamp.waits + 1, waiting_since=stamp.waiting_since or now)
    execution = getattr(request, "_stackstate", None)
    if execution is not None and execution.ticket is not None:
        # Of a publisher without the extension it has none, and by its new stamp it would be taken for a new run.
        carried.setdefault("ticket", execution.ticket.dump())
    if not is_newer(carried):
        headers[HEADER] = {**carried, "stamp": stamp.dump(), "waits": True}
    signature = task.signature_from_request(request, countdown=countdown, retries=request.retries)
    signature.apply_async(headers=headers, countdown=countdown, retries=request.retries)


def envelope_of(task: Any, request: Any) -> str | None:
    """Return what publishes the run's message again, as text; None when that cannot be kept."""
    signature = task.signature_from_request(request, retries=request.retries)
    return Envelope(task.name, signature.args, signature.kwargs, signature.options, task.serializer).dump()


def seconds_until(when: Any) -> float:
    """Return the seconds until `when`, as Celery's Retry has it: a number, a datetime, or None for at once."""
    if isinstance(when, datetime):
        now = datetime.now(when.tzinfo) if when.tzinfo else datetime.now(timezone.utc).replace(tzinfo=None)
        return max(0.0, (when - now).total_seconds())
    return max(0.0, float(when or 0.0))


def postpone_hook(extension: StackState, request: Any, locks: HeldLocks) -> Postpone:
    """Return what a busy lock, or a pace that is reached, does to the run of `request` while its body goes on."""

    def postpone(error: LockBusy | Throttled, mode: str) -> NoReturn:
        if locks.over:
            raise error
        if mode == "skip":
            raise Ignore(str(error)) from error
        if waited(request) >= extension.settings.lock_wait_max:
            raise error
        when = pause_for(request, error) if isinstance(error, Throttled) else postponement(request, error.retry_after)
        raise Postponed(str(error), exc=error, when=when) from error

    return postpone


def pause_for(request: Any, error: Throttled) -> float:
    """Return for how many seconds to postpone a run that may not go on before `retry_after` seconds have passed.

    Many runs may wait for one pace, and one at a time goes on: the longer a run has waited, the more it spreads out.
    """
    spread = _backoff(request)
    return min(max(1.0, error.retry_after), LONGEST_PAUSE - spread) + random.uniform(0.0, spread)  # noqa: S311


def _backoff(request: Any) -> float:
    stamp = read_stamp((request.headers or {}).get(HEADER))
    return min(LONGEST_WAIT, 2.0 ** min(10, stamp.waits if stamp else 0))
