"""What Django is told about runs, state, keys and workers: no tables, only names, fields and permissions."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import NotSupportedError, models
from django.utils.translation import gettext_lazy as _

from celery_stackstate_admin.keys.queryset import KeyQuerySet, key_id
from celery_stackstate_admin.plan import no_sql
from celery_stackstate_admin.present import line
from celery_stackstate_admin.runs.queryset import RunQuerySet
from celery_stackstate_admin.source import to_django
from celery_stackstate_admin.state.queryset import StateQuerySet
from celery_stackstate_admin.workers.queryset import WorkerQuerySet, worker_id

if TYPE_CHECKING:
    from celery_stackstate.browse import StateRecord
    from celery_stackstate.records import KeyRecord
    from celery_stackstate.records import Run as RunRecord
    from celery_stackstate.records import Worker as WorkerRecord

    Text = models.CharField[str, str]
    MaybeText = models.CharField[str | None, str | None]
    LongText = models.TextField[str | None, str | None]
    Whole = models.IntegerField[int, int]
    Seconds = models.FloatField[float | None, float | None]
    Moment = models.DateTimeField[datetime | None, datetime | None]


class StoreModel(models.Model):
    """An object that is only read."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Refuse."""
        raise NotSupportedError(no_sql(type(self)))

    def delete(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse."""
        raise NotSupportedError(no_sql(type(self)))


class Run(StoreModel):
    """One run of a task. `record` is what the library says about it."""

    id: Text = models.CharField("run id", primary_key=True, max_length=255)
    task: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001 - a run may be known before its task is
    status: Text = models.CharField(max_length=16)
    queue: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    worker: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    key: MaybeText = models.CharField(max_length=1024, null=True)  # noqa: DJ001
    retries: Whole = models.PositiveIntegerField(default=0)
    queued_at: Moment = models.DateTimeField(null=True)
    started_at: Moment = models.DateTimeField(null=True)
    finished_at: Moment = models.DateTimeField(null=True)
    parent_id: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    root_id: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    group_id: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    host: MaybeText = models.CharField(max_length=255, null=True)  # noqa: DJ001
    origin: MaybeText = models.CharField(max_length=1024, null=True)  # noqa: DJ001
    duplicated: MaybeText = models.CharField(max_length=8, null=True)  # noqa: DJ001 - "yes", or None
    error: LongText = models.TextField(null=True)  # noqa: DJ001
    wait: Seconds = models.FloatField("wait in seconds", null=True)
    runtime: Seconds = models.FloatField("run time in seconds", null=True)

    record: RunRecord
    objects = models.Manager.from_queryset(RunQuerySet)()

    class Meta:
        managed = False
        default_permissions = ("view", "delete")
        permissions = [
            ("rerun_run", "Can run a run again"),
            ("revoke_run", "Can revoke run"),
            ("terminate_run", "Can terminate run"),
            ("release_key_run", "Can release the key of run"),
        ]
        ordering = ("-queued_at", "-id")
        base_manager_name = "objects"
        verbose_name = "run"
        verbose_name_plural = "runs"

    def __str__(self) -> str:
        return line(self.task or self.id)

    @classmethod
    def of(cls, record: RunRecord) -> Run:
        """Return `record` as an object."""
        duplicated = "yes" if record.duplicated else None
        same = {name: getattr(record, name) for name in _SAME}
        run = cls(**same, duplicated=duplicated, **_times(record, _RUN_TIMES))
        run._state.adding = False
        run.record = record
        return run


class StateEntry(StoreModel):
    """One key of the state, or one lock. `record` is what the library says about it, its value included."""

    id: Text = models.CharField(primary_key=True, max_length=2800)
    scope: Text = models.CharField(max_length=300)
    key: Text = models.CharField(max_length=1024)
    kind: Text = models.CharField(max_length=16)
    version: Whole = models.BigIntegerField()
    expires_at: Moment = models.DateTimeField(null=True)
    updated_at: Moment = models.DateTimeField(null=True)

    record: StateRecord
    objects = models.Manager.from_queryset(StateQuerySet)()

    class Meta:
        managed = False
        default_permissions = ("view", "change", "delete")
        permissions = (("force_release_lock", "Can force-release locks"),)
        ordering = ("scope", "key")
        base_manager_name = "objects"
        verbose_name = _("state entry")
        verbose_name_plural = _("state entries")

    def __str__(self) -> str:
        return line(self.key)

    @classmethod
    def of(cls, record: StateRecord) -> StateEntry:
        """Return `record` as an object."""
        same = {name: getattr(record, name) for name in ("id", "scope", "key", "kind", "version")}
        entry = cls(**same, **_times(record, ("expires_at", "updated_at")))
        entry._state.adding = False
        entry.record = record
        return entry


class IdempotencyKey(StoreModel):
    """One idempotency key that is in use or kept. `record` is what the library says about it."""

    id: Text = models.CharField(primary_key=True, max_length=2800)
    scope: Text = models.CharField(max_length=600)
    key: Text = models.CharField(max_length=1024)
    task: Text = models.CharField(max_length=255)
    state: Text = models.CharField(max_length=16)
    run_id: Text = models.CharField(max_length=255)
    generation: Whole = models.BigIntegerField()
    deliveries: Whole = models.PositiveIntegerField()
    updated_at: Moment = models.DateTimeField(null=True)
    expires_at: Moment = models.DateTimeField(null=True)

    record: KeyRecord
    objects = models.Manager.from_queryset(KeyQuerySet)()

    class Meta:
        managed = False
        default_permissions = ("view",)
        permissions = (("reset_idempotencykey", "Can reset idempotency keys"),)
        ordering = ("scope", "key")
        base_manager_name = "objects"
        verbose_name = _("idempotency key")
        verbose_name_plural = _("idempotency keys")

    def __str__(self) -> str:
        return line(self.key)

    @classmethod
    def of(cls, record: KeyRecord) -> IdempotencyKey:
        """Return `record` as an object."""
        names = ("scope", "key", "task", "state", "run_id", "generation", "deliveries")
        same = {name: getattr(record, name) for name in names}
        key = cls(id=key_id(record), **same, **_times(record, ("updated_at", "expires_at")))
        key._state.adding = False
        key.record = record
        return key


class Worker(StoreModel):
    """One start of a worker. `record` is what the library says about it."""

    id: Text = models.CharField(primary_key=True, max_length=2800)
    hostname: Text = models.CharField(max_length=1024)
    host: Text = models.CharField(max_length=255)
    pid: Whole = models.BigIntegerField()
    live: models.BooleanField[bool, bool] = models.BooleanField()
    started_at: Moment = models.DateTimeField(null=True)
    seen_at: Moment = models.DateTimeField(null=True)
    expires_at: Moment = models.DateTimeField(null=True)

    record: WorkerRecord
    objects = models.Manager.from_queryset(WorkerQuerySet)()

    class Meta:
        managed = False
        default_permissions = ("view",)
        ordering = ("hostname", "id")
        base_manager_name = "objects"
        verbose_name = _("worker")
        verbose_name_plural = _("workers")

    def __str__(self) -> str:
        return line(self.hostname)

    @classmethod
    def of(cls, record: WorkerRecord) -> Worker:
        """Return `record` as an object."""
        same = {name: getattr(record, name) for name in ("hostname", "host", "pid", "live")}
        worker = cls(id=worker_id(record), **same, **_times(record, ("started_at", "seen_at", "expires_at")))
        worker._state.adding = False
        worker.record = record
        return worker


_RUN_TIMES = ("queued_at", "started_at", "finished_at")
_SAME = (
    *("id", "task", "status", "queue", "worker", "key", "retries", "parent_id", "root_id", "group_id"),
    *("host", "origin", "error", "wait", "runtime"),
)


def _times(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: to_django(getattr(record, name)) for name in names}
