"""A run's page: what it says, and that nothing a task wrote can do harm there."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client

from celery_stackstate.records import to_micros
from tests.admin.pages import RUNS, change, text
from tests.admin.seeds import NOON, SECOND, attempt, event, log, write_run

START = to_micros(NOON)
NASTY = "<script>alert(1)</script> {{ 7|add:1 }} {% now 'Y' %} %s %(x)s 🦜 \u202egnp.exe \x1b[31m </textarea>'\""


class Tags(HTMLParser):
    """Collects the elements of a page and what its attributes are called."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.attributes: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.update(name for name, _ in attrs)
        if tag == "script":
            self.scripts.append(dict(attrs))


def import_that_was_lost(run_id: str = "import-7") -> str:
    """Write an import that was lost, retried, and then succeeded."""
    events = [
        *attempt("x1", START + SECOND, START + 13 * SECOND, "lost", queued_at=START, error="the lease ran out"),
        *attempt(
            "x2",
            START + 23 * SECOND,
            START + 27 * SECOND,
            "retry",
            error_type="OSError",
            error="refused",
            traceback="TB2",
        ),
        *attempt("x3", START + 42 * SECOND, START + 70 * SECOND, "success", worker="celery@w2", result={"kept": 1}),
        event("p1", START + 50 * SECOND, "progress", "x3", done=230, total=500, message="rows"),
        event("c1", START + 45 * SECOND, "resumed", "x3", custom=True, data={"row": 230}),
    ]
    logs = [log("x1", 1, START + 2 * SECOND, "from row 0"), log("x3", 1, START + 43 * SECOND, "from row 230", level=30)]
    return write_run(
        run_id,
        events=events,
        logs=logs,
        key="imports:7",
        retries=1,
        kwargs={"import_id": 7},
        ran=28.0,
        parent_id="parent-1",
    )


def test_the_page_tells_what_happened(viewer: Client) -> None:
    import_that_was_lost()

    response = viewer.get(change(RUNS, "import-7"))
    shown, page = text(response), response.context["page"]

    assert "shop.tasks.import_products" in shown
    assert "in 3 attempts" in shown
    assert "230 of 500 rows" in shown
    assert "46 %" in shown
    assert [row.status for row in page.timeline.rows] == ["LOST", "RETRY", "SUCCESS"]
    assert [lane.name for lane in page.timeline.lanes] == ["progress", "events"]
    assert [[line.message for line in one.lines] for one in page.attempts] == [["from row 0"], [], ["from row 230"]]
    assert "OSError: refused" in shown
    assert "TB2" in shown
    assert json.loads(page.payload) == {"args": [], "kwargs": {"import_id": 7}}
    assert json.loads(page.result) == {"kept": 1}
    assert change(RUNS, "parent-1") in response.content.decode()
    assert "row: 230" in shown


def test_the_page_tells_who_asked_and_leads_to_the_family(viewer: Client) -> None:
    events = [
        *attempt(
            "x1", START + SECOND, START + 2 * SECOND, "success", cpu=0.25, peak_memory=80 * 2**20, omitted_lines=1234
        ),
        event("d1", START, "duplicate", count=3),
        event("rerun:again", START, "rerun", run="again-1"),
    ]
    asked = {"chain": [2, 5], "chord": "chord-1", "rerun_of": "before-1"}
    write_run("kin", events=events, asked=asked, origin="user:<7>", parent_id="parent-1", root_id="root-1")

    response = viewer.get(change(RUNS, "kin"))
    shown, page = text(response), response.content.decode()

    for said in ("gunicorn on web-1 (pid 442), user:&lt;7&gt;", "2 of 5", "3 suppressed duplicates", "memory 80 MiB"):
        assert said in page
    assert "processor 250 ms" in shown
    assert "The first 1,234 log lines of attempt 1 were not kept." in shown
    for run_id in ("parent-1", "root-1", "chord-1", "before-1", "again-1"):
        assert change(RUNS, run_id) in page


