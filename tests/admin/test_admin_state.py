"""The list of state, and an entry's page."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from celery_stackstate_admin.models import StateEntry
from django.test import Client

from celery_stackstate import codec
from celery_stackstate.holding import HeldLocks
from celery_stackstate.keys import STATE as KIND
from celery_stackstate.keys import pack
from tests.admin.pages import STATE, change, text
from tests.admin.people import who_may
from tests.admin.seeds import write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.nouns.conftest import state_of
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture


def put(shop: Any, scope: str, key: str, value: Any = 1) -> None:
    shop.store.put(pack(KIND, scope, key), codec.encode(value))


def keys(response: Any) -> list[str]:
    assert response.status_code == 200
    return [entry.key for entry in response.context["cl"].result_list]


@pytest.fixture
def some_state(shop: Any) -> None:
    shop.state.set("imports:7:done", {"row": 230})
    shop.state.set("flag", "blue", ttl=3600)
    shop.state.increment("imports:count", 41)
    put(shop, "run:run-1", "step:a")
    put(shop, "task:shop.mail", "imports:last")
    put(shop, "scope:other", "flag")
    shop.state.lock("catalog:7", ttl=600, renew=False).acquire()


@pytest.mark.usefixtures("some_state")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["flag", "imports:7:done", "imports:count", "step:a", "flag", "imports:last", "catalog:7"]),
        ("kind=lock", ["catalog:7"]),
        ("kind=counter", ["imports:count", "step:a", "flag", "imports:last"]),
        ("scope=app", ["flag", "imports:7:done", "imports:count", "catalog:7"]),
        ("scope=run", ["step:a"]),
        ("scope=task:shop.mail", ["imports:last"]),
        ("scope=scope", ["flag"]),
        ("scope=nonsense", []),
        ("q=imports", ["imports:7:done", "imports:count"]),
        ("q=imports&scope=task:shop.mail", ["imports:last"]),
        ("q=imports&scope=task", ["imports:last"]),
        ("q=imports&kind=counter", ["imports:count"]),
        ("key__startswith=imp", ["imports:7:done", "imports:count", "imports:last"]),
        ("scope__exact=&q=flag", ["flag"]),
        ("q=done", []),
    ],
)
def test_state_is_listed_by_scope_and_key_and_filtered(query: str, expected: list[str], viewer: Client) -> None:
    assert expected == keys(viewer.get(f"{STATE}?{query}"))


@pytest.mark.usefixtures("some_state")
@pytest.mark.parametrize("query", ["key__contains=x", "version__gt=1", "nonsense=1", "p=0", "p=99"])
def test_what_a_walk_cannot_answer_is_a_bad_lookup(query: str, viewer: Client) -> None:
    response = viewer.get(f"{STATE}?{query}")

    assert (302, f"{STATE}?e=1") in [(response.status_code, response.get("Location"))] or query.startswith("p=")


def test_pages_of_state_follow_each_other(shop: Any, viewer: Client) -> None:
    expected = [f"key:{number:03d}" for number in range(250)]
    for key in expected:
        put(shop, "", key)

    pages = [keys(viewer.get(f"{STATE}?p={page}")) for page in range(1, 6)]

    assert expected == [key for page in pages for key in page]
    assert viewer.get(f"{STATE}?p=6").status_code == 302


def test_a_walk_ends_after_a_number_of_entries_and_the_page_says_so(
    shop: Any, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_stackstate_admin.state.admin.LOOK_AT_MOST", 100)
    for number in range(100):
        put(shop, "", f"key:{number:03d}")
    exactly = viewer.get(STATE)
    put(shop, "", "key:100")
    more = viewer.get(STATE)

    assert b"looked at" not in exactly.content
    assert b"The list ends after 100 entries were looked at" in more.content
    assert more.context["cl"].result_count == 100
    # a prefix leads straight to what the walk did not reach
    assert keys(viewer.get(STATE + "?q=key:100")) == ["key:100"]


@pytest.mark.usefixtures("some_state")
def test_an_entrys_page_shows_its_value(viewer: Client) -> None:
    entry = StateEntry.objects.get(key="imports:7:done")

    response = viewer.get(change(STATE, entry.pk))

    assert response.context["value"] == '{\n  "row": 230\n}'
    assert str(entry.version) in text(response)
    assert "never" in text(response)


@pytest.mark.usefixtures("some_state")
def test_a_locks_page_shows_who_holds_it(viewer: Client) -> None:
    import os

    entry = StateEntry.objects.get(kind="lock")

    assert f"({os.getpid()})" in text(viewer.get(change(STATE, entry.pk)))


def test_a_lock_that_is_kept_for_a_retry_says_so(shop: Any, viewer: Client) -> None:
    held = HeldLocks()
    lock = state_of(shop.store, "7", held=held).lock("catalog:7", ttl=60, keep_on_retry=True)
    lock.acquire()
    held.settle(retry_in=30)
    entry = StateEntry.objects.get(kind="lock")

    assert "kept for the next attempt of shop.tasks.import[7]" in text(viewer.get(change(STATE, entry.pk)))


def test_an_entry_that_is_gone_leads_to_the_index(viewer: Client) -> None:
    for entry_id in ("gone", "not base64 !", "cwAAeA", "🦜"):
        assert viewer.get(change(STATE, entry_id)).status_code == 302


@pytest.mark.parametrize("text_of", ["<script>alert(1)</script>", "{{ 7|add:1 }}", "%s", "\u202egnp.exe", "W" * 4000])
def test_keys_and_values_are_shown_as_text(text_of: str, shop: Any, viewer: Client) -> None:
    put(shop, "scope:" + text_of[:40], text_of[:200], {text_of: text_of})
    entry = next(iter(StateEntry.objects.all()))

    for address in (STATE, change(STATE, entry.pk)):
        content = viewer.get(address).content.decode()
        assert "<script>alert" not in content
        assert "\u202e" not in content


# -- folders -----------------------------------------------------------------------------------------------------


def places(response: Any) -> dict[str, str]:
    """Return the folders above the list, each with its count."""
    assert response.status_code == 200
    panel = response.context["cl"].panel
    return {place.name: place.count for place in panel.places}


def way(response: Any) -> list[str]:
    return [crumb.name for crumb in response.context["cl"].panel.crumbs]


def enter(client: Client, response: Any, name: str) -> Any:
    """Follow the link to a folder."""
    [url] = [place.url for place in response.context["cl"].panel.places if place.name == name]
    assert f'href="{url}"' in unescape(response.content.decode())
    return client.get(STATE + url)


def test_state_is_walked_through_like_folders(any_store: Any, viewer: Client) -> None:  # noqa: F811
    any_store.state.set("flag", "blue")
    any_store.state.set("imports:7:done", 1.5)
    any_store.state.set("imports:7:total", 2.5)
    any_store.state.set("imports:8:done", 3.5)
    any_store.state.set("catalog/eu", "x")
    any_store.state.lock("imports:7", ttl=60, renew=False).acquire()
    put(any_store, "task:shop.mail", "last:1")
    put(any_store, "run:run-1", "step:a")
    put(any_store, "run:run-2", "step:a")

    top = viewer.get(STATE)
    app = enter(viewer, top, "App-wide keys")
    imports = enter(viewer, app, "imports:")
    seven = enter(viewer, imports, "7:")
    runs = enter(viewer, top, "Runs")
    run = enter(viewer, runs, "run-1")

    assert (way(top), places(top)) == (["All state"], {"App-wide keys": "6", "Tasks": "1", "Runs": "2"})
    assert (way(app), places(app)) == (["All state", "app-wide"], {"catalog/": "1", "imports:": "4"})
    assert (way(imports), places(imports)) == (["All state", "app-wide", "imports:"], {"7:": "2", "8:": "1"})
    assert keys(imports) == ["imports:7:done", "imports:7:total", "imports:8:done", "imports:7"]
    assert (way(seven), places(seven)) == (["All state", "app-wide", "imports:", "7:"], {})
    assert keys(seven) == ["imports:7:done", "imports:7:total"]
    assert (way(runs), places(runs)) == (["All state", "Runs"], {"run-1": "1", "run-2": "1"})
    assert (way(run), keys(run)) == (["All state", "Runs", "run run-1"], ["step:a"])


def test_the_way_back_is_a_link_and_where_one_is_is_none(shop: Any, viewer: Client) -> None:
    shop.state.set("a:b:c", 1)

    page = viewer.get(f"{STATE}?scope=app&key__startswith=a:b:")
    urls = [crumb.url for crumb in page.context["cl"].panel.crumbs]

    assert urls == ["?", "?scope=app", "?key__startswith=a%3A&scope=app", ""]
    assert '<span aria-current="page">b:</span>' in page.content.decode()


def test_a_folder_is_searched_and_filtered_within(shop: Any, viewer: Client) -> None:
    for key in ("imports:7:done", "imports:70:done", "imports:8:done", "7"):
        shop.state.set(key, "x")
    shop.state.increment("imports:7:hits")
    shop.state.lock("imports:7:lock", ttl=60, renew=False).acquire()
    place = f"{STATE}?scope=app&key__startswith=imports:"

    assert keys(viewer.get(place + "&q=7")) == ["imports:70:done", "imports:7:done", "imports:7:hits", "imports:7:lock"]
    assert keys(viewer.get(place + "&q=imports:8")) == ["imports:8:done"]
    assert places(viewer.get(place + "&kind=lock")) == {"7:": "1"}
    assert keys(viewer.get(place + "&kind=counter")) == ["imports:7:hits"]
    assert viewer.get(place + "&q=7").context["cl"].panel is None


def test_a_folder_of_many_says_so_and_the_rest_is_a_page_away(any_store: Any, viewer: Client) -> None:  # noqa: F811
    for number in range(60):
        any_store.state.set(f"many:{number:02d}", 1)
    for number in range(45):
        any_store.state.set(f"z{number:02d}:x", 1)

    first = viewer.get(f"{STATE}?scope=app")
    more = viewer.get(STATE + first.context["cl"].panel.more)

    assert places(first)["many:"] == "50+"
    assert "more than 50 entries" in text(first)
    assert list(places(first))[1:] == [f"z{number:02d}:" for number in range(39)]
    assert list(places(more)) == [f"z{number:02d}:" for number in range(39, 45)]
    assert more.context["cl"].panel.more == ""
    assert b"Further folders" not in more.content


def test_the_folders_of_much_state_are_read_in_few_steps(shop: Any, viewer: Client) -> None:
    for letter in "abc":
        for number in range(1500):
            shop.store.put(pack(KIND, "", f"{letter}:{number:04d}"), 1)
    store, seen = shop.store, []

    class Watched:
        def scan(self, *args: Any, **options: Any) -> Any:
            found = store.scan(*args, **options)
            seen.append(len(found))
            return found

    shop.__dict__["store"] = Watched()
    shop.__dict__.pop("browser", None)
    found = shop.browser.folders("").items

    assert [(folder.name, folder.count) for folder in found] == [("a:", None), ("b:", None), ("c:", None)]
    assert sum(seen) <= 3 * 200


@pytest.mark.parametrize(
    "query",
    [
        "scope=app&key__startswith=%00",
        "scope=%00",
        "scope=app&folders=nonsense",
        "scope=app&folders=%F0%9F%A6%9C",
        "scope=run&folders=____",
        "scope=task:&key__startswith=::",
        "scope=app&key__startswith=%3Cscript%3Ealert(1)",
        "key__startswith=imports:",
        "scope=%E2%80%AEx:y",
    ],
)
@pytest.mark.usefixtures("some_state")
def test_hostile_places_are_empty_or_the_beginning(query: str, viewer: Client) -> None:
    response = viewer.get(f"{STATE}?{query}")

    assert response.status_code == 200
    assert "<script>alert" not in response.content.decode()
    assert "\u202e" not in text(response)  # a hidden field of the search repeats what the address says


def test_scopes_of_one_sort_are_found_behind_any_number_of_others(
    shop: Any, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celery_stackstate_admin.state.admin.LOOK_AT_MOST", 100)
    for number in range(150):
        put(shop, "", f"key:{number:03d}")
    put(shop, "run:run-1", "step:a")

    assert keys(viewer.get(f"{STATE}?scope=run")) == ["step:a"]


# -- one entry ---------------------------------------------------------------------------------------------------


def test_a_value_is_shown_with_its_type_version_and_time_left(any_store: Any, viewer: Client) -> None:  # noqa: F811
    from datetime import date
    from decimal import Decimal

    value = {"rows": 230, "sum": Decimal("1.50"), "day": date(2026, 11, 22), "raw": b"\x00", "pair": (1, "a")}
    any_store.state.set("totals", value, ttl=3600)
    entry = StateEntry.objects.get(key="totals")

    page = viewer.get(change(STATE, entry.pk))
    shown = unescape(page.content.decode())

    assert "dict of length 5" in text(page)
    for part in ('"rows": 230', '"sum": decimal 1.50', '"day": date 2026-11-22', "\"raw\": b'\\x00'", '"pair": ('):
        assert part in shown
    assert str(entry.version) in text(page)
    left = re.search(r'data-left="(\d+)', shown)
    assert left is not None
    assert 3590 <= int(left.group(1)) < 3600
    assert "in 59 min" in text(page) or "in 1 h" in text(page)


def test_a_runs_state_leads_to_the_run_for_those_who_may_view_it(shop: Any, viewer: Client) -> None:
    write_run("run-1")
    put(shop, "run:run-1", "step:a")
    address = change(STATE, StateEntry.objects.get(key="step:a").pk)

    assert "/run/run-1/change/" in viewer.get(address).content.decode()
    page = who_may("view_stateentry").get(address).content.decode()
    assert "/run/run-1/change/" not in page
    assert "?scope=run%3Arun-1" in page


def test_one_value_that_cannot_be_read_here_hides_no_other(shop: Any, viewer: Client) -> None:
    shop.state.set("good", "seen")
    shop.store.put(pack(KIND, "", "bad"), b'{"$type":"of a later release","is":1}')
    shop.store.put(pack(b"l", "", "odd"), b"[]")

    page = viewer.get(STATE)

    assert keys(page) == ["bad", "good", "odd"]
    assert "(not readable here: NewerFormat" in text(page)
    for entry in StateEntry.objects.all():
        assert viewer.get(change(STATE, entry.pk)).status_code == 200
