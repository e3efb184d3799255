"""A run's page over a store of each kind: its parts, what an unchanged run is answered with, its log."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from django.test import Client

from celery_stackstate.records import to_micros
from tests.admin.pages import RUNS, change, text
from tests.admin.seeds import SECOND, attempt, log, write_run
from tests.admin.stores import any_store, django_store_url  # noqa: F401 - fixtures
from tests.admin.test_admin_run_log import download
from tests.stores.django_databases import installed_app  # noqa: F401 - a fixture


def test_a_runs_page_over_each_store(any_store: Any, viewer: Client) -> None:  # noqa: F811
    began = datetime.now(timezone.utc) - timedelta(days=1)
    start = to_micros(began)
    any_store.state.set("imports:7:done", 500)
    touched = [["state", "", "imports:7:done"], ["lock", "", "catalog"], ["pace", "", "feed"]]
    events = [
        *attempt("x1", start, start + SECOND, "retry", touched=touched),
        *attempt("x2", start + 2 * SECOND, None, None),
    ]
    logs = [log("x1", n, start + n, f"line {n}", level=40 if n == 3 else 20) for n in range(1, 2501)]
    write_run("root/7", queued=began)
    write_run("a/7", status="STARTED", queued=began, events=events, logs=logs, parent_id="root/7", root_id="root/7")
    address = change(RUNS, "a/7")
    live = address.replace("/change/", "/live/")

    page = viewer.get(address)
    errors = viewer.get(address, {"level": "40"})
    tag = viewer.get(live)["ETag"]
    same = viewer.get(live, headers={"If-None-Match": tag})
    write_run("a/7", status="STARTED", queued=began, logs=[log("x2", 1, start + 3 * SECOND, "one more")])
    more = viewer.get(live, headers={"If-None-Match": tag})
    _, content = download(viewer, address.replace("/change/", "/log/"))

    assert [(entry.key, entry.value) for entry in page.context["state"].entries] == [
        ("imports:7:done", "500"),
        ("catalog", "free"),
        ("feed", ""),
    ]
    assert [member.here for member in page.context["family"].members] == [False, True]
    assert "The newest 1,000 of 2,500 lines are shown." in text(page)
    assert [line.message for line in errors.context["page"].attempts[0].lines] == ["line 3"]
    assert (same.status_code, more.status_code) == (304, 200)
    assert "one more" in text(more)
    assert content.count("\n") == 2501
