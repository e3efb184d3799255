"""What is recorded of arguments, messages and tracebacks: no secrets, no surprises, no more than so much."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from celery_stackstate.config import DEFAULT_REDACT
from celery_stackstate.payload import REDACTED, Redactor

CARD = "4242424242424242"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(DEFAULT_REDACT, limit=1000)


@pytest.mark.parametrize("name", ["password", "user_password", "API_KEY", "apiKey", "Authorization", "stripe-secret"])
def test_sensitive_names_lose_their_value_at_any_depth(redactor: Redactor, name: str) -> None:
    shown = redactor.snapshot({"a": [{name: "hunter2", "ok": 1}]})
    assert shown.value == {"a": [{name: REDACTED, "ok": 1}]}


@pytest.mark.parametrize(
    "text",
    [
        "login with password=hunter2 failed",
        '{"password": "hunter2"}',
        "{'api_key': 'hunter2', 'a': 1}",
        "Authorization: Bearer hunter2",
        "token:hunter2,",
        "GET /?user_token=hunter2&x=1",
        "Authorization: Token hunter2",
        "connecting to postgres://shop:hunter2@db/shop",
        r'{"body": "{\"password\": \"hunter2\"}"}',
        "Set-Cookie: a=1; other=hunter2; Path=/",
        'password="hunter2 with blanks',
        "mysql --password hunter2 --host db",
    ],
)
def test_sensitive_assignments_in_texts_lose_their_value(redactor: Redactor, text: str) -> None:
    shown = redactor.text(text)
    assert "hunter2" not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    ["imported 300 rows", "https://example.com:8080/a?b=c", "ratio=0.5, name: value", "--verbose yes", "a: {'b': 'c'}"],
)
def test_everything_else_stays(redactor: Redactor, text: str) -> None:
    assert redactor.text(text) == text


@pytest.mark.parametrize("text", ["password" * 4000, "--token" * 4000, "a://" * 8000, "'\"=:" * 6000, "x:" * 9000])
def test_no_text_takes_long(redactor: Redactor, text: str) -> None:
    started = time.perf_counter()
    redactor.text(text)
    assert time.perf_counter() - started < 0.5


def test_card_numbers_go_and_other_numbers_stay(redactor: Redactor) -> None:
    for text in (CARD, "4242 4242 4242 4242", "card 4242-4242-4242-4242!"):
        assert "4242" not in redactor.text(text)
    assert redactor.snapshot(int(CARD)).value == REDACTED
    for number in (1795362872090777, 1795362872090, 4242424242424241, 12.5):
        assert redactor.snapshot(number).value == number
    assert redactor.text("order 1795362872090777 of 2026-11-22") == "order 1795362872090777 of 2026-11-22"


def test_positional_arguments_are_redacted_by_the_name_of_their_parameter(redactor: Redactor) -> None:
    args, kwargs = redactor.arguments(("me", "hunter2", 3), {"n": 1}, ["user", "password"])
    assert (args, kwargs) == (["me", REDACTED, 3], {"n": 1})


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Decimal("1.10"), "1.10"),
        (UUID(int=7), str(UUID(int=7))),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), "2026-01-02T00:00:00+00:00"),
        ((1, {2}), [1, [2]]),
        ({1: float("nan")}, {"1": "nan"}),
        (Broken(), "<Broken, whose repr() raised RuntimeError>"),
        ("\ud800\x00", "?\\x00"),
        (b"x", "b'x'"),
    ],
)
def test_anything_can_be_shown(redactor: Redactor, value: Any, shown: Any) -> None:
    assert redactor.snapshot(value).value == shown


def test_what_is_too_large_is_cut_and_says_so(redactor: Redactor) -> None:
    shown = redactor.snapshot(["é" * 2000])
    assert shown.truncated
    assert "bytes, sha256" in shown.value
    assert len(shown.value.encode()) <= 1000


def test_what_contains_itself_ends(redactor: Redactor) -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "…" in str(redactor.snapshot(loop).value)
