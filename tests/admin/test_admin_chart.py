"""What stands above the list of runs: the chart, the figures, and what the list is narrowed to."""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery_stackstate_admin.runlist import chart, figures, periods
from django.test import Client, override_settings
from django.utils import formats

from tests.admin.counted import CountedCalls
from tests.admin.pages import RUNS, ids
from tests.admin.seeds import write_run

BERLIN = ZoneInfo("Europe/Berlin")
#: The 15th of last month; its noon in Berlin.
NOON = (datetime.now(BERLIN).replace(day=1) - timedelta(days=1)).replace(
    day=15, hour=12, minute=0, second=0, microsecond=0
)
YEAR = f"queued_at__year={NOON.year}"
MONTH = f"{YEAR}&queued_at__month={NOON.month}"
DAY = f"{MONTH}&queued_at__day=15"
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.fixture
def day(shop: Any) -> None:
    """Eight runs in two half-hours of one day, and one on the day before; a worker has counted them."""
    for number in range(5):
        write_run(f"s{number}", queued=NOON + number * MINUTE)
    write_run(
        "failed",
        queued=NOON + 6 * MINUTE,
        status="FAILURE",
        task="shop.mail",
        host="web-7",
        origin="user:7",
        key="k",
        group_id="g",
    )
    write_run("lost", queued=NOON + 40 * MINUTE, status="LOST", queue="bulk")
    write_run("waiting", queued=NOON + 41 * MINUTE, status="QUEUED")
    write_run("earlier", queued=NOON - 24 * HOUR, status="REVOKED")
    count(shop)


def count(shop: Any) -> None:
    """Count the runs as a worker does."""
    shop.tallies.write(keep=100 * 86_400, back=100 * 86_400, budget=60)


def name(minutes: int) -> str:
    """Return the name of the half-hour that begins so long after noon."""
    start = NOON + minutes * MINUTE
    return f"15 {NOON:%b} {start:%H:%M} to {start + 30 * MINUTE:%H:%M}"


def chart_of(response: Any) -> chart.Chart:
    found = response.context["cl"].overview.chart
    assert isinstance(found, chart.Chart)
    return found


def counted(response: Any) -> dict[str, list[int]]:
    """Return the counts of each bar that has any: failure, lost, other, success."""
    return {bar.name: bar.counts for bar in chart_of(response).bars if bar.cells}


def legend(response: Any) -> dict[str, int]:
    return {key.label: int(key.count) for key in chart_of(response).legend}


@pytest.mark.usefixtures("day")
def test_a_day_is_drawn_in_half_hours_stacked_by_outcome(viewer: Client) -> None:
    response = viewer.get(f"{RUNS}?{DAY}")

    assert len(chart_of(response).bars) == 48
    assert counted(response) == {
        name(0): [1, 0, 0, 5],
        name(30): [0, 1, 1, 0],
    }
    assert legend(response) == {"failure": 1, "lost": 1, "other": 1, "success": 5}
    assert f"Runs by outcome, {formats.date_format(NOON)}" in response.content.decode()


@pytest.mark.usefixtures("day")
def test_each_bar_leads_to_its_runs(viewer: Client) -> None:
    first, second = (bar for bar in chart_of(viewer.get(f"{RUNS}?{DAY}")).bars if bar.cells)

    assert ids(viewer.get(RUNS + first.url)) == ["failed", "s4", "s3", "s2", "s1", "s0"]
    assert ids(viewer.get(RUNS + second.url)) == ["waiting", "lost"]


@pytest.mark.usefixtures("day")
def test_a_month_is_drawn_in_days_and_a_year_in_months_that_lead_on(viewer: Client) -> None:
    month = viewer.get(f"{RUNS}?{MONTH}")
    year = viewer.get(f"{RUNS}?{YEAR}")

    assert counted(month) == {f"{NOON:%B} 14": [0, 0, 1, 0], f"{NOON:%B} 15": [1, 1, 1, 5]}
    assert counted(year) == {f"{NOON:%B %Y}": [1, 1, 2, 5]}
    assert (len(chart_of(month).bars), len(chart_of(year).bars)) == (monthrange(NOON.year, NOON.month)[1], 12)
    (bar,) = (bar for bar in chart_of(year).bars if bar.cells)
    assert bar.url == f"?queued_at__month={NOON.month}&queued_at__year={NOON.year}"
    assert ids(viewer.get(RUNS + chart_of(month).bars[13].url)) == ["earlier"]


