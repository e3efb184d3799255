"""The list of runs: order, pages, filters, dates and search, and what else a query string may hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.test import Client, override_settings

from celery_stackstate.facts import rank
from celery_stackstate.latest import dump_progress
from celery_stackstate.records import to_micros
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite
from tests.admin.counted import CountedCalls
from tests.admin.pages import RUNS, STATE, change, ids, text
from tests.admin.project import extension
from tests.admin.seeds import NOON, SECOND, attempt, write_run

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
    monkeypatch.setattr("celery_stackstate_admin.runs.queryset.COUNT_CAP", 60)
    monkeypatch.setattr("celery_stackstate_admin.runlist.changelist.COUNT_CAP", 60)
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
    assert "No runs are recorded yet." in text(viewer.get(RUNS))
    assert "No runs match." in text(viewer.get(RUNS + "?status=LOST"))


# -- pages that begin at a run -----------------------------------------------------------------------------------------


def pages(viewer: Client, query: str = "", between: Callable[[], object] = lambda: None) -> Iterator[list[str]]:
    """Yield the ids of the pages that a list leads through, doing `between` after each."""
    address: str | None = query
    while address is not None:
        response = viewer.get(RUNS + address)
        yield ids(response)
        between()
        address = response.context["cl"].after_url


def test_runs_that_are_added_at_the_top_repeat_none_on_the_pages_behind(viewer: Client) -> None:
    # given 230 runs of which many were queued at the same instant
    expected = [write_run(f"run-{number:03d}", queued=NOON + (number // 10) * MINUTE) for number in range(230)][::-1]
    added = iter(range(10_000))

    # when more are queued while somebody pages
    shown = list(
        pages(viewer, between=lambda: [write_run(f"late-{next(added)}", queued=NOON + 99 * MINUTE) for _ in range(7)])
    )

    assert [len(page) for page in shown] == [50, 50, 50, 50, 30]
    assert expected == [one for page in shown for one in page]


def test_runs_that_are_deleted_let_no_other_be_skipped(shop: Any, viewer: Client) -> None:
    expected = [write_run(f"run-{number:03d}") for number in range(120)][::-1]
    first = viewer.get(RUNS)

    shop.runs.delete(*expected[10:30], expected[49])

    assert ids(viewer.get(RUNS + first.context["cl"].after_url)) == expected[50:100]


def test_newer_leads_back_over_the_same_pages_and_ends_at_the_top(viewer: Client) -> None:
    expected = [write_run(f"run-{number:03d}", queued=NOON + (number // 10) * MINUTE) for number in range(230)][::-1]
    response = viewer.get(RUNS + viewer.get(RUNS + viewer.get(RUNS).context["cl"].after_url).context["cl"].after_url)

    second = viewer.get(RUNS + response.context["cl"].before_url)
    top = viewer.get(RUNS + second.context["cl"].before_url)

    assert [ids(response), ids(second), ids(top)] == [expected[100:150], expected[50:100], expected[:50]]
    assert top.context["cl"].before_url is None
    assert "Newer" not in text(top)
    assert "Newest" in text(second)


def test_newer_near_the_top_shows_a_whole_page(viewer: Client) -> None:
    for number in range(70):
        write_run(f"run-{number:03d}")

    # ten runs are newer than this one
    response = viewer.get(f"{RUNS}?before={int(NOON.timestamp() * 1000)}000.run-059")

    assert ids(response) == [f"run-{number:03d}" for number in range(69, 19, -1)]
    assert response.context["cl"].before_url is None


def test_the_oldest_first_are_paged_towards_the_newest(viewer: Client) -> None:
    expected = [write_run(f"run-{number:03d}", queued=NOON + (number // 10) * MINUTE) for number in range(120)]

    shown = list(pages(viewer, "?o=2"))

    assert expected == [one for page in shown for one in page]
    assert "Newer" in text(viewer.get(f"{RUNS}?o=2"))
    assert "Older" in text(viewer.get(RUNS))


@pytest.mark.parametrize("query", ["?q=run-", "?q=run-&o=2", "?status=SUCCESS&queue=imports", "?p=2"])
def test_filtered_and_found_runs_are_paged_alike(query: str, viewer: Client) -> None:
    expected = [write_run(f"run-{number:03d}", queued=NOON + (number // 10) * MINUTE) for number in range(130)][::-1]
    write_run("other", status="FAILURE")
    expected = expected[::-1] if "o=2" in query else expected[50:] if "p=2" in query else expected

    assert expected == [one for page in pages(viewer, query) for one in page if one != "other"]


def test_pages_go_on_where_counting_ends(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_stackstate_admin.runs.queryset.COUNT_CAP", 60)
    monkeypatch.setattr("celery_stackstate_admin.runlist.changelist.COUNT_CAP", 60)
    expected = [write_run(f"run-{number:03d}") for number in range(170)][::-1]

    assert expected == [one for page in pages(viewer) for one in page]


@pytest.mark.parametrize("run_id", ["a/b:c", "x_5f", "q?a=1&b", 'quo"te', "ünïcode 🦜", "50%", "1.2.3", "", "a;b,c"])
def test_a_page_begins_behind_a_run_with_any_id(run_id: str, viewer: Client) -> None:
    write_run("older", queued=NOON - MINUTE)
    for number in range(49):
        write_run(f"run-{number:03d}", queued=NOON + MINUTE)
    write_run(run_id or "none", queued=NOON)

    assert list(pages(viewer))[1] == ["older"]
    assert ids(viewer.get(RUNS, {"after": f"{int(NOON.timestamp() * 1000)}000.{run_id or 'none'}"})) == ["older"]


@pytest.mark.parametrize("name", ["after", "before"])
@pytest.mark.parametrize(
    "place", ["", "x", ".", ".a", "-1.a", "1e3.a", "٣.a", "99999999999999999999999.a", "1.a%00b", "1" * 5000]
)
def test_a_place_that_is_none_is_a_bad_lookup(name: str, place: str, viewer: Client) -> None:
    write_run("a")

    response = viewer.get(f"{RUNS}?{name}={place}")

    assert (302, f"{RUNS}?e=1") == (response.status_code, response["Location"])


def test_no_link_of_the_page_but_older_and_newer_keeps_its_place(viewer: Client) -> None:
    for number in range(120):
        write_run(f"run-{number:03d}")

    response = viewer.get(RUNS + viewer.get(RUNS).context["cl"].after_url + "&queue=imports")
    links = re.findall(r'href="(\?[^"]*)"', response.content.decode())

    assert len(links) > 25
    assert len([link for link in links if "after=" in link]) == 2  # Older, and "Show counts" of this page
    assert len([link for link in links if "before=" in link]) == 1


def test_a_page_behind_a_run_counts_and_selects_all_that_match(viewer: Client) -> None:
    for number in range(120):
        write_run(f"run-{number:03d}")

    shown = viewer.get(RUNS + viewer.get(RUNS).context["cl"].after_url).context["cl"]

    assert len(shown.result_list) == 50
    assert (shown.result_count, shown.queryset.count()) == (120, 120)


# -- columns -----------------------------------------------------------------------------------------------------------


def row(response: Any, run_id: str) -> dict[str, str]:
    """Return the texts of a run's row by column."""
    content = response.content.decode()
    (found,) = (part for part in content.split("<tr")[1:] if f'title="{run_id}"' in part)
    cells = re.findall(r'class="field-(\w+)[^"]*"[^>]*>(.*?)</t[dh]>', found, re.DOTALL)
    return {name: " ".join(re.sub(r"<[^>]*>", "", cell).split()) for name, cell in cells}


