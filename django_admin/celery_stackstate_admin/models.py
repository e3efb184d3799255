"""What Django is told about runs and state: no tables, only names, fields and the permission to view."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import NotSupportedError, models

from celery_stackstate_admin.plan import no_sql
from celery_stackstate_admin.present import line
from celery_stackstate_admin.runs import RunQuerySet
from celery_stackstate_admin.source import to_django
from celery_stackstate_admin.state import StateQuerySet

if TYPE_CHECKING:
    from celery_stackstate.browse import StateRecord
    from celery_stackstate.records import Run as RunRecord

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
    error: LongText = models.TextField(null=True)  # noqa: DJ001
    wait: Seconds = models.FloatField("wait in seconds", null=True)
    runtime: Seconds = models.FloatField("run time in seconds", null=True)

    record: RunRecord
    objects = models.Manager.from_queryset(RunQuerySet)()

    class Meta:
        managed = False
        default_permissions = ("view",)
        ordering = ("-queued_at", "-id")
        base_manager_name = "objects"
        verbose_name = "run"
        verbose_name_plural = "runs"

    def __str__(self) -> str:
        return line(self.task or self.id)

    @classmethod
    def of(cls, record: RunRecord) -> Run:
        """Return `record` as an object."""
        run = cls(**{name: getattr(record, name) for name in _SAME}, **_times(record, _RUN_TIMES))
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
        default_permissions = ("view",)
        ordering = ("scope", "key")
        base_manager_name = "objects"
        verbose_name = "state entry"
        verbose_name_plural = "state entries"

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


_RUN_TIMES = ("queued_at", "started_at", "finished_at")
_SAME = (
    *("id", "task", "status", "queue", "worker", "key", "retries", "parent_id", "root_id"),
    *("error", "wait", "runtime"),
)


def _times(record: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: to_django(getattr(record, name)) for name in names}
