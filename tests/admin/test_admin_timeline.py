"""The drawing, as numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from celery_stackstate_admin import present
from celery_stackstate_admin.runpage.timeline import build

from celery_stackstate.records import Attempt, Event, Run, to_micros

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


def micros(seconds: float) -> int:
    return to_micros(at(seconds))


def test_what_is_not_due_is_not_waiting_for_a_worker() -> None:
    asked = Event(at(0), "queued", None, {"eta": micros(40)})
    again = Event(at(4), "queued", None, {"eta": micros(40), "retries": 1})
    early = build(a_run("QUEUED"), [asked], at(8))
    between = build(a_run("RETRY", an_attempt(1, 0, 4, "RETRY")), [Event(at(0), "queued"), again], at(8))
    late = build(a_run("RECEIVED"), [asked], at(50))

    assert early is not None
    assert [(bar.x, bar.width, bar.tone) for bar in early.rows[0].bars] == [("0%", "100%", "planned")]
    assert (early.rows[0].note, early.words) == ("not due until 13:00:40", ("Not due until 13:00:40",))
    assert between is not None
    assert [(row.note, row.bars[-1].tone) for row in between.rows] == [
        ("4.0 s", "retry"),
        ("not due until 13:00:40", "planned"),
    ]
    assert late is not None
    assert late.words == ("Was not due for 40.0 s", "Waiting for a worker, 10.0 s so far")


@pytest.mark.parametrize("eta", ["soon", 10**30, -1, None, 1.5])
def test_a_message_without_a_time_that_can_be_told_is_due_at_once(eta: object) -> None:
    drawn = build(a_run("QUEUED"), [Event(at(0), "queued", None, {"eta": eta})], at(8))

    assert drawn is not None
    assert [row.note for row in drawn.rows] == ["waiting 8.0 s"]


def test_a_lost_run_waits_for_nobody_and_its_drawing_does_not_grow() -> None:
    run = a_run("LOST", an_attempt(1, 1, 4, "LOST", queued=0))
    drawn = build(run, [Event(at(4), "lost", "x1")], at(5000))

    assert drawn == build(run, [Event(at(4), "lost", "x1")], at(4))
    assert drawn is not None
    assert [row.status for row in drawn.rows] == ["LOST"]
    assert drawn.rows[0].bars[-1].x == "25%"


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


def test_attempts_that_overlap_are_in_rows_of_their_own() -> None:
    together = [an_attempt(1, 1, 8, "SUCCESS"), an_attempt(2, 3, 6, "FAILURE")]
    many = [an_attempt(n, 10 * n, 10 * n + 8, "RETRY") for n in range(1, 40)]
    overlapping = [*many, an_attempt(40, 395, 410, "RETRY"), an_attempt(41, 400, 420, "SUCCESS")]

    few, packed, crossed = (build(a_run("SUCCESS", *these), [], at(500)) for these in (together, many, overlapping))

    assert few is not None
    assert [len(row.bars) for row in few.rows] == [2, 1]
    assert packed is not None
    assert [row.note for row in packed.rows] == ["39 attempts"]
    assert [bar.attempt for bar in packed.rows[0].bars if bar.attempt] == [str(n) for n in range(1, 40)]
    assert crossed is not None
    assert [row.note for row in crossed.rows] == ["40 attempts", "1 attempt"]


def test_each_bar_is_told_in_words() -> None:
    first = replace(an_attempt(1, 2, 8, "RETRY", queued=0), error_type="OSError")
    second = replace(an_attempt(2, 20, 26, "SUCCESS", queued=8), wait=2.0)
    drawn = build(a_run("SUCCESS", first, second), [], at(900))

    assert drawn is not None
    assert drawn.summary == "2 attempts over 26.0 s"
    assert drawn.words == (
        "Attempt 1 waited 2.0 s for a worker",
        "Attempt 1: RETRY (OSError) after 6.0 s, begun at +2.0 s",
        "Attempt 2 was not due for 10.0 s",
        "Attempt 2 waited 2.0 s for a worker",
        "Attempt 2: SUCCESS after 6.0 s, begun at +20.0 s",
    )
    assert drawn.words == tuple(bar.title for row in drawn.rows for bar in row.bars)


def test_what_a_task_tells_the_result_backend_has_a_lane_of_its_own() -> None:
    events = [
        Event(at(1), "state", "x1", {"state": "PROGRESS", "meta": {"stage": "images"}}),
        Event(at(2), "progress", "x1", {"done": 1, "total": 4}),
        Event(at(3), "resumed", "x1", {"row": 7}),
    ]
    drawn = build(a_run("SUCCESS", an_attempt(1, 0, 4, "SUCCESS")), events, at(4))

    assert drawn is not None
    assert [(lane.name, lane.dots[0].label) for lane in drawn.lanes] == [
        ("progress", "1/4"),
        ("state", "PROGRESS"),
        ("events", "resumed"),
    ]
    assert drawn.lanes[2].dots[0].title == "resumed at +3.0 s – row: 7"  # noqa: RUF001


def test_a_run_that_never_began_is_drawn_while_it_waits_and_not_when_it_was_revoked() -> None:
    assert build(a_run("QUEUED"), [Event(at(0), "queued")], at(8)) is not None
    assert build(a_run("REVOKED"), [Event(at(0), "queued"), Event(at(3), "revoked")], at(8)) is None


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