def test_a_row_tells_task_key_status_times_attempts_queue_and_worker(viewer: Client) -> None:
    write_run("run-1", key="stripe:evt_1", ran=2.5, retries=2, status="FAILURE", error="OSError: refused")

    found = row(viewer.get(RUNS), "run-1")

    assert found.pop("queued").endswith(("12:00", "13:00:01", "13:00"))
    assert found == {
        "task_and_key": "shop.tasks.import_productsrun-1 · key stripe:evt_1OSError: refused",
        "badge": "FAILURE",
        "waited": "1.0 s",
        "ran": "2.5 s",
        "retried": "2",
        "in_queue": "imports",
        "on_worker": "celery@w1",
    }


@pytest.mark.parametrize(("retries", "shown"), [(0, "–"), (1, "1")])  # noqa: RUF001
def test_a_row_counts_the_retries_and_not_the_attempts_of_which_a_lost_one_would_be_missing(
    retries: int, shown: str, viewer: Client
) -> None:
    lost_before = [
        *attempt("x1", to_micros(NOON), to_micros(NOON) + SECOND, "lost"),
        *attempt("x2", to_micros(NOON) + 2 * SECOND, to_micros(NOON) + 3 * SECOND, "success"),
    ]
    write_run("run-1", retries=retries, ran=1.0, events=lost_before)

    assert row(viewer.get(RUNS), "run-1")["retried"] == shown
    assert "in 2 attempts" in text(viewer.get(change(RUNS, "run-1")))


def test_a_row_tells_how_long_what_runs_has_run(viewer: Client) -> None:
    began = to_micros(datetime.now(timezone.utc)) - 42 * SECOND
    standing = RunStanding("STARTED", "celery@w1", 0, 0, began)
    extension.runs_store.append([RunWrite("live", rank("STARTED", 1), RunFacts(task="t", created=began), standing)])

    shown = row(viewer.get(RUNS), "live")["ran"]

    assert shown.endswith(" s so far")
    assert 42 <= float(shown.split()[0]) < 52


