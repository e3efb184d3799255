"""What an attempt used of the state is told once, in the order of its first use, within bounds."""

from __future__ import annotations

from celery_stackstate.keys import LOCK, STATE, pack
from celery_stackstate.records import Touched
from celery_stackstate.touches import MOST_BYTES, MOST_KEYS, Touches, touched


def test_each_key_is_told_once() -> None:
    touches = Touches("run:r")
    for _ in range(2):
        touches.add(pack(STATE, "", "b"))
        touches.add(pack(LOCK, "task:t", "a"))
        touches.add(pack(STATE, "run:r", "own"))
    told = touches.untold()
    assert touched({"touched": told}) == [Touched("", "b", "state"), Touched("task:t", "a", "lock")]
    touches.told()
    assert touches.untold() == []
    touches.add(pack(STATE, "run:another", "x"))
    assert touches.untold() == [("state", "run:another", "x")]


def test_a_task_that_uses_many_or_long_keys_is_told_of_in_part() -> None:
    many, long = Touches("run:r"), Touches("run:r")
    for number in range(1000):
        many.add(pack(STATE, "", f"k{number}"))
        long.add(pack(STATE, "", f"{number:04}" * 256))
    assert [key for _, _, key in many.untold()] == [f"k{number}" for number in range(MOST_KEYS)]
    assert 0 < len(long.untold()) <= MOST_BYTES // 1024


def test_data_of_something_else_is_no_keys() -> None:
    assert touched({}) == []
    assert touched({"touched": "by hand"}) == []
