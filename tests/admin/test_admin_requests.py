"""The requests that a Django admin is made of, over each kind of store: the same answers from every one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client

from tests.admin.pages import RUNS, change
from tests.admin.seeds import write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture

ODD = "a/b:c_5f?x=1&y 50%\"'<b>"
MAY, NOVEMBER = datetime(2025, 5, 5, 12, tzinfo=timezone.utc), datetime(2026, 11, 2, 8, tzinfo=timezone.utc)
MANY = [f"many-{number:03d}" for number in range(60)]

Check = Callable[[Any], bool]


def seed() -> None:
    write_run("old", queued=MAY, task="shop.mail", queue="mail", worker="celery@w2", host="web-2")
    write_run("failed", queued=NOVEMBER, status="FAILURE", error="OSError: connection refused", key="stripe:evt_1")
    write_run("lost", queued=NOVEMBER.replace(day=3), status="LOST", group_id="g", origin="user:7", parent_id="old")
    write_run(ODD, queued=NOVEMBER.replace(day=22))


def shows(*expected: str) -> Check:
    """Check which runs a list shows, in order."""
    return lambda response: [one.pk for one in response.context["cl"].result_list] == list(expected)


def says(*words: str) -> Check:
    """Check that a page's text has these words."""
    return lambda response: all(word in _text(response) for word in words)


def leads(place: str) -> Check:
    """Check where a redirect leads."""
    return lambda response: response["Location"] == place


def _text(response: Any) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())


def _links(name: str) -> Check:
    return lambda response: f"?{name}" in response.content.decode()


NEWEST = (ODD, "lost", "failed", "old")
BAD = leads(f"{RUNS}?e=1")