@pytest.mark.usefixtures("day")
def test_the_chart_follows_status_and_task(viewer: Client) -> None:
    assert legend(viewer.get(f"{RUNS}?{DAY}&status=LOST")) == {"failure": 0, "lost": 1, "other": 0, "success": 0}
    assert legend(viewer.get(f"{RUNS}?{DAY}&status__in=LOST,QUEUED"))["other"] == 1
    mail = viewer.get(f"{RUNS}?{DAY}&task=shop.mail")
    assert legend(mail) == {"failure": 1, "lost": 0, "other": 0, "success": 0}
    assert "Runs of shop.mail by outcome" in mail.content.decode()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("queue=bulk", {name(30): [0, 1, 0, 0]}),
        ("queue=imports", {name(0): [1, 0, 0, 5], name(30): [0, 0, 1, 0]}),
        ("queue=imports&status=SUCCESS", {name(0): [0, 0, 0, 5]}),
        ("worker=celery@w1&task=shop.mail", {name(0): [1, 0, 0, 0]}),
        ("host=web-7", {name(0): [1, 0, 0, 0]}),
        ("origin=user:7", {name(0): [1, 0, 0, 0]}),
        ("key=k", {name(0): [1, 0, 0, 0]}),
        ("group=g", {name(0): [1, 0, 0, 0]}),
        ("q=shop.mail", {name(0): [1, 0, 0, 0]}),
        ("q=import_&o=2", {name(0): [0, 0, 0, 5], name(30): [0, 1, 1, 0]}),
    ],
)
@pytest.mark.usefixtures("day")
def test_the_chart_follows_what_has_no_counts_by_the_matches_themselves(
    query: str, expected: dict[str, list[int]], viewer: Client
) -> None:
    response = viewer.get(f"{RUNS}?{DAY}&{query}")

    assert counted(response) == expected
    assert b"Drawn from the runs that match, as far as they are kept." in response.content


@pytest.mark.usefixtures("day")
def test_a_chart_of_matches_begins_where_they_do_while_no_time_is_chosen(viewer: Client) -> None:
    (old,) = (bar for bar in chart_of(viewer.get(f"{RUNS}?queue=bulk")).bars if bar.cells)
    write_run("recent", queued=datetime.now(timezone.utc) - HOUR, queue="fresh")
    recent = viewer.get(f"{RUNS}?queue=fresh")

    assert old.counts == [0, 1, 0, 0]
    assert ids(viewer.get(RUNS + old.url)) == ["lost"]
    assert "Runs by outcome, last 24 hours" in recent.content.decode()


def test_a_chart_of_many_matches_is_of_the_newest_and_says_so(shop: Any, viewer: Client) -> None:
    now = datetime.now(timezone.utc)
    for number in range(600):
        write_run(f"{number:04}", queued=now - number * MINUTE, queue="bulk")

    with CountedCalls(shop) as calls:
        response = viewer.get(f"{RUNS}?queue=bulk")

    assert sum(sum(bar.counts) for bar in chart_of(response).bars) == 500
    assert b"Drawn from the newest 500 runs that match; there are no counts of older ones." in response.content
    assert chart_of(response).bars[0].counts[3] > 0
    assert [query.limit for query in calls.queries if query.limit > 100] == [500]


def test_a_list_without_runs_draws_nothing(viewer: Client) -> None:
    for query in ("", "?queue=none", "?q=nowhere"):
        response = viewer.get(RUNS + query)
        assert response.context["cl"].overview.chart is None
        assert b"ss-drawn" not in response.content


def test_the_last_24_hours_are_shown_until_a_time_is_chosen(viewer: Client) -> None:
    now = datetime.now(timezone.utc)
    write_run("recent", queued=now - HOUR, status="FAILURE")
    write_run("old", queued=now - 26 * HOUR)

    response = viewer.get(RUNS)

    assert len(chart_of(response).bars) == 48
    assert legend(response) == {"failure": 1, "lost": 0, "other": 0, "success": 0}
    assert "Runs by outcome, last 24 hours" in response.content.decode()
    # the legend leads to what it counts, not to older ones
    assert ids(viewer.get(RUNS + chart_of(response).legend[0].url)) == ["recent"]
    assert ids(viewer.get(RUNS + chart_of(response).legend[3].url)) == []