@pytest.mark.parametrize(
    ("worker", "shown"),
    [
        ("imports@ip-10-12-0-113.eu-central-1.compute.internal", "imports@ip-10-12-0-113…"),
        ("celery@w1", "celery@w1"),
        ("a.b@c", "a.b@c"),
        ("no-host.at.all", "no-host.at.all"),
    ],
)
def test_a_worker_is_named_up_to_the_first_dot_of_its_host(worker: str, shown: str, viewer: Client) -> None:
    write_run("run-1", worker=worker)

    page = viewer.get(RUNS)

    assert row(page, "run-1")["on_worker"] == shown
    assert f'<span title="{worker}">' in page.content.decode()


def test_the_list_has_a_name_and_no_dates_where_there_are_no_runs(viewer: Client) -> None:
    write_run("run-1")

    page, none, dated = (viewer.get(RUNS + query) for query in ("", "?q=zzz", "?queued_at__year=2020"))

    assert "<h1>Runs</h1>" in page.content.decode()
    assert b"toplinks" not in none.content
    assert b"toplinks" in page.content
    assert b"toplinks" in dated.content


def test_a_filter_says_which_names_it_leaves_out_and_which_it_does_not_count(viewer: Client) -> None:
    for number in range(30):
        write_run(f"q{number}", queue=f"queue-{number:02}")
    for number in range(510):
        write_run(f"t{number}", task=f"t.{number:03}")

    plain, counted = text(viewer.get(RUNS)), text(viewer.get(RUNS + "?_facets=True"))

    assert "By task: the first 500 " in plain
    assert "By queue All" in plain
    assert "By task: the first 500 (counts of the first 25) " in counted
    assert "By queue (counts of the first 25) " in counted
    assert "By status All" in counted


def test_the_names_of_the_filters_are_read_once_for_a_page(shop: Any, viewer: Client) -> None:
    write_run("a", host="web-1")

    with CountedCalls(shop) as calls:
        viewer.get(RUNS + "?_facets=True")

    assert calls.by_name["run_names"] == 4


# -- filters -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("host=web-2", ["b"]),
        ("origin=user:7", ["b"]),
        ("group=g", ["b"]),
        ("group_id=g", ["b"]),
        ("root_id=a", ["b"]),
        ("root=a", ["b"]),
        ("parent=a", ["b"]),
        ("key=k", ["b"]),
        ("host=web-1&host=web-2", ["b"]),
        ("host=web-1&origin=user:7", []),
    ],
)
def test_every_column_with_an_index_narrows_the_list(query: str, expected: list[str], viewer: Client) -> None:
    write_run("a", host="web-1")
    write_run(
        "b", host="web-2", origin="user:7", group_id="g", root_id="a", parent_id="a", key="k", queued=NOON + MINUTE
    )

    assert expected == ids(viewer.get(f"{RUNS}?{query}"))


def test_facets_say_where_their_counting_ends(viewer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_stackstate_admin.runs.queryset.COUNT_CAP", 5)
    monkeypatch.setattr("celery_stackstate_admin.runlist.filters.COUNT_CAP", 5)
    for number in range(9):
        write_run(str(number), status="SUCCESS" if number else "FAILURE", host="web-1")

    content = viewer.get(RUNS + "?_facets=True").content.decode()

    assert "SUCCESS (5+)" in content
    assert "FAILURE (1)" in content
    assert "web-1 (5+)" in content


def test_a_search_reads_the_history_once_per_page_whatever_it_counts_and_groups(shop: Any, viewer: Client) -> None:
    for number in range(30):
        write_run(f"run-{number:02d}", queued=NOON - number * timedelta(days=1), host="web-1")

    with CountedCalls(shop) as calls:
        response = viewer.get(RUNS + "?q=import")

    assert len(ids(response)) == 30
    assert [query.text for query in calls.queries].count("import") == 1


def test_runs_that_suppressed_duplicates_are_a_filter(viewer: Client) -> None:
    write_run("once")
    write_run("twice", duplicated="yes")

    assert ids(viewer.get(RUNS + "?duplicated=yes")) == ["twice"]
    assert "suppressed some" in text(viewer.get(RUNS))
    assert "suppressed some (1)" in " ".join(text(viewer.get(RUNS + "?_facets=True")).split())


def test_the_list_shows_how_far_a_run_is_that_goes_on(viewer: Client) -> None:
    write_run("half", status="STARTED", progress=dump_progress(1, 50, 100, "row <b>50</b>"))
    write_run("endless", status="STARTED", queued=NOON - MINUTE, progress=dump_progress(1, 7, None, None))
    write_run("done", status="SUCCESS", queued=NOON - 2 * MINUTE, progress=dump_progress(1, 9, 9, None))
    write_run("odd", status="STARTED", queued=NOON - 3 * MINUTE, progress='["x", {}, 1]')

    page = viewer.get(RUNS).content.decode()

    assert page.count("<progress ") == 1
    assert '<progress class="ss-bar-running" max="1" value="0.5000" aria-label="Progress">50 %</progress>' in page
    assert 'title="row &lt;b&gt;50&lt;/b&gt;"' in page
    assert page.count('class="ss-meta ss-how-far"') == 2
