"""Work that is done in several steps, of which the first ones stay done when a later one fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from celery_stackstate.errors import StoreUnavailable

T = TypeVar("T")


@contextmanager
def behind(done: int) -> Iterator[None]:
    """Let a StoreUnavailable of the block say that something may be applied, where so much was done before."""
    try:
        yield
    except StoreUnavailable as error:
        error.maybe_applied = error.maybe_applied or done > 0
        raise


def in_batches(items: Sequence[T], size: int, do: Callable[[Sequence[T]], int]) -> int:
    """Do so many at once, and return the sum of what `do` returns."""
    count = 0
    for start in range(0, len(items), size):
        with behind(count):
            count += do(items[start : start + size])
    return count
