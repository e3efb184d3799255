"""The list of workers: who lives, for how much longer unless it says so again, and who died."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery_stackstate_admin.models import Worker
from django.test import Client

from celery_stackstate import liveness
from celery_stackstate.liveness import Lease
from tests.admin.pages import RUNS, WORKERS, change, text
from tests.admin.people import who_may
from tests.admin.seeds import write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture

HOUR = 3_600_000_000


def start(shop: Any, name: str, boot: str = "boot-1", *, live: bool = True, ago: int = HOUR) -> Lease:
    lease = Lease(name, boot)
    began = time.time_ns() // 1000 - ago
    liveness.enrol(shop.store, lease, pid=418, pids=[501, 502], started=began)
    if live:
        liveness.renew(shop.store, lease, seconds=45, pids=[501, 502], before=0)
    return lease


def listed(response: Any) -> list[tuple[str, bool]]:
    assert response.status_code == 200
    return [(worker.hostname, worker.live) for worker in response.context["cl"].result_list]


@pytest.fixture
def watcher() -> Client:
    """Staff that may view workers and runs."""
    return who_may("view_worker", "view_run")


def test_workers_are_listed_with_their_leases_and_dead_ones_marked(any_store: Any, watcher: Client) -> None:  # noqa: F811
    start(any_store, "celery@w2")
    start(any_store, "celery@w1")
    start(any_store, "celery@w3", live=False)

    page = watcher.get(WORKERS)

    assert listed(page) == [("celery@w1", True), ("celery@w2", True), ("celery@w3", False)]
    assert text(page).count("alive in") + text(page).count("in 4") >= 2
    assert page.content.decode().count('<span class="ss-badge ss-lost">dead</span>') == 1
    assert "lapsed" in text(page)
    assert 'data-left="4' in page.content.decode()


def test_a_worker_that_ended_in_peace_is_not_listed(any_store: Any, watcher: Client) -> None:  # noqa: F811
    lease = start(any_store, "celery@w1")
    liveness.give_up(any_store.store, lease)

    assert listed(watcher.get(WORKERS)) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("live=yes", ["celery@w1", "imports@b1"]),
        ("live=no", ["imports@b2"]),
        ("live=maybe", ["celery@w1", "imports@b1", "imports@b2"]),
        ("q=IMPORTS", ["imports@b1", "imports@b2"]),
        ("q=b1&live=no", []),
        ("q=%25", []),
    ],
)
def test_workers_are_filtered_and_searched(query: str, expected: list[str], shop: Any, watcher: Client) -> None:
    start(shop, "celery@w1")
    start(shop, "imports@b1")
    start(shop, "imports@b2", live=False)

    assert [name for name, _ in listed(watcher.get(f"{WORKERS}?{query}"))] == expected


def test_what_a_worker_runs_is_a_link_to_just_that(shop: Any, watcher: Client) -> None:
    start(shop, "celery@w1")
    write_run("busy", status="STARTED", worker="celery@w1")
    write_run("done", status="SUCCESS", worker="celery@w1")
    write_run("other", status="STARTED", worker="celery@w2")

    page = watcher.get(WORKERS).content.decode()
    [query] = [part.split('"')[0] for part in page.split(f'href="{RUNS}?')[1:] if "celery" in part.split('"')[0]]
    found = watcher.get(f"{RUNS}?{query.replace('&amp;', '&')}")

    assert [run.pk for run in found.context["cl"].result_list] == ["busy"]


def test_a_workers_page_says_what_is_known_of_it(any_store: Any, watcher: Client) -> None:  # noqa: F811
    start(any_store, "celery@w1", boot="boot-7")
    worker = Worker.objects.get(hostname="celery@w1")

    page = watcher.get(change(WORKERS, worker.pk))

    assert page.status_code == 200
    for known in ("alive", "418", "501, 502", "boot-7", "Last sign of life"):
        assert known in text(page)
    assert "in 4" in text(page)


def test_two_starts_of_one_worker_are_two(shop: Any, watcher: Client) -> None:
    start(shop, "celery@w1", "boot-1", live=False, ago=2 * HOUR)
    start(shop, "celery@w1", "boot-2")

    assert listed(watcher.get(WORKERS)) == [("celery@w1", False), ("celery@w1", True)]
    assert len({worker.pk for worker in Worker.objects.all()}) == 2


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "\u202egnp@w", 'o\'hara@"q"', "a/b@100%", "🦜@w"])
def test_names_are_shown_as_text_and_have_a_page(name: str, shop: Any, watcher: Client) -> None:
    start(shop, name)
    [worker] = Worker.objects.all()

    for page in (watcher.get(WORKERS), watcher.get(change(WORKERS, worker.pk))):
        assert page.status_code == 200
        assert "<script>alert" not in page.content.decode()
        assert "\u202e" not in page.content.decode()


@pytest.mark.parametrize("worker_id", ["gone", "not base64 !", "a/b", "%00", "🦜"])
def test_unknown_ids_lead_to_the_index(worker_id: str, shop: Any, watcher: Client) -> None:
    response = watcher.get(change(WORKERS, worker_id))

    assert (response.status_code, response["Location"]) == (302, "/admin/")


@pytest.mark.parametrize("query", ["pid=1", "hostname__regex=x", "nonsense=1"])
def test_what_workers_are_not_listed_by_is_a_bad_lookup(query: str, watcher: Client) -> None:
    response = watcher.get(f"{WORKERS}?{query}")

    assert (response.status_code, response["Location"]) == (302, f"{WORKERS}?e=1")


@pytest.mark.parametrize(
    ("permissions", "status", "links"),
    [
        ((), 403, False),
        (("view_run", "view_stateentry"), 403, False),
        (("view_worker",), 200, False),
        (("view_worker", "view_run"), 200, True),
    ],
)
def test_each_role_sees_what_it_may(permissions: tuple[str, ...], status: int, links: bool, shop: Any) -> None:
    start(shop, "celery@w1")
    [worker] = Worker.objects.all()
    client = who_may(*permissions)

    for address in (WORKERS, change(WORKERS, worker.pk)):
        page = client.get(address)
        assert page.status_code == status
        assert (f"{RUNS}?" in page.content.decode()) is links


def test_nobody_adds_changes_or_deletes_a_worker(shop: Any, root: Client) -> None:
    start(shop, "celery@w1")
    [worker] = Worker.objects.all()
    address = change(WORKERS, worker.pk)

    assert root.get(f"{WORKERS}add/").status_code == 403
    assert root.post(address, {"id": "x"}).status_code == 403
    assert root.post(address.replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("calls", range(3))
def test_an_outage_is_a_page_that_says_so(calls: int, shop: Any, watcher: Client) -> None:
    from tests.admin.test_admin_outage import cut

    start(shop, "celery@w1")
    [worker] = Worker.objects.all()
    cut(shop, calls)

    assert watcher.get(WORKERS).status_code in ((503,) if calls < 2 else (200, 503))
    assert watcher.get(change(WORKERS, worker.pk)).status_code == 503
