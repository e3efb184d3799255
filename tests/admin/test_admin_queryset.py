"""The querysets by themselves: what is not answered from the store fails loudly instead of reading a missing table."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from celery_stackstate_admin.models import Run, StateEntry
from django.core.exceptions import FieldError
from django.core.management import call_command
from django.db import NotSupportedError
from django.db.models import Count, F, Max, Min, Q
from django.test import override_settings

from tests.admin.seeds import NOON, write_run

DAY = timedelta(days=1)


@pytest.fixture(autouse=True)
def three_runs(shop: Any) -> None:
    write_run("a", queued=NOON)
    write_run("b", queued=NOON + DAY, status="FAILURE")
    write_run("c", queued=NOON + 2 * DAY)


@pytest.mark.parametrize(
    "call",
    [
        lambda runs: runs.update(status="X"),
        lambda runs: runs.delete(),
        lambda runs: runs.create(id="x"),
        lambda runs: runs.bulk_create([Run(id="x")]),
        lambda runs: runs.get_or_create(id="x"),
        lambda runs: runs.get(id="a").save(),
        lambda runs: runs.get(id="a").delete(),
        lambda runs: runs.raw("select 1"),
        lambda runs: list(runs.values("id")),
        lambda runs: list(runs.values_list("id", flat=True)),
        lambda runs: runs.explain(),
        lambda runs: str(runs.all().query),
    ],
)
def test_what_needs_sql_raises(call: Callable[[Any], Any]) -> None:
    with pytest.raises(NotSupportedError, match="Run objects lie in the StackState store"):
        call(Run.objects)


@pytest.mark.parametrize(
    "call",
    [
        lambda runs: runs.filter(Q(id="a") | Q(id="b")),
        lambda runs: runs.exclude(id="a"),
        lambda runs: runs.filter(~Q(id="a")),
        lambda runs: runs.filter(task__contains="x"),
        lambda runs: runs.filter(queued_at__year=2026),
        lambda runs: runs.filter(status=F("task")),
        lambda runs: runs.filter(parent_id__isnull=True),
        lambda runs: runs.filter(wait__gt=1),
        lambda runs: list(runs.order_by("task")),
        lambda runs: list(runs.order_by("-queued_at", "id")),
        lambda runs: list(runs.annotate(n=Count("id"))),
        lambda runs: list(runs.union(runs.all())),
        lambda runs: runs.aggregate(Max("wait")),
        lambda runs: runs.filter(id__in=runs.all()[:1]),
        lambda runs: runs.behind(0, "a").count(),
    ],
)
def test_what_the_history_has_no_index_for_raises_field_error(call: Callable[[Any], Any]) -> None:
    with pytest.raises((FieldError, NotSupportedError)):
        call(Run.objects)


def test_slices_counts_and_extremes_are_answered() -> None:
    runs = Run.objects

    assert [run.pk for run in runs.all()] == ["c", "b", "a"]
    assert [run.pk for run in runs.all()[1:2]] == ["b"]
    assert [run.pk for run in runs.iterator()] == ["c", "b", "a"]
    assert (runs.count(), runs.all()[1:].count(), runs.all()[1:2].count(), runs.all()[5:].count()) == (3, 2, 1, 0)
    assert (runs.first().pk, runs.last().pk) == ("c", "a")
    assert (runs.exists(), runs.filter(task="x").exists()) == (True, False)
    assert [run.pk for run in runs.filter(pk__in=["a", "b", "x"])] == ["b", "a"]
    assert runs.aggregate(
        a=Count("pk", filter=Q(status="SUCCESS")),
        b=Count("id", filter=Q(pk__in=runs.filter(status="FAILURE"))),
        first=Min("queued_at"),
        last=Max("queued_at"),
    ) == {"a": 2, "b": 1, "first": NOON, "last": NOON + 2 * DAY}
    assert list(runs.none()) == []
    assert runs.none().count() == 0
    assert list(runs.filter(pk__in=[])) == []


def test_more_runs_than_one_answer_holds_are_read_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_stackstate_admin.runs.queryset.STEP", 2)
    for number in range(7):
        write_run(f"n{number}", queued=NOON - DAY)

    assert ["c", "b", "a", *(f"n{number}" for number in range(6, -1, -1))] == [run.pk for run in Run.objects.all()]
    assert [run.pk for run in Run.objects.all()[2:7]] == ["a", "n6", "n5", "n4", "n3"]


def test_what_is_behind_a_place_follows_the_order() -> None:
    at = int(NOON.timestamp() * 1000) * 1000 + 86_400_000_000

    assert [run.pk for run in Run.objects.all().behind(at, "b")] == ["a"]
    assert [run.pk for run in Run.objects.order_by("queued_at").behind(at, "b")] == ["c"]
    assert [run.pk for run in Run.objects.search("product").behind(at, "b")] == ["a"]
    assert [run.pk for run in Run.objects.search("product").order_by("queued_at").behind(at, "b")] == ["c"]
    assert [run.pk for run in Run.objects.filter(status="SUCCESS").behind(at, "")] == ["a"]


def test_a_run_by_its_id_comes_with_details_and_a_listed_one_without() -> None:
    assert Run.objects.get(pk="a").record.detailed
    assert not Run.objects.filter(status="SUCCESS").last().record.detailed
    with pytest.raises(Run.DoesNotExist):
        Run.objects.get(pk="unknown")
    with pytest.raises(Run.DoesNotExist):
        Run.objects.get(pk="a", status="FAILURE")


def test_times_are_naive_in_a_project_without_time_zones() -> None:
    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin"):
        run = Run.objects.get(pk="a")

        assert (run.queued_at.hour, run.queued_at.tzinfo) == (13, None)
        assert [one.pk for one in Run.objects.filter(queued_at__lte=run.queued_at)] == ["a"]
        assert len(Run.objects.datetimes("queued_at", "day")) == 3


def test_bounds_are_exact_to_the_microsecond() -> None:
    instant = timedelta(microseconds=1)

    assert Run.objects.filter(queued_at__gte=NOON).count() == 3
    assert Run.objects.filter(queued_at__gt=NOON).count() == 2
    assert Run.objects.filter(queued_at__lte=NOON).count() == 1
    assert Run.objects.filter(queued_at__lt=NOON).count() == 0
    assert Run.objects.filter(queued_at__gt=NOON - instant, queued_at__lt=NOON + instant).count() == 1
    assert Run.objects.filter(queued_at__gt=NOON, queued_at__lt=NOON).count() == 0


def test_entries_by_id_need_no_walk(shop: Any) -> None:
    shop.state.set("k", 1)
    entry = StateEntry.objects.get(key="k")

    assert StateEntry.objects.get(pk=entry.pk).key == "k"
    assert StateEntry.objects.filter(pk__in=[entry.pk, "gone"]).count() == 1
    assert StateEntry.objects.filter(pk=entry.pk, kind="lock").count() == 0


def test_models_and_migration_agree_and_each_deed_has_a_permission() -> None:
    from django.contrib.auth.models import Permission

    call_command("makemigrations", "celery_stackstate_admin", check=True, dry_run=True, stdout=io.StringIO())

    found = Permission.objects.filter(content_type__app_label="celery_stackstate_admin").values_list(
        "codename", flat=True
    )
    runs = {"view_run", "delete_run", "rerun_run", "revoke_run", "terminate_run", "release_key_run"}
    state = {"view_stateentry", "change_stateentry", "delete_stateentry", "force_release_lock"}
    assert {*runs, *state, "view_idempotencykey", "reset_idempotencykey", "view_worker"} == set(found)
