"""get(as_type=): dataclasses, TypedDicts and pydantic models from what was stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import InitVar, asdict, dataclass, field
from datetime import date, datetime, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Generic, Literal, NamedTuple, NewType, Optional, TypedDict, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field

from celery_stackstate.errors import NotSerializable, WrongType
from celery_stackstate.shapes import rebuild
from celery_stackstate.state import State

T = TypeVar("T")


@dataclass
class Line:
    article: str
    price: Decimal
    count: int = 1


@dataclass(frozen=True)
class Order:
    number: int
    day: date
    lines: list[Line]
    by_name: dict[str, Line] = field(default_factory=dict)
    note: str | None = None
    kind: Literal["new", "old"] = "new"
    corner: tuple[float, float] = (0.0, 0.0)


class Cursor(TypedDict):
    page: int
    token: str | None


class Position(TypedDict, total=False):
    x: int


class Progress(BaseModel):
    done: int
    total: int | None = None


ORDER = Order(7, date(2026, 11, 22), [Line("a", Decimal("1.10"), 2)], {"b": Line("b", Decimal(3))}, corner=(1.0, 2.5))


def test_a_dataclass_comes_back_equal_with_what_it_holds(state: State) -> None:
    state.set("order", asdict(ORDER))
    assert state.get("order", as_type=Order) == ORDER


def test_a_typed_dict_a_model_and_lists_of_them_come_back(state: State) -> None:
    state.set("cursor", {"page": 3, "token": None})
    assert state.get("cursor", as_type=Cursor) == {"page": 3, "token": None}
    state.set("progress", Progress(done=3).model_dump(mode="json"))
    assert state.get("progress", as_type=Progress) == Progress(done=3)
    state.set("all", [{"done": 1}, {"done": 2, "total": 2}])
    assert state.get("all", as_type=list[Progress]) == [Progress(done=1), Progress(done=2, total=2)]


def test_an_absent_key_gives_the_default_as_it_is(state: State) -> None:
    assert state.get("order", as_type=Order) is None
    assert state.get("order", ORDER, as_type=Order) is ORDER


def test_fields_of_a_newer_program_are_left_out_and_missing_ones_take_their_default(state: State) -> None:
    state.set("line", {"article": "a", "price": Decimal(1), "colour": "red"})
    assert state.get("line", as_type=Line) == Line("a", Decimal(1), 1)
    state.set("position", {"y": 3})
    assert state.get("position", as_type=Position) == {"y": 3}


@pytest.mark.parametrize(
    ("value", "kind", "path"),
    [
        ({"article": "a"}, Line, r"^'k' has no 'price', which Line needs"),
        ({"article": 1, "price": Decimal(1)}, Line, r"'k'\['article'\] is 1, a int, where str is expected"),
        ([1], Line, r"'k' is \[1\], a list, where Line is expected"),
        ({"page": True, "token": None}, Cursor, r"'k'\['page'\] is True"),
        ({"done": "many"}, Progress, r"'k' does not fit Progress"),
        ([{"done": "many"}], list[Progress], r"'k'\[0\] does not fit"),
        ({"a": "x"}, dict[str, int], r"'k'\['a'\]"),
        ([1.5, "x"], tuple[float, float], r"'k' is \[1.5, 'x'\]"),
        (("x",), tuple[float, float], r"'k' has 1 items where 2 are expected"),
        (5, Optional[str], r"'k' is 5"),  # noqa: UP045
        ("x", Literal["a", "b"], r"'k' is 'x'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(state: State, value: Any, kind: Any, path: str) -> None:
    state.set("k", value)
    with pytest.raises(WrongType, match=path):
        state.get("k", as_type=kind)
    assert state.get("k") == value


class Renamed(BaseModel):
    page: int = Field(1, alias="pageNo")


class Email(BaseModel):
    to: str


class Sms(BaseModel):
    to: str
    number: str


class Note(TypedDict):
    to: str


class LongNote(TypedDict):
    to: str
    text: str


@dataclass(frozen=True)
class Sent:
    via: Email | Sms
    note: Note | LongNote


@dataclass(frozen=True)
class Counted:
    total: int
    done: int = field(default=0, init=False)


@dataclass
class Pair(Generic[T]):
    one: T
    more: list[T]


@dataclass
class Abstract:
    lines: Sequence[Line]
    by_name: Mapping[str, Line]


def test_a_field_that_the_constructor_does_not_take_comes_back() -> None:
    counted = Counted(10)
    object.__setattr__(counted, "done", 7)
    assert rebuild(asdict(counted), Counted) == counted
    assert rebuild({"total": 10}, Counted) == Counted(10)
    with pytest.raises(WrongType, match="'done'"):
        rebuild({"total": 10, "done": "x"}, Counted)


def test_a_model_is_read_by_the_names_of_its_fields_and_by_their_aliases() -> None:
    assert rebuild(Renamed(pageNo=7).model_dump(mode="json"), Renamed).page == 7
    assert rebuild(Renamed(pageNo=7).model_dump(mode="json", by_alias=True), Renamed).page == 7


def test_of_several_types_that_fit_the_one_is_taken_that_holds_all_of_the_value() -> None:
    stored = {"via": {"to": "a", "number": "1"}, "note": {"to": "a", "text": "t"}}
    assert rebuild(stored, Sent) == Sent(Sms(to="a", number="1"), {"to": "a", "text": "t"})
    found: Any = rebuild({"pageNo": 7}, Email | Renamed)  # type: ignore[arg-type]
    assert found == Renamed(pageNo=7)


def test_what_is_inside_of_abstract_and_generic_types_is_rebuilt() -> None:
    one, plain = Line("a", Decimal(1)), {"article": "a", "price": Decimal(1)}
    found = rebuild({"lines": [plain], "by_name": {"x": plain}}, Abstract)
    assert found == Abstract([one], {"x": one})
    assert rebuild({"lines": (plain,), "by_name": {}}, Abstract) == Abstract((one,), {})
    assert rebuild({"one": plain, "more": [plain]}, Pair[Line]) == Pair(one, [one])
    assert rebuild([1], Iterable) == [1]  # type: ignore[type-abstract]
    for value, kind in (("text", Sequence[str]), ([1], set[int]), ({"one": 1, "more": []}, Pair[str])):
        with pytest.raises(WrongType):
            rebuild(value, kind)


def test_plain_types_are_checked_and_an_int_fits_a_float() -> None:
    assert rebuild(5, float) == 5.0
    assert type(rebuild(5, float)) is float
    assert rebuild([1, None], list[int | None]) == [1, None]
    with pytest.raises(WrongType):
        rebuild(True, int)
    with pytest.raises(WrongType, match="no type that can be rebuilt"):
        rebuild(1, "int")  # type: ignore[arg-type]


class Colour(Enum):
    RED = "red"


Number = NewType("Number", int)


@dataclass
class Base:
    a: int


@dataclass
class Extended(Base):
    b: int = 0


@dataclass
class Box(Generic[T]):
    inside: T
    colour: Colour
    number: Number


@dataclass
class Checked:
    least: int
    extra: InitVar[int]

    def __post_init__(self, extra: int) -> None:
        raise AssertionError("not reached")


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    at: datetime


def test_enums_new_types_and_type_variables_come_back() -> None:
    assert rebuild({"inside": [1], "colour": "red", "number": 5}, Box) == Box([1], Colour.RED, Number(5))
    with pytest.raises(WrongType, match=r"value\['colour'\] is 'blue'"):
        rebuild({"inside": 1, "colour": "blue", "number": 5}, Box)


def test_a_union_prefers_what_holds_all_of_the_value() -> None:
    assert rebuild({"x": {"a": 1, "b": 2}}, dict[str, Base | Extended]) == {"x": Extended(1, 2)}
    assert type(rebuild([3], list[float | int])[0]) is int


def test_a_strict_model_takes_what_it_dumped_as_json(state: State) -> None:
    model = Strict(at=datetime(2026, 1, 2, 3, tzinfo=timezone.utc))
    state.set("json", model.model_dump(mode="json"))
    state.set("python", model.model_dump())
    assert state.get("json", as_type=Strict) == state.get("python", as_type=Strict) == model


def test_what_a_class_refuses_is_named_too() -> None:
    with pytest.raises(WrongType, match="Checked"):
        rebuild({"least": 1}, Checked)
    with pytest.raises(WrongType, match="the keys at value are str, not int"):
        rebuild({"1": 1}, dict[int, int])
    with pytest.raises(WrongType, match="Literal"):
        rebuild(True, Literal[1])  # type: ignore[arg-type]


class Point(NamedTuple):
    x: int


@pytest.mark.parametrize(
    ("value", "hint"), [(ORDER, "asdict"), (Progress(done=1), "model_dump"), (Point(1), "plain value")]
)
def test_storing_the_object_itself_is_refused_with_the_way_to_do_it(state: State, value: Any, hint: str) -> None:
    with pytest.raises(NotSerializable, match=hint):
        state.set("k", {"inner": value})
    assert state.get("k") is None
