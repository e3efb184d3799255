"""The list of runs in a large history: a page costs what its rows cost, however many runs there are.

`STACKSTATE_TEST_LONG=1` fills a million runs instead of 20,000, holds the pages to their budget and prints the times.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client

from celery_stackstate.stores.base import RunFacts, RunQuery, RunStanding, RunWrite, Store
from celery_stackstate.stores.sql_base import Row
from celery_stackstate.stores.sqlalchemy import SQLAlchemyStore
from tests.admin.counted import CountedCalls
from tests.admin.pages import RUNS
from tests.admin.pagetimes import page_times
from tests.admin.stores import over
from tests.databases import ask, own_database, postgresql
from tests.services import RedisServer

LONG = os.environ.get("STACKSTATE_TEST_LONG") == "1"
MOST = 1_000_000 if LONG else 20_000
FEW = MOST // 10
DAY = 86_400_000_000
SPAN = 12 * DAY
BATCH = 1000
PREFIX = "scale"

#: Milliseconds in the store for what a list is made of, and for the whole page.
STORE_BUDGET, PAGE_BUDGET = 5.0, 120.0
#: A list may cost so many times as much with ten times as many runs, and so many milliseconds more.
FLAT, NOISE = 3.0, 0.3

FILTERS: dict[str, dict[str, Any]] = {
    "newest page": {},
    "exact id": {"ids": ("r0000010",)},
    "status": {"status": ("FAILURE",)},
    "task": {"task": "shop.task3"},
    "queue": {"queue": "q2"},
    "worker": {"worker": "celery@w7"},
    "key": {"key": "key-2"},
    "host": {"host": "web-1"},
    "origin": {"origin": "user:2"},
    "group": {"group_id": "group-2"},
    "root": {"root_id": "root-2"},
    "parent": {"parent_id": "parent-2"},
    "oldest first": {"oldest_first": True},
    "one day": {"since": -3 * DAY, "until": -2 * DAY},
    "a page in the middle": {"after": -6 * DAY},
}
PAGES = {"newest page": "", "exact id": "?q=r0000010", "status": "?status=FAILURE", "task": "?task=shop.task3"}


def the_time() -> int:
    """Return the time, or twenty minutes ago where a day may just have begun: no day has only the newest runs."""
    now, minute = time.time_ns() // 1000, 60_000_000
    return now - (20 * minute if now % (60 * minute) < 20 * minute else 0)


@dataclass
class Place:
    """A store of one kind, and how long its server took for a call."""

    url: str
    store: Store
    milliseconds: Callable[[Callable[[], object]], float]
    settle: Callable[[], object] = lambda: None
    now: int = field(default_factory=the_time)


class TimedServer(SQLAlchemyStore):
    """Asks the server how long it takes to execute what is read."""

    milliseconds = 0.0

    def _rows(self, sql: str, parameters: Sequence[Any], deadline: float | None = None) -> list[Row]:
        found = super()._rows(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}", parameters, deadline)[0][0]
        plan = json.loads(found) if isinstance(found, str) else found
        self.milliseconds += plan[0]["Execution Time"]
        return super()._rows(sql, parameters, deadline)


@pytest.fixture(params=["redis", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path, shop: Any) -> Iterator[Place]:
    """A store that nobody else uses, shown by the admin."""
    made = request.getfixturevalue(f"{request.param}_place")
    with over(shop, made.url, PREFIX):
        yield made
    made.store.close()


@pytest.fixture
def redis_place(redis_server_binary: str, tmp_path: Path, shop: Any) -> Iterator[Place]:
    server = RedisServer(redis_server_binary, tmp_path, "--save", "", "--appendonly", "no")
    server.start()
    raw: Any = redis.Redis.from_url(server.url)

    def milliseconds(call: Callable[[], object]) -> float:
        raw.config_resetstat()
        call()
        spent = raw.info("commandstats")["cmdstat_evalsha"]["usec"]
        return float(spent) / 1000

    with over(shop, server.url, PREFIX):
        yield Place(server.url, shop.runs_store, milliseconds)
    raw.close()
    server.stop()


@pytest.fixture
def postgresql_place(postgresql_url: str) -> Iterator[Place]:
    with own_database(postgresql, postgresql_url) as url:
        store = TimedServer.from_url(url, prefix=PREFIX, timeout=60)
        store.install()

        def milliseconds(call: Callable[[], object]) -> float:
            store.milliseconds = 0.0
            call()
            return store.milliseconds

        with postgresql(url) as admin:
            yield Place(url, store, milliseconds, lambda: ask(admin, "VACUUM ANALYZE stackstate_run"))


def fill(place: Place, numbers: Sequence[int], shop: Any) -> None:
    """Write runs, evenly spread over twelve days, and count them as workers do."""
    for start in range(0, len(numbers), BATCH):
        shop.runs_store.append([a_run(number, place.now) for number in numbers[start : start + BATCH]])
    shop.tallies.write(keep=100 * 86_400, back=14 * 86_400, budget=600)
    place.settle()


def a_run(number: int, now: int) -> RunWrite:
    at = now - SPAN + number * (SPAN // MOST)
    tens = number // 10
    # Some values have ever more runs as the history grows, others the same sixty.
    sixty = f"{tens // 60}" if number % 10 == 0 else f"{number // 60}-later"
    standing = RunStanding(
        "FAILURE" if tens % 20 == 0 else "SUCCESS", f"celery@w{tens % 31}", 0, 1000, at + 1000, at + 90_000
    )
    facts = RunFacts(
        task=f"shop.task{tens % 7}",
        queue=f"q{tens % 3}",
        host=f"web-{tens % 4}",
        origin=f"user:{sixty}",
        key=f"key-{sixty}",
        group_id=f"group-{sixty}",
        root_id=f"root-{sixty}",
        parent_id=f"parent-{sixty}",
        created=at,
    )
    return RunWrite(f"r{number:07}", 1, facts, standing)


def the_query(place: Place, given: dict[str, Any]) -> RunQuery:
    """Return a query whose times are counted from now."""
    given = dict(given)
    for name in ("since", "until"):
        if name in given:
            given[name] += place.now
    if "after" in given:
        given["after"] = (given["after"] + place.now, "r")
    return RunQuery(**given, limit=51)


def measured(place: Place) -> dict[str, float]:
    """Return the store's own milliseconds for each list, the best of some."""
    found = {}
    for name, given in FILTERS.items():
        query = the_query(place, given)
        assert place.store.runs(query)
        found[name] = min(place.milliseconds(lambda query=query: place.store.runs(query)) for _ in range(9))  # type: ignore[misc]
    return found


