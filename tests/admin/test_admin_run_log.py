"""The log of a run: filtered on its page, and as a file to take away."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from tests.admin.pages import RUNS, change, text
from tests.admin.seeds import SECOND, attempt, log, write_run
from tests.admin.stories import START, two_attempts
from tests.admin.test_admin_outage import cut


def lines(response: Any) -> list[list[str]]:
    """Return the messages that a page shows, by attempt."""
    assert response.status_code == 200
    return [[line.message for line in one.lines] for one in response.context["page"].attempts]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ({"level": "30"}, [["the feed is slow", "the feed refused"], []]),
        ({"level": "40"}, [["the feed refused"], []]),
        ({"q": "FEED"}, [["opening the feed", "the feed is slow", "the feed refused"], ["opening the Feed again"]]),
        ({"q": "shop.feed"}, [["the feed refused"], []]),
        (
            {"q": "feed", "level": "20"},
            [["opening the feed", "the feed is slow", "the feed refused"], ["opening the Feed again"]],
        ),
        ({"q": "nowhere"}, [[], []]),
        (
            {"level": "'; drop"},
            [
                ["opening the feed", "the feed is slow", "the feed refused"],
                ["opening the Feed again", "a level of the task's own"],
            ],
        ),
    ],
)
def test_the_log_is_filtered_without_a_script(query: dict[str, str], shown: list[list[str]], viewer: Client) -> None:
    two_attempts()

    assert shown == lines(viewer.get(change(RUNS, "two"), query))


def test_a_filter_says_how_many_lines_match_and_stays_in_its_fields(viewer: Client) -> None:
    two_attempts()

    response = viewer.get(change(RUNS, "two"), {"level": "30", "q": 'the "feed"'})
    matching = viewer.get(change(RUNS, "two"), {"level": "30"})

    assert "0 of 5 lines match." in text(response)
    assert 'value="the &quot;feed&quot;"' in response.content.decode()
    assert '<option value="30" selected>' in response.content.decode()
    assert "two/live/?level=30&amp;q=the+%22feed%22" in response.content.decode()
    assert "2 of 5 lines match." in text(matching)
    assert [one.open for one in matching.context["page"].attempts] == [True, False]


def test_a_filter_looks_through_lines_that_are_not_on_the_page(viewer: Client) -> None:
    logs = [log("x1", n, START + n, f"line {n}", level=40 if n == 3 else 20) for n in range(4000)]
    write_run("long", events=attempt("x1", START, START + SECOND, "success"), logs=logs)

    shown = viewer.get(change(RUNS, "long"))
    errors = viewer.get(change(RUNS, "long"), {"level": "40"})

    assert [f"line {n}" for n in range(3000, 4000)] == lines(shown)[0]
    assert "The newest 1,000 of 4,000 lines are shown." in text(shown)
    assert lines(errors) == [["line 3"]]


# -- the log as a text -----------------------------------------------------------------------------------------------


def download(client: Client, address: str) -> tuple[Any, str]:
    response: Any = client.get(address)
    assert response.status_code == 200
    return response, b"".join(response.streaming_content).decode()


def test_the_whole_log_is_a_file_to_take_away(viewer: Client) -> None:
    two_attempts()

    response, content = download(viewer, f"{RUNS}two/log/")

    assert response["Content-Disposition"] == 'attachment; filename="two.log"'
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "2026-11-22T12:00:01.204+00:00 INFO     [1] shop.imports: opening the feed\n" in content
    assert "2026-11-22T12:00:03.204+00:00 25       [2] shop.imports: a level of the task's own\n" in content
    assert content.index("opening the feed") < content.index("opening the Feed again") < content.index("FeedError")


def test_the_log_of_one_execution_is_a_file_of_its_own(viewer: Client) -> None:
    two_attempts()

    _, content = download(viewer, f"{RUNS}two/log/?execution=x2")
    _, nothing = download(viewer, f"{RUNS}two/log/?execution=x9")

    assert "opening the Feed again" in content
    assert "refused" not in content
    assert nothing == "# Nothing was logged.\n"


def test_a_long_log_is_written_whole_and_by_and_by(viewer: Client) -> None:
    logs = [log("x1", n, START + n, f"line {n}") for n in range(2500)]
    write_run("long", events=attempt("x1", START, None, None), logs=logs, status="STARTED")

    response, content = download(viewer, f"{RUNS}long/log/")

    assert response.streaming
    assert [f"line {n}" for n in range(2500)] == re.findall(r"line \d+", content)


def test_a_logged_line_cannot_pass_for_another_one_in_the_file(viewer: Client) -> None:
    forged = "harmless\n2026-11-22T12:00:01.204+00:00 INFO     [1] shop: forged\r\x1b[2K\u202egnp\x85"
    write_run("r/../%s\n\"';x", events=attempt("x1", START, None, None), logs=[log("x1", 1, START, forged)])

    response, content = download(viewer, change(RUNS, "r/../%s\n\"';x").replace("/change/", "/log/"))

    assert response["Content-Disposition"] == 'attachment; filename="r-..-s-x.log"'
    assert [one for one in content.split("\n") if one and not one.startswith(" ")] == [
        "2026-11-22T12:00:01.204+00:00 INFO     [1] shop.imports: harmless"
    ]
    assert "\\u000d\\u001b[2K\\u202egnp\\u0085" in content


def test_only_who_may_view_a_run_gets_its_log(staff: Client, anonymous: Client, viewer: Client) -> None:
    two_attempts()

    assert staff.get(f"{RUNS}two/log/").status_code == 403
    assert anonymous.get(f"{RUNS}two/log/").status_code == 302
    assert viewer.get(f"{RUNS}unknown/log/").status_code == 404


def test_a_store_that_does_not_answer_gives_a_page_and_one_that_stops_a_note(viewer: Client, shop: Any) -> None:
    logs = [log("x1", n, START + n, f"line {n}") for n in range(1500)]
    write_run("long", events=attempt("x1", START, None, None), logs=logs, status="STARTED")

    cut(shop, calls=2)  # the run, and the first page of its log
    _, content = download(viewer, f"{RUNS}long/log/")
    down = viewer.get(f"{RUNS}long/log/")

    assert re.findall(r"line \d+", content) == [f"line {n}" for n in range(1000)]
    assert content.endswith("\n# The store did not answer: the rest is missing.\n")
    assert down.status_code == 503
    assert b"The store does not answer" in down.content
