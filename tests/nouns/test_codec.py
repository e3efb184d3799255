"""Values come back equal and of the same type, or are refused with the path named."""

from __future__ import annotations

import enum
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_stackstate import codec
from celery_stackstate.codec import decode, encode
from celery_stackstate.errors import ConfigurationError, NotSerializable

ZONE = timezone(timedelta(hours=-3, minutes=-30))
EXAMPLES = [
    None,
    True,
    0,
    -(2**63),
    2**63,
    2**200,
    1.5,
    -0.0,
    1e300,
    "",
    "é日本😀\x00\n",
    b"\xff\x00",
    datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    datetime(2026, 1, 2, 3, 4, 5, 600, tzinfo=ZONE),
    date(2026, 1, 2),
    time(3, 4, 5),
    Decimal("1.10"),
    Decimal("1E+400"),
    UUID(int=7),
    (1, (2, [3])),
    {"é": "日本", "😀": [1, 2.5, True, None]},
    {"$type": "datetime", "is": "x"},
    {"$type": None},
    {"$type": {"$type": "dict"}},
]


def same(left: Any, right: Any) -> bool:
    """Return whether two values are equal and of the same types throughout."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@pytest.mark.parametrize(
    "value", EXAMPLES, ids=lambda value: type(value).__name__ if type(value) is object else repr(value)
)
def test_a_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    for wrapped in (value, [value], {"k": (value, {"in": value})}):
        assert same(wrapped, codec.decode(codec.encode(wrapped)))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.sampled_from(["$type", "is", "k"]), inner)
    ),
    max_leaves=12,
)


@given(values)
def test_whatever_is_accepted_comes_back(value: Any) -> None:
    assert same(value, codec.decode(codec.encode(value)))


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({1, 2}, "value"),
        (object(), "value"),
        ([timedelta(1)], "value[0]"),
        ({"a": {(1, 2): 3}}, "value['a']"),
        ({1: 2}, "value"),
        ({"a": [float("nan")]}, "value['a'][0]"),
        (float("inf"), "value"),
        (Decimal("NaN"), "value"),
        ("\ud800", "value"),
        (Colour.RED, "value"),
        ((OrderedDict(),), "value[0]"),
        ({"k": bytearray(b"x")}, "value['k']"),
    ],
    ids=lambda value: type(value).__name__ if type(value) is object else repr(value),
)
def test_what_would_not_come_back_is_refused_with_its_path(value: Any, path: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        codec.encode(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(path)


def test_what_contains_itself_or_is_endless_is_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    for value in (loop, 10**5000):
        with pytest.raises(NotSerializable):
            codec.encode(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 3, 31, 2, 30, tzinfo=ZoneInfo("Europe/Berlin")),
        time(12, 30, tzinfo=ZoneInfo("Europe/Berlin")),
    ],
)
def test_a_zone_comes_back_as_itself_also_where_its_clock_changes(value: Any) -> None:
    found = decode(encode(value))
    assert (found, found.tzinfo, found.fold) == (value, value.tzinfo, value.fold)


class OwnZone(tzinfo):
    def utcoffset(self, _: Any) -> timedelta:
        return timedelta(hours=1)

    def dst(self, _: Any) -> timedelta:
        return timedelta(0)

    def tzname(self, _: Any) -> str:
        return "own"


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (datetime(2026, 1, 1, tzinfo=OwnZone()), "astimezone"),
        (Decimal("sNaN"), "not equal to itself"),
        (Decimal("NaN"), "not equal to itself"),
    ],
)
def test_zones_of_ones_own_and_no_numbers_are_refused(value: Any, word: str) -> None:
    with pytest.raises(NotSerializable, match=word):
        encode([value])


def test_what_is_nested_too_deep_or_contains_itself_is_refused_and_100_is_not() -> None:
    deep: Any = "end"
    for _ in range(100):
        deep = [deep]
    assert decode(encode(deep)) == deep
    with pytest.raises(NotSerializable, match="deeper than 100"):
        encode([deep])
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(NotSerializable, match="contains itself"):
        encode(loop)


def test_a_number_that_is_too_long_is_refused_with_its_path() -> None:
    assert decode(encode([10**4000])) == [10**4000]
    with pytest.raises(NotSerializable, match=r"value\['a'\]\[1\]"):
        encode({"a": [1, 10**5000]})


def test_a_moment_that_would_not_be_equal_is_refused_where_the_clocks_change() -> None:
    berlin = ZoneInfo.no_cache("Europe/Berlin")
    unmistakable = datetime(2026, 7, 1, 2, 30, tzinfo=berlin)
    assert decode(encode([unmistakable])) == [unmistakable]
    with pytest.raises(NotSerializable, match=r"value\[0\].*zoneinfo"):
        encode([datetime(2026, 10, 25, 2, 30, tzinfo=berlin)])


def test_a_zone_that_this_host_does_not_know_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"Mars/Base.*tzdata"):
        decode(b'{"$type":"datetime","is":"2026-01-01T00:00:00","zone":"Mars/Base","fold":0}')
