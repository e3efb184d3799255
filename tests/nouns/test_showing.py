"""What cannot be shown, what is cut, what is logged meanwhile: the history goes on, and says what is missing."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st

from celery_stackstate import StackState
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.config import DEFAULT_REDACT
from celery_stackstate.details import error_details
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import MAX_TEXT, REDACTED, Redactor
from celery_stackstate.stores.base import RunFacts

CARD = "4242424242424242"


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(DEFAULT_REDACT, limit=1000)


class Unreadable(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        yield "a"
        raise OSError

    def __len__(self) -> int:
        return 1


class Unwritable(Exception):
    def __str__(self) -> str:
        raise LookupError


UNREADABLE = "<Unreadable, which could not be shown: KeyError>"
UNWRITABLE = "<Unwritable, which could not be shown: LookupError>"
HUGE = "<int, which could not be shown: ValueError>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Unreadable(), UNREADABLE),
        ({"a": [1, Unreadable(), 2], "b": 3}, {"a": [1, UNREADABLE, 2], "b": 3}),
        ({"a": 1, Unwritable(): 2, "b": 3}, {"a": 1, UNWRITABLE: REDACTED, "b": 3}),
        ({Unwritable(): 1, Unwritable(1): 2}, {UNWRITABLE: REDACTED, f"{UNWRITABLE} (2)": REDACTED}),
        ([10**5000, 1], [HUGE, 1]),
        ({10**5000: 1, "a": 2}, {HUGE: REDACTED, "a": 2}),
        ([10**4000], [10**4000]),
        ({1: "a", "1": "b"}, {"1": "a", "1 (2)": "b"}),
    ],
)
def test_what_cannot_be_shown_is_named_and_all_else_stays(value: Any, shown: Any) -> None:
    assert Redactor(DEFAULT_REDACT, limit=10_000).snapshot(value).value == shown


def test_the_whole_of_what_cannot_be_shown_has_a_size_and_a_digest(redactor: Redactor) -> None:
    loop: list[Any] = ["x" * 2000]
    loop.append(loop)
    for value in (["x" * 2000, Unreadable()], ["x" * 2000, {Unwritable(): 10**5000}], loop):
        assert "bytes, sha256" in redactor.snapshot(value).value


def test_an_error_whose_text_raises_is_recorded_by_its_type() -> None:
    with Celery(set_as_current=False) as app:
        app.conf.stackstate_url = "memory://"
        shown = error_details(StackState(app), Unwritable(), None, "Traceback: …")
    assert (shown["error_type"], shown["error"], shown["traceback"]) == ("Unwritable", UNWRITABLE, "Traceback: …")


def test_an_error_that_is_cut_says_of_what() -> None:
    with Celery(set_as_current=False) as app:
        app.conf.stackstate_url = "memory://"
        extension = StackState(app)
        texts = [
            error_details(extension, ValueError("x" * length + end), None, None)["error"]
            for length, end in ((3000, "a"), (3000, "b"), (30_000, "a"))
        ]
    assert [text.rpartition("… (")[2].partition(" ")[0] for text in texts] == ["3,001", "3,001", "30,001"]
    assert all(len(text) <= 2000 for text in texts)
    assert len(set(texts)) == 3


def opened(redactor: Redactor) -> OpenAttempt:
    delivery = Delivery("w", "b", 1, 0, False, None, None)
    return OpenAttempt("r", RunFacts(), 1, delivery, redactor=redactor, keep=lambda _: 60.0, limits=LogLimits())


def test_events_and_progress_that_cannot_be_shown_leave_the_rest(redactor: Redactor) -> None:
    attempt = opened(redactor)
    attempt.note("batch", {"items": Unreadable(), "n": 1})
    attempt.progress(1, 5, Unreadable())  # type: ignore[arg-type]
    attempt.state("PROGRESS", {"a": Unreadable(), "n": 1})
    write = attempt.take()
    assert write is not None
    data = {event.name: json.loads(event.data) for event in write.events}
    assert data["batch"]["data"] == {"items": UNREADABLE, "n": 1}
    assert (data["progress"]["done"], data["progress"]["total"]) == (1, 5)
    assert "Unreadable" in data["progress"]["message"]
    assert data["state"]["meta"] == {"a": UNREADABLE, "n": 1}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.integers(0, 400),
)
def test_what_fits_is_kept_and_what_does_not_is_cut_to_the_byte(value: Any, limit: int) -> None:
    whole = Redactor((), limit=10_000_000).snapshot(value).value
    shown = Redactor((), limit=limit).snapshot(value)
    assert shown.truncated == (len(json.dumps(whole, ensure_ascii=False).encode()) > limit)
    assert shown.truncated or shown.value == whole


@pytest.mark.parametrize(
    "make",
    [
        lambda end: ["x" * 100] * 200 + [end],
        lambda end: {"a": [{"n": n} for n in range(2000)], "b": {end}},
        lambda end: ["x" * 10_000, {("a", "b"): end}],
    ],
)
def test_payloads_that_differ_behind_the_cut_are_told_apart(redactor: Redactor, make: Any) -> None:
    one, same, other = (redactor.snapshot(make(end)) for end in ("a", "a", "b"))
    assert one.truncated
    assert one == same
    assert one != other


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("length", [20_000, 100_000])
def test_a_text_that_is_cut_says_how_long_it_was_and_of_what(redactor: Redactor, length: int, tail: bool) -> None:
    texts = ["a\n" + "x" * (length - 10_000) + end + "\n" * 9_997 for end in ("b", "c")]
    one, other = (redactor.text(text, tail=tail) for text in texts)
    assert f"… ({length:,} characters, sha256 " in one
    assert one != other
    assert len(one) <= MAX_TEXT
    assert redactor.text(one) == one
    assert redactor.snapshot([texts[0]]).truncated


@pytest.mark.parametrize("end", ["", "\n", " \n\n"])
def test_of_a_tail_without_a_line_the_head_is_kept(redactor: Redactor, end: str) -> None:
    shown = redactor.text("Error: password=" + "hunter2," * 2500 + end, tail=True)
    assert shown.startswith(f"Error: password={REDACTED}")
    assert "hunter2" not in shown


@pytest.mark.parametrize(
    ("secret", "gone"),
    [
        (CARD, "42"),
        ("4242 4242 4242 4242", "42"),
        ("postgres://bob:hunter2hunter2@db", "hunter"),
        ("password=hunter2hunter2", "hunter"),
        ("password: ['hunter2',\n 'hunter2']", "hunter"),
        ("password: 'hunter2\nhunter2'", "hunter"),
    ],
)
def test_of_a_secret_at_the_cut_nothing_is_left(redactor: Redactor, secret: str, gone: str) -> None:
    for before in range(MAX_TEXT - 150, MAX_TEXT):
        shown = redactor.text("x" * (before - 1) + "\n" + secret + "\n" + "y" * 1000)
        assert gone not in shown.partition("… (")[0]


def test_what_a_payload_costs_ends_with_what_is_kept_of_it() -> None:
    redactor = Redactor(DEFAULT_REDACT, limit=65_536)
    payload = [{"id": n, "sku": f"item number {n}", "note": "x" * 20} for n in range(20_000)]
    started = time.thread_time()
    assert redactor.snapshot(payload).truncated
    assert time.thread_time() - started < 0.2


def test_what_shrinks_as_it_is_shown_is_not_read_for_ever() -> None:
    redactor = Redactor(DEFAULT_REDACT, limit=65_536)
    payload = ["token: (" * 2_000 for _ in range(64)]
    started = time.thread_time()
    shown = redactor.snapshot(payload)
    assert time.thread_time() - started < 1
    assert shown.truncated
    assert "token: (" not in str(shown.value)


def test_an_event_of_which_there_is_too_much_keeps_its_form(redactor: Redactor) -> None:
    attempt = opened(redactor)
    attempt.note("report of postgres://shop:hunter2@db/shop", {str(n): "x" * 9_000 for n in range(12)})
    write = attempt.take()
    assert write is not None
    (told,) = [event for event in write.events if event.name.startswith("report")]
    data = json.loads(told.data)["data"]
    assert told.name == "report of postgres://shop:••redacted••@db/shop"
    assert (set(data), data["data"][:10], "bytes, sha256" in data["data"]) == ({"data"}, '{"0": "xxx', True)


def test_what_a_hook_logs_or_tells_is_not_recorded_with_the_line_it_judges() -> None:
    judged: list[Any] = []

    def hook(kind: str, value: Any) -> Any:
        judged.append(value)
        attempt.log(at=1, level=20, logger="shop", message="judging")
        if kind == "log":
            attempt.note("judged", {"iban": "DE02"})
        return 1 / 0 if value == "failing" else value

    attempt = opened(Redactor((), limit=1000, hook=hook))
    handler = Relay(attempt)
    logging.getLogger("celery_stackstate").addHandler(handler)
    try:
        attempt.log(at=1, level=20, logger="shop", message="one")
        attempt.log(at=1, level=20, logger="shop", message="failing")
    finally:
        logging.getLogger("celery_stackstate").removeHandler(handler)
    attempt.log(at=1, level=20, logger="shop", message="two")

    write = attempt.take()
    assert write is not None
    assert [line.message for line in write.logs] == ["one", REDACTED, "two"]
    assert judged == ["one", "failing", "two"]
    assert [json.loads(event.data)["data"] for event in write.events if event.name == "judged"] == [
        {"data": REDACTED}
    ] * 3


class Relay(logging.Handler):
    """Records what is logged, as the handler of a worker does."""

    def __init__(self, attempt: OpenAttempt) -> None:
        super().__init__()
        self._attempt = attempt

    def emit(self, record: logging.LogRecord) -> None:
        self._attempt.log(at=1, level=record.levelno, logger=record.name, message=record.getMessage())
