"""What an operator does to runs: asked first, done once, told of, and written down."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery_stackstate_admin.models import Run
from celery_stackstate_admin.runs.operations import Rerun
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.test import Client

from celery_stackstate import StateTask
from celery_stackstate.payload import Redactor
from celery_stackstate.records import QUEUED, REVOKED, STARTED, SUCCESS
from tests.admin.acting import answer, ask, choose, convert, drain, entries, form_of, told, waiting
from tests.admin.pages import RUNS, change, text
from tests.admin.project import app
from tests.admin.seeds import write_run
from tests.waiting import Stopwatch, wait_for


@app.task(name="shop.tasks.charge", base=StateTask)
def charge(order: int) -> str:
    return "charged"


@pytest.fixture(autouse=True)
def no_entries() -> None:
    LogEntry.objects.all().delete()


@pytest.fixture(autouse=True)
def empty_broker(shop: Any) -> Iterator[None]:
    drain()
    yield
    shop.recorder.flush()
    shop.suppressed.clear()
    drain()


@contextmanager
def working(**options: Any) -> Iterator[Any]:
    """Run a worker in a thread of this process, on the same broker; it sets up logging, which is then put back."""
    from celery.contrib.testing.worker import start_worker

    level, handlers = logging.root.level, list(logging.root.handlers)
    try:
        with start_worker(app, perform_ping_check=False, shutdown_timeout=30, **options) as started:
            yield started
    finally:
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers


@pytest.fixture
def worker(shop: Any) -> Iterator[Any]:
    """A worker in a thread of this process."""
    with working() as started:
        yield started


def runs() -> list[str]:
    return [run.pk for run in Run.objects.all()]


def found(run_id: str) -> Any:
    run = app_runs().get(run_id)
    assert run is not None
    return run


def app_runs() -> Any:
    from tests.admin.project import extension

    extension.recorder.flush()
    return extension.runs


# -- run again -------------------------------------------------------------------------------------------------------


def test_a_run_whose_payload_was_kept_runs_again_as_one_of_its_own(shop: Any, root: Client) -> None:
    first = convert.delay("video.mp4", token="s3cret").id
    found(first)

    page = ask(root, RUNS, "rerun", first)
    response = answer(root, page)

    assert page.context["title"] == "Run this again?"
    assert "video.mp4" in text(page)
    assert "s3cret" not in page.content.decode()
    second = found(first).reruns[0]
    assert found(second).rerun_of == first
    assert (response.status_code, response["Location"]) == (302, change(RUNS, first))
    assert told(response) == [f'It runs again. <a href="{change(RUNS, second)}">Open it</a>']
    assert entries() == [("root", first, CHANGE, f"Run again as {second}")]
    assert waiting() == 2


def test_a_form_that_is_sent_twice_makes_one_run(shop: Any, root: Client) -> None:
    first = convert.delay().id
    found(first)
    page = ask(root, RUNS, "rerun", first)

    answer(root, page)
    again = answer(root, page)

    assert len(found(first).reruns) == 1
    assert waiting() == 2
    assert told(again)[-1] == "This form was sent before. Nothing was done a second time."
    assert len(entries()) == 1


def test_a_page_that_is_opened_again_makes_another_run(shop: Any, root: Client) -> None:
    first = convert.delay().id
    found(first)

    answer(root, ask(root, RUNS, "rerun", first))
    answer(root, ask(root, RUNS, "rerun", first))

    assert len(found(first).reruns) == 2


def test_a_run_whose_payload_was_not_kept_is_told_why_it_cannot(shop: Any, root: Client) -> None:
    first = charge.delay(7).id
    found(first)

    page = ask(root, RUNS, "rerun", first)

    assert page.status_code == 200
    assert form_of(page).action == ""
    assert "its task lacks keep_payload=True" in text(page)


def test_posting_it_all_the_same_makes_no_run(shop: Any, root: Client) -> None:
    kept, lost = convert.delay().id, charge.delay(7).id
    found(kept)
    fields = form_of(ask(root, RUNS, "rerun", kept)).fields

    response = root.post(f"{RUNS}_op/rerun/", {**fields, "objects": json.dumps([[lost, ""]])})

    assert found(lost).reruns == ()
    assert told(response) == [f"{lost}: what it was asked for was not kept whole: its task lacks keep_payload=True."]
    assert entries() == []


def test_of_several_runs_those_run_again_that_can(shop: Any, root: Client) -> None:
    kept = [convert.delay(number).id for number in range(2)]
    lost = charge.delay(7).id
    found(lost)

    page = choose(root, RUNS, "rerun", *kept, lost)
    response = answer(root, page)

    assert page.context["title"] == "Run these 2 again?"
    assert "It can be done to 2 of the 3" in text(page)
    assert told(response) == ["2 run again."]
    assert [len(found(one).reruns) for one in (*kept, lost)] == [1, 1, 0]
    assert sorted(one for _user, one, _flag, _text in entries()) == sorted(kept)


def test_a_reason_that_holds_for_all_is_told_once(shop: Any, root: Client) -> None:
    lost = [charge.delay(number).id for number in range(3)]
    kept = [convert.delay(number).id for number in range(2)]
    for one in (*lost, *kept):
        found(one)

    page = text(choose(root, RUNS, "rerun", *lost, *kept))

    assert page.count("its task lacks keep_payload=True") == 1
    assert "3: what it was asked for was not kept whole" in page


def test_it_warns_of_what_would_be_done_twice(shop: Any, root: Client) -> None:
    queued = convert.delay().id
    found(queued)

    page = ask(root, RUNS, "rerun", queued)

    assert page.context["warnings"] == ["It has not ended: it would be done by two runs at a time."]


# -- revoke ------------------------------------------------------------------------------------------------------------


def test_a_revoked_run_is_skipped_by_the_worker_that_gets_it(shop: Any, root: Client, worker: Any) -> None:
    waiting_run = convert.apply_async(countdown=5).id
    wait_for(lambda: found(waiting_run).status == "RECEIVED", message="the worker to have it")

    response = answer(root, ask(root, RUNS, "revoke", waiting_run))

    assert told(response) == ["Workers were told to skip it."]
    assert entries() == [("root", waiting_run, CHANGE, "Revoke")]
    wait_for(lambda: found(waiting_run).status == REVOKED, timeout=20, message="the worker to skip it")


def test_without_a_worker_the_message_says_that_nobody_answered(shop: Any, root: Client) -> None:
    write_run("queued-1", status=QUEUED)

    response = answer(root, ask(root, RUNS, "revoke", "queued-1"))

    assert [one[:24] for one in told(response)] == ["Workers were told to ski", "No worker answered withi"]
    assert entries() == [("root", "queued-1", CHANGE, "Revoke: no worker answered")]


def test_what_has_ended_is_not_revoked(shop: Any, root: Client) -> None:
    write_run("done-1", status=SUCCESS)

    page = ask(root, RUNS, "revoke", "done-1")

    assert form_of(page).action == ""
    assert "it has ended" in text(page)


@app.task(name="shop.tasks.dawdle", base=StateTask)
def dawdle(seconds: float) -> str:
    time.sleep(seconds)
    return "done at last"


def test_a_pool_that_cannot_end_a_run_is_told_of(shop: Any, root: Client) -> None:
    with working(pool="threads", concurrency=1):
        late = dawdle.delay(2.5).id
        # Of a short attempt only the end is recorded.
        wait_for(lambda: found(late).status == STARTED, message="the worker to be in its body")
        response = answer(root, ask(root, RUNS, "terminate", late))

    assert told(response)[0] == "Workers were told to end it."
    assert "could not" in told(response)[1]
    assert entries() == [("root", late, CHANGE, "Revoke and terminate")]


@pytest.fixture
def deaf_broker(shop: Any) -> Iterator[None]:
    """A broker that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield from _broker_at(f"redis://127.0.0.1:{server.getsockname()[1]}/0")


