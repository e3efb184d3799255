"""The parts of a run's page: tracebacks, the tree of runs, the state it touched."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from celery_stackstate_admin.present import visible
from celery_stackstate_admin.runpage.frames import parts_of
from django.test import Client

from tests.admin.pages import RUNS, STATE, change, text
from tests.admin.seeds import NOON, SECOND, attempt, event, log, write_run
from tests.admin.stories import START, TRACEBACK, two_attempts

# -- tracebacks --------------------------------------------------------------------------------------------------------


def test_frames_of_libraries_are_folded_and_nothing_is_lost() -> None:
    parts = parts_of(TRACEBACK)

    assert [part.fold for part in parts] == ["", "1 frame in celery", "", "2 frames in httpx, Python", ""]
    assert 'File "/srv/shop/feed.py", line 17' in parts[2].text
    assert parts[4].text.startswith("ConnectionRefusedError: [Errno 111] refused")
    assert (
        "  [Previous line repeated 2 more times]\nshop.errors.FeedError: no feed\n  and a second line" in parts[4].text
    )
    assert TRACEBACK.rstrip() == "\n".join(part.text for part in parts)


@pytest.mark.parametrize(
    ("traceback", "folds"),
    [
        ("", []),
        ("no traceback at all", [""]),
        ('Traceback (most recent call last):\n  File "<frozen importlib._bootstrap>", line 1, in f\nE: x', [""]),
        (
            '  File "C:\\shop\\tasks.py", line 1, in f\n  File "C:\\Python312\\Lib\\json\\a.py", line 2, in g\nE',
            ["", "1 frame in Python", ""],
        ),
        (
            "  + Exception Group Traceback (most recent call last):\n"
            '  |   File "/srv/shop/a.py", line 1, in f\n  |     g()\n'
            '  |   File "/v/site-packages/anyio/b.py", line 2, in g\n  |     h()\n'
            "  | ExceptionGroup: two\n  +-+---------------- 1 ----------------\n    | ValueError: a",
            ["", "1 frame in anyio", ""],
        ),
    ],
)
def test_any_traceback_is_shown_whole(traceback: str, folds: list[str]) -> None:
    parts = parts_of(traceback)

    assert folds == [part.fold for part in parts]
    assert visible(traceback).rstrip() == "\n".join(part.text for part in parts)


def test_a_folded_frame_can_be_opened_without_a_script(viewer: Client) -> None:
    two_attempts()

    content = viewer.get(change(RUNS, "two")).content.decode()

    assert '<details class="ss-fold"><summary>1 frame in celery</summary><pre>' in content
    assert content.count("trace_task") == 1


# -- the tree ----------------------------------------------------------------------------------------------------------


def kin(run_id: str, parent: str | None, second: int, **more: Any) -> None:
    write_run(run_id, queued=NOON.replace(second=second), parent_id=parent, root_id="root", ran=1.0, **more)


def test_the_page_shows_the_tree_of_runs_with_this_one_marked(viewer: Client) -> None:
    kin("root", None, 1, task="shop.import")
    kin("a", "root", 2, task="shop.a", status="FAILURE")
    kin("a1", "a", 3, task="shop.a1")
    kin("b", "root", 4, task="shop.b")

    response = viewer.get(change(RUNS, "a1"))
    tree = response.content.decode().partition('<ul class="ss-tree">')[2].partition("</section>")[0]

    assert re.findall(r">(shop\.\w+)</", tree) == ["shop.import", "shop.a", "shop.a1", "shop.b"]
    assert '<b aria-current="page">shop.a1</b>' in tree
    assert f'<a href="{change(RUNS, "b")}">shop.b</a>' in tree
    assert '<span class="ss-badge ss-failure">FAILURE</span>' in tree
    assert tree.count("<ul>") + 1 == tree.count("</ul>") == 3
    assert tree.count("<li>") == tree.count("</li>") == 4
    assert "1.0 s" in tree


def test_a_run_on_its_own_has_no_tree(viewer: Client) -> None:
    write_run("alone")

    assert b"ss-tree" not in viewer.get(change(RUNS, "alone")).content


def test_a_long_tree_is_cut_with_a_way_to_all_of_it(viewer: Client) -> None:
    kin("root", None, 1)
    for number in range(130):
        kin(f"leaf-{number:03}", "root", 2 + number // 100)

    response = viewer.get(change(RUNS, "leaf-129"))
    listed = viewer.get(RUNS, {"root_id": "root"})

    assert "Only the oldest are shown; this run is not among them." in text(response)
    assert f'href="{RUNS}?root_id=root"' in response.content.decode()
    assert listed.context["cl"].result_count == 131


def test_a_chain_of_any_depth_is_shown(viewer: Client) -> None:
    for number in range(99):
        kin("root" if not number else f"n{number}", "root" if number == 1 else f"n{number - 1}" if number else None, 1)

    response = viewer.get(change(RUNS, "n50"))

    assert response.content.decode().partition("ss-tree")[2].count("<li>") == 99
    assert [member.depth for member in response.context["family"].members][5:8] == ["", "", "level 7"]


# -- state -------------------------------------------------------------------------------------------------------------


def touching(shop: Any) -> str:
    shop.state.set("imports:7:done", 500)
    shop.state.scope("tenants").set("a<b>", {"x": "<script>"}, ttl=900)
    touched = [
        *(["state", "", "imports:7:done"], ["state", "scope:tenants", "a<b>"], ["state", "", "deleted"]),
        *(["lock", "", "catalog:7"], ["pace", "task:shop.tasks.import_products", "feed"]),
    ]
    return write_run("touching", events=attempt("x1", START, START + SECOND, "success", touched=touched))


def test_the_page_shows_the_state_that_the_run_touched_as_it_is_now(viewer: Client, shop: Any) -> None:
    touching(shop)

    response = viewer.get(change(RUNS, "touching"))
    rows = {entry.key: entry for entry in response.context["state"].entries}
    content = response.content.decode()

    assert (
        rows["imports:7:done"].value,
        rows["imports:7:done"].kind,
        rows["imports:7:done"].scope,
    ) == ("500", "counter", "app-wide")
    assert (rows["a<b>"].kind, rows["a<b>"].scope) == ("value", "scope tenants")
    assert "{&quot;x&quot;: &quot;&lt;script&gt;&quot;}" in content
    assert (rows["deleted"].value, rows["deleted"].url) == ("gone", "")
    assert (rows["catalog:7"].value, rows["catalog:7"].kind) == ("free", "lock")
    assert (rows["feed"].kind, rows["feed"].url) == ("throttle", "")
    for key in ("imports:7:done", "a<b>"):
        assert rows[key].url.startswith(STATE)
        assert viewer.get(rows[key].url).status_code == 200


def test_a_lock_that_is_held_says_by_whom(viewer: Client, shop: Any) -> None:
    touching(shop)

    with shop.state.lock("catalog:7", ttl=60):
        rows = viewer.get(change(RUNS, "touching")).context["state"].entries

    assert [entry.value[:7] for entry in rows if entry.kind == "lock"] == ["held by"]


def test_who_may_not_view_state_sees_none_of_it(run_viewer: Client, shop: Any) -> None:
    touching(shop)

    content = run_viewer.get(change(RUNS, "touching")).content.decode()

    assert "imports:7:done" not in content
    assert "State it touched" not in content


# -- what else is said -------------------------------------------------------------------------------------------------


def test_the_page_says_what_was_cut_and_what_the_task_told_of_itself(viewer: Client) -> None:
    ended: dict[str, Any] = {"result": "x", "result_truncated": True}
    events = [
        *attempt("x1", START, START + SECOND, "success", **ended),
        event("st", START, "state", "x1", state="PROGRESS", meta={"stage": "images"}),
    ]
    asked = {"payload_truncated": True, "priority": 7, "eta": START, "expires": START + 60 * SECOND}
    write_run("cut", events=events, asked=asked)

    response = viewer.get(change(RUNS, "cut"))
    shown = text(response)

    assert shown.count("cut: larger than stackstate_max_payload_bytes") == 2
    assert "&quot;stage&quot;: &quot;images&quot;" in response.content.decode()
    assert [
        said for said in ("Priority 7", "Not before 22 Nov 13:00:01", "Expires 22 Nov 13:01:01") if said in shown
    ] == ["Priority 7", "Not before 22 Nov 13:00:01", "Expires 22 Nov 13:01:01"]


def test_half_a_character_and_what_cannot_be_seen_are_written_out(viewer: Client) -> None:
    write_run("odd", args=["\ud800", "\u200b\u2060", "\U000e0041"], kwargs={"\udfff": 1})

    content = viewer.get(change(RUNS, "odd")).content.decode()

    for written in ("\\ud800", "\\u200b\\u2060", "\\U000e0041", "\\udfff"):
        assert written in content


def test_a_huge_and_hostile_run_is_answered_in_less_than_a_second(viewer: Client) -> None:
    events, logs = [], []
    for n in range(60):
        at = START + n * 100 * SECOND
        events += attempt(f"h{n}", at, at + 90 * SECOND, "retry", error_type="E" * 500, traceback=TRACEBACK * 10)
        logs += [log(f"h{n}", k, at + k, f"\u202e<b>{k}" + "W" * 400) for k in range(167)]
    events += [
        event(f"e{n}", START + n, "<script>" * 9, "h1", custom=True, data={"n": "\x1b" * 99}) for n in range(500)
    ]
    write_run("huge", status="FAILURE", events=events, logs=logs, args=["x" * 1_000_000], error="<i>" * 999)

    took = []
    for _ in range(3):
        began = time.thread_time()  # what it computes: others may keep the machine busy
        response: Any = viewer.get(change(RUNS, "huge"))
        took.append(time.thread_time() - began)
    page = response.context["page"]

    assert min(took) < 1, took
    assert sum(len(one.lines) for one in page.attempts) == 2_000
    assert (len(page.earlier), len(page.latest)) == (50, 10)
    assert len(page.timeline.rows) < 12
    assert len(response.content) < 3_000_000
    assert "<script><script>" not in response.content.decode()
