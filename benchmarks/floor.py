"""Bare Celery with a ledger beside it, and nothing else: what a recorder that waits for its store costs at least."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from celery import Task
from celery.signals import task_postrun
from kombu.utils.uuid import uuid

from benchmarks.ledgers import Ledger, ledger


class FloorTask(Task):
    """Reserves the key and records the run at once, then publishes."""

    abstract = True

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, on one kept connection."""
        return ledger(self.app.conf["floor_url"])

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish, unless the first argument was published before."""
        run_id = uuid()
        if not self.ledger.reserve(str(args[0]), run_id):
            return None
        return super().apply_async(args, kwargs, task_id=run_id, **options)


def record_each(app: Any) -> None:
    """Record each run of a worker at its end."""
    task_postrun.connect(_Recorder(app.conf["floor_url"]).record, weak=False, dispatch_uid="benchmarks.floor")


class _Recorder:
    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _ledger(self) -> Ledger:
        return ledger(self._url)  # at the first run: a child of a pool has its own

    def record(self, task_id: str = "", **_: Any) -> None:
        self._ledger.record(task_id)
