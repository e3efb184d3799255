"""Where the scenarios take place: a store that can be opened again, also in another process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from celery_stackstate.testing.contract_base import processes
from tests.nouns.conftest import state_of

SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Place:
    """A store and a prefix in it."""

    url: str
    prefix: str
    opener: Callable[..., Store] = open_store

    @cached_property
    def store(self) -> Store:
        """The store, opened once in this process."""
        return self.opener(self.url, prefix=self.prefix, timeout=20)

    def state(self, run_id: str | None, **options: Any) -> State:
        """Return the state as one execution of the run sees it, or as code outside of runs does."""
        return state_of(self.store, run_id, **options)

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.url, self.prefix, self.opener)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        for name, value in zip(("url", "prefix", "opener"), state, strict=True):
            object.__setattr__(self, name, value)


def _in_process(place: Place, barrier: Any, job: Callable[..., Any], number: int, args: tuple[Any, ...]) -> Any:
    state = place.state(f"process-{number}")
    try:
        state.get("warm")  # connected before the others are waited for
        barrier.wait(60)
        return job(state, number, *args)
    finally:
        place.store.close()


def in_processes(place: Place, count: int, job: Callable[..., Any], *args: Any) -> list[Any]:
    """Run `job(state, number, *args)` in `count` processes that begin at once; in threads where nothing is shared."""
    if not place.store.shared_between_processes:
        with ThreadPoolExecutor(count) as threads:
            found = [threads.submit(job, place.state(f"process-{n}"), n, *args) for n in range(count)]
            return [future.result() for future in found]
    manager, pool = processes()
    barrier = manager.Barrier(count)
    futures = [pool.submit(_in_process, place, barrier, job, number, args) for number in range(count)]
    return [future.result() for future in futures]
