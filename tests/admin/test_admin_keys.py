"""The list of idempotency keys, one key's page, and the reset."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from celery_stackstate_admin.keys import admin as keyadmin
from celery_stackstate_admin.models import IdempotencyKey
from django.contrib.admin.models import CHANGE, LogEntry
from django.test import Client

from celery_stackstate.key_record import FAILED, RUNNING, SUCCEEDED, Record, Request, Reservation, store_key
from tests.admin.acting import answer, ask, choose, entries, form_of, told
from tests.admin.pages import KEYS, change, text
from tests.admin.people import who_may
from tests.admin.seeds import write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture

TASK = "shop.tasks.process_webhook"
OWN = f"task:{TASK}"
SECRET = "an argument that nobody shall see"


def reserve(shop: Any, key: str, scope: str = OWN, task: str = TASK, **more: Any) -> Reservation:
    asked: dict[str, Any] = {"fingerprint": "f" * 40, "on_failure": "release", "ttl": 86_400, "envelope": SECRET}
    found: Reservation = shop.key_protocol.reserve(Request(scope=scope, key=key, task=task, **{**asked, **more}))
    return found


def become(shop: Any, key: str, scope: str = OWN, *, ttl: int | None = None, **changed: Any) -> None:
    """Let a record be as a worker would have left it."""
    stored = shop.store.get(store_key(scope, key))
    record = replace(Record.load(stored), deliveries=1, **changed)
    shop.store.put(stored.key, record.dump(), ttl=None if ttl is None else ttl * 1_000_000)


def listed(response: Any) -> list[tuple[str, str]]:
    assert response.status_code == 200
    return [(key.scope, key.key) for key in response.context["cl"].result_list]


def page_of(key: str, scope: str = OWN) -> str:
    return change(KEYS, IdempotencyKey.objects.get(key=key, scope=scope).pk)


@pytest.fixture(autouse=True)
def no_entries() -> None:
    LogEntry.objects.all().delete()


@pytest.fixture
def key_viewer() -> Client:
    """Staff that may view keys, and nothing else."""
    return who_may("view_idempotencykey")


@pytest.fixture
def resetter() -> Client:
    """Staff that may view and reset keys."""
    return who_may("view_idempotencykey", "reset_idempotencykey")


def some_keys(shop: Any) -> None:
    reserve(shop, "nightly", "", "shop.tasks.nightly")
    reserve(shop, "stripe:1")
    reserve(shop, "stripe:2")
    reserve(shop, "paypal:1")
    reserve(shop, "sub", "run:parent:shop.tasks.sub", "shop.tasks.sub")
    reserve(shop, "stripe:1", "task:shop.tasks.refund", "shop.tasks.refund")
    become(shop, "stripe:2", state=SUCCEEDED, result=SECRET, ttl=3600)


EVERY = [
    ("", "nightly"),
    ("run:parent:shop.tasks.sub", "sub"),
    (OWN, "paypal:1"),
    (OWN, "stripe:1"),
    (OWN, "stripe:2"),
    ("task:shop.tasks.refund", "stripe:1"),
]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", EVERY),
        ("for=app", EVERY[:1]),
        (f"for={OWN}", EVERY[2:5]),
        (f"for={OWN}&q=stripe", EVERY[3:5]),
        (f"for={OWN}&q=stripe:1", EVERY[3:4]),
        (f"for={OWN}&q=nightly", []),
        ("q=night", EVERY[:1]),
        ("q=stripe", []),
        ("for=task:unknown", []),
        ("for=nonsense", []),
        ("for=run:parent:shop.tasks.sub", EVERY[1:2]),
        ("state=SUCCEEDED", EVERY[4:5]),
        (f"for={OWN}&state=RESERVED", EVERY[2:4]),
        ("state=nonsense", []),
    ],
)
def test_keys_are_listed_filtered_and_searched(
    query: str,
    expected: list[Any],
    any_store: Any,  # noqa: F811
    key_viewer: Client,
) -> None:
    some_keys(any_store)

    assert listed(key_viewer.get(f"{KEYS}?{query}")) == expected


def test_the_filter_offers_the_tasks_that_have_keys(any_store: Any, key_viewer: Client) -> None:  # noqa: F811
    some_keys(any_store)

    page = key_viewer.get(KEYS).content.decode()

    assert f"?for=task%3A{TASK}" in page
    assert "?for=task%3Ashop.tasks.refund" in page
    assert "shop.tasks.nightly</a>" not in page


@pytest.mark.parametrize("query", ["key__contains=x", "generation__gt=1", "nonsense=1"])
def test_what_keys_are_not_listed_by_is_a_bad_lookup(query: str, key_viewer: Client) -> None:
    response = key_viewer.get(f"{KEYS}?{query}")

    assert (response.status_code, response["Location"]) == (302, f"{KEYS}?e=1")


@pytest.mark.parametrize("query", ["q='%22%25<b>", "for=task:%00", "for=task:", "for=%F0%9F%A6%9C"])
def test_hostile_filters_find_nothing(query: str, shop: Any, key_viewer: Client) -> None:
    some_keys(shop)

    assert listed(key_viewer.get(f"{KEYS}?{query}")) == []


def test_pages_of_keys_follow_each_other(any_store: Any, key_viewer: Client) -> None:  # noqa: F811
    for number in range(120):
        reserve(any_store, f"k{number:03d}")

    pages = [listed(key_viewer.get(f"{KEYS}?p={page}")) for page in (1, 2, 3)]

    assert [key for page in pages for _, key in page] == [f"k{number:03d}" for number in range(120)]


def test_a_walk_ends_after_a_number_of_keys_and_the_page_says_so(
    shop: Any, key_viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyadmin, "LOOK_AT_MOST", 20)
    for number in range(20):
        reserve(shop, f"k{number:03d}")
    exactly = key_viewer.get(KEYS)
    reserve(shop, "k999")
    more = key_viewer.get(KEYS)

    assert "looked at" not in text(exactly)
    assert "The list ends after 20 keys were looked at" in text(more)
    assert len(listed(more)) == 20
    assert listed(key_viewer.get(f"{KEYS}?for={OWN}&q=k999")) == [(OWN, "k999")]


# -- one key -----------------------------------------------------------------------------------------------------


def test_a_keys_page_says_what_is_known_of_it(any_store: Any) -> None:  # noqa: F811
    viewer = who_may("view_idempotencykey", "view_run")
    found = reserve(any_store, "stripe:1", task_id="run-7")
    become(any_store, "stripe:1", state=SUCCEEDED, result=SECRET, ttl=7200)

    page = viewer.get(page_of("stripe:1"))

    assert "SUCCEEDED" in text(page)
    assert "it succeeded; the key is kept so that it is not run again" in text(page)
    assert str(found.ticket.generation) in text(page)
    assert 'href="/admin/celery_stackstate_admin/run/run-7/change/"' in page.content.decode()
    assert "for 1 h 59 min" in text(page) or "for 2 h" in text(page)
    assert "Begun 1 time" in text(page)
    assert "Finished" in text(page)


def test_a_key_in_use_is_kept_until_its_run_ends(shop: Any, key_viewer: Client) -> None:
    reserve(shop, "stripe:1")

    page = text(key_viewer.get(page_of("stripe:1")))

    assert "Kept until its run ends" in page
    assert "Begun not yet" in page
    assert "The key is taken: asked for; its message is being published." in page


def test_a_key_that_a_failure_freed_says_that_it_is_free(shop: Any, resetter: Client) -> None:
    reserve(shop, "freed")
    reserve(shop, "kept", on_failure="keep")
    become(shop, "freed", state=FAILED, ttl=60)
    become(shop, "kept", state=FAILED, ttl=60)

    freed, kept = (resetter.get(page_of(key)) for key in ("freed", "kept"))

    assert "The key is free" in text(freed)
    assert "The key is taken: it failed" in text(kept)
    assert "_op/reset" not in freed.content.decode()
    assert "_op/reset" in kept.content.decode()


def test_what_is_kept_privately_is_on_no_page(any_store: Any, root: Client) -> None:  # noqa: F811
    some_keys(any_store)

    for key, scope in (("stripe:1", OWN), ("stripe:2", OWN), ("nightly", "")):
        pk = IdempotencyKey.objects.get(key=key, scope=scope).pk
        for page in (root.get(KEYS), root.get(change(KEYS, pk)), ask(root, KEYS, "reset", pk)):
            assert page.status_code == 200
            assert SECRET not in page.content.decode()


def test_runs_are_links_only_for_those_who_may_view_them(shop: Any, key_viewer: Client) -> None:
    write_run("run-7")
    reserve(shop, "stripe:1", task_id="run-7")

    for page in (key_viewer.get(KEYS), key_viewer.get(page_of("stripe:1"))):
        assert "run-7" in text(page)
        assert "/run/run-7/" not in page.content.decode()
    assert "/run/run-7/" in who_may("view_idempotencykey", "view_run").get(KEYS).content.decode()


@pytest.mark.parametrize("key", ["a/b", 'o\'hara "q"', "100%", "%2F", "ünï/🦜", "_5F", "<script>", "\u202egnp"])
def test_every_key_has_a_page_and_is_shown_as_text(key: str, shop: Any, root: Client) -> None:
    for scope in ("", OWN, "run:parent:x"):
        reserve(shop, key, scope)

        page = root.get(page_of(key, scope))

        assert page.status_code == 200
        assert "<script>\n" not in page.content.decode()
        assert "<script></h1>" not in page.content.decode()
        assert "\u202e" not in page.content.decode()


@pytest.mark.parametrize("key_id", ["gone", "not base64 !", "a/b", '"', "%00", "eAB5", "🦜", "dGFzazoAeA", "AAA"])
def test_unknown_ids_lead_to_the_index(key_id: str, shop: Any, resetter: Client) -> None:
    some_keys(shop)

    response = resetter.get(change(KEYS, key_id))

    assert (response.status_code, response["Location"]) == (302, "/admin/")
    assert ask(resetter, KEYS, "reset", key_id).status_code == 404


# -- the reset ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "scope"), [("nightly", ""), ("stripe:1", OWN), ("sub", "run:parent:shop.tasks.sub")])
def test_a_key_is_reset_after_a_question(key: str, scope: str, any_store: Any, resetter: Client) -> None:  # noqa: F811
    some_keys(any_store)
    before = IdempotencyKey.objects.get(key=key, scope=scope)

    asked = ask(resetter, KEYS, "reset", before.pk)
    still = IdempotencyKey.objects.get(pk=before.pk)
    response = answer(resetter, asked)
    again = reserve(any_store, key, scope, before.task)

    assert not still.record.free
    assert told(response) == ["1 key was reset."]
    assert (again.created, again.ticket.task_id != before.run_id) == (True, True)
    log = f"Key reset; it was RESERVED, with the run {before.run_id}."
    assert entries() == [("view_idempotencykey-reset_idempotencykey", before.pk, CHANGE, log)]


def test_the_question_warns_of_a_run_at_work_and_of_a_success(shop: Any, resetter: Client) -> None:
    for key, state in (("running", RUNNING), ("done", SUCCEEDED), ("waiting", "PUBLISHED")):
        reserve(shop, key)
        become(shop, key, state=state)

    ids = {key.key: key.pk for key in IdempotencyKey.objects.all()}
    running, done, waiting = (text(ask(resetter, KEYS, "reset", ids[key])) for key in ("running", "done", "waiting"))

    assert "Its run is at work." in running
    assert "Its run succeeded." in done
    assert "at work" not in waiting
    assert "succeeded" not in waiting


def test_a_key_whose_run_went_on_since_the_question_is_not_reset(shop: Any, resetter: Client) -> None:
    reserve(shop, "stripe:1")
    asked = ask(resetter, KEYS, "reset", IdempotencyKey.objects.get(key="stripe:1").pk)
    become(shop, "stripe:1", state=RUNNING)

    response = answer(resetter, asked)

    assert "it has changed since you were asked" in told(response)[0]
    assert (IdempotencyKey.objects.get(key="stripe:1").state, entries()) == (RUNNING, [])


def test_many_keys_are_reset_from_the_list_and_free_ones_left(any_store: Any, resetter: Client) -> None:  # noqa: F811
    some_keys(any_store)
    reserve(any_store, "free")
    become(any_store, "free", state=FAILED, ttl=60)
    ids = [key.pk for key in IdempotencyKey.objects.all()]

    asked = choose(resetter, KEYS, "reset", *ids)
    response = answer(resetter, asked)

    assert "it is free already" in text(asked)
    assert told(response)[0] == "6 keys were reset."
    assert all(key.record.free for key in IdempotencyKey.objects.all())
    assert len(entries()) == 6


@pytest.mark.parametrize(
    ("permissions", "page_status", "allowed"),
    [
        ((), 403, False),
        (("reset_idempotencykey",), 403, False),
        (("view_run", "view_stateentry", "change_stateentry"), 403, False),
        (("view_idempotencykey",), 200, False),
        (("view_idempotencykey", "reset_idempotencykey"), 200, True),
    ],
)
def test_each_role_does_what_it_may(
    permissions: tuple[str, ...], page_status: int, allowed: bool, shop: Any, root: Client
) -> None:
    reserve(shop, "stripe:1")
    key = IdempotencyKey.objects.get(key="stripe:1")
    form = form_of(ask(root, KEYS, "reset", key.pk))
    client = who_may(*permissions)

    shown, page = client.get(KEYS), client.get(change(KEYS, key.pk))
    chosen = choose(client, KEYS, "reset", key.pk)
    posted = client.post(form.action, form.fields)

    assert (shown.status_code, page.status_code) == (page_status, page_status)
    assert (b'value="reset"' in shown.content, b"_op/reset/" in page.content) == (allowed, allowed)
    assert (chosen.status_code, posted.status_code) == ((200, 302) if allowed else (403, 403))
    assert IdempotencyKey.objects.get(pk=key.pk).record.free is allowed


def test_nobody_adds_edits_or_deletes_a_key(shop: Any, root: Client) -> None:
    reserve(shop, "stripe:1")
    address = page_of("stripe:1")

    assert root.get(f"{KEYS}add/").status_code == 403
    assert root.post(address, {"id": "x"}).status_code == 403
    assert root.get(address.replace("/change/", "/delete/")).status_code == 403
    assert root.post(address.replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403


def test_an_outage_during_a_reset_is_told_of(shop: Any, resetter: Client) -> None:
    from tests.admin.test_admin_outage import DownAfter

    some_keys(shop)
    asked = choose(resetter, KEYS, "reset", *(key.pk for key in IdempotencyKey.objects.filter(scope=OWN)))
    store, statuses, messages = shop.store, set(), []
    for calls in range(1, 12):
        shop.__dict__["store"] = DownAfter(store, calls)
        shop.__dict__.pop("idempotency", None)
        shop.__dict__.pop("key_protocol", None)
        response = answer(resetter, asked, token=f"{calls:032x}")
        statuses.add(response.status_code)
        messages += told(response)
    shop.__dict__["store"] = store
    shop.__dict__.pop("idempotency", None)
    shop.__dict__.pop("key_protocol", None)
    freed = [key.pk for key in IdempotencyKey.objects.filter(scope=OWN) if key.record.free]

    assert statuses == {302, 503}
    assert any(message.startswith("The store stopped answering: redis://") for message in messages)
    assert sorted(freed) == sorted(object_id for _, object_id, _, _ in entries())
