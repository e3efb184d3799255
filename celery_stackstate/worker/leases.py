"""The lease by which a worker process proves that it lives: a bootstep that renews it, from a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import bootsteps, signals

from celery_stackstate import liveness
from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.facts import now_micros
from celery_stackstate.liveness import Lease
from celery_stackstate.worker.reaper import Reaper
from celery_stackstate.worker.renewals import RETRY_PAUSE, Renewals

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

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
    the worker says that it has stopped, and lapses where it cannot say so. A worker that is terminated never says so: a
    process that embeds it (tests do) lives on, so that nothing must be renewed from then on.
    """

    requires = ("celery.worker.components:Pool",)
    extension: StackState

    def __init__(self, worker: Any, **kwargs: Any) -> None:
        super().__init__(worker, **kwargs)
        settings = self.extension.settings
        self.enabled = settings.enabled  # which Celery asks before it adds the step
        if not self.enabled:
            logger.warning(
                "stackstate_enabled is False: this worker records nothing, and sends runs that have an idempotency key "
                "on to workers that keep its promise (by stackstate_claim_outage)"
            )
            return
        global _held  # noqa: PLW0603 - one worker per process, and its children must know
        _held = self._lease = Lease(worker.hostname, uuid4().hex)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewed, self._started = 0, now_micros()
        self._renewals = Renewals(lease=settings.worker_lease, timeout=settings.store_timeout)
        self._reaper = Reaper(self.extension, self._lease, self._renewals.are_steady)
        _check(self.extension)

    def start(self, worker: Any) -> None:
        """Take the lease, now and again at a third of its length."""
        self.renew(worker)
        self._thread = threading.Thread(target=self._loop, args=(worker,), name="stackstate-lease", daemon=True)
        self._thread.start()
        self._reaper.start()
        signals.worker_shutdown.connect(
            self._on_shutdown, weak=False, dispatch_uid=f"stackstate-lease-{self._lease.boot}"
        )

    def terminate(self, worker: Any) -> None:
        """Renew the lease no more, so that it lapses."""
        self._stopped.set()
        self._reaper.stop()

    def _on_shutdown(self, **_: Any) -> None:
        """Write the history that still waits, and say that the worker is gone: in this order, or it looks lost."""
        self.terminate(None)
        if self._thread is not None:
            self._thread.join(timeout=self.extension.settings.store_timeout)
        self.extension.recorder.flush()
        try:
            self._reaper.resign()
            liveness.give_up(self.extension.store, self._lease)
        except StoreUnavailable as error:
            logger.warning("The worker's lease lapses by itself: %s", error)

    def _loop(self, worker: Any) -> None:
        pause = self.extension.settings.worker_lease / 3
        renewed = True
        while not self._stopped.wait(pause if renewed else min(pause, RETRY_PAUSE)):
            renewed = self.renew(worker)

    def renew(self, worker: Any) -> bool:
        """Renew the lease; return whether the store took it."""
        try:
            self._write(listed=now_micros(), pids=_pids(worker.pool))
        except StoreUnavailable as error:
            logger.warning("The worker's lease could not be renewed, trying again: %s", error)
        except Exception:
            logger.exception("The worker's lease could not be renewed, trying again")
        else:
            self._renewals.succeeded()
            return True
        self._renewals.failed()
        return False

    def _write(self, *, listed: int, pids: list[int]) -> None:
        """Renew the lease and the entry on the roll, which must not be missing while there is a lease."""
        store, seconds = self.extension.store, self.extension.settings.worker_lease
        liveness.enrol(store, self._lease, pid=os.getpid(), pids=pids, started=self._started)
        self._renewed = liveness.renew(
            store, self._lease, seconds=seconds, pids=pids, before=self._renewed, listed=listed
        )


def _pids(pool: Any) -> list[int]:
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