@pytest.mark.parametrize(
    ("status", "said"),
    [("LOST", "Lost: it did not come to its end."), ("QUEUED", "None yet."), ("FAILURE", "None: the run did not")],
)
def test_a_run_without_a_result_says_why(status: str, said: str, viewer: Client) -> None:
    write_run("r", status=status)

    assert said in text(viewer.get(change(RUNS, "r")))


def test_a_failure_shows_its_traceback_once(viewer: Client) -> None:
    events = attempt(
        "x1", START + SECOND, START + 2 * SECOND, "failure", error_type="KeyError", error="'sku'", traceback="TRACE!"
    )
    write_run("failed", status="FAILURE", events=events, error="KeyError: 'sku'")

    shown = text(viewer.get(change(RUNS, "failed")))

    assert shown.count("TRACE!") == 1
    assert "the run did not succeed" in shown


@pytest.mark.parametrize(
    ("status", "refreshes"),
    [("QUEUED", True), ("STARTED", True), ("RETRY", True), ("LOST", True), ("SUCCESS", False), ("FAILURE", False)],
)
def test_the_page_refreshes_itself_until_the_run_has_finished(status: str, refreshes: bool, viewer: Client) -> None:
    write_run("run-1", status=status)

    assert refreshes is bool(viewer.get(change(RUNS, "run-1")).context["page"].refresh_ms)


def test_the_refreshing_part_is_the_same_main_part_without_the_page_around(viewer: Client) -> None:
    import_that_was_lost()

    response = viewer.get(f"{RUNS}import-7/live/")

    assert response.content.strip().startswith(b'<div id="ss-main"')
    assert b"<html" not in response.content
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("page", ["change", "live", "history"])
def test_whatever_a_task_wrote_is_shown_as_text(page: str, viewer: Client) -> None:
    events = [
        *attempt(
            "n1",
            START + SECOND,
            START + 9 * SECOND,
            "failure",
            worker=NASTY,
            error_type=NASTY,
            error=NASTY,
            traceback=NASTY,
        ),
        event("c", START + 2 * SECOND, NASTY, "n1", custom=True, data={NASTY: NASTY}),
        event("p", START + 3 * SECOND, "progress", "n1", done=1, total=2, message=NASTY),
    ]
    logs = [log("n1", 1, START + SECOND, NASTY, logger=NASTY)]
    write_run(
        "nasty",
        status="FAILURE",
        task=NASTY,
        queue=NASTY,
        worker=NASTY,
        key=NASTY,
        error=NASTY,
        events=events,
        logs=logs,
        args=[NASTY],
        kwargs={NASTY: NASTY},
    )

    shown = viewer.get(f"{RUNS}nasty/{page}/").content.decode()
    listed = viewer.get(RUNS + "?_facets=True").content.decode()

    for content in (shown, listed):
        assert "<script>alert" not in content
        assert "\u202e" not in content
        assert "\x1b" not in content
        assert "&lt;script&gt;alert(1)&lt;/script&gt; {{ 7|add:1 }} {% now" in content
        assert not [name for name in Tags(content).attributes if name.startswith("on")]
        assert all(
            (script.get("src") or "").startswith(("/static/", "/admin/jsi18n/")) for script in Tags(content).scripts
        )


def test_the_pages_need_no_inline_script_and_no_inline_style(viewer: Client) -> None:
    import_that_was_lost()

    tags = Tags(viewer.get(f"{RUNS}import-7/live/").content.decode())

    assert tags.scripts == []
    assert "style" not in tags.attributes


def test_a_huge_run_is_shown_within_bounds(viewer: Client) -> None:
    events = attempt("x1", START + SECOND, None, None)
    events += [event(f"e{n}", START + SECOND + n, f"event {n}", "x1", custom=True, data={"n": n}) for n in range(200)]
    logs = [log("x1", n, START + SECOND + n, f"line {n} " + "W" * 300) for n in range(1000)]
    write_run("huge", status="STARTED", events=events, logs=logs, args=["x" * 65_536])

    response: Any = viewer.get(change(RUNS, "huge"))

    assert len(response.context["page"].attempts[0].lines) == 1000
    assert "x" * 65_536 in response.content.decode()
    assert sum(len(lane.dots) for lane in response.context["page"].timeline.lanes) == 200
    assert (response.context["page"].timeline.note, response.context["page"].events_note) == ("", "")


