"""Changing state: what was typed is stored as it is meant, or refused; nobody's change is overwritten unseen."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from html import unescape
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.state import valuetext
from django.contrib.admin.models import CHANGE, LogEntry
from django.test import Client, override_settings

from celery_stackstate import codec
from celery_stackstate.keys import STATE as KIND
from celery_stackstate.keys import pack
from celery_stackstate.stores.base import INT64_MAX
from tests.admin.acting import answer, ask, entries, form_of, told
from tests.admin.entryforms import fields, interfere, page_of, save
from tests.admin.pages import STATE, change, text
from tests.admin.people import who_may
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture

BERLIN = ZoneInfo("Europe/Berlin")
VALUES: list[Any] = [
    None,
    True,
    1.5,
    -0.0,
    2**80,
    "",
    "blue",
    'a "quoted" \\ line\nand\ttab \r\n',
    "</textarea><script>alert(1)</script>&amp;",
    "\u202egnp.exe\ufeff\x00\x1b[31m\x7f\x85\u2028 \xa0",
    "\U0001f600\U000e0041 e\u0301",
    [],
    {},
    [1, [2, [3, (4, ())]]],
    {"row": 230, "nested": {"a": [None, False]}},
    {"$type": "decimal", "is": "not one"},
    datetime(2026, 11, 22, 12, 0, 0, 123456),
    datetime(2026, 11, 22, 12, tzinfo=timezone.utc),
    datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    date(2026, 11, 22),
    time(1, 2, 3),
    time(1, 2, 3, tzinfo=BERLIN),
    Decimal("1.50"),
    Decimal("-Infinity"),
    UUID("9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"),
    b"",
    b"\x00\xff\r\n",
    {"all": [Decimal("1.10"), (b"x", date(2026, 1, 1)), {"$type": 1}]},
]


@pytest.fixture(autouse=True)
def no_entries() -> None:
    LogEntry.objects.all().delete()


@pytest.fixture
def changer() -> Client:
    """Staff that may view and change state."""
    return who_may("view_stateentry", "change_stateentry")


# -- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_what_is_saved_unchanged_comes_back_equal(value: Any, shop: Any, changer: Client) -> None:
    shop.state.set("k", value)
    before = shop.state.entry("k")

    response = save(changer, page_of("k"))
    after = shop.state.entry("k")

    assert response.status_code == 302
    assert (type(before.value), before.value) == (type(after.value), after.value)
    assert codec.encode(before.value) == codec.encode(after.value)
    assert after.version > before.version


def test_values_are_changed_on_every_store(any_store: Any, changer: Client) -> None:  # noqa: F811
    any_store.state.set("k", {"all": VALUES[:-1]})

    kept = save(changer, page_of("k"))
    same = any_store.state.get("k")
    changed = save(changer, page_of("k"), value='{"at": {"$type": "date", "is": "2026-11-23"}}')

    assert (kept.status_code, changed.status_code) == (302, 302)
    assert same == {"all": VALUES[:-1]}
    assert any_store.state.get("k") == {"at": date(2026, 11, 23)}


@pytest.mark.parametrize(
    ("scope", "key"), [("", "k"), ("task:shop.mail", "a/b"), ("run:run-1", "100%"), ("scope:o'hara", '"q" ü')]
)
def test_each_scope_is_changed_where_it_lies(scope: str, key: str, shop: Any, changer: Client) -> None:
    shop.store.put(pack(KIND, scope, key), codec.encode("old"))

    save(changer, page_of(key, scope), value='"new"')

    assert codec.decode(shop.store.get(pack(KIND, scope, key)).value) == "new"


def test_a_change_is_told_of_and_written_down_without_the_value(shop: Any, changer: Client) -> None:
    shop.state.set("token", "secret-1")
    entry = StateEntry.objects.get(key="token")

    response = save(changer, page_of("token"), value='"secret-2"')
    [(user, object_id, flag, message)] = entries()

    assert told(response) == ["The entry “token” was changed."]
    assert (user, object_id, flag) == ("view_stateentry-change_stateentry", entry.pk, CHANGE)
    assert f"version {entry.version}, now {shop.state.entry('token').version}" in message
    assert "secret" not in message
    history = changer.get(change(STATE, entry.pk).replace("/change/", "/history/"))
    assert "Value changed" in text(history)


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("", "This field is required."),
        ("{", "This is not JSON: Expecting property name enclosed in double quotes in line 1, column 2."),
        ("{'a': 1}", "This is not JSON"),
        ('{"a": 1}\n}', "in line 2, column 1"),
        ("NaN", "NaN is not JSON"),
        ("[1, -Infinity]", "-Infinity is not JSON"),
        ("1e999", "1e999 is larger than a float can be"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"a": 1, "b": 2, "a": 3}', 'The name "a" is there twice'),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 200 + "]" * 200, "nested deeper than 100"),
        ('"\\ud800"', "lone surrogate"),
        ('"a\0b"', "Null characters are not allowed."),
        ('{"$type": "pickle", "is": "gASV"}', "has a type that is unknown"),
        ('{"$type": ["decimal"], "is": "1"}', "has a type that is unknown"),
        ('{"$type": null}', "has a type that is unknown"),
        ('{"$type": "decimal"}', "must have the names"),
        ('{"$type": "decimal", "is": 1.5}', "must have a text"),
        ('{"$type": "decimal", "is": "1,5"}', "cannot be read as what its type says"),
        ('{"$type": "decimal", "is": "NaN"}', "not equal to itself"),
        ('{"$type": "datetime", "is": "yesterday"}', "cannot be read as what its type says"),
        ('{"$type": "datetime", "is": "2026-11-22T12:00:00", "zone": "Mars/X", "fold": 0}', "cannot be read"),
        ('{"$type": "datetime", "is": "2026-11-22T12:00:00", "zone": "../../etc/passwd", "fold": 0}', "cannot be"),
        ('{"$type": "datetime", "is": "2026-11-22T12:00:00+02:00", "zone": "UTC", "fold": 0}', "cannot be read"),
        ('{"$type": "datetime", "is": "2026-11-22T12:00:00", "zone": 7, "fold": 0}', "the name of a zone"),
        ('{"$type": "date", "is": "2026-11-22", "zone": "UTC", "fold": 0}', "must have the names"),
        ('{"$type": "bytes", "is": "=?!"}', "cannot be read as what its type says"),
        ('{"$type": "tuple", "is": "abc"}', "must have a list"),
        ('{"$type": "dict", "is": [["a", 1], ["a", 2]]}', 'The name "a" is there twice'),
        ('{"$type": "dict", "is": [[1, 2]]}', "must have a list"),
        (json.dumps("W" * 300_000), "is the most (stackstate_max_value_bytes)"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_value_is_an_error_of_the_form(typed: str, reason: str, shop: Any, changer: Client) -> None:
    shop.state.set("k", "as it was")
    before = shop.state.entry("k")

    response = save(changer, page_of("k"), value=typed)

    assert response.status_code == 200
    assert reason in unescape(text(response))
    assert fields(response)["value"].replace("\r\n", "\n") == typed
    assert (before, []) == (shop.state.entry("k"), entries())


@pytest.mark.parametrize(
    ("seconds", "lifetime", "reason"),
    [
        ("", "after", "Say after how many seconds."),
        ("0", "after", "greater than or equal to 0.001"),
        ("-5", "after", "greater than or equal to 0.001"),
        ("soon", "after", "Enter a number."),
        ("nan", "after", "Enter a number."),
        ("inf", "after", "Enter a number."),
        ("1e300", "after", "less than or equal to"),
        ("", "someday", "Select a valid choice."),
    ],
)
def test_an_expiry_that_is_none_is_an_error_of_the_form(
    seconds: str, lifetime: str, reason: str, shop: Any, changer: Client
) -> None:
    shop.state.set("k", 1.5)

    response = save(changer, page_of("k"), value='"kept"', seconds=seconds, lifetime=lifetime)

    assert response.status_code == 200
    assert reason in text(response)
    assert fields(response)["value"] == '"kept"'
    assert shop.state.get("k") == 1.5


def test_a_form_that_lacks_fields_is_refused(shop: Any, changer: Client) -> None:
    shop.state.set("k", "as it was")

    for data in ({}, {"value": '"x"'}, {"value": '"x"', "seen": "0"}, {"value": '"x"', "lifetime": "keep"}):
        assert changer.post(page_of("k"), data).status_code == 200

    assert shop.state.get("k") == "as it was"


def test_what_may_grow_too_large_is_measured_as_it_is_stored(shop: Any, changer: Client) -> None:
    limit = shop.settings.max_value_bytes
    shop.state.set("k", "")

    fits = save(changer, page_of("k"), value=json.dumps("x" * (limit - 2)))
    shop.state.set("k", "")
    exceeds = save(changer, page_of("k"), value=json.dumps("x" * (limit - 1)))

    assert (fits.status_code, exceeds.status_code) == (302, 200)


# -- how long it lives ------------------------------------------------------------------------------------------------


def test_the_expiry_is_kept_unless_it_is_changed(any_store: Any, changer: Client) -> None:  # noqa: F811
    state = any_store.state
    state.set("k", "a", ttl=3600)
    at_first = state.entry("k").expires_at

    save(changer, page_of("k"), value='"b"')
    kept = state.entry("k")
    save(changer, page_of("k"), lifetime="after", seconds="60")
    shortened = state.entry("k")
    save(changer, page_of("k"), lifetime="never")
    never = state.entry("k")
    save(changer, page_of("k"), value='"c"')
    still_never = state.entry("k")

    assert ("b", at_first) == (kept.value, kept.expires_at)
    assert timedelta(seconds=50) < shortened.expires_at - shortened.updated_at <= timedelta(seconds=61)
    assert (never.expires_at, still_never.expires_at, still_never.value) == (None, None, "c")


def test_what_a_run_keeps_never_lives_for_ever(shop: Any, changer: Client) -> None:
    shop.state.for_run("run-1").set("k", "a")

    page = changer.get(page_of("k", "run:run-1"))
    save(changer, page_of("k", "run:run-1"), lifetime="never")
    entry = shop.state.for_run("run-1").entry("k")

    assert "as long as the longest kept runs" in text(page)
    assert entry.expires_at is not None
    assert round((entry.expires_at - entry.updated_at).total_seconds()) == shop.settings.longest_retention


# -- others change it, too --------------------------------------------------------------------------------------------


def test_a_change_since_the_form_was_opened_is_reported_and_both_are_shown(
    any_store: Any,  # noqa: F811
    changer: Client,
) -> None:
    any_store.state.set("k", {"by": "nobody"})
    address = page_of("k")
    opened = fields(changer.get(address))
    any_store.state.set("k", {"by": "a task"})

    refused = changer.post(address, {**opened, "value": '{"by": "me"}'})
    stands = any_store.state.get("k")
    replaced = changer.post(address, fields(refused))

    assert refused.status_code == 200
    assert "Somebody else changed this entry since you opened it." in text(refused)
    assert refused.context["value"] == '{\n  "by": "a task"\n}'
    assert fields(refused)["value"] == '{"by": "me"}'
    assert (stands, 302) == ({"by": "a task"}, replaced.status_code)
    assert any_store.state.get("k") == {"by": "me"}
    assert len(entries()) == 1


def test_a_conflict_is_told_of_although_the_text_is_wrong_as_well(shop: Any, changer: Client) -> None:
    shop.state.set("k", "a")
    address = page_of("k")
    opened = fields(changer.get(address))
    shop.state.set("k", "b")

    response = changer.post(address, {**opened, "value": "{"})

    assert "Somebody else changed this entry" in text(response)
    assert "This is not JSON" in text(response)


def test_a_change_between_the_check_and_the_write_is_reported(shop: Any, changer: Client) -> None:
    shop.state.set("k", "a")
    address, others = page_of("k"), shop.state
    interfere(shop, lambda: others.set("k", "theirs"))

    response = save(changer, address, value='"mine"')

    assert response.status_code == 200
    assert "Somebody else changed this entry" in text(response)
    assert (others.get("k"), entries()) == ("theirs", [])


@pytest.mark.parametrize("moment", ["before the post", "before the write"])
def test_what_was_typed_for_an_entry_that_is_gone_is_not_lost(moment: str, shop: Any, changer: Client) -> None:
    shop.state.set("k", "a")
    address, others = page_of("k"), shop.state
    opened = fields(changer.get(address))
    if moment == "before the post":
        others.delete("k")
    else:
        interfere(shop, lambda: others.delete("k"))

    response = changer.post(address, {**opened, "value": '{"a":\r\n"<b>mine\u202e"}'})

    assert response.status_code == 409
    assert '{"a":\n"<b>mine\\u202e"}</pre>' in unescape(response.content.decode())
    assert "was deleted, or expired" in text(response)
    assert (others.get("k"), entries()) == (None, [])


# -- counters ---------------------------------------------------------------------------------------------------------


def test_a_counter_is_set_to_a_number(any_store: Any, changer: Client) -> None:  # noqa: F811
    any_store.state.increment("hits", 41, ttl=3600)
    expires_at = any_store.state.entry("hits").expires_at

    response = save(changer, page_of("hits"), value="-7")

    assert (response.status_code, any_store.state.increment("hits")) == (302, -6)
    assert any_store.state.entry("hits").expires_at == expires_at
    assert entries()[0][3].startswith("Counter set from 41 to -7 (version ")


@pytest.mark.parametrize("typed", ["", "4.5", "many", "NaN", str(INT64_MAX + 1), "[]", "1e3"])
def test_a_counter_takes_nothing_but_its_numbers(typed: str, shop: Any, changer: Client) -> None:
    shop.state.increment("hits", 41)

    response = save(changer, page_of("hits"), value=typed)

    assert (response.status_code, shop.state.count("hits")) == (200, 41)
    assert fields(response)["value"] == typed


def test_a_counter_that_is_counted_meanwhile_is_not_set(shop: Any, changer: Client) -> None:
    shop.state.increment("hits", 41)
    opened = fields(changer.get(page_of("hits")))
    shop.state.increment("hits")

    response = changer.post(page_of("hits"), {**opened, "value": "0"})

    assert "Somebody else changed this entry" in text(response)
    assert shop.state.count("hits") == 42


def test_a_counter_is_reset_whatever_it_counts_meanwhile(any_store: Any, changer: Client) -> None:  # noqa: F811
    any_store.state.increment("hits", 41)
    entry = StateEntry.objects.get(key="hits")

    asked = ask(changer, STATE, "reset_counters", entry.pk)
    any_store.state.increment("hits")
    response = answer(changer, asked)

    assert told(response) == ["1 counter was reset."]
    assert any_store.state.count("hits") == 0
    assert entries() == [("view_stateentry-change_stateentry", entry.pk, CHANGE, "Counter reset; it was at 42.")]


def test_only_counters_are_reset(shop: Any, changer: Client) -> None:
    shop.state.set("k", "a")

    page = ask(changer, STATE, "reset_counters", StateEntry.objects.get(key="k").pk)

    assert "it is no counter" in text(page)
    assert form_of(page).action == ""


# -- what cannot be edited, and what is not there ---------------------------------------------------------------------


def test_a_value_that_cannot_be_read_here_is_shown_and_left_alone(shop: Any, changer: Client) -> None:
    stored = b'{"$type":"<b>of a later release","is":1}'
    shop.store.put(pack(KIND, "", "k"), stored)
    address = page_of("k")

    page = changer.get(address)

    assert "This process cannot read the value" in text(page)
    assert "<b>of" not in page.content.decode()
    assert "id_value" not in page.content.decode()
    assert changer.post(address, {"value": '"x"', "lifetime": "keep", "seen": "1"}).status_code == 403
    assert shop.store.get(pack(KIND, "", "k")).value == stored


def test_a_value_too_long_for_a_form_is_only_shown(shop: Any, changer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valuetext, "LONGEST", 1000)
    shop.state.set("fits", "x" * 998)
    shop.state.set("long", "x" * 999)

    assert "id_value" in changer.get(page_of("fits")).content.decode()
    page = changer.get(page_of("long"))
    assert "too long to be edited in a form: 1,001 characters" in text(page)
    assert "id_value" not in page.content.decode()


@pytest.mark.parametrize(("scope", "key"), [("", " blank"), ("", "a\nb"), ("elsewhere:x", "k"), ("task:", "k")])
def test_an_entry_that_no_task_can_name_is_only_shown(scope: str, key: str, shop: Any, root: Client) -> None:
    shop.store.put(pack(KIND, scope, key), codec.encode("a"))
    [entry] = StateEntry.objects.all()

    page = root.get(change(STATE, entry.pk))

    assert page.status_code == 200
    assert "so it can only be looked at" in text(page)
    assert "_op/delete_entries" not in page.content.decode()
    assert root.post(change(STATE, entry.pk), {"value": '"b"', "seen": "1"}).status_code == 403


@pytest.mark.parametrize("entry_id", ["gone", "not base64 !", "a/b", '"', "%", "%00", "cwAAeA", "🦜", "x" * 3000])
def test_unknown_ids_lead_to_the_index_and_change_nothing(entry_id: str, shop: Any, changer: Client) -> None:
    shop.state.set("k", "a")

    shown = changer.get(change(STATE, entry_id))
    posted = changer.post(change(STATE, entry_id), {})

    assert (shown.status_code, shown["Location"]) == (302, "/admin/")
    assert posted.status_code == 302


@pytest.mark.parametrize("key", ["a/b", 'o\'hara "q"', "100%", "%2F", "ünï/🦜", "_5F", "<b>", "x" * 1024])
def test_every_key_has_a_page_and_can_be_changed(key: str, shop: Any, changer: Client) -> None:
    shop.state.set(key, "a")

    assert changer.get(page_of(key)).status_code == 200
    assert save(changer, page_of(key), value='"b"').status_code == 302
    assert shop.state.get(key) == "b"


def test_messages_are_in_the_users_language_and_numbers_as_they_are_sent(shop: Any, changer: Client) -> None:
    shop.state.increment("hits", 1234567)

    with override_settings(LANGUAGE_CODE="de", USE_THOUSAND_SEPARATOR=True):
        page = changer.get(page_of("hits"))

    assert fields(page)["value"] == "1234567"


def test_an_outage_while_saving_is_a_page_that_says_so(shop: Any, changer: Client) -> None:
    from tests.admin.test_admin_outage import cut

    shop.state.set("k", "a")
    address, form = page_of("k"), fields(changer.get(page_of("k")))
    for calls in range(4):
        store = shop.store
        cut(shop, calls)
        response = changer.post(address, {**form, "value": '"b"'})
        shop.__dict__.update(store=store, runs_store=store)
        shop.__dict__.pop("browser", None)
        if response.status_code == 302:
            break
        assert response.status_code == 503
    assert (calls > 0, shop.state.get("k"), len(entries())) == (True, "b", 1)
