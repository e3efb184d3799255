"""Counts what a page asks its store."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from celery_stackstate.stores.base import RunQuery

NAMES = ("runs", "browser", "tallies")


class CountedCalls:
    """Passes the calls of the extension on to its stores, counts them and adds up their time, inside of the block."""

    def __init__(self, shop: Any) -> None:
        self._shop = shop
        self.by_name: Counter[str] = Counter()
        self.queries: list[RunQuery] = []
        self.seconds = 0.0

    @property
    def total(self) -> int:
        """How many calls there were."""
        return self.by_name.total()

    def __enter__(self) -> CountedCalls:
        self._real = {"store": self._shop.store, "runs_store": self._shop.runs_store}
        self._use({name: _Counting(store, self) for name, store in self._real.items()})
        return self

    def __exit__(self, *_: object) -> None:
        self._use(self._real)

    def _use(self, stores: dict[str, Any]) -> None:
        for name in NAMES:
            self._shop.__dict__.pop(name, None)
        self._shop.__dict__.update(stores)


class _Counting:
    def __init__(self, store: Any, calls: CountedCalls) -> None:
        self._store, self._calls = store, calls

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._calls.by_name[name] += 1
            self._calls.queries += [one for one in args if isinstance(one, RunQuery)]
            begun = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self._calls.seconds += time.perf_counter() - begun

        return call