def test_a_time_without_runs_says_so_instead_of_drawing_nothing(viewer: Client) -> None:
    write_run("a", queued=NOON)

    response = viewer.get(f"{RUNS}?queued_at__year=2020&queued_at__month=10")

    assert b"No runs were queued in this time." in response.content
    assert b"<svg" not in response.content.partition(b'class="ss-chart"')[2].partition(b"</section>")[0]


@pytest.mark.parametrize(
    "query",
    ["queued_at__gte=0001-01-01T00:00Z", "queued_at__lt=9999-12-31T00:00Z&queued_at__gte=2020-01-01T00:00Z"],
)
@pytest.mark.usefixtures("day")
def test_a_time_too_long_for_a_chart_is_not_counted(query: str, viewer: Client) -> None:
    response = viewer.get(f"{RUNS}?{query}")

    assert len(ids(response)) == 9
    assert b"No chart: the time is too long for one." in response.content


@pytest.mark.usefixtures("day")
def test_the_drawing_has_a_table_instead_and_nothing_that_a_strict_policy_forbids(viewer: Client) -> None:
    content = viewer.get(f"{RUNS}?{DAY}").content.decode()
    section = content[content.index('class="ss-overview"') : content.index('id="changelist-form"')]
    table = section[section.index("<tbody>") : section.index("</tbody>")]

    rows = [re.findall(r"<t[hd][^>]*>(?:<a[^>]*>)?([^<]*)", row) for row in table.split("<tr>")[1:]]
    assert rows == [
        [name(0), "1", "0", "0", "5", "6"],
        [name(30), "0", "1", "1", "0", "2"],
    ]
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=|javascript:|https?://", section)
    plot = section[section.index('class="ss-plot"') : section.index("<details", section.index('class="ss-plot"'))]
    assert 'aria-hidden="true"' in plot
    assert plot.count("<a ") == plot.count('tabindex="-1"') == 48
    assert f"{name(0)}\n6 runs\n1 failure\n5 success" in plot


def test_a_bar_is_as_high_as_its_runs_and_shows_the_rarest_outcome() -> None:
    segments = chart._segments([1, 0, 0, 100_000], 100_000)

    assert [one.tone for one in segments] == ["failure", "success"]
    assert float(segments[0].height) == chart.FLATTEST
    assert sum(float(one.height) for one in segments) == pytest.approx(chart.HEIGHT - chart.HEADROOM)
    assert [float(one.y) + float(one.height) for one in segments] == pytest.approx([chart.HEIGHT, float(segments[0].y)])


@pytest.mark.parametrize(
    ("most", "top"), [(1, 1), (2, 2), (3, 4), (7, 8), (9, 10), (11, 12), (99, 100), (130, 140), (100_001, 120_000)]
)
def test_axes_end_at_numbers_that_are_easy_to_read(most: int, top: int) -> None:
    assert chart._round_up(most) == top


def test_days_are_those_of_the_calendar_when_clocks_change() -> None:
    with override_settings(USE_TZ=True, TIME_ZONE="Europe/Berlin"):
        # October 2026 in Berlin: the 25th has 25 hours
        since, until = (datetime(2026, *end, tzinfo=timezone.utc) for end in ((9, 30, 22), (10, 31, 23)))
        time = periods.time_of({"queued_at__year": "2026", "queued_at__month": "10"}, since, until, until)

    assert time is not None
    assert len(time.periods) == 31
    assert {(one.start.hour, one.end.hour) for one in time.periods} == {(0, 0)}
    utc = [(one.end.astimezone(timezone.utc) - one.start.astimezone(timezone.utc)) for one in time.periods]
    assert [number + 1 for number, length in enumerate(utc) if length != 24 * HOUR] == [25]


@pytest.mark.parametrize(
    ("hours", "bars"), [(0.5, 3), (2, 12), (12, 24), (24, 48), (48, 48), (24 * 30, 60), (9600, 58)]
)
def test_a_time_is_divided_into_a_readable_number_of_bars(hours: float, bars: int) -> None:
    time = periods.time_of({}, NOON, NOON + hours * HOUR, NOON)

    assert time is not None
    assert len(time.periods) == bars
    assert (time.start, time.end) == (NOON, NOON + hours * HOUR)


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figures_are_of_the_runs_that_are_shown(viewer: Client) -> None:
    for number in range(20):
        write_run(f"r{number:02}", ran=float(number + 1), queued=NOON + number * MINUTE)
    write_run("waiting", status="QUEUED", queued=NOON + HOUR)

    wait, ran = viewer.get(RUNS).context["cl"].overview.figures.spreads
    content = viewer.get(RUNS).content.decode()

    assert (wait.p50, wait.p95, wait.most) == ("1.0 s", "1.0 s", "1.0 s")
    assert (ran.p50, ran.p95, ran.most) == ("10.0 s", "19.0 s", "20.0 s")
    assert "Of all 21 runs" in content
    assert viewer.get(f"{RUNS}?status=QUEUED").context["cl"].overview.figures is None


