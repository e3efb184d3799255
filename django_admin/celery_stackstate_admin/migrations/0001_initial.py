"""Make content types and permissions of runs and state known; no table is made."""

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
                ("error", models.TextField(null=True)),
                ("wait", models.FloatField(null=True, verbose_name="wait in seconds")),
                ("runtime", models.FloatField(null=True, verbose_name="run time in seconds")),
            ],
            options={
                "verbose_name": "run",
                "verbose_name_plural": "runs",
                "ordering": ("-queued_at", "-id"),
                "managed": False,
                "default_permissions": ("view",),
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
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
        ),
    ]
