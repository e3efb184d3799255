"""self.state.throttle: an even pace with bursts, exact over all processes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, NoReturn

import pytest
from celery.app.task import Context

from celery_stackstate.errors import InvalidKey, LockBusy, Throttled
from celery_stackstate.keys import PACE, pack
from celery_stackstate.state import State
from celery_stackstate.stores.base import Store
from celery_stackstate.worker.requeue import pause_for
from tests.nouns.conftest import state_of


def test_a_burst_passes_at_once_and_the_next_call_waits_its_turn(state: State) -> None:
    paces = [state.throttle("api", 10, 1.0, burst=5) for _ in range(5)]
    assert all(pace.ok and pace.retry_after == 0.0 for pace in paces)
    assert [pace.remaining for pace in paces[:1]] == [4]
    refused = state.throttle("api", 10, 1.0, burst=5)
    assert not refused
    assert refused.remaining == 0
    assert 0 < refused.retry_after <= 0.1


def test_a_refused_call_may_go_ahead_after_exactly_retry_after(state: State) -> None:
    state.throttle("api", 2, 1.0)
    for _ in range(3):
        refused = state.throttle("api", 2, 1.0)
        assert not refused.ok
        time.sleep(refused.retry_after)
        assert state.throttle("api", 2, 1.0).ok


def test_refused_calls_are_not_counted(state: State) -> None:
    state.throttle("api", 5, 1.0)
    first = state.throttle("api", 5, 1.0)
    for _ in range(50):
        state.throttle("api", 5, 1.0)
    assert state.throttle("api", 5, 1.0).retry_after <= first.retry_after


def test_an_even_pace_is_the_default(state: State) -> None:
    """Calls that pass are 1/20 s apart, and each that comes later than that passes, however slow a store is."""
    interval, asked, last = 1.0 / 20, time.monotonic(), None
    began = asked
    while asked < began + 1.0:
        passed, told = state.throttle("api", 20, 1.0).ok, time.monotonic()
        if passed and last is not None:
            assert told - last[0] >= interval
        if not passed:
            assert last is not None
            assert asked - last[1] < interval
        last = (asked, told) if passed else last
        time.sleep(0.002)
        asked = time.monotonic()


def test_a_cost_counts_for_so_many_calls(state: State) -> None:
    assert state.throttle("api", 10, 1.0, burst=10, cost=7).remaining == 3
    assert not state.throttle("api", 10, 1.0, burst=10, cost=4).ok
    assert state.throttle("api", 10, 1.0, burst=10, cost=3).ok
    assert state.throttle("other", 1, timedelta(hours=1), cost=3).ok


def test_paces_are_apart_by_key_and_scope_and_from_values(state: State) -> None:
    state.set("api", "value")
    assert state.throttle("api", 1, 60).ok
    assert state.throttle("other", 1, 60).ok
    assert state.task.throttle("api", 1, 60).ok
    assert not state.throttle("api", 1, 60).ok
    assert state.get("api") == "value"
    assert list(state.keys()) == ["api"]


@pytest.mark.parametrize(
    ("args", "options", "word"),
    [
        ((0, 1), {}, "limit"),
        ((True, 1), {}, "limit"),
        ((1.5, 1), {}, "limit"),
        ((1, 0), {}, "per"),
        ((1, -1), {}, "per"),
        ((1, True), {}, "per"),
        ((1, "1s"), {}, "per"),
        ((1, float("nan")), {}, "per"),
        ((1, 1), {"burst": 0}, "burst"),
        ((1, 1), {"cost": 0}, "cost"),
        ((1, 1), {"burst": 2, "cost": 3}, "cost=3 would never pass"),
        ((1, 31_000_000), {"burst": 10**6}, "outside"),
    ],
)
def test_wrong_numbers_are_refused_and_named(state: State, args: Any, options: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        state.throttle("api", *args, **options)
    with pytest.raises(InvalidKey, match="throttle key"):
        state.throttle("", 1, 1)


def test_outside_of_a_run_or_retry_raises(store: Store) -> None:
    outside = state_of(store, None)
    outside.throttle("api", 1, 60).or_retry()
    with pytest.raises(Throttled, match="'api'") as caught:
        outside.throttle("api", 1, 60).or_retry()
    assert 55 < caught.value.retry_after <= 60


def test_inside_a_run_or_retry_hands_over_to_what_sends_it_again(store: Store) -> None:
    class AgainError(Exception):
        pass

    asked: list[tuple[LockBusy | Throttled, str]] = []

    def postpone(error: LockBusy | Throttled, mode: str) -> NoReturn:
        asked.append((error, mode))
        raise AgainError

    state = state_of(store, "1", postpone=postpone)
    state.throttle("api", 1, 60).or_retry()
    with pytest.raises(AgainError):
        state.throttle("api", 1, 60).or_retry()
    assert [(type(error), mode) for error, mode in asked] == [(Throttled, "retry")]


def test_threads_together_keep_the_pace(store: Store) -> None:
    def pass_through(number: int) -> list[bool]:
        state, deadline, passed = state_of(store, str(number)), time.monotonic() + 1.0, []
        while time.monotonic() < deadline:
            passed.append(state.throttle("api", 50, 1.0, burst=10).ok)
            time.sleep(0.001)
        return passed

    with ThreadPoolExecutor(4) as pool:
        calls = [ok for passed in pool.map(pass_through, range(4)) for ok in passed]
    # A disk may be too slow for so many calls; who asks less often than that is hardly ever refused.
    assert min(45, 0.8 * len(calls)) <= sum(calls) <= 64


def test_another_rate_for_the_same_key_counts_at_once(state: State) -> None:
    assert state.throttle("api", 1, 86_400).ok
    pace = state.throttle("api", 100, 60)
    assert pace.retry_after <= 0.6
    time.sleep(pace.retry_after)
    assert state.throttle("api", 100, 60).ok, "when it said that it would"


@pytest.mark.parametrize(("retry_after", "least", "most"), [(0.1, 1, 2), (20, 20, 21), (86_400, 299, 300)])
def test_a_run_that_waits_for_a_pace_comes_back_within_five_minutes(retry_after: float, least: int, most: int) -> None:
    pauses = [pause_for(Context(), Throttled("early", name="api", retry_after=retry_after)) for _ in range(200)]
    assert least <= min(pauses) <= max(pauses) <= most
    assert max(pauses) - min(pauses) > 0.5, "not all at the same time"


def test_a_burst_of_the_same_pace_is_waited_out(state: State) -> None:
    assert state.throttle("api", 2, 1.0, cost=2).ok
    pace = state.throttle("api", 2, 1.0)
    assert (pace.ok, 0.5 < pace.retry_after <= 1) == (False, True)
    time.sleep(pace.retry_after)
    assert state.throttle("api", 2, 1.0).ok


def test_a_pace_that_an_older_release_has_written_is_gone_on_with(state: State) -> None:
    assert state.throttle("api", 1, 0.5).ok
    key, store = pack(PACE, "", "api"), state._store
    store.put(key, 0, ttl=500_000)
    pace = state.throttle("api", 1, 0.5)
    assert not pace.ok
    time.sleep(pace.retry_after)
    assert state.throttle("api", 1, 0.5).ok