@pytest.fixture
def absent_broker(shop: Any) -> Iterator[None]:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield from _broker_at(f"amqp://127.0.0.1:{port}//")


def _broker_at(url: str) -> Iterator[None]:
    before = app.conf.broker_url
    app.conf.broker_url = app.conf.broker_write_url = url
    try:
        yield
    finally:
        app.conf.broker_url = app.conf.broker_write_url = before


@pytest.mark.parametrize("broker", ["deaf_broker", "absent_broker"])
@pytest.mark.parametrize("name", ["rerun", "revoke", "terminate"])
def test_a_broker_that_does_not_answer_is_a_message_within_seconds(
    name: str, broker: str, shop: Any, root: Client, request: pytest.FixtureRequest
) -> None:
    first = convert.delay().id
    found(first)
    page = ask(root, RUNS, name, first)
    request.getfixturevalue(broker)

    watch = Stopwatch()
    response = answer(root, page)

    assert watch.seconds < 15
    assert response.status_code == 302
    assert told(response)[0].startswith("The broker does not answer:")
    assert entries() == []
    assert found(first).reruns == ()


# -- release the key ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["task", "app"])
def test_a_released_key_lets_the_next_call_through(scope: str, shop: Any, root: Client) -> None:
    def send() -> Any:
        return charge.apply_async((7,), idempotency_key="order:7", idempotency_scope=scope)

    first = send()
    found(first.id)
    assert send().created is False

    response = answer(root, ask(root, RUNS, "release_key", first.id))

    assert told(response) == ["Its key is free."]
    assert entries() == [("root", first.id, CHANGE, "Released the key order:7")]
    assert send().created is True


