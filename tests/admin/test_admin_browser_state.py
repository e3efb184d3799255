"""State, keys and workers in a real browser, under a strict Content-Security-Policy."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from celery_stackstate_admin.models import IdempotencyKey, StateEntry
from django.contrib.admin.models import LogEntry
from django.test import Client

from tests.admin.acting import entries
from tests.admin.browser import PHONE, overflow
from tests.admin.pages import KEYS, STATE, WORKERS, change
from tests.admin.test_admin_keys import reserve
from tests.admin.test_admin_workers import start

Browse = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_entries() -> None:
    LogEntry.objects.all().delete()


def page_of(key: str) -> str:
    return change(STATE, StateEntry.objects.get(key=key).pk)


def seconds(text: str) -> int:
    found = re.search(r"(?:(\d+) min)? ?(?:(\d+) s)?$", text)
    assert found is not None
    return int(found.group(1) or 0) * 60 + int(found.group(2) or 0)


def test_a_time_counts_down_to_its_end(shop: Any, browse: Browse, root: Client) -> None:
    shop.state.set("long", "x", ttl=120)
    shop.state.set("short", "x", ttl=2)

    page = browse(root, STATE)
    clocks = page.locator("time.ss-countdown")
    at_first = seconds(clocks.nth(0).inner_text())
    page.get_by_text("over", exact=True).wait_for(timeout=10_000)

    assert 0 < seconds(clocks.nth(0).inner_text()) < at_first <= 120


def test_folders_are_walked_a_value_is_changed_and_the_change_is_told(shop: Any, browse: Browse, root: Client) -> None:
    shop.state.set("imports:7:totals", {"sum": Decimal("1.50"), "day": date(2026, 11, 22)})
    shop.state.set("imports:8:totals", 1.5)

    page = browse(root, STATE)
    for name in ("App-wide keys", "imports:", "7:"):
        page.locator(".ss-places a", has_text=name).first.click()
    page.get_by_role("link", name="imports:7:totals").click()
    page.get_by_text("Change it").click()
    text = page.get_by_label("Value as JSON").input_value()
    page.get_by_label("Value as JSON").fill(text.replace("1.50", "2.75"))
    page.get_by_role("button", name="Save").click()

    page.get_by_text("The entry “imports:7:totals” was changed.").wait_for()

    assert shop.state.get("imports:7:totals") == {"sum": Decimal("2.75"), "day": date(2026, 11, 22)}
    assert len(entries()) == 1


def test_a_mistake_keeps_what_was_typed_and_a_conflict_shows_both(shop: Any, browse: Browse, root: Client) -> None:
    shop.state.set("k", "first")

    page = browse(root, page_of("k"))
    page.get_by_text("Change it").click()
    page.get_by_label("Value as JSON").fill('{"mine": NaN}')
    page.get_by_role("button", name="Save").click()
    page.get_by_text("NaN is not JSON").wait_for()
    kept = page.get_by_label("Value as JSON").input_value()
    page.get_by_label("Value as JSON").fill('{"mine": 1}')
    shop.state.set("k", "theirs")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Somebody else changed this entry").wait_for()
    theirs, mine = page.locator("pre.ss-code").inner_text(), page.get_by_label("Value as JSON").input_value()
    stood = shop.state.get("k")
    page.get_by_role("button", name="Replace what it is now").click()
    page.get_by_text("was changed").wait_for()

    assert kept == '{"mine": NaN}'
    assert (theirs, mine, stood) == ('"theirs"', '{"mine": 1}', "theirs")
    assert shop.state.get("k") == {"mine": 1}


def test_a_form_is_filled_in_and_sent_by_the_keyboard_alone(shop: Any, browse: Browse, root: Client) -> None:
    shop.state.increment("hits", 41)

    page = browse(root, page_of("hits"))
    page.locator("details.ss-edit > summary").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Control+a")
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    page.get_by_text("was changed").wait_for()

    assert shop.state.count("hits") == 7


def test_a_lock_is_released_after_a_question(shop: Any, browse: Browse, root: Client) -> None:
    shop.state.lock("catalog", ttl=600, renew=False).acquire()

    page = browse(root, page_of("catalog"))
    page.get_by_role("link", name="Force release").click()
    still = shop.state.lock_info("catalog")
    page.get_by_role("button", name="Force release").click()
    page.get_by_text("1 lock was released.").wait_for()

    assert still is not None
    assert shop.state.lock_info("catalog") is None


def test_a_key_is_reset_after_a_question(shop: Any, browse: Browse, root: Client) -> None:
    reserve(shop, "stripe:1")
    key = IdempotencyKey.objects.get(key="stripe:1")

    page = browse(root, change(KEYS, key.pk))
    page.get_by_role("link", name="Reset key").click()
    page.get_by_role("button", name="Reset key").click()
    page.get_by_text("1 key was reset.").wait_for()

    assert IdempotencyKey.objects.get(pk=key.pk).record.free


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(scheme: str, shop: Any, browse: Browse, root: Client) -> None:
    shop.state.set("a:" + "W" * 300, {"W" * 500: "W" * 500, "d": Decimal("1.5")}, ttl=60)
    shop.state.lock("L" * 300, ttl=600, renew=False).acquire()
    reserve(shop, "K" * 300)
    start(shop, "celery@" + "w" * 200)
    pages = [STATE, f"{STATE}?scope=app&key__startswith=a:", KEYS, WORKERS]
    pages += [change(STATE, entry.pk) for entry in StateEntry.objects.all()]
    pages += [change(KEYS, key.pk) for key in IdempotencyKey.objects.all()]

    page = browse(root, STATE, viewport=PHONE, color_scheme=scheme)
    for address in pages:
        page.goto(address)
        for summary in page.locator("details.ss-edit > summary").all():
            summary.click()
        assert (address, overflow(page)) == (address, 0)
