"""Make content types and permissions of runs, state, keys and workers known; no table is made."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Run",
            fields=[
                ("id", models.CharField(max_length=255, primary_key=True, serialize=False, verbose_name="run id")),
                ("task", models.CharField(max_length=255, null=True)),
                ("status", models.CharField(max_length=16)),
                ("queue", models.CharField(max_length=255, null=True)),
                ("worker", models.CharField(max_length=255, null=True)),
                ("key", models.CharField(max_length=1024, null=True)),
                ("retries", models.PositiveIntegerField(default=0)),
                ("queued_at", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                ("parent_id", models.CharField(max_length=255, null=True)),
                ("root_id", models.CharField(max_length=255, null=True)),
                ("group_id", models.CharField(max_length=255, null=True)),
                ("host", models.CharField(max_length=255, null=True)),
                ("origin", models.CharField(max_length=1024, null=True)),
                ("duplicated", models.CharField(max_length=8, null=True)),
                ("error", models.TextField(null=True)),
                ("wait", models.FloatField(null=True, verbose_name="wait in seconds")),
                ("runtime", models.FloatField(null=True, verbose_name="run time in seconds")),
            ],
            options={
                "verbose_name": "run",
                "verbose_name_plural": "runs",
                "ordering": ("-queued_at", "-id"),
                "managed": False,
                "default_permissions": ("view", "delete"),
                "permissions": [
                    ("rerun_run", "Can run a run again"),
                    ("revoke_run", "Can revoke run"),
                    ("terminate_run", "Can terminate run"),
                    ("release_key_run", "Can release the key of run"),
                ],
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="StateEntry",
            fields=[
                ("id", models.CharField(max_length=2800, primary_key=True, serialize=False)),
                ("scope", models.CharField(max_length=300)),
                ("key", models.CharField(max_length=1024)),
                ("kind", models.CharField(max_length=16)),
                ("version", models.BigIntegerField()),
                ("expires_at", models.DateTimeField(null=True)),
                ("updated_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "state entry",
                "verbose_name_plural": "state entries",
                "ordering": ("scope", "key"),
                "managed": False,
                "default_permissions": ("view", "change", "delete"),
                "permissions": (("force_release_lock", "Can force-release locks"),),
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="IdempotencyKey",
            fields=[
                ("id", models.CharField(max_length=2800, primary_key=True, serialize=False)),
                ("scope", models.CharField(max_length=600)),
                ("key", models.CharField(max_length=1024)),
                ("task", models.CharField(max_length=255)),
                ("state", models.CharField(max_length=16)),
                ("run_id", models.CharField(max_length=255)),
                ("generation", models.BigIntegerField()),
                ("deliveries", models.PositiveIntegerField()),
                ("updated_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "idempotency key",
                "verbose_name_plural": "idempotency keys",
                "ordering": ("scope", "key"),
                "managed": False,
                "default_permissions": ("view",),
                "permissions": (("reset_idempotencykey", "Can reset idempotency keys"),),
                "base_manager_name": "objects",
            },
        ),
        migrations.CreateModel(
            name="Worker",
            fields=[
                ("id", models.CharField(max_length=2800, primary_key=True, serialize=False)),
                ("hostname", models.CharField(max_length=1024)),
                ("host", models.CharField(max_length=255)),
                ("pid", models.BigIntegerField()),
                ("live", models.BooleanField()),
                ("started_at", models.DateTimeField(null=True)),
                ("seen_at", models.DateTimeField(null=True)),
                ("expires_at", models.DateTimeField(null=True)),
            ],
            options={
                "verbose_name": "worker",
                "verbose_name_plural": "workers",
                "ordering": ("hostname", "id"),
                "managed": False,
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
        ),
    ]
