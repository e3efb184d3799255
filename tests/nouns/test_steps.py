"""self.step: what a step returned is kept for the later attempts of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from celery_stackstate.errors import (
    InvalidKey,
    NotSerializable,
    StepConflict,
    StoreUnavailable,
    ValueTooLarge,
)
from celery_stackstate.state import State
from celery_stackstate.steps import Steps
from celery_stackstate.stores.base import Expect, PutResult, Store
from celery_stackstate.timeline import Timeline
from tests.nouns.conftest import LIMIT, state_of

calls: list[Any] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    calls.clear()


def charge(amount: int, *, currency: str = "EUR") -> dict[str, Any]:
    calls.append((amount, currency))
    return {"charged": amount, "currency": currency}


def refund(amount: int) -> None:
    calls.append(-amount)


def fail() -> None:
    calls.append("fail")
    raise RuntimeError("the provider is down")


class Shipping:
    def ship(self, number: int) -> str:
        calls.append(number)
        return f"parcel {number}"


async def charge_soon(amount: int) -> int:
    return amount


def step_of(store: Store, run_id: str = "run-1") -> Callable[..., Any]:
    """Return `self.step` as one attempt of a run has it."""
    steps = Steps(state_of(store, run_id).run, Timeline(None))
    return lambda name, fn, *args, **kwargs: steps.step(name, fn, args, kwargs)


def test_a_later_attempt_gets_the_stored_value(store: Store) -> None:
    first = step_of(store)("charge", charge, 5, currency="USD")
    assert step_of(store)("charge", charge, 5, currency="USD") == first == {"charged": 5, "currency": "USD"}
    assert calls == [(5, "USD")]


def test_a_method_of_a_built_in_type_is_a_function(store: Store) -> None:
    assert step_of(store)("shout", str.upper, "a") == "A"
    assert step_of(store)("shout", str.upper, "a") == "A"


def test_each_run_has_its_own_steps(store: Store) -> None:
    step_of(store, "1")("charge", charge, 5)
    step_of(store, "2")("charge", charge, 5)
    assert calls == [(5, "EUR")] * 2


def test_a_step_that_returned_none_is_done_too(store: Store) -> None:
    assert step_of(store)("refund", refund, 5) is None
    assert step_of(store)("refund", refund, 5) is None
    assert calls == [-5]


def test_a_step_that_failed_is_called_again_without_a_warning(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="provider"):
            step_of(store)("fail", fail)
    assert calls == ["fail", "fail"]
    assert not caplog.records


def test_a_step_that_began_and_never_ended_is_called_again_with_a_warning(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def stop() -> None:
        calls.append("stopped")
        raise SystemExit

    for _ in range(2):
        with pytest.raises(SystemExit):
            step_of(store)("stop", stop)
    assert calls == ["stopped", "stopped"]
    assert "'stop' began before and nobody said how it ended" in caplog.text


def test_two_copies_of_a_run_agree_on_the_result_that_was_recorded_first(store: Store) -> None:
    slow, fast = step_of(store), step_of(store)

    def overtaken() -> str:
        def of_the_fast() -> str:
            return "fast"

        of_the_fast.__qualname__ = overtaken.__qualname__
        assert fast("s", of_the_fast) == "fast"
        return "slow"

    assert slow("s", overtaken) == "fast"
    assert step_of(store)("s", overtaken) == "fast"


@pytest.mark.parametrize(
    ("result", "error"), [({1, 2}, NotSerializable), (object(), NotSerializable), ("x" * LIMIT, ValueTooLarge)]
)
def test_a_result_that_cannot_be_stored_is_told_and_the_step_is_not_run_again(
    store: Store, result: Any, error: type[Exception]
) -> None:
    def make() -> Any:
        calls.append("made")
        return result

    with pytest.raises(error, match="'make' has run, but what it returned cannot be stored"):
        step_of(store)("make", make)
    with pytest.raises(error, match=r"'make' ran in an earlier attempt, .*; it is not run again"):
        step_of(store)("make", make)
    assert calls == ["made"]


def test_a_name_that_is_used_for_another_function_is_refused(store: Store) -> None:
    step_of(store)("pay", charge, 5)
    with pytest.raises(StepConflict, match=r"'pay' of this run is tests.*charge, not tests.*refund"):
        step_of(store)("pay", refund, 5)
    assert calls == [(5, "EUR")]


def test_a_loop_that_forgot_to_number_its_steps_is_refused(store: Store) -> None:
    step = step_of(store)
    step("charge", charge, 1)
    with pytest.raises(StepConflict, match="with other arguments"):
        step("charge", charge, 2)
    assert calls == [(1, "EUR")]
    assert [step(f"charge:{n}", charge, n)["charged"] for n in (1, 2)] == [1, 2]


@dataclass(eq=False)
class Customer:
    name: str

    def welcome(self) -> str:
        calls.append(self.name)
        return self.name

    def __call__(self) -> str:
        return self.welcome()


@pytest.mark.parametrize("fn_of", [lambda name: Customer(name).welcome, Customer, lambda name: partial(charge, name)])
def test_a_loop_over_what_functions_bring_along_is_refused_too(store: Store, fn_of: Any) -> None:
    step = step_of(store)
    step("each", fn_of("a"))
    with pytest.raises(StepConflict, match="on another object or with other arguments"):
        step("each", fn_of("b"))
    assert len(calls) == 1


def test_a_list_that_is_filled_anew_is_another_argument_and_one_that_the_step_changes_is_not(store: Store) -> None:
    step, batch, taken = step_of(store), [1, 2], {"a": [1]}
    assert step("flush", sum, batch) == 3
    batch[:] = [3]
    with pytest.raises(StepConflict):
        step("flush", sum, batch)
    assert [step("take", lambda given: given["a"].pop(), given) for given in (taken, {"a": [1]})] == [1, 1]
    assert taken == {"a": []}


def test_arguments_that_cannot_be_compared_are_passed_on(store: Store) -> None:
    step = step_of(store)
    itself: list[Any] = []
    itself.append(itself)
    assert [step("length", len, itself) for _ in range(2)] == [1, 1]


def test_methods_partials_and_lambdas_can_be_steps(store: Store) -> None:
    for _ in range(2):
        step = step_of(store)
        assert step("ship", Shipping().ship, 3) == "parcel 3"
        assert step("half", partial(charge, 10), currency="CHF")["charged"] == 10
        assert step("lambda", lambda: 7) == 7
    assert calls == [3, (10, "CHF")]


@pytest.mark.parametrize("fn", [charge_soon, 5, None, "charge"])
def test_what_is_no_plain_function_is_refused_before_anything_is_stored(store: Store, fn: Any) -> None:
    with pytest.raises(TypeError, match="'s'"):
        step_of(store)("s", fn)
    assert list(state_of(store).run.keys()) == []


def test_a_wrong_name_is_refused(store: Store) -> None:
    for name in ("", "a\nb", 5):
        with pytest.raises(InvalidKey, match="step name"):
            step_of(store)(name, charge, 5)
    assert calls == []


def test_a_key_of_the_tasks_own_is_not_taken_for_a_step(store: Store) -> None:
    state_of(store).run.set("step:mine", 5)
    with pytest.raises(StepConflict, match="a value that the task set"):
        step_of(store)("mine", charge, 5)


class Leaving(State):
    """A state whose store goes away once a step has begun, for so many writes."""

    __slots__ = ()
    left = 0

    def _put_entry(self, key: str, value: Any, expect: Expect | int, *args: Any, **options: Any) -> PutResult:
        if Leaving.left and expect is not Expect.ABSENT:
            Leaving.left -= 1
            raise StoreUnavailable("gone", maybe_applied=False)
        return super()._put_entry(key, value, expect, *args, **options)


def outage_of(store: Store, failures: int) -> Steps:
    Leaving.left = failures
    return Steps(Leaving(store, state_of(store)._context, limit=LIMIT).run, Timeline(None))


def test_a_short_outage_after_the_step_is_waited_out(store: Store) -> None:
    assert outage_of(store, 2).step("charge", charge, (5,), {})["charged"] == 5
    assert step_of(store)("charge", charge, 5)["charged"] == 5
    assert calls == [(5, "EUR")]


def test_a_long_outage_after_the_step_says_that_it_will_run_again(store: Store) -> None:
    with pytest.raises(StoreUnavailable, match="'charge' has run, but that could not be recorded"):
        outage_of(store, 99).step("charge", charge, (5,), {})
    Leaving.left = 0
    step_of(store)("charge", charge, 5)
    assert calls == [(5, "EUR")] * 2
