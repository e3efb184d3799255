"""What is recorded of arguments, messages and tracebacks: no secrets, no surprises, no more than so much."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from celery_stackstate.config import DEFAULT_REDACT
from celery_stackstate.details import arguments
from celery_stackstate.payload import REDACTED, Hook, Redactor

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


@pytest.mark.parametrize(
    "text",
    [
        "password" * 4000,
        "--token" * 4000,
        "--token " * 4000,
        "-token" * 4000,
        "--token" + " " * 16_000,
        "a://" * 8000,
        "://" + ":" * 16_000,
        "'\"=:" * 6000,
        "x:" * 9000,
        "4 " * 9000,
        "cookie" * 4000,
    ],
)
def test_no_text_takes_long(redactor: Redactor, text: str) -> None:
    started = time.thread_time()
    redactor.text(text)
    assert time.thread_time() - started < 0.5


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


def many(host: str, *passwords: str, note: str = "") -> None: ...
def noted(*items: str, password: str = "") -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "shown"),
    [
        (many, ("h", "p1", "p2"), ["h", REDACTED, REDACTED]),
        (noted, ("a", "b"), ["a", "b"]),
        (None, ("a",), ["a"]),
    ],
)
def test_the_name_of_star_args_is_that_of_each_of_them(
    function: Any, args: tuple[str, ...], shown: list[str], redactor: Redactor
) -> None:
    task = None if function is None else SimpleNamespace(run=function)
    extension: Any = SimpleNamespace(redactor=redactor)
    assert arguments(extension, task, args, {})["args"] == shown


class Login(NamedTuple):
    user: str
    password: str


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Login("me", "hunter2"), ["me", REDACTED]),
        ([Login("me", "hunter2")], [["me", REDACTED]]),
        ([("Authorization", "Bearer hunter2"), ("n", 1)], [["Authorization", REDACTED], ["n", 1]]),
        ({"headers": [["x-token", ["hunter2"]]]}, {"headers": [["x-token", REDACTED]]}),
        (((b"cookie", b"hunter2"),), [["b'cookie'", REDACTED]]),
        (["mysql", "--password", "hunter2", "-h"], ["mysql", "--password", REDACTED, "-h"]),
        (["--password=hunter2", "db"], [f"--password={REDACTED}", "db"]),
        # names that name nothing
        (["token", "user"], ["token", "user"]),
        ([("token", "user"), 7], [["token", "user"], 7]),
        ([("token", "user", "n")], [["token", "user", "n"]]),
    ],
)
def test_what_has_a_name_in_a_list_is_redacted_by_it(redactor: Redactor, value: Any, shown: Any) -> None:
    assert redactor.snapshot(value).value == shown


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


def hooked(hook: Hook) -> Redactor:
    return Redactor(("password",), limit=1000, hook=hook)


def test_a_hook_of_the_project_has_the_last_word_on_each_kind_of_value() -> None:
    asked: list[tuple[str, Any]] = []

    def hook(kind: str, value: Any) -> Any:
        asked.append((kind, value))
        return {"iban": REDACTED} if kind == "kwargs" else value

    redactor = hooked(hook)
    assert redactor.snapshot({"iban": "DE02", "password": "x"}, "kwargs").value == {"iban": REDACTED}
    assert redactor.snapshot([1], "result").value == [1]
    assert redactor.line("log", "password=x, fine") == f"password={REDACTED}, fine"
    assert asked == [
        ("kwargs", {"iban": "DE02", "password": REDACTED}),
        ("result", [1]),
        ("log", f"password={REDACTED}, fine"),
    ]


def test_what_a_hook_returns_is_made_fit_to_be_recorded() -> None:
    redactor = hooked(lambda kind, value: {"of": object(), "password": "hunter2", "text": "a\0b"})
    shown = redactor.snapshot(1, "args").value
    assert (shown["password"], shown["text"]) == (REDACTED, "a\\x00b")
    assert shown["of"].startswith("<object")
    assert "hunter2" not in redactor.line("log", "x")


def test_what_a_failing_hook_could_not_judge_is_not_recorded(caplog: pytest.LogCaptureFixture) -> None:
    redactor = hooked(lambda kind, value: 1 / 0)
    assert redactor.snapshot({"iban": "DE02"}, "kwargs").value == REDACTED
    assert redactor.line("error", "DE02") == REDACTED
    assert "stackstate_redact_hook failed on kwargs" in caplog.text


@pytest.mark.parametrize(
    "text", ["password=x y", f"card {CARD}.", '{"token": "a b"}', "Authorization: Bearer x", "a --token x"]
)
def test_what_was_redacted_stays_as_it_is(text: str) -> None:
    redactor = Redactor(("password", "token", "authorization"), limit=1000)
    once = redactor.text(text)
    assert REDACTED in once
    assert redactor.text(once) == once
