"""What an operator does to state: delete it, release locks by force; and who may do what."""

from __future__ import annotations

import re
from typing import Any

import pytest
from celery_stackstate_admin.models import StateEntry
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.test import Client

from tests.admin.acting import answer, ask, choose, entries, form_of, told
from tests.admin.entryforms import Interfering, fields, page_of, save
from tests.admin.pages import STATE, change, text
from tests.admin.people import who_may
from tests.admin.seeds import write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.nouns.conftest import state_of
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture


@pytest.fixture(autouse=True)
def no_entries() -> None:
    LogEntry.objects.all().delete()


# -- deleting ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def deleter() -> Client:
    """Staff that may view and delete state."""
    return who_may("view_stateentry", "delete_stateentry")


def test_an_entry_is_deleted_after_a_question(any_store: Any, deleter: Client) -> None:  # noqa: F811
    any_store.state.set("k", "a")
    entry = StateEntry.objects.get(key="k")

    asked = deleter.get(change(STATE, entry.pk).replace("/change/", "/delete/"), follow=True)
    still = any_store.state.get("k")
    response = answer(deleter, asked)

    assert (still, any_store.state.get("k")) == ("a", None)
    assert (told(response), response["Location"]) == (["1 entry was deleted."], STATE)
    assert entries() == [
        ("view_stateentry-delete_stateentry", entry.pk, DELETION, f"Deleted (version {entry.version}).")
    ]


def test_an_entry_that_changed_since_the_question_is_not_deleted(shop: Any, deleter: Client) -> None:
    shop.state.set("k", "a")
    asked = ask(deleter, STATE, "delete_entries", StateEntry.objects.get(key="k").pk)
    shop.state.set("k", "b")

    response = answer(deleter, asked)

    assert (shop.state.get("k"), entries()) == ("b", [])
    assert "it has changed since you were asked" in told(response)[0]


def test_an_entry_that_changes_during_the_deletion_is_not_deleted(shop: Any, deleter: Client) -> None:
    shop.state.set("k", "a")
    others = shop.state
    asked = ask(deleter, STATE, "delete_entries", StateEntry.objects.get(key="k").pk)

    class Remover(Interfering):
        def remove(self, key: bytes, **options: Any) -> Any:
            others.set("k", "b")
            return self._store.remove(key, **options)

    shop.__dict__["store"] = Remover(shop.store, lambda: None)
    response = answer(deleter, asked)

    assert (others.get("k"), entries()) == ("b", [])
    assert "it has changed since you were asked" in told(response)[0]


def test_many_are_deleted_from_the_list_but_no_lock(any_store: Any, deleter: Client) -> None:  # noqa: F811
    for number in range(5):
        any_store.state.set(f"k:{number}", number)
    any_store.state.lock("k:lock", ttl=60, renew=False).acquire()
    ids = [entry.pk for entry in StateEntry.objects.all()]

    response = answer(deleter, choose(deleter, STATE, "delete_entries", *ids))

    assert told(response)[0] == "5 entries were deleted."
    assert [entry.kind for entry in StateEntry.objects.all()] == ["lock"]
    assert len(entries()) == 5


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def releaser() -> Client:
    """Staff that may view state, and release locks by force."""
    return who_may("view_stateentry", "force_release_lock")


def test_a_locks_page_says_who_holds_it_since_when_and_until_when(any_store: Any, viewer: Client) -> None:  # noqa: F811
    write_run("run-9")
    lock = state_of(any_store.store, "run-9").lock("catalog:7", ttl=600, renew=False)
    lock.acquire()

    page = viewer.get(page_of("catalog:7"))

    assert "shop.tasks.import[run-9]" in text(page)
    assert 'href="/admin/celery_stackstate_admin/run/run-9/change/"' in page.content.decode()
    assert str(lock.fence) in text(page)
    assert "in 9 min 59 s" in text(page) or "in 10 min" in text(page)
    assert "Parked" not in text(page)


def test_a_lock_is_released_by_force(any_store: Any, releaser: Client) -> None:  # noqa: F811
    lock = state_of(any_store.store, "run-9").lock("catalog:7", ttl=600, renew=False)
    lock.acquire()
    entry = StateEntry.objects.get(key="catalog:7")

    asked = ask(releaser, STATE, "force_release", entry.pk)
    held = any_store.state.lock_info("catalog:7")
    response = answer(releaser, asked)

    assert "shop.tasks.import[run-9]" in text(asked)
    assert held is not None
    assert any_store.state.lock_info("catalog:7") is None
    assert told(response) == ["1 lock was released."]
    [(_, object_id, flag, message)] = entries()
    assert (entry.pk, CHANGE) == (object_id, flag)
    assert message.startswith("Lock released by force; it was held by shop.tasks.import[run-9]")
    assert f"(fence {lock.fence})" in message


def test_the_question_about_a_lock_says_who_holds_it_since_when_and_its_fence(shop: Any, releaser: Client) -> None:
    lock = shop.state.lock("catalog", ttl=600, renew=False)
    lock.acquire()

    shown = text(ask(releaser, STATE, "force_release", StateEntry.objects.get(key="catalog").pk))

    (place,) = re.findall(r"Held by (.*?) taken", shown)
    assert re.fullmatch(r"\S+ \(\d+\)", place), "the holder is told of once"
    assert re.search(rf"taken [\d.]+ m?s ago, fence {lock.fence}", shown)


