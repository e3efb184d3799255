"""The lease by which a worker process proves that it lives: a bootstep that renews it, from a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import bootsteps, signals

from celery_stackstate import liveness
from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.liveness import Lease

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

PURGE_PAUSE = 60.0
PURGE_LIMIT = 2_000

#: The lease of the worker that this process is; the children of its pool inherit it by fork.
_held: Lease | None = None


def of_this_worker(hostname: str | None) -> Lease:
    """Return the lease of the worker that this process is, or is a child of."""
    return _held or Lease(hostname or "", "")


def attach(extension: StackState) -> None:
    """Let every worker of the extension's app hold a lease."""
    step = type("StackStateLease", (LeaseStep,), {"extension": extension, "name": "StackStateLease"})
    extension.app.steps["worker"].add(step)


class LeaseStep(bootsteps.StartStopStep):
    """Checks the settings before the worker starts, and holds its lease until its last task has ended.

    Celery stops this step before the pool, whose tasks may go on for a long while then; so the lease is given back when
    the worker says that it has stopped, and lapses where it cannot say so.
    """

    requires = ("celery.worker.components:Pool",)
    extension: StackState

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        global _held  # noqa: PLW0603 - one worker per process, and its children must know
        _held = self._lease = Lease(worker.hostname, uuid4().hex)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewed = 0
        _check(self.extension)

    def start(self, worker: Any) -> None:
        """Take the lease, now and again at a third of its length."""
        self._renew(worker)
        self._thread = threading.Thread(target=self._loop, args=(worker,), name="stackstate-lease", daemon=True)
        self._thread.start()
        signals.worker_shutdown.connect(
            self._on_shutdown, weak=False, dispatch_uid=f"stackstate-lease-{self._lease.boot}"
        )

    def _on_shutdown(self, **_: Any) -> None:
        """Give the lease back, and write the history that still waits."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(timeout=self.extension.settings.store_timeout)
        try:
            liveness.give_up(self.extension.store, self._lease)
        except StoreUnavailable as error:
            logger.warning("The worker's lease lapses by itself: %s", error)
        self.extension.recorder.flush()

    def _loop(self, worker: Any) -> None:
        pause = self.extension.settings.worker_lease / 3
        purge_at, renewed = time.monotonic(), True
        while not self._stopped.wait(pause if renewed else min(pause, 1.0)):
            renewed = self._renew(worker)
            if time.monotonic() >= purge_at:
                purge_at = time.monotonic() + PURGE_PAUSE
                _purge(self.extension)

    def _renew(self, worker: Any) -> bool:
        try:
            seconds = self.extension.settings.worker_lease
            self._renewed = liveness.renew(
                self.extension.store, self._lease, seconds=seconds, pids=_pids(worker.pool), before=self._renewed
            )
            return True
        except StoreUnavailable as error:
            logger.warning("The worker's lease could not be renewed, trying again: %s", error)
        except Exception:
            logger.exception("The worker's lease could not be renewed, trying again")
        return False


def _purge(extension: StackState) -> None:
    """Delete a bounded number of ended entries and forgotten runs."""
    for store in {id(store): store for store in (extension.store, extension.runs_store)}.values():
        try:
            store.purge(limit=PURGE_LIMIT)
        except StoreUnavailable as error:
            logger.warning("What has ended could not be purged, trying again: %s", error)
        except Exception:
            logger.exception("What has ended could not be purged, trying again")


def _pids(pool: Any) -> Iterable[int]:
    """Return the processes in which attempts run: the pool's children, or this one."""
    processes = getattr(getattr(pool, "_pool", None), "_pool", None)
    pids = [process.pid for process in list(processes or ()) if getattr(process, "pid", None)]
    return pids or [os.getpid()]


def _check(extension: StackState) -> None:
    try:
        for warning in extension.check():
            logger.warning("%s", warning)
    except StoreUnavailable as error:
        logger.warning("The store cannot be reached yet; tasks run, their history waits: %s", error)
    if not extension.store.shared_between_hosts:
        logger.warning(
            "celery-stackstate keeps its data in %s, which serves the workers of one machine only; set stackstate_url "
            "to a server (for example redis://...) when there are several",
            extension.where(),
        )
