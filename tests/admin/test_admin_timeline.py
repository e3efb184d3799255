"""The drawing, as numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from celery_stackstate_admin import present
from celery_stackstate_admin.timeline import build

from celery_stackstate.records import Attempt, Event, Run

NOON = datetime(2026, 11, 22, 12, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def an_attempt(number: int, start: float, end: float | None, status: str, queued: float | None = None) -> Attempt:
    return Attempt(
        execution=f"x{number}",
        number=number,
        status=status,
        queued_at=None if queued is None else at(queued),
        started_at=at(start),
        finished_at=None if end is None else at(end),
        runtime=None if end is None else end - start,
    )


def a_run(status: str, *attempts: Attempt) -> Run:
    return Run(id="r", task="t", status=status, queued_at=NOON, attempts=attempts)


def test_waiting_and_running_share_one_axis() -> None:
    run = a_run("SUCCESS", an_attempt(1, 2, 8, "SUCCESS", queued=0))
    drawn = build(run, [Event(at(0), "queued"), Event(at(8), "success", "x1")], at(900))

    assert drawn is not None
    assert [(b.x, b.width, b.tone) for b in drawn.rows[0].bars] == [("0%", "25%", "wait"), ("25%", "75%", "success")]
    assert [tick.label for tick in drawn.ticks[:3]] == ["0", "+1 s", "+2 s"]
    assert (drawn.ticks[0].edge, drawn.ticks[-1].edge) == ("start", "end")
    assert drawn.lanes == ()


def test_a_redelivered_attempts_wait_begins_where_the_lost_one_ended() -> None:
    run = a_run("SUCCESS", an_attempt(1, 1, 4, "LOST", queued=0), an_attempt(2, 6, 8, "SUCCESS", queued=0))
    drawn = build(run, [Event(at(8), "success", "x2")], at(8))

    assert drawn is not None
    assert (drawn.rows[1].bars[0].x, drawn.rows[1].bars[0].width) == ("50%", "25%")


def test_the_time_before_an_eta_is_not_waiting() -> None:
    attempt = replace(an_attempt(1, 6, 8, "SUCCESS", queued=0), wait=2.0)
    drawn = build(a_run("SUCCESS", attempt), [], at(8))

    assert drawn is not None
    assert [(bar.tone, bar.x) for bar in drawn.rows[0].bars] == [("planned", "0%"), ("wait", "50%"), ("success", "75%")]


def test_what_goes_on_reaches_until_now() -> None:
    running = build(a_run("STARTED", an_attempt(1, 2, None, "STARTED")), [], at(8))
    waiting = build(a_run("QUEUED"), [Event(at(0), "queued")], at(8))
    between = build(a_run("RETRY", an_attempt(1, 0, 4, "RETRY")), [], at(8))

    assert running is not None
    assert (running.rows[0].bars[-1].tone, running.rows[0].note) == ("running", "6.0 s so far")
    assert waiting is not None
    assert [(row.status, row.note) for row in waiting.rows] == [("", "waiting 8.0 s")]
    assert between is not None
    assert [row.status for row in between.rows] == ["RETRY", ""]


def test_an_attempt_that_never_ended_does_not_run_for_ever() -> None:
    run = a_run("SUCCESS", an_attempt(1, 1, None, "STARTED"), an_attempt(2, 6, 8, "SUCCESS"))
    drawn = build(run, [], at(5000))

    assert drawn is not None
    assert drawn.rows[0].note == "end not known"


def test_dots_have_labels_only_where_there_is_room() -> None:
    events = [
        Event(at(0), "queued"),
        *(Event(at(n / 10), "crowded", None, {}) for n in range(40)),
        Event(at(100), "alone"),
    ]
    drawn = build(a_run("SUCCESS"), events, at(100))

    assert drawn is not None
    dots = drawn.lanes[0].dots
    assert len(dots) == 41
    assert dots[-1].label == "alone"
    assert dots[-1].before
    assert all(not dot.label for dot in dots[1:30])


@pytest.mark.parametrize("seconds", [0, 0.000001, 0.0125, 3, 61, 5000, 90_000, 40_000_000, 3_000_000_000])
def test_any_span_has_few_ticks_and_stays_on_the_axis(seconds: float) -> None:
    drawn = build(a_run("SUCCESS", an_attempt(1, 0, seconds, "SUCCESS")), [Event(at(seconds), "x")], at(seconds))

    assert drawn is not None
    assert 2 <= len(drawn.ticks) <= 10
    assert len({tick.label for tick in drawn.ticks}) == len(drawn.ticks)
    for bar in drawn.rows[0].bars:
        assert float(bar.x.rstrip("%")) + float(bar.width.rstrip("%")) <= 100.001


def test_nothing_known_is_nothing_drawn() -> None:
    assert build(Run(id="r", task=None, status="QUEUED"), [], NOON) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, present.NOTHING),
        (0, "0 ms"),
        (0.24, "240 ms"),
        (12.08, "12.1 s"),
        (59.97, "1 min"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (273_600, "3 d 4 h"),
        (86_460, "1 d"),
        (-5, "0 ms"),
    ],
)
def test_durations_are_short(seconds: float | None, text: str) -> None:
    assert text == present.duration(seconds)


def test_hidden_characters_are_made_visible() -> None:
    assert present.visible("a\u202eb\0\x1b\tc\n") == "a\\u202eb\\u0000\\u001b\tc\n"
    assert present.visible("family 👨\u200d👩\u200d👧") == "family 👨\u200d👩\u200d👧"


def test_values_that_json_refuses_are_shown_all_the_same() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]

    assert "…" in present.preview("x" * 500)
    assert "object" in present.pretty(object())
    assert present.pretty(deep)
