"""The tables, made by the statements that every SQL store makes them with."""

from __future__ import annotations

from django.db import migrations, models

from celery_stackstate.stores.django.fields import NativeField
from celery_stackstate.stores.django.operations import SchemaStep

#: What is dropped; the last is the version that a SQL store noted of the same tables, if one shared them.
TABLES = ("stackstate_log", "stackstate_event", "stackstate_run", "stackstate_entry", "stackstate_schema")


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[SchemaStep(0, drops=TABLES)],
            state_operations=[
                migrations.CreateModel(
                    name="Entry",
                    fields=[
                        ("pk", models.CompositePrimaryKey("prefix", "key", serialize=False)),
                        ("prefix", NativeField("prefix")),
                        ("key", NativeField("key")),
                        ("present", NativeField("flag")),
                        ("value", NativeField("blob", null=True)),
                        ("number", models.BigIntegerField(null=True)),
                        ("version", models.BigIntegerField()),
                        ("expires", models.BigIntegerField(null=True)),
                        ("updated", models.BigIntegerField()),
                        ("linger", models.BigIntegerField()),
                        ("keep", models.BigIntegerField()),
                        ("purge_at", models.BigIntegerField(null=True)),
                    ],
                    options={
                        "verbose_name_plural": "entries",
                        "db_table": "stackstate_entry",
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="Log",
                    fields=[
                        ("pk", models.CompositePrimaryKey("prefix", "run_id", "execution", "seq", serialize=False)),
                        ("prefix", NativeField("prefix")),
                        ("run_id", NativeField("ident")),
                        ("execution", NativeField("ident")),
                        ("seq", models.BigIntegerField()),
                        ("at", models.BigIntegerField()),
                        ("level", models.BigIntegerField()),
                        ("logger", NativeField("long_text")),
                        ("message", NativeField("long_text")),
                    ],
                    options={
                        "db_table": "stackstate_log",
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="Run",
                    fields=[
                        ("pk", models.CompositePrimaryKey("prefix", "run_id", serialize=False)),
                        ("prefix", NativeField("prefix")),
                        ("run_id", NativeField("ident")),
                        ("rank", models.BigIntegerField(null=True)),
                        ("task", NativeField("text", null=True)),
                        ("queue", NativeField("text", null=True)),
                        ("key", NativeField("text", null=True)),
                        ("parent_id", NativeField("text", null=True)),
                        ("root_id", NativeField("text", null=True)),
                        ("group_id", NativeField("text", null=True)),
                        ("host", NativeField("text", null=True)),
                        ("origin", NativeField("text", null=True)),
                        ("created", models.BigIntegerField(null=True)),
                        ("duplicated", NativeField("text", null=True)),
                        ("status", NativeField("text")),
                        ("worker", NativeField("text", null=True)),
                        ("retries", models.BigIntegerField()),
                        ("waited", models.BigIntegerField(null=True)),
                        ("started", models.BigIntegerField(null=True)),
                        ("finished", models.BigIntegerField(null=True)),
                        ("error", NativeField("error", null=True)),
                        ("forget", models.BigIntegerField(null=True)),
                        ("progress", NativeField("text", null=True)),
                        ("listed", models.BigIntegerField()),
                    ],
                    options={
                        "db_table": "stackstate_run",
                        "default_permissions": (),
                    },
                ),
                migrations.CreateModel(
                    name="Event",
                    fields=[
                        ("pk", models.CompositePrimaryKey("prefix", "run_id", "uid", serialize=False)),
                        ("prefix", NativeField("prefix")),
                        ("run_id", NativeField("ident")),
                        ("uid", NativeField("ident")),
                        ("at", models.BigIntegerField()),
                        ("name", NativeField("long_text")),
                        ("execution", NativeField("ident", null=True)),
                        ("data", NativeField("blob")),
                    ],
                    options={
                        "db_table": "stackstate_event",
                        "default_permissions": (),
                    },
                ),
            ],
        ),
    ]
