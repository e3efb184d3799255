"""The tables, as Django knows them. They are written with SQL, never through these models; change nothing by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import models

from celery_stackstate.stores.django.fields import NativeField

if TYPE_CHECKING:
    Number = models.BigIntegerField[Any, Any]


class Entry(models.Model):
    """A key with its value."""

    pk = models.CompositePrimaryKey("prefix", "key")
    prefix = NativeField("prefix")
    key = NativeField("key")
    present = NativeField("flag")
    value = NativeField("blob", null=True)
    number: Number = models.BigIntegerField(null=True)
    version: Number = models.BigIntegerField()
    expires: Number = models.BigIntegerField(null=True)
    updated: Number = models.BigIntegerField()
    linger: Number = models.BigIntegerField()
    keep: Number = models.BigIntegerField()
    purge_at: Number = models.BigIntegerField(null=True)

    class Meta:
        db_table = "stackstate_entry"
        default_permissions = ()
        verbose_name_plural = "entries"

    def __str__(self) -> str:
        return repr(self.key)


class Run(models.Model):
    """The summary of a run."""

    pk = models.CompositePrimaryKey("prefix", "run_id")
    prefix = NativeField("prefix")
    run_id = NativeField("ident")
    rank: Number = models.BigIntegerField(null=True)
    task = NativeField("text", null=True)
    queue = NativeField("text", null=True)
    key = NativeField("text", null=True)
    parent_id = NativeField("text", null=True)
    root_id = NativeField("text", null=True)
    group_id = NativeField("text", null=True)
    host = NativeField("text", null=True)
    origin = NativeField("text", null=True)
    created: Number = models.BigIntegerField(null=True)
    duplicated = NativeField("text", null=True)
    status = NativeField("text")
    worker = NativeField("text", null=True)
    retries: Number = models.BigIntegerField()
    waited: Number = models.BigIntegerField(null=True)
    started: Number = models.BigIntegerField(null=True)
    finished: Number = models.BigIntegerField(null=True)
    error = NativeField("error", null=True)
    forget: Number = models.BigIntegerField(null=True)
    progress = NativeField("text", null=True)
    listed: Number = models.BigIntegerField()

    class Meta:
        db_table = "stackstate_run"
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.run_id)


class Event(models.Model):
    """A fact of a run."""

    pk = models.CompositePrimaryKey("prefix", "run_id", "uid")
    prefix = NativeField("prefix")
    run_id = NativeField("ident")
    uid = NativeField("ident")
    at: Number = models.BigIntegerField()
    name = NativeField("long_text")
    execution = NativeField("ident", null=True)
    data = NativeField("blob")

    class Meta:
        db_table = "stackstate_event"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name} of {self.run_id}"


class Log(models.Model):
    """A log line of a run."""

    pk = models.CompositePrimaryKey("prefix", "run_id", "execution", "seq")
    prefix = NativeField("prefix")
    run_id = NativeField("ident")
    execution = NativeField("ident")
    seq: Number = models.BigIntegerField()
    at: Number = models.BigIntegerField()
    level: Number = models.BigIntegerField()
    logger = NativeField("long_text")
    message = NativeField("long_text")

    class Meta:
        db_table = "stackstate_log"
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.execution}:{self.seq}"