@app.task(name="shop.tasks.parent", base=StateTask, bind=True)
def parent(self: Any) -> str:
    return str(charge.apply_async((8,), idempotency_key="step", idempotency_scope="run", countdown=60).id)


def test_the_key_of_one_parents_run_is_released(shop: Any, root: Client, worker: Any) -> None:
    asked = parent.delay().id
    wait_for(lambda: found(asked).status == SUCCESS, message="the parent to end")
    child = found(asked).result

    response = answer(root, ask(root, RUNS, "release_key", child))

    assert told(response) == ["Its key is free."]
    assert shop.idempotency.get("step", task=charge.name, run=asked).state == "FAILED"


def test_a_key_that_belongs_to_another_run_by_now_is_left_to_it(shop: Any, root: Client) -> None:
    write_run("old-1", task=charge.name, key="order:7")
    holder = charge.apply_async((7,), idempotency_key="order:7")

    page = ask(root, RUNS, "release_key", "old-1")

    assert form_of(page).action == ""
    assert "its key is free, or belongs to another run by now" in text(page)
    assert shop.idempotency.get("order:7", task=charge.name).run_id == holder.id


# -- delete ------------------------------------------------------------------------------------------------------------


def test_deleted_runs_are_gone_with_what_was_kept_of_them(shop: Any, root: Client) -> None:
    run_id = convert.delay("video.mp4").id
    found(run_id)
    write_run("other-1")

    response = answer(root, ask(root, RUNS, "delete", run_id), force="yes")

    assert told(response) == ["1 run was deleted."]
    assert response["Location"] == RUNS
    assert runs() == ["other-1"]
    assert shop.repeatable(run_id) == frozenset()
    assert [entry[:3] for entry in entries()] == [("root", run_id, DELETION)]


def test_what_has_not_ended_is_deleted_only_when_that_was_ticked(shop: Any, root: Client) -> None:
    write_run("running-1", status=STARTED)
    write_run("done-1", status=SUCCESS)

    page = choose(root, RUNS, "delete", "running-1", "done-1")
    response = answer(root, page)

    assert "force" in form_of(page).boxes
    assert "Delete also the one that has not ended." in text(page)
    assert runs() == ["running-1"]
    assert told(response) == [
        "1 run was deleted.",
        "running-1: it has not ended, and the box that confirms that was not ticked.",
    ]
    alone = ask(root, RUNS, "delete", "running-1")
    assert "Delete it although it has not ended." in text(alone)
    answer(root, alone, force="yes")
    assert runs() == []


