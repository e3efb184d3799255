"""What a live page asks for: a whole part when something has changed, next to nothing when nothing has."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from django.test import Client

from celery_stackstate.records import to_micros
from tests.admin.pages import RUNS
from tests.admin.seeds import SECOND, attempt, event, log, write_run

LIVE = f"{RUNS}live/live/"
#: A day ago: what is drawn until now does not grow within a test.
BEGAN = datetime.now(timezone.utc) - timedelta(days=1)
START = to_micros(BEGAN)


def running(*more: Any, logs: int = 3, **columns: Any) -> None:
    lines = [log("x1", n, START + SECOND + n, f"line {n}") for n in range(logs)]
    events = [*attempt("x1", START + SECOND, None, None), *more]
    write_run("live", status="STARTED", queued=BEGAN, events=events, logs=lines, **columns)


def child(shop: Any) -> None:
    write_run("child", parent_id="live", root_id="live")


CHANGES: list[Callable[[Any], Any]] = [
    lambda shop: running(logs=4),
    lambda shop: running(event("p", START, "progress", "x1", done=1, total=2)),
    lambda shop: running(event("c", START, "resumed", "x1", custom=True, data={})),
    lambda shop: write_run("live", queued=BEGAN, events=attempt("x1", START + SECOND, START + 2 * SECOND, "success")),
    lambda shop: shop.state.set("done", 2),
    lambda shop: shop.state.delete("done"),
    child,
]


def touching(shop: Any) -> None:
    """Write a live run that has touched a key."""
    shop.state.set("done", 1)
    touched = event("t", START + 2 * SECOND, "touched", "x1", touched=[["state", "", "done"]])
    running(touched)


def ask(client: Client, tag: str, address: str = LIVE) -> Any:
    return client.get(address, headers={"If-None-Match": tag})


def test_an_unchanged_run_is_answered_with_nothing(viewer: Client, shop: Any) -> None:
    touching(shop)
    first = viewer.get(LIVE)

    again = ask(viewer, first["ETag"])

    assert (first.status_code, again.status_code) == (200, 304)
    assert again.content == b""
    assert ask(viewer, f"W/{first['ETag']}").status_code == 304  # as a server that compresses turns it into


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_is_answered_whole(change: Callable[[Any], Any], viewer: Client, shop: Any) -> None:
    touching(shop)
    tag = viewer.get(LIVE)["ETag"]

    change(shop)
    answer = ask(viewer, tag)

    assert answer.status_code == 200
    assert b'id="ss-main"' in answer.content
    assert answer["ETag"] != tag
    assert ask(viewer, answer["ETag"]).status_code == 304


def test_a_drawing_that_reaches_until_now_grows_although_nothing_else_changes(viewer: Client) -> None:
    queued = datetime.now(timezone.utc) - timedelta(seconds=2)
    write_run("live", status="QUEUED", queued=queued)
    tag = viewer.get(LIVE)["ETag"]

    time.sleep(0.1)

    assert ask(viewer, tag).status_code == 200


@pytest.mark.parametrize(
    "tag",
    [
        "*",
        '""',
        '"x"',
        'W/"' + "0" * 40 + ':1:1:x1"',
        '"' + "f" * 40 + ":" + "9" * 400 + ':1:x"',
        '"' + "a" * 40 + ":1:1:" + "%00%F0%9F" * 50 + '"',
        "\x7f" * 5_000,
    ],
)
def test_a_tag_that_is_none_of_ours_is_answered_whole(tag: str, viewer: Client) -> None:
    running()

    assert ask(viewer, tag).status_code == 200


def test_a_tag_says_nothing_to_another_filter(viewer: Client) -> None:
    running()
    tag = viewer.get(LIVE)["ETag"]

    filtered = ask(viewer, tag, f"{LIVE}?q=line+2")

    assert filtered.status_code == 200
    assert [line.message for line in filtered.context["page"].attempts[0].lines] == ["line 2"]
    assert ask(viewer, filtered["ETag"], f"{LIVE}?q=line+2").status_code == 304


def test_an_unchanged_run_costs_a_few_small_reads(viewer: Client, shop: Any) -> None:
    touching(shop)
    tag = viewer.get(LIVE)["ETag"]
    read: list[tuple[str, Any]] = []
    store = shop.store

    class Counting:
        """The store, with a note of each read."""

        def __getattr__(self, name: str) -> Any:
            verb = getattr(store, name)

            def called(*args: Any, **kwargs: Any) -> Any:
                read.append((name, kwargs.get("limit")))
                return verb(*args, **kwargs)

            return called

    for name in ("runs", "browser"):
        shop.__dict__.pop(name, None)
    shop.__dict__.update(store=Counting(), runs_store=Counting())

    assert ask(viewer, tag).status_code == 304
    assert len(read) <= 8, read
    assert [limit for name, limit in read if name == "logs"] == [1]


def test_a_run_that_is_gone_and_one_that_may_not_be_seen(viewer: Client, staff: Client, anonymous: Client) -> None:
    running()

    assert viewer.get(f"{RUNS}other/live/").status_code == 404
    assert staff.get(LIVE).status_code == 403
    assert anonymous.get(LIVE).status_code == 302


def test_the_answer_is_not_kept_by_anyone(viewer: Client) -> None:
    running()

    kept = viewer.get(LIVE)["Cache-Control"]

    assert "no-store" in kept
    assert "private" in kept
