"""Who may open what: the model's view permission, and nothing less or else."""

from __future__ import annotations

from typing import Any

import pytest
from celery_stackstate_admin.models import StateEntry
from django.test import Client

from tests.admin.pages import RUNS, STATE, change
from tests.admin.seeds import write_run

KINDS = ("list", "page", "live", "history", "state list", "state page", "state history", "app index")


@pytest.fixture
def addresses(shop: Any) -> dict[str, str]:
    write_run("run-1")
    shop.state.set("imports:7:done", 230)
    entry = StateEntry.objects.get(key="imports:7:done")
    return {
        "list": RUNS,
        "page": change(RUNS, "run-1"),
        "live": f"{RUNS}run-1/live/",
        "history": f"{RUNS}run-1/history/",
        "state list": STATE,
        "state page": change(STATE, entry.pk),
        "state history": change(STATE, entry.pk).replace("/change/", "/history/"),
        "app index": "/admin/celery_stackstate_admin/",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_anonymous_visitors_are_sent_to_the_login(kind: str, addresses: dict[str, str], anonymous: Client) -> None:
    response = anonymous.get(addresses[kind])

    assert response.status_code == 302
    assert "/login/" in response["Location"]


@pytest.mark.parametrize("kind", KINDS)
def test_staff_without_the_view_permission_sees_nothing(kind: str, addresses: dict[str, str], staff: Client) -> None:
    response = staff.get(addresses[kind])

    assert response.status_code == (404 if kind == "app index" else 403)


@pytest.mark.parametrize("kind", KINDS)
def test_viewers_and_superusers_see_everything(
    kind: str, addresses: dict[str, str], viewer: Client, root: Client
) -> None:
    assert viewer.get(addresses[kind]).status_code == 200
    assert root.get(addresses[kind]).status_code == 200


@pytest.mark.parametrize("kind", ["state list", "state page", "state history"])
def test_who_may_view_runs_may_not_view_state(kind: str, addresses: dict[str, str], run_viewer: Client) -> None:
    assert run_viewer.get(addresses[kind]).status_code == 403


def test_a_runs_own_state_is_on_its_page_only_for_those_who_may_view_state(
    shop: Any, viewer: Client, run_viewer: Client
) -> None:
    write_run("run-1")
    put_state(shop, "run:run-1", "step:secret", {"x": 1})

    assert b"step:secret" in viewer.get(change(RUNS, "run-1")).content
    assert b"step:secret" not in run_viewer.get(change(RUNS, "run-1")).content


def test_staff_cannot_tell_an_unknown_id_from_a_known_one(addresses: dict[str, str], staff: Client) -> None:
    assert staff.get(change(RUNS, "unknown")).status_code == 403
    assert staff.get(f"{RUNS}unknown/history/").status_code == 403
    assert staff.get(f"{RUNS}unknown/live/").status_code == 403


@pytest.mark.parametrize("place", [RUNS, STATE])
def test_nobody_adds_changes_or_deletes(place: str, addresses: dict[str, str], root: Client) -> None:
    page = addresses["page" if place == RUNS else "state page"]

    assert root.get(f"{place}add/").status_code == 403
    assert root.post(f"{place}add/", {"id": "x"}).status_code == 403
    assert root.post(page, {"id": "x"}).status_code == 403
    assert root.get(page.replace("/change/", "/delete/")).status_code == 403
    assert root.post(page.replace("/change/", "/delete/"), {"post": "yes"}).status_code == 403


@pytest.mark.parametrize("place", [RUNS, STATE])
def test_there_are_no_bulk_actions(place: str, addresses: dict[str, str], root: Client) -> None:
    shown = root.get(place)
    posted = root.post(place, {"action": "delete_selected", "_selected_action": ["run-1"], "index": "0"})

    assert b"delete_selected" not in shown.content
    assert posted.status_code == 200
    assert b"run-1" in root.get(RUNS).content


def test_the_index_lists_only_what_the_user_may_view(staff: Client, run_viewer: Client, viewer: Client) -> None:
    assert b"Celery StackState" not in staff.get("/admin/").content
    assert b"State entries" not in run_viewer.get("/admin/").content
    assert b"State entries" in viewer.get("/admin/").content


def put_state(shop: Any, scope: str, key: str, value: Any) -> None:
    from celery_stackstate import codec
    from celery_stackstate.keys import STATE as KIND
    from celery_stackstate.keys import pack

    shop.store.put(pack(KIND, scope, key), codec.encode(value))