def test_there_is_no_box_where_all_have_ended(shop: Any, root: Client) -> None:
    write_run("done-1", status=SUCCESS)

    assert form_of(ask(root, RUNS, "delete", "done-1")).boxes == {}


def test_djangos_own_delete_page_leads_to_the_confirmation(shop: Any, root: Client) -> None:
    write_run("a/b")

    response = root.get(change(RUNS, "a/b").replace("/change/", "/delete/"), follow=True)

    assert response.context["title"] == "Delete this run?"
    assert runs() == ["a/b"]


# -- many at once ------------------------------------------------------------------------------------------------------


def test_all_that_match_the_filters_are_taken_up_to_a_bound(shop: Any, root: Client) -> None:
    for number in range(1020):
        write_run(f"old-{number}", status=SUCCESS)
    write_run("failed-1", status="FAILURE")

    page = choose(root, RUNS, "delete", "old-1", across=True, query="?status=SUCCESS")
    response = answer(root, page)

    assert "At most 1,000 are taken at once. 20 more that you selected will be left as they are." in text(page)
    assert page.content.count(b'class="ss-object"') == 20
    assert "and 980 more" in text(page)
    assert told(response) == [
        "1,000 runs were deleted.",
        "20 more were selected and are left as they are: select them again to go on.",
    ]
    assert response["Location"] == f"{RUNS}?status=SUCCESS"
    assert len(runs()) == 21
    assert "failed-1" in runs()
    assert len(entries()) == 1000


def test_a_form_that_names_more_than_the_bound_is_refused(shop: Any, root: Client) -> None:
    write_run("a")
    fields = form_of(ask(root, RUNS, "delete", "a")).fields
    many = [[f"x-{number}", ""] for number in range(1001)]

    response = root.post(f"{RUNS}_op/delete/", {**fields, "objects": json.dumps(many)})

    assert response.status_code == 400
    assert runs() == ["a"]


@pytest.mark.parametrize("objects", ["", "[]", "nonsense", "{}", "7", "[1]", '["ab"]' * 2, "[[1,2,3]]", "[" * 100_000])
def test_a_form_with_nonsense_in_it_is_refused(objects: str, shop: Any, root: Client) -> None:
    write_run("a")
    fields = form_of(ask(root, RUNS, "delete", "a")).fields

    assert root.post(f"{RUNS}_op/delete/", {**fields, "objects": objects}).status_code == 400
    assert root.post(f"{RUNS}_op/delete/", {**fields, "token": objects}).status_code == 400
    assert runs() == ["a"]


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/", "/elsewhere/", "javascript:alert(1)", RUNS + "\r\nX: y"]
)
def test_nobody_is_sent_elsewhere_afterwards(back: str, shop: Any, root: Client) -> None:
    write_run("a")
    fields = form_of(ask(root, RUNS, "delete", "a")).fields

    response = root.post(f"{RUNS}_op/delete/", {**fields, "back": back})

    assert (response.status_code, response["Location"]) == (302, RUNS)


def test_what_went_away_meanwhile_is_told_of(shop: Any, root: Client) -> None:
    write_run("a")
    write_run("b")
    page = choose(root, RUNS, "delete", "a", "b")
    shop.runs.delete("a")

    response = answer(root, page)

    assert told(response) == ["1 run was deleted.", "a: it is not there any more."]


def test_unknown_objects_and_operations_are_not_found(shop: Any, root: Client) -> None:
    write_run("a")

    assert ask(root, RUNS, "delete", "unknown").status_code == 404
    assert ask(root, RUNS, "delete").status_code == 404
    assert ask(root, RUNS, "explode", "a").status_code == 404