REQUESTS: dict[str, tuple[str, str, int, Check]] = {
    "list": ("viewer", RUNS, 200, shows(*NEWEST)),
    "list of a superuser": ("root", RUNS, 200, shows(*NEWEST)),
    "status": ("viewer", f"{RUNS}?status=FAILURE", 200, shows("failed")),
    "lost": ("viewer", f"{RUNS}?status=LOST", 200, shows("lost")),
    "statuses": ("viewer", f"{RUNS}?status__in=LOST,FAILURE", 200, shows("lost", "failed")),
    "task": ("viewer", f"{RUNS}?task=shop.mail", 200, shows("old")),
    "queue": ("viewer", f"{RUNS}?queue=mail", 200, shows("old")),
    "worker": ("viewer", f"{RUNS}?worker=celery@w2", 200, shows("old")),
    "host": ("viewer", f"{RUNS}?host=web-2", 200, shows("old")),
    "origin": ("viewer", f"{RUNS}?origin=user:7", 200, shows("lost")),
    "key": ("viewer", f"{RUNS}?key=stripe:evt_1", 200, shows("failed")),
    "group": ("viewer", f"{RUNS}?group=g", 200, shows("lost")),
    "parent": ("viewer", f"{RUNS}?parent_id=old", 200, shows("lost")),
    "two filters": ("viewer", f"{RUNS}?status=LOST&origin=user:7", 200, shows("lost")),
    "filters that exclude each other": ("viewer", f"{RUNS}?status=LOST&task=shop.mail", 200, shows()),
    "facets": ("viewer", f"{RUNS}?_facets=True", 200, says("FAILURE (1)", "LOST (1)", "SUCCESS (2)", "mail (1)")),
    "facets and a filter": ("viewer", f"{RUNS}?_facets=True&queue=mail", 200, says("FAILURE (0)", "SUCCESS (1)")),
    "facets and a search": ("viewer", f"{RUNS}?_facets=True&q=refused", 200, says("FAILURE (1)", "SUCCESS (0)")),
    "years": ("viewer", RUNS, 200, _links("queued_at__year=2025")),
    "a year": ("viewer", f"{RUNS}?queued_at__year=2026", 200, shows(ODD, "lost", "failed")),
    "a month": (
        "viewer",
        f"{RUNS}?queued_at__year=2026&queued_at__month=11",
        200,
        _links("queued_at__day=22&amp;queued_at__month=11&amp;queued_at__year=2026"),
    ),
    "a day": ("viewer", f"{RUNS}?queued_at__year=2026&queued_at__month=11&queued_at__day=3", 200, shows("lost")),
    "a time": ("viewer", f"{RUNS}?queued_at__gte=2026-11-03T00:00:00Z", 200, shows(ODD, "lost")),
    "sorted": ("viewer", f"{RUNS}?o=2", 200, shows(*reversed(NEWEST))),
    "sorted by what has no index": ("viewer", f"{RUNS}?o=1", 200, shows(*NEWEST)),
    "a whole id": ("viewer", f"{RUNS}?q=failed", 200, shows("failed")),
    "an odd id": ("viewer", f"{RUNS}?{urlencode({'q': ODD})}", 200, shows(ODD)),
    "text": ("viewer", f"{RUNS}?q=REFUSED", 200, shows("failed")),
    "text nowhere": ("viewer", f"{RUNS}?q=nowhere", 200, shows()),
    "behind a run": ("viewer", f"{RUNS}?after={int(NOVEMBER.timestamp())}000000.failed", 200, shows("old")),
    "the first page by number": ("viewer", f"{RUNS}?p=1", 200, shows(*NEWEST)),
    "all": ("viewer", f"{RUNS}?all=", 200, shows(*NEWEST)),
    "a popup": ("viewer", f"{RUNS}?_popup=1", 200, shows(*NEWEST)),
    "a popup by id": ("viewer", f"{RUNS}?_popup=1&_to_field=id", 200, shows(*NEWEST)),
    "after an error": ("viewer", f"{RUNS}?e=1", 200, shows(*NEWEST)),
    "a bad page": ("viewer", f"{RUNS}?p=abc", 200, shows(*NEWEST)),
    "a bad place": ("viewer", f"{RUNS}?after=x", 302, BAD),
    "a bad lookup": ("viewer", f"{RUNS}?error__icontains=x", 302, BAD),
    "a bad field": ("viewer", f"{RUNS}?nonsense=1", 302, BAD),
    "a bad time": ("viewer", f"{RUNS}?queued_at__gte=yesterday", 302, BAD),
    "an unknown value": ("viewer", f"{RUNS}?status=NEVER", 200, shows()),
    "a NUL": ("viewer", f"{RUNS}?task=%00&q=%00", 200, shows()),
    "a page": ("viewer", change(RUNS, "failed"), 200, says("OSError: connection refused")),
    "the page of an odd id": ("viewer", change(RUNS, ODD), 200, lambda one: one.context["original"].pk == ODD),
    "an unknown page": ("viewer", change(RUNS, "unknown"), 302, leads("/admin/")),
    "history": ("viewer", f"{RUNS}failed/history/", 200, lambda one: one.context["object"].pk == "failed"),
    "adding": ("viewer", f"{RUNS}add/", 403, lambda one: True),
    "staff without the permission": ("staff", RUNS, 403, lambda one: b"shop.mail" not in one.content),
    "a page for staff without it": ("staff", change(RUNS, "failed"), 403, lambda one: b"OSError" not in one.content),
    "anonymous": ("anonymous", RUNS, 302, lambda one: "/login/" in one["Location"]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_are_answered_alike_over_every_store(
    name: str,
    any_store: Any,  # noqa: F811
    request: pytest.FixtureRequest,
) -> None:
    user, address, status, check = REQUESTS[name]
    client: Client = request.getfixturevalue(user)
    seed()

    response = client.get(address)

    assert response.status_code == status
    assert check(response), _text(response)[:2000]


def test_pages_go_on_by_number_and_by_place_over_every_store(any_store: Any, viewer: Client) -> None:  # noqa: F811
    for run_id in MANY:
        write_run(run_id, queued=NOVEMBER)

    first = viewer.get(RUNS)
    by_number = viewer.get(f"{RUNS}?p=2")
    by_place = viewer.get(RUNS + first.context["cl"].after_url)
    back = viewer.get(RUNS + by_place.context["cl"].before_url)
    everything = viewer.get(f"{RUNS}?all=")

    assert shows(*MANY[:9:-1])(first)
    assert shows(*MANY[9::-1])(by_number)
    assert shows(*MANY[9::-1])(by_place)
    assert shows(*MANY[:9:-1])(back)
    assert shows(*reversed(MANY))(everything)
    assert BAD(viewer.get(f"{RUNS}?p=3"))
