"""A run's page in a real browser, under a Content-Security-Policy that allows nothing but the site's own files."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from django.test import Client

from tests.admin.browser import PHONE, overflow
from tests.admin.pages import RUNS, change
from tests.admin.seeds import SECOND, attempt, event, log, write_run
from tests.admin.stories import NOW, TRACEBACK, moment, settled

Browse = Callable[..., Any]


# -- the timeline ------------------------------------------------------------------------------------------------------


def test_the_timeline_tells_what_the_pointer_is_on(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))

    page.locator(".ss-timeline circle").last.hover()
    assert "resumed at +1 min 5 s – row: 230" in page.locator("#ss-detail").inner_text()  # noqa: RUF001
    page.locator(".ss-fill-retry").hover()
    assert page.locator("#ss-detail").inner_text() == "Attempt 2: RETRY (FeedError) after 20.0 s, begun at +25.0 s"
    assert page.locator(".ss-fill-retry + title").text_content().startswith("Attempt 2: RETRY")


def test_the_timeline_is_one_stop_of_the_keyboard_with_arrows_inside(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    told = page.locator("#ss-detail")
    assert page.locator('.ss-timeline [tabindex="0"]').count() == 1

    page.locator('.ss-timeline [tabindex="0"]').focus()
    assert told.inner_text() == "Attempt 1 waited 5.0 s for a worker"
    page.keyboard.press("ArrowRight")
    assert told.inner_text().startswith("Attempt 1: LOST after 10.0 s")
    page.keyboard.press("ArrowDown")
    assert told.inner_text() == "Attempt 2 waited 10.0 s for a worker"
    page.keyboard.press("ArrowUp")
    assert told.inner_text().startswith("Attempt 1: LOST after 10.0 s")
    page.keyboard.press("End")
    assert told.inner_text().startswith("resumed at")
    page.keyboard.press("Home")
    assert told.inner_text() == "Attempt 1 waited 5.0 s for a worker"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.ss-timeline') === null")


def test_a_bar_leads_to_its_attempt_and_opens_it(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    assert page.locator("#ss-attempt-2").get_attribute("open") is None

    page.locator('.ss-mark[href="#ss-attempt-2"]').focus()
    page.keyboard.press("Enter")

    assert page.locator("#ss-attempt-2").get_attribute("open") is not None
    assert page.url.endswith("#ss-attempt-2")


# -- logs and tracebacks -----------------------------------------------------------------------------------------------


def test_lines_are_filtered_as_one_types(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    shown = page.locator(".ss-log tr:visible .ss-wrap")

    page.locator("#ss-search").press_sequentially("FEED")
    assert shown.all_inner_texts() == ["opening the feed", "the feed is slow", "opening the feed again"]
    assert page.locator("#ss-count").inner_text() == "3 of 4 lines shown match."
    page.locator("#ss-level").select_option("30")
    assert shown.all_inner_texts() == ["the feed is slow"]
    page.keyboard.press("Enter")
    page.locator("#ss-search").fill("")
    assert shown.all_inner_texts() == ["the feed is slow", "price missing\nin two lines"]
    page.locator("#ss-level").select_option("0")
    assert page.locator("#ss-count").inner_text() == ""
    assert "?" not in page.url


def test_tracebacks_are_folded_while_lines_are_looked_for_and_open_again_after(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    page.locator("#ss-attempt-2 > summary").click()
    frames = page.locator("#ss-attempt-2 .ss-frames")
    assert frames.is_visible()

    page.locator("#ss-level").select_option("30")
    assert not frames.is_visible()
    page.locator("#ss-attempt-2 .ss-trace > summary").click()
    page.locator("#ss-search").press_sequentially("slow")
    assert frames.is_visible(), "what the reader opened stays open"
    page.locator("#ss-search").fill("")
    page.locator("#ss-level").select_option("0")
    assert frames.is_visible()


def test_a_long_traceback_is_shown_from_its_end(browse: Browse, viewer: Client) -> None:
    traceback = "\n".join(f'  File "/srv/{n}.py", line 1, in f\n    f()' for n in range(90)) + "\nE: the reason"
    events = attempt("x1", NOW - 10 * SECOND, NOW, "failure", traceback=f"Traceback:\n{traceback}")
    write_run("long", status="FAILURE", events=events)

    box = browse(viewer, change(RUNS, "long")).locator(".ss-frames")

    assert box.evaluate("(box) => box.scrollHeight > box.clientHeight && box.scrollTop === 0"), "scrolled by the style"
    bottom = "(one) => one.getBoundingClientRect().bottom"
    assert abs(box.evaluate(bottom) - box.locator("> div").evaluate(bottom)) < 20


def test_when_not_all_lines_are_on_the_page_the_server_filters(browse: Browse, viewer: Client) -> None:
    events = attempt("x1", NOW - 10 * SECOND, NOW, "success")
    logs = [log("x1", n, NOW - 9 * SECOND + n, "the first" if n == 0 else f"line {n}") for n in range(1200)]
    write_run("long", events=events, logs=logs)
    page = browse(viewer, change(RUNS, "long"))
    assert page.get_by_text("the first", exact=True).count() == 0

    page.locator("#ss-search").fill("the first")
    page.locator("#ss-search").press("Enter")

    page.get_by_text("1 of 1,200 lines match.").wait_for()
    assert page.locator(".ss-log tr:visible .ss-wrap").all_inner_texts() == ["the first"]
    page.get_by_role("link", name="All lines").click()
    page.get_by_text("line 1199").wait_for()


def test_the_lines_that_are_shown_are_copied(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"), permissions=["clipboard-read", "clipboard-write"])
    attempt_3 = page.locator("#ss-attempt-3")
    page.locator("#ss-level").select_option("40")

    attempt_3.get_by_role("button", name="Copy").click()
    attempt_3.get_by_role("button", name="Copied").wait_for()

    assert (
        page.evaluate("navigator.clipboard.readText()") == "+11.00\tERROR\tshop.imports\tprice missing\nin two lines\n"
    )


def test_the_whole_traceback_is_copied_though_frames_are_folded(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"), permissions=["clipboard-read", "clipboard-write"])
    page.locator("#ss-attempt-2 > summary").click()
    trace = page.locator("#ss-attempt-2 .ss-trace")

    trace.get_by_role("button", name="Copy").click()
    trace.get_by_role("button", name="Copied").wait_for()

    assert page.evaluate("navigator.clipboard.readText()") == TRACEBACK


def test_folded_frames_open_one_by_one_and_all_at_once(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    page.locator("#ss-attempt-2 > summary").click()
    assert page.get_by_text("feed.read(url)").is_visible()
    assert not page.get_by_text("trace_task").is_visible()

    page.get_by_text("1 frame in celery").click()
    assert page.get_by_text("trace_task").is_visible()
    assert not page.get_by_text("create_connection").is_visible()
    page.get_by_role("button", name="All frames").click()
    assert page.get_by_text("create_connection").is_visible()
    page.get_by_role("button", name="Fold").click()
    assert not page.get_by_text("trace_task").is_visible()


def test_the_log_is_downloaded(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))

    with page.expect_download() as coming:
        page.get_by_role("link", name="Download the log").click()

    assert coming.value.suggested_filename == "done.log"
    content = coming.value.path().read_text()
    assert "[3] shop.imports: price missing\n    in two lines\n" in content


# -- without a script, and narrow --------------------------------------------------------------------------------------


def test_without_a_script_all_is_there_and_the_filter_works(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"), java_script_enabled=False)

    assert page.get_by_text("price missing").is_visible()
    assert not page.get_by_role("button", name="Copy").is_visible()
    page.locator("#ss-level").select_option("30")
    page.get_by_role("button", name="Filter").click()
    assert page.locator(".ss-log tr:visible .ss-wrap").all_inner_texts() == [
        "the feed is slow",
        "price missing\nin two lines",
    ]


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(color_scheme: str, browse: Browse, viewer: Client, shop: Any) -> None:
    wide = "W" * 3_000
    shop.state.set("k/" * 200, wide)
    touched = [["state", "", "k/" * 200], ["lock", "scope:" + "n" * 200, "l" * 500]]
    events = [
        *attempt("w1", NOW - 90 * SECOND, NOW - 80 * SECOND, "retry", error=wide, error_type=wide, traceback=TRACEBACK),
        *attempt("w2", NOW - 70 * SECOND, NOW, "failure", error=wide, worker=wide, traceback=wide, touched=touched),
        event("c", NOW - 60 * SECOND, wide[:200], "w2", custom=True, data={wide: wide}),
        event("p", NOW - 60 * SECOND, "progress", "w2", done=1, total=2, message=wide),
        event("s", NOW - 60 * SECOND, "state", "w2", state="PROGRESS", meta=[wide]),
    ]
    logs = [log("w2", 1, NOW - 60 * SECOND, wide, logger=wide)]
    root = write_run("root", task=wide[:200], queued=moment(NOW - 99 * SECOND))
    for number in range(20):
        parent = f"deep-{number - 1}" if number else root
        write_run(f"deep-{number}", task=wide[:200], parent_id=parent, root_id=root)
    write_run(
        "wide",
        status="FAILURE",
        task=wide[:200],
        key=wide[:200],
        error=wide,
        args=[wide],
        events=events,
        logs=logs,
        parent_id="deep-19",
        root_id=root,
        origin=wide,
    )

    page = browse(viewer, change(RUNS, "wide"), viewport=PHONE, color_scheme=color_scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")

    assert overflow(page) == 0


def test_each_control_has_a_name_and_headings_are_in_order(browse: Browse, viewer: Client) -> None:
    settled()
    page = browse(viewer, change(RUNS, "done"))
    levels = page.evaluate(
        "Array.from(document.querySelectorAll('#content :is(h1, h2, h3)'), (one) => Number(one.nodeName[1]))"
    )
    nameless = page.evaluate(
        "Array.from(document.querySelectorAll('#ss-main button, #ss-main input, #ss-main select, #ss-main a'))"
        ".filter((one) => !(one.textContent.trim() || one.getAttribute('aria-label') || one.labels?.length))"
        ".map((one) => one.outerHTML)"
    )

    assert json.dumps(levels).startswith("[1, 2")
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert nameless == []