def asked(shop: Any, viewer: Client, query: str) -> CountedCalls:
    """Return what a page asks."""
    with CountedCalls(shop) as calls:
        response = viewer.get(RUNS + query)
    assert response.context["cl"].result_list
    return calls


def test_a_page_of_the_list_costs_the_same_however_many_runs_there_are(
    place: Place, shop: Any, viewer: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a tenth of the runs, evenly spread
    fill(place, range(0, MOST, 10), shop)
    few = measured(place)
    asked_few = {name: asked(shop, viewer, query).by_name for name, query in PAGES.items()}

    # when there are ten times as many
    fill(place, [number for number in range(MOST) if number % 10], shop)
    most = measured(place)
    asked_most = {name: asked(shop, viewer, query).by_name for name, query in PAGES.items()}

    # then each list takes the store as long as before
    slower = {name: (few[name], most[name]) for name in few if most[name] > FLAT * few[name] + NOISE}
    assert slower == {}
    # and each page asks the same questions, but for the newest counts of the chart, which are bounded
    for name in PAGES:
        for asked_for in (asked_few[name], asked_most[name]):
            assert asked_for.pop("tally", 0) <= 20
            assert asked_for.pop("put", 0) <= 20, "what was counted for good is kept"
        assert asked_few[name] == asked_most[name]
        assert asked_most[name].total() <= 30, asked_most[name]
    if LONG:
        hold_to_budget(place, most, capsys)


def hold_to_budget(place: Place, lists: dict[str, float], capsys: pytest.CaptureFixture[str]) -> None:
    """Print the times at full size; fail where they are over the budget."""
    pages = page_times(place.url, PREFIX)
    lines = [f"{MOST:,} runs in {place.url.partition(':')[0]}"]
    lines += [f"  {name:<22} {spent:7.2f} ms in the store" for name, spent in lists.items()]
    lines += [f"  page: {name:<26} {spent:7.1f} ms" for name, spent in pages.items()]
    with capsys.disabled():
        print("\n" + "\n".join(lines))
    assert {name: spent for name, spent in lists.items() if spent > STORE_BUDGET} == {}
    assert {name: spent for name, spent in pages.items() if spent > PAGE_BUDGET} == {}
