"""Operations and the progress bar in a real browser, under a strict Content-Security-Policy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client, override_settings

from celery_stackstate.records import FAILURE, STARTED, SUCCESS
from tests.admin.acting import convert, entries
from tests.admin.browser import PHONE, overflow
from tests.admin.pages import RUNS, change
from tests.admin.seeds import NOON, event, write_run

Browse = Callable[..., Any]
AT = 1_763_812_802_000_000


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    LogEntry.objects.all().delete()
    with override_settings(ROOT_URLCONF="tests.admin.embedding"):
        yield


def test_runs_are_deleted_from_the_list_after_a_question(shop: Any, browse: Browse, root: Client) -> None:
    for name in ("a", "b", "c"):
        write_run(name, status=FAILURE, task=f"shop.tasks.{name}")
    page = browse(root, RUNS)

    page.locator('input[value="a"]').check()
    page.locator('input[value="b"]').check()
    page.locator("select[name=action]").select_option("delete")
    page.get_by_role("button", name=re.compile("^(Go|Run)$")).click()  # Django 6.0 has the second
    page.get_by_role("heading", name="Delete these 2 runs?").wait_for()
    page.get_by_role("button", name="Delete").click()

    page.get_by_text("2 runs were deleted.").wait_for()
    assert [run.id for run in shop.runs.list()] == ["c"]
    assert sorted(entry[1] for entry in entries()) == ["a", "b"]


def test_going_back_changes_nothing(shop: Any, browse: Browse, root: Client) -> None:
    write_run("a", status=FAILURE)
    page = browse(root, change(RUNS, "a"))

    page.get_by_role("link", name="Delete", exact=True).click()
    page.get_by_role("link", name="No, take me back").click()

    page.wait_for_url(re.compile(re.escape(change(RUNS, "a"))))
    assert [run.id for run in shop.runs.list()] == ["a"]


def test_a_button_that_is_pressed_twice_makes_one_run(shop: Any, browse: Browse, root: Client) -> None:
    first = str(convert.delay("video").id)
    shop.recorder.flush()
    page = browse(root, change(RUNS, first))
    page.get_by_role("link", name="Run again").click()

    page.get_by_role("button", name="Run again").dblclick()
    page.get_by_text("It runs again.").wait_for()

    shop.recorder.flush()
    assert len(shop.runs.get(first).reruns) == 1
    page.get_by_role("link", name="History").first.click()
    page.get_by_text("Run again as").wait_for()


def test_a_confirmation_can_be_answered_by_the_keyboard_and_fits_a_phone(
    shop: Any, browse: Browse, root: Client
) -> None:
    write_run("a-" + "x" * 200, status=STARTED, task="shop.tasks." + "y" * 120)
    page = browse(root, f"{RUNS}_op/delete/?id=a-{'x' * 200}", viewport=PHONE)

    assert overflow(page) == 0
    page.locator("input[name=force]").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    page.get_by_text("1 run was deleted.").wait_for()


# -- the progress bar --------------------------------------------------------------------------------------------------

BAR = "{% url 'progress' 'run-1' as url %}{% stackstate_progress 'run-1' url label='Import of products' %}"
LISTEN = (
    "window.told = []; for (const name of ['stackstate:progress', 'stackstate:finished'])"
    " document.addEventListener(name, (event) => window.told.push([name, event.detail.status]));"
)


@pytest.fixture
def owner() -> Client:
    user, _ = User.objects.get_or_create(username="customer")
    client = Client()
    client.force_login(user)
    return client


def step(done: int | None = None, status: str = STARTED, queued: Any = NOON) -> None:
    user = User.objects.get(username="customer")
    told = {"done": done, "total": 10, "message": f"row {done}"}
    events = [] if done is None else [event(f"p{done}", AT + done, "progress", "e1", **told)]
    write_run("run-1", status=status, origin=f"user:{user.pk}", events=events, queued=queued)


def test_the_bar_follows_a_run_and_ends_with_it(shop: Any, browse: Browse, owner: Client) -> None:
    step(2)
    page = browse(owner, f"/page/?{_query(BAR)}")
    page.evaluate(LISTEN)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/progress/" in request.url else None)

    page.get_by_text("20 % · row 2").wait_for()
    assert page.get_by_role("progressbar", name="Import of products").get_attribute("value") == "20"
    step(7)
    page.get_by_text("70 % · row 7").wait_for()
    step(status=SUCCESS)
    page.get_by_text("Done").wait_for()

    assert page.locator("progress").get_attribute("value") == "100"
    assert page.evaluate("window.told.at(-1)") == ["stackstate:finished", "SUCCESS"]
    assert page.evaluate("window.told.filter(([name]) => name === 'stackstate:finished').length") == 1
    number = len(asked)
    page.wait_for_timeout(2_500)
    assert len(asked) == number


def test_the_bar_waits_for_a_run_that_is_not_known_yet_and_gives_up_in_the_end(
    shop: Any, browse: Browse, owner: Client
) -> None:
    page = browse(owner, f"/page/?{_query(BAR)}")
    page.wait_for_timeout(1_500)
    step(5)
    page.get_by_text("50 % · row 5").wait_for()

    other = browse(owner, f"/page/?{_query(BAR.replace('run-1', 'unknown'))}")
    other.get_by_text("Not available").wait_for(timeout=10_000)
    assert other.locator("progress").get_attribute("value") == "0"


def test_the_bar_says_when_nobody_answers_and_goes_on_when_somebody_does(
    shop: Any, browse: Browse, owner: Client
) -> None:
    step(2)
    page = browse(owner, f"/page/?{_query(BAR)}")
    page.get_by_text("20 % · row 2").wait_for()

    page.route("**/progress/**", lambda route: route.abort())
    page.get_by_text("No answer; trying again").wait_for(timeout=10_000)
    page.unroute("**/progress/**")
    step(9)
    page.get_by_text("90 % · row 9").wait_for(timeout=15_000)


def test_a_bar_that_is_put_into_the_page_later_works_and_one_that_is_taken_out_stops(
    shop: Any, browse: Browse, owner: Client
) -> None:
    step(2)
    page = browse(owner, f"/page/?{_query(BAR)}")
    page.get_by_text("20 % · row 2").wait_for()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/progress/" in request.url else None)

    page.evaluate("window.taken = document.querySelector('stackstate-progress'); window.taken.remove()")
    page.wait_for_timeout(2_500)
    assert len(asked) <= 1
    step(6)
    page.evaluate("document.querySelector('main').append(window.taken)")
    page.get_by_text("60 % · row 6").wait_for()


def test_a_projects_page_fits_a_phone(shop: Any, browse: Browse, viewer: Client) -> None:
    for number in range(5):
        name = f"run-{number}-{'x' * 60}"
        write_run(name, task="shop.tasks.import_all_products", status=FAILURE, origin="order:7", error="e" * 300)
    tags = "{% stackstate_status %}{% stackstate_runs origin='order:7' %}"

    page = browse(viewer, f"/page/?{_query(tags)}", viewport=PHONE)

    assert overflow(page) == 0


def _query(tags: str) -> str:
    from urllib.parse import urlencode

    return urlencode({"tags": tags})
