"""A page that follows a run, in a real browser under a strict Content-Security-Policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from django.test import Client

from celery_stackstate.errors import StoreUnavailable
from tests.admin.pages import RUNS, change
from tests.admin.seeds import SECOND, attempt, event, write_run
from tests.admin.stories import NOW, ended, moment, running

Browse = Callable[..., Any]
SOON = 10_000  # milliseconds; the page asks every 2 seconds


def test_a_live_page_follows_a_run_to_its_end_and_stops(browse: Browse, viewer: Client) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/live/" in request.url else None)

    page.get_by_text("Following this run").wait_for()
    running(event("p1", NOW, "progress", "x1", done=230, total=500, message="rows"), logs=3)
    page.get_by_text("batch 2 stored").wait_for(timeout=SOON)
    assert page.locator("progress").get_attribute("value") == "0.4600"
    assert page.locator("#ss-status").inner_text() == ""  # the status is the same: nothing is announced

    ended()
    page.get_by_text("The run has ended.").wait_for(timeout=SOON)
    assert page.locator(".ss-head .ss-badge").inner_text() == "SUCCESS"
    assert page.locator("#ss-status").inner_text() == "Status: SUCCESS"
    assert page.locator("#ss-live button").count() == 0
    number = len(asked)
    page.wait_for_timeout(2_500)
    assert len(asked) == number


def test_a_reader_is_not_disturbed_by_what_is_refreshed(browse: Browse, viewer: Client) -> None:
    running(logs=200)
    page = browse(viewer, change(RUNS, "live"))
    page.locator("#ss-events > summary").click()
    page.locator("#ss-words > summary").click()
    box = page.locator(".ss-log")
    box.evaluate("(box) => { box.scrollTop = 100; }")
    page.locator("#ss-search").fill("batch")
    page.locator("#ss-search").evaluate("(field) => field.setSelectionRange(2, 4)")
    page.evaluate("window.scrollTo(0, 300)")

    running(event("c", NOW, "resumed", "x1", custom=True, data={"row": 1}), logs=201)
    page.get_by_text("batch 200 stored").wait_for(timeout=SOON, state="attached")

    assert page.locator("#ss-events").get_attribute("open") is not None
    assert page.locator("#ss-words").get_attribute("open") is not None
    assert box.evaluate("(box) => box.scrollTop") == 100
    assert page.evaluate("document.activeElement.id") == "ss-search"
    assert page.locator("#ss-search").input_value() == "batch"
    assert page.locator("#ss-search").evaluate("(field) => [field.selectionStart, field.selectionEnd]") == [2, 4]
    assert page.evaluate("window.scrollY") == 300


def test_marked_text_stays_marked_and_filtered_lines_stay_away(browse: Browse, viewer: Client) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    page.locator("#ss-search").fill("batch 1")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('.ss-log tr:not([hidden]) .ss-wrap'))")

    running(logs=12)
    page.get_by_text("batch 11 stored").wait_for(timeout=SOON, state="attached")

    assert page.evaluate("String(getSelection())") == "batch 1 stored"
    shown = page.locator(".ss-log tr:visible .ss-wrap").all_inner_texts()
    assert shown == ["batch 1 stored", "batch 10 stored", "batch 11 stored"]


def test_a_live_log_is_shown_from_its_end_until_the_reader_scrolls_back(browse: Browse, viewer: Client) -> None:
    running(logs=100)
    page = browse(viewer, change(RUNS, "live"))
    left = "(box) => box.scrollHeight - box.clientHeight - box.scrollTop"
    box = page.locator(".ss-log")
    assert box.evaluate(left) < 2

    running(logs=120)
    page.get_by_text("batch 119 stored").wait_for(timeout=SOON, state="attached")
    assert box.evaluate(left) < 2


def test_an_outage_is_shown_and_survived(browse: Browse, viewer: Client, shop: Any) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    store = shop.runs_store

    class Cut:
        def __getattr__(self, name: str) -> Any:
            raise StoreUnavailable("the wire is cut")

    try:
        shop.__dict__.pop("runs", None)
        shop.__dict__.update(runs_store=Cut())
        page.get_by_text(re.compile("No answer; trying again in 4 s")).wait_for(timeout=SOON)
        page.get_by_text(re.compile("No answer; trying again in 8 s")).wait_for(timeout=SOON)
        assert page.locator(".ss-head .ss-badge").inner_text() == "STARTED"
    finally:
        shop.__dict__.pop("runs", None)
        shop.__dict__.update(runs_store=store)

    ended()
    page.get_by_text("The run has ended.").wait_for(timeout=SOON)


def test_a_paused_page_asks_nothing_and_goes_on_at_once(browse: Browse, viewer: Client) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    page.get_by_role("button", name="Pause").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    ended()

    page.wait_for_timeout(2_500)
    assert asked == []
    page.get_by_role("button", name="Go on").click()
    page.get_by_text("The run has ended.").wait_for(timeout=1_500)


def test_a_hidden_page_asks_nothing_and_asks_when_it_is_seen_again(browse: Browse, viewer: Client) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))

    page.wait_for_timeout(2_500)
    assert asked == []
    ended()
    page.evaluate(hide, False)
    page.get_by_text("The run has ended.").wait_for(timeout=1_500)


def test_a_lost_run_that_a_worker_takes_up_again_is_followed(browse: Browse, viewer: Client) -> None:
    events = attempt("x1", NOW - 90 * SECOND, NOW - 50 * SECOND, "lost", queued_at=NOW - 95 * SECOND)
    write_run("back", status="LOST", queued=moment(NOW - 95 * SECOND), events=events)
    page = browse(viewer, change(RUNS, "back"))
    page.get_by_text("Following this run").wait_for()

    again = attempt("x2", NOW, None, None, worker="celery@w9")
    write_run("back", status="STARTED", queued=moment(NOW - 10 * SECOND), events=[*events, *again])
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on").click()

    page.get_by_text("celery@w9, pid 418").wait_for(timeout=SOON)
    assert page.locator("#ss-main").get_attribute("data-refresh-ms") == "2000"


def test_a_page_that_one_may_not_see_any_more_says_so(browse: Browse, viewer: Client) -> None:
    running()
    page = browse(viewer, change(RUNS, "live"))
    page.context.clear_cookies()

    page.get_by_text("Not following any more: reload the page.").wait_for(timeout=SOON)
