"""The list of state, and an entry's page."""

from __future__ import annotations

from typing import Any

import pytest
from celery_stackstate_admin.models import StateEntry
from django.test import Client

from celery_stackstate import codec
from celery_stackstate.keys import STATE as KIND
from celery_stackstate.keys import pack
from tests.admin.pages import STATE, change, text


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
    monkeypatch.setattr("celery_stackstate_admin.stateadmin.LOOK_AT_MOST", 100)
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
