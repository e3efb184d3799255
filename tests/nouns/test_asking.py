"""What is asked of the run history in a wrong way is refused by its name, and in the same way over each store."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from datetime import date, datetime, timezone
from typing import Any

import pytest

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.facts import now_micros, rank
from celery_stackstate.runs import Runs
from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store

NAIVE = datetime(2026, 1, 1)  # of no time zone
TEXTS = ("task", "worker", "queue", "key", "group", "host", "origin", "text")


@pytest.fixture
def runs(store: Store) -> Runs:
    for name in ("a", "b"):
        known = RunFacts(task="shop", created=now_micros())
        store.append([RunWrite(name, rank("SUCCESS", 1), known, RunStanding("SUCCESS"))])
    return Runs(store)


def cursor(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode()


WRONG: list[tuple[str, Any]] = [
    *(("limit", value) for value in (0, -1, True, 1.5, "10", None, 2**31)),
    *(("since", value) for value in (NAIVE, "2026-01-01", date(2026, 1, 1), 5)),
    ("until", NAIVE),
    *((name, 5) for name in TEXTS),
    *((name, "a\0b") for name in TEXTS),
    ("task", "\ud800"),
    ("status", 5),
    ("status", "BROKEN"),
    ("status", ["SUCCESS", None]),
    *(("after", value) for value in (5, "nonsense", cursor("null"), cursor("[1]"), cursor('["1", "a"]'))),
    *(("after", cursor(text)) for text in ("[1, 2]", f"[{2**63}, 1]", '[1, "a\\u0000b"]')),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=lambda value: ascii(value)[:40])
def test_a_wrong_argument_of_a_list_is_refused_by_its_name(runs: Runs, name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{name}|not a status"):
        runs.list(**{name: value})


def test_the_same_is_refused_beside_lists(runs: Runs) -> None:
    refused: Any = [
        lambda: runs.children("a", limit=0),
        lambda: runs.children("a", after="nonsense"),
        lambda: runs.tree("a", limit=-1),
        lambda: runs.logs("a", limit=0),
        lambda: runs.logs("a", execution="a\0b"),
        lambda: runs.count(cap=0),
        lambda: runs.purge(limit=0),
        lambda: runs.names("error"),
        lambda: runs.counts(since=NAIVE),
        lambda: runs.counts(until=NAIVE),
        lambda: runs.counts(step="an hour"),  # type: ignore[arg-type]
        lambda: runs.counts(task=5),  # type: ignore[arg-type]
        *(lambda ask=ask: ask(5) for ask in (runs.get, runs.events, runs.logs, runs.children, runs.tree, runs.delete)),
    ]
    for ask in refused:
        with pytest.raises(ConfigurationError):
            ask()


@pytest.mark.parametrize("run_id", ["a\0", "\ud800"], ids=ascii)
def test_an_id_that_no_store_can_hold_is_unknown(runs: Runs, run_id: str) -> None:
    assert runs.get(run_id) is None
    assert runs.tree(run_id) is None
    assert (runs.events(run_id), runs.logs(run_id), list(runs.children(run_id))) == ([], [], [])
    assert runs.delete(run_id, "a") == 1


def test_what_is_right_at_the_edge_is_answered(runs: Runs) -> None:
    first = runs.list(limit=1, since=datetime.min.replace(tzinfo=timezone.utc), status=[], text="")
    assert [run.id for run in first] == ["b"]
    assert [run.id for run in runs.list(limit=2**31 - 1, after=first.next)] == ["a"]
    assert list(runs.list(task="", key="")) == []
