"""Who may open what: the model's view permission, and nothing less or else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery_stackstate_admin.models import StateEntry
from celery_stackstate_admin.operationpages import OperationPages
from celery_stackstate_admin.runs.admin import RunAdmin
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client, RequestFactory

from tests.admin.acting import answer, ask, choose, convert, drain, form_of, waiting
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


def test_nobody_adds_or_changes_runs(addresses: dict[str, str], root: Client) -> None:
    assert root.get(f"{RUNS}add/").status_code == 403
    assert root.post(f"{RUNS}add/", {"id": "x"}).status_code == 403
    assert root.post(addresses["page"], {"id": "x"}).status_code == 403


def test_nobody_adds_state_and_viewers_do_not_change_it(
    addresses: dict[str, str], shop: Any, root: Client, viewer: Client
) -> None:
    assert root.get(f"{STATE}add/").status_code == 403
    assert root.post(f"{STATE}add/", {"id": "x"}).status_code == 403
    assert viewer.post(addresses["state page"], {"id": "x"}).status_code == 403
    assert shop.state.get("imports:7:done") == 230


@pytest.mark.parametrize("place", [RUNS, STATE])
def test_djangos_own_delete_page_deletes_nothing(
    place: str, addresses: dict[str, str], root: Client, viewer: Client
) -> None:
    page = addresses["page" if place == RUNS else "state page"].replace("/change/", "/delete/")

    for send in (viewer.get, viewer.post):
        assert send(page, {"post": "yes"}).status_code == 403
    for send in (root.get, root.post):
        response = send(page, {"post": "yes"})
        assert response.status_code == 302
        assert response["Location"].startswith(f"{place}_op/delete")
    assert root.get(addresses["page" if place == RUNS else "state page"]).status_code == 200


@pytest.mark.parametrize("place", [RUNS, STATE])
def test_djangos_own_bulk_actions_are_not_there(place: str, addresses: dict[str, str], root: Client) -> None:
    shown = root.get(place)
    posted = root.post(place, {"action": "delete_selected", "_selected_action": ["run-1"], "index": "0"})

    assert b"delete_selected" not in shown.content
    assert posted.status_code == 302
    assert posted["Location"] == place
    assert b"run-1" in root.get(RUNS).content


# -- operations --------------------------------------------------------------------------------------------------------

OPERATIONS = [operation.name for operation in RunAdmin.operations]
PERMISSIONS = [f"{operation.permission}_run" for operation in RunAdmin.operations]


class World:
    """What an operation on runs could change."""

    def __init__(self, shop: Any) -> None:
        self.shop = shop
        LogEntry.objects.all().delete()
        self.run_id = str(convert.apply_async(("v",), idempotency_key="video:v").id)
        shop.recorder.flush()

    def seen(self) -> tuple[Any, ...]:
        """Return all of it."""
        run = self.shop.runs.get(self.run_id)
        key = self.shop.idempotency.get("video:v", task=convert.name)
        held = None if key is None else (key.run_id, key.state, key.updated_at)
        return (run, held, waiting(), LogEntry.objects.count(), len(self.shop.runs.list()))

    def form(self, name: str, root: Client) -> dict[str, str]:
        """Return what the confirmation of an operation would send."""
        return form_of(ask(root, RUNS, name, self.run_id)).fields


@pytest.fixture
def world(shop: Any) -> Iterator[World]:
    drain()
    yield World(shop)
    shop.recorder.flush()
    drain()


def somebody(*permissions: str, **flags: bool) -> Client:
    name = "-".join(sorted(permissions)) or "nobody"
    user, _ = User.objects.get_or_create(username=name[:150], defaults={"is_staff": True})
    User.objects.filter(pk=user.pk).update(**{"is_staff": True, "is_active": True, **flags})
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client()
    client.force_login(User.objects.get(pk=user.pk))
    return client


def roles_without(permission: str) -> dict[str, Client]:
    """Return everybody who must not do what `permission` allows."""
    others = [one for one in PERMISSIONS if one != permission]
    return {
        "staff without permissions": somebody(),
        "a viewer": somebody("view_run", "view_stateentry"),
        "one with the permission who may not view": somebody(permission),
        "one with the permission who may view state": somebody(permission, "view_stateentry"),
        "a viewer with all the others": somebody("view_run", *others),
        **{f"a viewer with {one}": somebody("view_run", one) for one in others},
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_nobody_else_sees_or_does_it(name: str, world: World, root: Client) -> None:
    permission = f"{name}_run"
    form, before = world.form(name, root), world.seen()

    for role, client in roles_without(permission).items():
        asked = ask(client, RUNS, name, world.run_id)
        chosen = choose(client, RUNS, name, world.run_id)
        across = choose(client, RUNS, name, across=True)
        posted = client.post(f"{RUNS}_op/{name}/", {**form, "force": "yes"})
        assert [one.status_code for one in (asked, chosen, across, posted)] == [403] * 4, role
        assert world.seen() == before, role


@pytest.mark.parametrize("name", OPERATIONS)
def test_anonymous_visitors_and_people_who_are_no_staff_are_sent_to_the_login(
    name: str, world: World, root: Client, anonymous: Client
) -> None:
    form, before = world.form(name, root), world.seen()
    outsider = somebody("view_run", *PERMISSIONS)
    User.objects.filter(username__startswith="delete_run-").update(is_staff=False)

    for client in (anonymous, outsider):
        for response in (
            ask(client, RUNS, name, world.run_id),
            choose(client, RUNS, name, world.run_id),
            client.post(f"{RUNS}_op/{name}/", {**form, "force": "yes"}),
        ):
            assert response.status_code == 302
            assert "/login/" in response["Location"]
        assert world.seen() == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_viewer_with_its_permission_does_it(name: str, world: World) -> None:
    client, before = somebody("view_run", f"{name}_run"), world.seen()

    asked = ask(client, RUNS, name, world.run_id)
    chosen = choose(client, RUNS, name, world.run_id)
    response = answer(client, asked, force="yes")
    world.shop.recorder.flush()

    assert (asked.status_code, chosen.status_code, response.status_code) == (200, 200, 302)
    assert LogEntry.objects.count() == 1
    assert world.seen() != before


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_superuser_does_it(name: str, world: World, root: Client) -> None:
    response = answer(root, choose(root, RUNS, name, world.run_id), force="yes")

    assert response.status_code == 302
    assert LogEntry.objects.count() == 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_needs_the_token_of_the_session(name: str, world: World, root: Client) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.get(username="root"))
    form, before = world.form(name, root), world.seen()

    posted = strict.post(f"{RUNS}_op/{name}/", {**form, "force": "yes"})
    chosen = choose(strict, RUNS, name, world.run_id)

    assert (posted.status_code, chosen.status_code) == (403, 403)
    assert world.seen() == before


@pytest.mark.parametrize("name", OPERATIONS)
def test_looking_at_a_confirmation_changes_nothing(name: str, world: World, root: Client) -> None:
    before = world.seen()

    ask(root, RUNS, name, world.run_id)
    choose(root, RUNS, name, world.run_id)

    assert world.seen() == before


def test_a_viewer_sees_no_button_and_no_action(world: World, viewer: Client) -> None:
    page, listed = viewer.get(change(RUNS, world.run_id)), viewer.get(RUNS)

    assert b"_op/" not in page.content
    assert b'name="action"' not in listed.content
    assert b"action-select" not in listed.content


@pytest.mark.parametrize("name", OPERATIONS)
def test_who_has_one_permission_sees_the_one_button(name: str, world: World) -> None:
    client = somebody("view_run", f"{name}_run")

    page, listed = client.get(change(RUNS, world.run_id)), client.get(RUNS)

    choices = dict(listed.context["action_form"].fields["action"].choices)
    assert list(choices) == ["", name]
    # A run that has not begun is not offered to be ended.
    assert page.content.count(b"/_op/") == (0 if name == "terminate" else 1)


EVERY = [
    (model._meta.model_name, operation.name)
    for model, owner in admin.site._registry.items()
    if isinstance(owner, OperationPages)
    for operation in owner.operations
]


@pytest.mark.parametrize(("model", "name"), EVERY)
def test_every_operation_of_every_page_is_refused_to_viewers(model: str, name: str, shop: Any) -> None:
    client = somebody("view_run", "view_stateentry", f"view_{model}")
    place = f"/admin/celery_stackstate_admin/{model}/"

    assert ask(client, place, name, "x").status_code == 403
    assert client.post(f"{place}_op/{name}/", {"objects": '[["x", ""]]', "token": "0" * 32}).status_code == 403
    assert choose(client, place, name, "x").status_code == 403


def test_who_is_given_every_permission_of_the_app_may_do_everything() -> None:
    user, _ = User.objects.get_or_create(username="everything", defaults={"is_staff": True})
    user.user_permissions.set(Permission.objects.filter(content_type__app_label="celery_stackstate_admin"))
    request = RequestFactory().get("/")
    request.user = User.objects.get(pk=user.pk)

    for owner in admin.site._registry.values():
        if isinstance(owner, OperationPages):
            assert [one.name for one in owner.operations if not owner.allows(request, one)] == []


def test_the_index_lists_only_what_the_user_may_view(staff: Client, run_viewer: Client, viewer: Client) -> None:
    assert b"Celery StackState" not in staff.get("/admin/").content
    assert b"State entries" not in run_viewer.get("/admin/").content
    assert b"State entries" in viewer.get("/admin/").content


def put_state(shop: Any, scope: str, key: str, value: Any) -> None:
    from celery_stackstate import codec
    from celery_stackstate.keys import STATE as KIND
    from celery_stackstate.keys import pack

    shop.store.put(pack(KIND, scope, key), codec.encode(value))