def test_figures_are_of_the_newest_runs_that_match_whatever_page_is_shown(shop: Any, viewer: Client) -> None:
    for number in range(350):
        write_run(f"r{number:04}", ran=9.0 if number % 2 and number >= 100 else 1.0, queued=NOON + number * MINUTE)

    for query in ("?status=SUCCESS", "?o=2"):
        with CountedCalls(shop) as calls:
            response = viewer.get(RUNS + query)
        _, ran = response.context["cl"].overview.figures.spreads
        assert (ran.p50, ran.p95) == ("1.0 s", "9.0 s")
        assert "Of the newest 250 runs" in response.content.decode()
        assert [query.limit for query in calls.queries if query.limit > 100] == [250]


def test_percentiles_are_values_that_occur() -> None:
    assert figures.percentile([3.0], 0.5) == 3.0
    assert figures.percentile([1.0, 2.0], 0.5) == 1.0
    assert figures.percentile([float(number) for number in range(1, 101)], 0.95) == 95.0


# -- what the list is narrowed to --------------------------------------------------------------------------------------


def test_each_condition_is_a_line_that_can_be_removed(viewer: Client) -> None:
    write_run("a", key="stripe:evt_1", group_id="g-1")
    write_run("b", key="stripe:evt_1")

    response = viewer.get(f"{RUNS}?key=stripe:evt_1&group=g-1&o=2")
    shown = {(one.label, one.value): one.url for one in response.context["cl"].overview.narrowed}

    assert ids(response) == ["a"]
    assert set(shown) == {("key", "stripe:evt_1"), ("group", "g-1")}
    assert ids(viewer.get(RUNS + shown["group", "g-1"])) == ["a", "b"]
    assert "o=2" in shown["group", "g-1"]
    assert viewer.get(RUNS + response.context["cl"].overview.without).context["cl"].overview.narrowed == []


@pytest.mark.parametrize(
    "parameter", ["key", "group", "group_id", "root_id", "parent_id", "origin", "host", "id__in", "task"]
)
def test_hostile_conditions_are_shown_inert(parameter: str, viewer: Client) -> None:
    hostile = "<script>alert(1)</script>\u202e\x1b[31m\"'" + "x" * 5000

    response = viewer.get(RUNS, {parameter: hostile})
    content = response.content.decode()
    line = content[content.index('class="ss-narrowed"') : content.index("</ul>", content.index('class="ss-narrowed"'))]

    assert "<script>alert" not in content
    assert "&lt;script&gt;alert(1)" in line
    assert "\\u202e\\u001b[31m" in line
    assert "\u202e" not in re.sub(r"<input [^>]*>", "", content)


def test_quick_links_lead_to_unfinished_failed_and_lost_runs(viewer: Client) -> None:
    for status in ("QUEUED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "LOST"):
        write_run(status, status=status, queue="bulk")

    links = {one.label: one.url for one in viewer.get(f"{RUNS}?queue=bulk").context["cl"].overview.quick}

    assert ids(viewer.get(RUNS + links["Unfinished"])) == ["STARTED", "RETRY", "QUEUED"]
    assert ids(viewer.get(RUNS + links["Failed"])) == ["FAILURE"]
    assert ids(viewer.get(RUNS + links["Lost"])) == ["LOST"]
    assert "queue=bulk" in links["Lost"]
    chosen = viewer.get(RUNS + links["Lost"]).context["cl"].overview.quick
    assert [one.label for one in chosen if one.chosen] == ["Lost"]


def test_the_form_for_whole_values_keeps_the_other_conditions(viewer: Client) -> None:
    write_run("a", origin="user:7", queue="bulk")

    content = viewer.get(f"{RUNS}?queue=bulk&origin=user:7").content.decode()
    form = content[content.index('class="ss-exact"') :].partition("</form>")[0]

    assert '<input type="hidden" name="queue" value="bulk">' in form
    assert 'name="origin" value="user:7"' in form
    assert 'type="hidden" name="origin"' not in form
    # an empty field narrows nothing
    assert ids(viewer.get(f"{RUNS}?key=&origin=")) == ["a"]
