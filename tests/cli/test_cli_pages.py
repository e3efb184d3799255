"""Lists by pages: that there is more is said, on the other stream, with where to go on."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from celery import Celery

from celery_stackstate import StackState
from celery_stackstate.cli import listing
from celery_stackstate.facts import now_micros
from celery_stackstate.records import Page
from celery_stackstate.stores.base import RunFacts, RunWrite
from tests.cli.commands import run
from tests.cli.conftest import MakeProject

#: Each list, and which field of its JSON names a record.
LISTS = [
    ("runs", "id"),
    ("state list", "key"),
    ("state list --scope app k", "key"),
    ("locks list", "key"),
    ("keys list", "key"),
]


@pytest.fixture
def full(project: MakeProject) -> Celery:
    """A project with five of everything."""
    app = project()
    state = StackState.of(app).state
    for number in range(5):
        state.set(f"k{number}", number)
        assert state.lock(f"lock{number}", ttl=600).acquire()
        app.tasks["shop.pay"].apply_async((number,), idempotency_key=f"key{number}")
    StackState.of(app).close()
    return app


@pytest.mark.parametrize(("words", "name"), LISTS)
@pytest.mark.parametrize("as_json", [True, False], ids=["json", "table"])
def test_what_is_left_out_is_said_and_is_the_next_page(
    full: Celery, tmp_path: Path, words: str, name: str, as_json: bool
) -> None:
    more = ("--json",) if as_json else ()
    every = run(tmp_path, "stackstate", *words.split(), "--json").stdout.splitlines()
    seen: list[str] = []
    after: tuple[str, ...] = ()
    for left in (3, 1, 0):
        page = run(tmp_path, "stackstate", *words.split(), "--limit", "2", *after, *more)
        lines = page.stdout.splitlines()
        seen += lines if as_json else lines[1:]
        assert bool(page.stderr) is (left > 0)
        if left:
            note, *rest = page.stderr.split()
            assert (note, rest[0], len(rest)) == ("more:", "--after", 2)
            after = ("--after", rest[1])
    assert len(seen) == len(every) == 5
    if as_json:
        assert [json.loads(line)[name] for line in seen] == [json.loads(line)[name] for line in every]


@pytest.mark.parametrize(("words", "name"), LISTS)
def test_a_list_that_is_just_full_is_not_said_to_go_on(full: Celery, tmp_path: Path, words: str, name: str) -> None:
    done = run(tmp_path, "stackstate", *words.split(), "--limit", "5")
    assert (len(done.stdout.splitlines()), done.stderr) == (6, "")


@pytest.mark.parametrize("words", ["runs", "state list", "locks list", "keys list"])
def test_a_place_that_is_none_is_a_line(full: Celery, tmp_path: Path, words: str) -> None:
    done = run(tmp_path, "stackstate", *words.split(), "--after", "nowhere")
    assert (done.returncode, done.stdout, "Traceback" in done.stderr) == (1, "", False)
    assert "after='nowhere' is not the `next`" in done.stderr


def test_all_prints_more_than_any_page_holds(project: MakeProject, tmp_path: Path) -> None:
    store = StackState.of(project()).runs_store
    count = 2 * listing.BATCH + 1
    facts = RunFacts(task="shop.pay", created=now_micros())
    writes = [RunWrite(str(uuid.uuid4()), 1, facts) for _ in range(count)]
    for start in range(0, count, 500):
        store.append(writes[start : start + 500])
    done = run(tmp_path, "stackstate", "runs", "--since", "1h", "--json", "--all")
    assert (len({json.loads(line)["id"] for line in done.stdout.splitlines()}), done.stderr) == (count, "")


def test_a_page_is_read_as_it_is_printed() -> None:
    asked: list[int] = []

    def page(*, limit: int, after: str | None) -> Page[int]:
        asked.append(limit)
        begin = int(after or 0)
        return Page(tuple(range(begin, begin + limit)), str(begin + limit))

    listed = listing.Listing(page, listing.Wanted(2_500, None, as_json=True))
    assert len(list(listed)) == 2_500
    assert (asked, listed.more) == ([1_000, 1_000, 500, 1], "2500")
