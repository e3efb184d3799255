"""Waiting for what other processes do."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class StoryStopped(Exception):
    """Something the story needs did not happen in time."""


def wait_for(happened: Callable[[], T | None], what: str, *, seconds: float = 30, pause: float = 0.05) -> T:
    """Return what `happened` returns as soon as it is true; after `seconds` raise StoryStopped, which names `what`."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        if time.monotonic() > deadline:
            raise StoryStopped(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)
    return result
