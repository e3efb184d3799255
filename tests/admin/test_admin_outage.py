"""Without a store, or without an app, the pages say so. Nobody gets a server error, or more than they may see."""

from __future__ import annotations

from typing import Any

import pytest
from celery_stackstate_admin.checks import STORE_PROMISES, UNKNOWN_APP
from django.core import checks
from django.test import Client, override_settings

from celery_stackstate.errors import StoreUnavailable
from tests.admin.pages import RUNS, STATE, change
from tests.admin.seeds import write_run

PAGES = [
    RUNS,
    RUNS + "?_facets=True&q=x",
    change(RUNS, "a"),
    f"{RUNS}a/live/",
    f"{RUNS}a/history/",
    STATE,
    change(STATE, "cwAAeA"),
]


class DownAfter:
    """A store whose wire is cut after a number of calls."""

    def __init__(self, store: Any, calls: int = 0) -> None:
        self._store, self._left = store, calls

    def __getattr__(self, name: str) -> Any:
        if self._left <= 0:
            raise StoreUnavailable("redis://redis-1:6379/2 <b>did not answer</b>")
        self._left -= 1
        return getattr(self._store, name)


def cut(shop: Any, calls: int = 0) -> None:
    down = DownAfter(shop.store, calls)
    for name in ("runs", "browser"):
        shop.__dict__.pop(name, None)
    shop.__dict__.update(store=down, runs_store=down)


@pytest.mark.parametrize("address", PAGES)
def test_an_outage_is_a_page_that_says_so(address: str, shop: Any, viewer: Client) -> None:
    cut(shop)

    response = viewer.get(address)

    assert response.status_code == 503
    assert b"The store does not answer" in response.content
    assert b"&lt;b&gt;did not answer&lt;/b&gt;" in response.content


@pytest.mark.parametrize("calls", range(12))
@pytest.mark.parametrize("address", [RUNS + "?_facets=True", change(RUNS, "a"), STATE])
def test_a_store_that_stops_answering_halfway_is_no_server_error(
    address: str, calls: int, shop: Any, viewer: Client
) -> None:
    write_run("a")
    shop.state.set("k", 1)
    cut(shop, calls)

    assert viewer.get(address).status_code in (200, 503)


@pytest.mark.parametrize("address", PAGES)
def test_an_outage_tells_nothing_to_those_who_may_not_view(address: str, shop: Any, staff: Client) -> None:
    cut(shop)

    assert staff.get(address).status_code == 403


@pytest.mark.parametrize("address", PAGES)
def test_a_project_without_an_app_is_told_what_to_do(address: str, viewer: Client) -> None:
    with override_settings(STACKSTATE_APP="proj.nowhere:app"):
        response = viewer.get(address)

    assert response.status_code == 503
    assert b"STACKSTATE_APP" in response.content


def test_the_admins_index_does_not_need_the_store(shop: Any, viewer: Client) -> None:
    cut(shop)

    assert viewer.get("/admin/").status_code == 200
    assert viewer.get("/admin/celery_stackstate_admin/").status_code == 200


def test_the_system_check_warns_without_an_app_and_of_nothing_but_the_store_in_memory_with_one() -> None:
    assert [one.id for one in checks.run_checks(tags=[checks.Tags.admin])] == [STORE_PROMISES]
    with override_settings(STACKSTATE_APP="proj.nowhere:app"):
        found = checks.run_checks(tags=[checks.Tags.admin])

    assert [(one.id, one.level) for one in found] == [(UNKNOWN_APP, checks.WARNING)]