def test_of_many_events_the_drawing_is_thinned_and_the_newest_are_listed(viewer: Client) -> None:
    events = attempt("x1", START, START + 2000 * SECOND, "success")
    events += [event(f"p{n}", START + n * SECOND, "progress", "x1", done=n, total=1000) for n in range(1, 1001)]
    events += [event("c1", START + SECOND, "resumed", "x1", custom=True)]
    write_run("many", events=events)

    response: Any = viewer.get(change(RUNS, "many"))
    page, shown = response.context["page"], text(response)

    progress, others = page.timeline.lanes
    assert [dot.title.split()[0] for dot in progress.dots[:2]] == ["1/1,000", "6/1,000"]
    assert progress.dots[-1].title.startswith("1,000/1,000")
    assert (len(progress.dots), len(others.dots)) == (200, 1)
    assert "201 of 1,001 events are drawn, evenly chosen." in shown
    assert (len(page.events), page.events[-1].name) == (500, "success")
    assert "The newest 500 of 1,004 events are listed." in shown


def test_what_runs_is_told_with_its_time_so_far(viewer: Client) -> None:
    now = to_micros(datetime.now(timezone.utc))
    events = [
        *attempt("x1", now - 90 * SECOND, now - 80 * SECOND, "retry"),
        *attempt("x2", now - 30 * SECOND, None, None),
    ]
    write_run("live", status="STARTED", events=events)

    (ran,) = (fact for fact in viewer.get(change(RUNS, "live")).context["page"].facts if fact.label == "Ran")

    assert (ran.value.split(" s ")[1], ran.note) == ("so far", "in 2 attempts")
    assert 40 <= float(ran.value.split()[0]) < 50


def test_a_related_run_is_named_by_the_beginning_of_its_id(viewer: Client) -> None:
    write_run("child", parent_id="0123456789", root_id="short")

    shown = text(viewer.get(change(RUNS, "child")))

    assert "Started by run 01234567… " in shown
    assert "Root run short " in shown


def test_tracebacks_step_back_while_lines_are_looked_for(viewer: Client) -> None:
    events = attempt("x1", START, START + SECOND, "failure", traceback="Traceback\nE: x")
    write_run("r", status="FAILURE", events=events, logs=[log("x1", 1, START, "a line")])

    def traces(**query: str) -> list[str]:
        return re.findall(r'<details class="ss-trace"([^>]*)>', viewer.get(change(RUNS, "r"), query).content.decode())

    assert traces() == [" open"]
    assert traces(q="line") == [""]


def test_the_last_attempts_log_is_there_although_the_first_one_filled_the_page(viewer: Client) -> None:
    events = attempt("x1", START, START + SECOND, "retry") + attempt("x2", START + 2 * SECOND, None, None)
    logs = [log("x1", n, START + n, "noise") for n in range(1500)] + [log("x2", 1, START + 3 * SECOND, "the reason")]
    write_run("noisy", status="STARTED", events=events, logs=logs)

    shown = text(viewer.get(change(RUNS, "noisy")))

    assert "the reason" in shown
    assert "noise" in shown
    assert "The newest 1,001 of 1,501 lines are shown." in shown
    assert "The newest 1,000 of 1,500 lines are shown." in shown


def test_a_run_of_which_hardly_anything_is_known_has_a_page(viewer: Client, shop: Any) -> None:
    from celery_stackstate.stores.base import RunWrite

    shop.runs_store.append([RunWrite("bare", 1, logs=[log("x", 1, START, "orphan line")])])

    assert "orphan line" in text(viewer.get(change(RUNS, "bare")))
    assert "task not known yet" in text(viewer.get(RUNS))
