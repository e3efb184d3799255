"""The list of runs: order, pages, filters, dates and search, and what else a query string may hold."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.test import Client, override_settings

from tests.admin.pages import RUNS, STATE, change, ids
from tests.admin.seeds import NOON, write_run

MINUTE = timedelta(minutes=1)


def test_runs_are_listed_newest_first_and_ties_by_id(viewer: Client) -> None:
    write_run("b", queued=NOON)
    write_run("c", queued=NOON)
    write_run("a", queued=NOON + MINUTE)

    assert ids(viewer.get(RUNS)) == ["a", "c", "b"]
    assert ids(viewer.get(RUNS + "?o=2")) == ["b", "c", "a"]


@pytest.mark.parametrize("order", ["o=1", "o=-3", "o=99", "o=x.y", "o=-1.4", "o="])
def test_columns_without_an_index_leave_the_order_alone(order: str, viewer: Client) -> None:
    write_run("old", queued=NOON)
    write_run("new", queued=NOON + MINUTE)

    assert ids(viewer.get(f"{RUNS}?{order}")) == ["new", "old"]


def test_250_runs_are_paged_without_repeating_or_losing_one(viewer: Client) -> None:
    # given 250 runs, of which many were queued at the same instant
    expected = [write_run(f"run-{number:03d}", queued=NOON + (number // 10) * MINUTE) for number in range(250)][::-1]

    pages = [ids(viewer.get(f"{RUNS}?p={page}")) for page in range(1, 6)]

    assert [len(page) for page in pages] == [50] * 5
    assert expected == [one for page in pages for one in page]


def test_show_all_is_offered_for_few_runs_only(viewer: Client) -> None:
    for number in range(120):
        write_run(f"run-{number:03d}")

    assert len(ids(viewer.get(RUNS + "?all="))) == 120


@pytest.mark.parametrize("query", ["p=0", "p=6", "p=999999999999999999999", "p=-1"])
def test_a_page_that_is_not_there_leads_back_to_the_list(query: str, viewer: Client) -> None:
    for number in range(120):
        write_run(f"run-{number:03d}")

    response = viewer.get(f"{RUNS}?{query}")

    assert (302, f"{RUNS}?e=1") == (response.status_code, response["Location"])
    assert viewer.get(RUNS + "?e=1").status_code == 200
    assert len(ids(viewer.get(RUNS + "?p=abc"))) == 50


@pytest.mark.parametrize(
    "query",
    [
        "nonsense=1",
        "status__contains=x",
        "error__icontains=x",
        "queued_at__gte=yesterday",
        "queued_at__month=2",
        "queued_at__isnull=True",
        "wait__gt=3",
        "queued_at__year=9999",
        "queued_at__year=abc",
        "queued_at__year=2026&queued_at__month=2&queued_at__day=31",
        "task__exact__exact=1",
    ],
)
def test_a_lookup_the_store_cannot_answer_is_a_bad_lookup_and_no_server_error(query: str, viewer: Client) -> None:
    write_run("a")

    response = viewer.get(f"{RUNS}?{query}")

    assert (302, f"{RUNS}?e=1") == (response.status_code, response["Location"])


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("status=FAILURE", ["failed"]),
        ("task=shop.mail", ["mail"]),
        ("worker=celery@w2", ["mail"]),
        ("queue=bulk", ["failed"]),
        ("key__exact=stripe:1", ["failed"]),
        ("parent_id=mail", ["failed"]),
        ("status=FAILURE&queue=bulk", ["failed"]),
        ("status=FAILURE&task=shop.mail", []),
        ("status=NEVER_HEARD_OF", []),
        ("task=never+seen", []),
        ("task=%00", []),
        ("status__in=FAILURE,SUCCESS", ["plain", "mail", "failed"]),
        ("status=FAILURE&status__in=SUCCESS", []),
        ("id__in=mail,plain", ["plain", "mail"]),
    ],
)
def test_runs_are_filtered(query: str, expected: list[str], viewer: Client) -> None:
    write_run("failed", status="FAILURE", queue="bulk", key="stripe:1", parent_id="mail")
    write_run("mail", task="shop.mail", worker="celery@w2", queued=NOON + MINUTE)
    write_run("plain", queued=NOON + 2 * MINUTE)

    assert expected == ids(viewer.get(f"{RUNS}?{query}"))


def test_facets_count_within_the_other_filters(viewer: Client) -> None:
    write_run("a", status="FAILURE", queue="bulk")
    write_run("b", status="SUCCESS", queue="bulk")
    write_run("c", status="SUCCESS", queue="imports")

    content = viewer.get(RUNS + "?_facets=True&queue=bulk").content.decode()

    assert "SUCCESS (1)" in content
    assert "FAILURE (1)" in content
    assert "LOST (0)" in content
    assert "imports (1)" in content
    assert "bulk (2)" in content
    assert "SUCCESS (1)" in viewer.get(RUNS + "?_facets=True&q=products&queue=imports").content.decode()


def test_the_date_hierarchy_leads_from_years_to_days_that_have_runs(viewer: Client) -> None:
    for moment in ("2025-03-05T12:00", "2026-11-02T08:00", "2026-11-02T09:00", "2026-11-22T22:59", "2026-11-22T23:01"):
        write_run(moment, queued=datetime.fromisoformat(moment).replace(tzinfo=timezone.utc))

    years = viewer.get(RUNS).content.decode()
    months = viewer.get(RUNS + "?queued_at__year=2026").content.decode()
    days = viewer.get(RUNS + "?queued_at__year=2026&queued_at__month=11").content.decode()
    day = viewer.get(RUNS + "?queued_at__year=2026&queued_at__month=11&queued_at__day=23")

    assert "?queued_at__year=2025" in years
    assert "?queued_at__year=2026" in years
    assert "November 2026" in months
    assert [number for number in range(1, 31) if f"queued_at__day={number}&" in days] == [2, 22, 23]
    # 23:01 in UTC is the day after in Berlin
    assert ids(day) == ["2026-11-22T23:01"]


def test_a_whole_id_is_found_however_old_and_nothing_else_with_it(viewer: Client) -> None:
    write_run("abc", queued=NOON - timedelta(days=900))
    write_run("abcd")

    assert ids(viewer.get(RUNS + "?q=abc")) == ["abc"]


@pytest.mark.parametrize("asked", ["IMPORT", "stripe:evt", "refused", "id-of", "  refused  ", "connection refused"])
def test_text_is_looked_for_in_id_task_key_and_error(asked: str, viewer: Client) -> None:
    write_run("id-of-it", key="stripe:evt_1", status="FAILURE", error="OSError: connection refused")
    write_run("other", task="shop.mail")

    assert ids(viewer.get(RUNS, {"q": asked})) == ["id-of-it"]


def test_search_stays_within_the_filters_and_pages(viewer: Client) -> None:
    for number in range(60):
        write_run(f"run-{number:03d}", status="FAILURE" if number % 2 else "SUCCESS")

    assert len(ids(viewer.get(RUNS + "?q=run-&status=FAILURE"))) == 30
    assert ids(viewer.get(RUNS + "?q=run-002&status=FAILURE")) == []
    assert len(ids(viewer.get(RUNS + "?q=run&p=2"))) == 10
    assert viewer.get(RUNS + "?q=%00").status_code == 200
    assert b"newest 10,000 runs" in viewer.get(RUNS).content


def test_popups_and_to_field_work(viewer: Client) -> None:
    write_run("a")

    assert ids(viewer.get(RUNS + "?_popup=1")) == ["a"]
    assert ids(viewer.get(RUNS + "?_popup=1&_to_field=id")) == ["a"]
    assert viewer.get(RUNS + "?_to_field=task").status_code == 400


def test_an_unknown_id_leads_to_the_index_with_a_message(viewer: Client) -> None:
    response = viewer.get(change(RUNS, "unknown"), follow=True)

    assert response.redirect_chain == [("/admin/", 302)]
    assert b"doesn\xe2\x80\x99t exist" in response.content
    assert viewer.get(f"{RUNS}unknown/live/").status_code == 404


@pytest.mark.parametrize("run_id", ["a/b:c", "x_5f", "q?a=1&b", 'quo"te', "ünïcode 🦜", "50%", "x/live", "a;b,c"])
def test_any_id_leads_to_its_page(run_id: str, viewer: Client) -> None:
    write_run(run_id)
    page = viewer.get(RUNS)
    address = page.context["cl"].url_for_result(page.context["cl"].result_list[0])

    assert run_id == viewer.get(address).context["original"].pk
    assert viewer.get(viewer.get(address).context["live_url"]).status_code == 200


def test_more_runs_than_are_counted_are_announced(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_stackstate_admin.runs.COUNT_CAP", 60)
    monkeypatch.setattr("celery_stackstate_admin.changelist.COUNT_CAP", 60)
    for number in range(70):
        write_run(f"run-{number:03d}")

    response: Any = viewer.get(RUNS)

    assert response.context["cl"].result_count == 60
    assert b"More than 60 runs match" in response.content


@pytest.mark.parametrize("query", ["", "?queued_at__year=2026", "?queued_at__year=2026&queued_at__month=11", "?q=a"])
def test_a_project_without_time_zones_sees_its_own_time(query: str, shop: Any, viewer: Client) -> None:
    write_run("a")
    shop.state.set("k", 1, ttl=60)

    with override_settings(USE_TZ=False, TIME_ZONE="Europe/Berlin", LANGUAGE_CODE="de", USE_THOUSAND_SEPARATOR=True):
        listed = viewer.get(RUNS + query)
        page = viewer.get(change(RUNS, "a"))
        entry = viewer.get(STATE).context["cl"].result_list[0]
        state = viewer.get(change(STATE, entry.pk))

    assert ids(listed) == ["a"]
    assert "13:00:01.204" in page.content.decode()
    assert state.status_code == 200


def test_an_empty_history_is_an_empty_list(viewer: Client) -> None:
    assert ids(viewer.get(RUNS)) == []
    assert ids(viewer.get(RUNS + "?_facets=True")) == []
