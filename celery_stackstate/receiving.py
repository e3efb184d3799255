"""How a receiver of a Celery signal is written: what goes wrong in it is logged, and is nobody else's matter."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded

logger = logging.getLogger(__name__)

#: What is thrown into whatever a body does just then. No guard of ours may keep it from the body.
INTERRUPTS: tuple[type[BaseException], ...] = (SoftTimeLimitExceeded,)

_noted: ContextVar[list[BaseException] | None] = ContextVar("stackstate_interrupts", default=None)


def safely(receiver: Callable[..., None]) -> Callable[..., None]:
    """Return the receiver so that it never raises; what interrupted it is raised by `interruptible`, if that is on."""

    @wraps(receiver)
    def safe(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except INTERRUPTS as interrupt:
            noted = _noted.get()
            if noted is not None:
                noted.append(interrupt)
        except Exception:
            logger.exception("celery-stackstate failed in %s; the task goes on", receiver.__name__)

    return safe


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise at the end of the block what interrupted a receiver in it: Celery would swallow what that raises itself."""
    noted: list[BaseException] = []
    token = _noted.set(noted)
    try:
        yield
    finally:
        _noted.reset(token)
    if noted:
        raise noted[0]