def test_locks_of_every_scope_are_released(shop: Any, releaser: Client) -> None:
    for scope in (shop.state, shop.state.scope("other"), shop.state.for_run("run-1")):
        scope.lock("catalog", ttl=600, renew=False).acquire()

    ids = [entry.pk for entry in StateEntry.objects.filter(kind="lock")]
    answer(releaser, choose(releaser, STATE, "force_release", *ids))

    assert (len(ids), list(StateEntry.objects.all())) == (3, [])


def test_a_holder_that_came_since_the_question_keeps_the_lock(shop: Any, releaser: Client) -> None:
    shop.state.lock("catalog", ttl=600, renew=False).acquire()
    asked = ask(releaser, STATE, "force_release", StateEntry.objects.get(key="catalog").pk)
    shop.state.force_release("catalog")
    other = shop.state.lock("catalog", ttl=600, renew=False)
    other.acquire()

    response = answer(releaser, asked)

    assert shop.state.lock_info("catalog").fence == other.fence
    assert "it has changed since you were asked" in told(response)[0]


def test_a_lock_that_was_renewed_since_the_question_is_released(shop: Any, releaser: Client) -> None:
    lock = shop.state.lock("catalog", ttl=600, renew=False)
    lock.acquire()
    asked = ask(releaser, STATE, "force_release", StateEntry.objects.get(key="catalog").pk)
    lock.holding.renew()

    answer(releaser, asked)

    assert shop.state.lock_info("catalog") is None


def test_values_are_not_released_and_locks_are_neither_edited_nor_deleted(shop: Any, root: Client) -> None:
    shop.state.set("k", "a")
    lock = shop.state.lock("catalog", ttl=600, renew=False)
    lock.acquire()
    value, held = (StateEntry.objects.get(key=key).pk for key in ("k", "catalog"))

    page = root.get(change(STATE, held)).content.decode()

    assert "it is no lock" in text(ask(root, STATE, "force_release", value))
    assert "a lock is released, not deleted" in text(ask(root, STATE, "delete_entries", held))
    assert root.post(change(STATE, held), {"value": '"x"', "lifetime": "keep", "seen": "1"}).status_code == 403
    assert "id_value" not in page
    assert "_op/delete_entries" not in page
    assert "_op/reset_counters" not in page
    assert "_op/force_release" in page
    assert shop.state.lock_info("catalog").fence == lock.fence


# -- who may ----------------------------------------------------------------------------------------------------------

ROLES: dict[str, tuple[str, ...]] = {
    "nobody": (),
    "changer without view": ("change_stateentry",),
    "viewer": ("view_stateentry",),
    "changer": ("view_stateentry", "change_stateentry"),
    "deleter": ("view_stateentry", "delete_stateentry"),
    "releaser": ("view_stateentry", "force_release_lock"),
}
MAY = {
    "edit": {"changer", "root"},
    "reset_counters": {"changer", "root"},
    "delete_entries": {"deleter", "root"},
    "force_release": {"releaser", "root"},
}


@pytest.mark.parametrize("deed", MAY)
@pytest.mark.parametrize("role", [*ROLES, "root"])
def test_each_role_does_what_it_may_and_is_offered_nothing_else(role: str, deed: str, shop: Any, root: Client) -> None:
    shop.state.set("k", "a")
    shop.state.increment("hits", 41)
    shop.state.lock("catalog", ttl=600, renew=False).acquire()
    key = {"reset_counters": "hits", "force_release": "catalog"}.get(deed, "k")
    entry = StateEntry.objects.get(key=key)
    address = change(STATE, entry.pk)
    form = fields(root.get(address)) if deed == "edit" else {}
    confirmation = None if deed == "edit" else form_of(ask(root, STATE, deed, entry.pk))
    client = root if role == "root" else who_may(*ROLES[role])

    page = client.get(address)
    if confirmation is None:
        posted = client.post(address, {**form, "value": '"b"'})
        offered = b'id="id_value"' in page.content
    else:
        posted = client.post(confirmation.action, confirmation.fields)
        offered = f"_op/{deed}/".encode() in page.content
    allowed = role in MAY[deed]

    assert page.status_code == (403 if role in ("nobody", "changer without view") else 200)
    assert (offered, posted.status_code) == (allowed, 302 if allowed else 403)
    assert bool(entries()) is allowed
    if not allowed:
        assert (shop.state.get("k"), shop.state.count("hits")) == ("a", 41)
        assert shop.state.lock_info("catalog") is not None


@pytest.mark.parametrize("role", ["nobody", "viewer", "changer", "deleter", "releaser"])
def test_the_list_offers_only_what_one_may(role: str, shop: Any) -> None:
    shop.state.set("k", "a")
    client = who_may(*ROLES[role])

    page = client.get(STATE).content.decode()

    for deed in ("reset_counters", "delete_entries", "force_release"):
        assert (f'value="{deed}"' in page) is (role in MAY[deed])
        posted = choose(client, STATE, deed, StateEntry.objects.get(key="k").pk)
        assert posted.status_code == (200 if role in MAY[deed] else 403)


def test_a_form_without_its_token_is_refused(shop: Any) -> None:
    shop.state.set("k", "a")
    client = Client(enforce_csrf_checks=True)
    client.cookies = who_may("view_stateentry", "change_stateentry").cookies

    response = save(client, page_of("k"), value='"b"')

    assert (response.status_code, shop.state.get("k")) == (403, "a")
