"""One daemon thread per process that renews every lock the process holds."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol

logger = logging.getLogger(__name__)


class Renewable(Protocol):
    """What the renewal thread needs of a lock."""

    name: str
    ttl: float

    def renew(self) -> bool:
        """Extend it; False when it was lost."""

    def renewable(self) -> bool:
        """Whether to go on renewing it."""


class Renewer:
    """Renews locks at a third of their TTL. A failed renewal is tried again until the lock's own deadline."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._held: dict[int, tuple[Renewable, float]] = {}
        self._mutex = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, lock: Renewable) -> None:
        """Renew `lock` until it is dropped."""
        with self._mutex:
            self._held[id(lock)] = (lock, time.monotonic() + lock.ttl / 3)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._loop, name="stackstate-locks", daemon=True)
                self._thread.start()
        self._wake.set()

    def drop(self, lock: Renewable) -> None:
        """Renew `lock` no more; when this returns no renewal of it is under way."""
        with self._mutex:
            self._held.pop(id(lock), None)

    def _loop(self) -> None:
        while True:
            with self._mutex:
                self._wake.clear()
                next_due = min((due for _, due in self._held.values()), default=None)
            self._wake.wait(timeout=None if next_due is None else max(0.0, next_due - time.monotonic()))
            with self._mutex:
                now = time.monotonic()
                due_locks = [lock for lock, due in self._held.values() if due <= now]
            for lock in due_locks:
                self._renew(lock)

    def _renew(self, lock: Renewable) -> None:
        with self._mutex:
            if id(lock) not in self._held:
                return
            try:
                go_on = lock.renewable() and lock.renew()
            except Exception as error:  # whatever it is, the other locks need their thread
                logger.warning("The lock %r could not be renewed, trying again: %r", lock.name, error)
                go_on = True
            if go_on:
                self._held[id(lock)] = (lock, time.monotonic() + lock.ttl / 3)
            else:
                self._held.pop(id(lock))
                logger.error("The lock %r was lost, or is not renewed any more", lock.name)


renewer = Renewer()
os.register_at_fork(after_in_child=renewer._reset)