def test_the_store_going_away_in_the_middle_is_told_with_what_was_done(shop: Any, root: Client) -> None:
    from tests.admin.test_admin_outage import DownAfter

    ids = [write_run(f"run-{number}", queued=_minute(number)) for number in range(6)]
    page = choose(root, RUNS, "delete", *ids)
    # One call for the token, one for the objects, two for each run.
    down = DownAfter(shop.store, 7)
    shop.__dict__.pop("runs", None)
    store = shop.store
    shop.__dict__.update(store=down, runs_store=down)

    response = answer(root, page)

    shop.__dict__.pop("runs", None)
    shop.__dict__.update(store=store, runs_store=store)
    assert response.status_code == 302
    messages = told(response)
    assert messages[0] == "2 runs were deleted."
    assert "did not answer" in messages[1]
    assert messages[2].endswith("and 3 more: not tried, because of what happened before it.")
    assert len(entries()) == 2
    assert len(runs()) == 4


def _minute(number: int) -> Any:
    from datetime import timedelta

    from tests.admin.seeds import NOON

    return NOON + timedelta(minutes=number)


# -- hostile text ------------------------------------------------------------------------------------------------------


def test_hostile_ids_and_payloads_are_inert_on_the_confirmation(shop: Any, root: Client) -> None:
    evil = 'a/"b<script>alert(1)</script>%41'
    write_run(evil, task="<img src=x onerror=alert(1)>\u202etxt", status=SUCCESS, key="<b>&")

    page = ask(root, RUNS, "delete", evil)
    response = answer(root, page)

    shown = page.content.decode()
    assert "<script>alert" not in shown
    assert "<img src=x" not in shown
    assert "\u202e" not in shown
    assert told(response) == ["1 run was deleted."]
    assert runs() == []
    assert "<img" not in root.get("/admin/").content.decode()


def test_a_payload_of_a_megabyte_is_cut_on_the_confirmation(shop: Any, root: Client) -> None:
    shop.__dict__["redactor"] = Redactor((), limit=2_000_000)
    try:
        run_id = convert.delay(*["x" * 1000] * 1000).id
        found(run_id)
        page = ask(root, RUNS, "rerun", run_id)
    finally:
        shop.__dict__.pop("redactor")

    assert not found(run_id).payload_truncated
    assert 4_000 < len(page.content) < 30_000


# -- where they are offered --------------------------------------------------------------------------------------------


def test_a_runs_page_offers_what_can_be_done_to_it(shop: Any, root: Client) -> None:
    write_run("done-1", status=SUCCESS)
    write_run("running-1", status=STARTED, key="k")

    def offered(run_id: str) -> list[str]:
        return [str(one["verb"]) for one in root.get(change(RUNS, run_id)).context["operations"]]

    assert offered("done-1") == ["Delete"]
    assert offered("running-1") == ["Revoke", "Revoke and terminate", "Release key", "Delete"]


def test_a_runs_page_offers_to_run_it_again_only_where_its_payload_was_kept_whole(shop: Any, root: Client) -> None:
    kept, lost = convert.delay("video").id, charge.delay(7).id
    found(kept), found(lost)

    assert f"{RUNS}_op/rerun/" in root.get(change(RUNS, kept)).content.decode()
    assert f"{RUNS}_op/rerun/" not in root.get(change(RUNS, lost)).content.decode()


def test_the_list_offers_all_of_them_and_none_of_the_sites_own(shop: Any, root: Client) -> None:
    write_run("a")

    page = root.get(RUNS)

    choices = dict(page.context["action_form"].fields["action"].choices)
    assert list(choices) == ["", "rerun", "revoke", "terminate", "release_key", "delete"]
    assert str(choices["rerun"]) == str(Rerun.verb)


def test_the_history_of_a_run_shows_who_did_what(shop: Any, root: Client) -> None:
    run_id = convert.delay().id
    found(run_id)
    answer(root, ask(root, RUNS, "rerun", run_id))

    page = root.get(change(RUNS, run_id).replace("/change/", "/history/"))

    assert "Run again as" in text(page)
    assert "root" in text(page)
