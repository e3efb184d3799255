"""Times and spans on the command line: what people read is what they can give back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from celery import Celery
from click import BadParameter

from celery_stackstate import StackState
from celery_stackstate.cli.base import Moment
from celery_stackstate.cli.output import clock, whole_clock
from tests.cli.commands import run

NOW = datetime.now(timezone.utc)


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that is 4 h 40 min ahead of UTC."""
    monkeypatch.setenv("TZ", "XXX-4:40")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def read(text: str) -> datetime:
    return Moment().convert(text, None, None)


@pytest.mark.usefixtures("far_east")
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-22T09:30", "2026-11-22T04:50:00+00:00"),
        ("2026-11-22 09:30", "2026-11-22T04:50:00+00:00"),
        ("2026-11-22", "2026-11-21T19:20:00+00:00"),
        ("2026-11-22T09:30Z", "2026-11-22T09:30:00+00:00"),
        ("2026-11-22T09:30+01:00", "2026-11-22T08:30:00+00:00"),
    ],
)
def test_a_time_without_a_zone_is_in_that_of_this_machine(text: str, expected: str) -> None:
    assert read(text).astimezone(timezone.utc).isoformat() == expected


@pytest.mark.usefixtures("far_east")
@pytest.mark.parametrize(
    ("moment", "exact"),
    [
        (NOW, timedelta(seconds=1)),
        (NOW.replace(month=1 + NOW.month % 12, day=3), timedelta(minutes=1)),
        (NOW.replace(year=2019, day=3), timedelta(days=1)),
    ],
    ids=["today", "this year", "another year"],
)
def test_a_time_as_a_list_shows_it_is_read_as_that_time(moment: datetime, exact: timedelta) -> None:
    assert timedelta() <= moment - read(clock(moment)) < exact
    assert timedelta() <= moment - read(clock(moment, seconds=True)) < timedelta(seconds=1)


@pytest.mark.usefixtures("far_east")
def test_lists_have_short_times_and_one_record_has_the_zone() -> None:
    moment = datetime(NOW.year, 1 + NOW.month % 12, 3, 19, 18, 5, tzinfo=timezone.utc)
    assert clock(moment) == f"{moment.month:02}-03 23:58"
    assert whole_clock(moment) == f"{moment.year}-{moment.month:02}-03 23:58:05 +0440"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("99999999999d", "further away"),
        ("9" * 400 + "w", "further away"),
        ("999999d", "further away"),
        ("0001-01-01T00:00+14:00", "further away"),
        ("yesterday", "is no time"),
        ("12:99", "is no time"),
        ("", "is no time"),
    ],
)
def test_what_is_no_time_is_said(text: str, word: str) -> None:
    with pytest.raises(BadParameter, match=word):
        read(text)


def test_a_span_that_is_too_long_is_exit_code_2(history: Celery, tmp_path: Path) -> None:
    done = run(tmp_path, "stackstate", "runs", "--since", "99999999999d")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


def test_since_takes_what_the_list_printed(history: Celery, tmp_path: Path) -> None:
    newest = next(iter(StackState.of(history).runs.list()))
    assert newest.queued_at is not None
    shown = newest.queued_at.strftime("%H:%M:%S")
    done = run(tmp_path, "stackstate", "runs", "--since", shown)
    assert newest.id in done.stdout
