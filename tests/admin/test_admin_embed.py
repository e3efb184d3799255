"""What a project mounts: runs of its objects, the status card, and a status view with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from celery_stackstate_admin.embed import RunsOfObject, find_runs
from celery_stackstate_admin.source import now
from celery_stackstate_admin.status import run_status
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.template import Context, Template
from django.test import Client, override_settings

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.records import FAILURE, LOST, QUEUED, STARTED, SUCCESS
from tests.admin.pages import RUNS, WORKERS, change, ids, text
from tests.admin.seeds import NOON, attempt, event, write_run
from tests.admin.test_admin_outage import cut


@pytest.fixture(autouse=True)
def project() -> Iterator[None]:
    with override_settings(ROOT_URLCONF="tests.admin.embedding"):
        yield


def show(client: Client, tags: str) -> Any:
    response = client.get("/page/", {"tags": tags})
    assert response.status_code == 200
    return response


# -- runs of something -------------------------------------------------------------------------------------------------


def test_the_tag_shows_the_newest_runs_that_match(shop: Any, viewer: Client) -> None:
    for number in range(4):
        write_run(f"run-{number}", task=f"shop.tasks.step_{number}", origin="order:7")
    write_run("other", task="shop.tasks.other", origin="order:8")

    page = show(viewer, '{% stackstate_runs origin="order:7" limit=3 %}')

    assert "shop.tasks.step_3" in text(page)
    assert "shop.tasks.step_0" not in text(page)
    assert "shop.tasks.other" not in text(page)
    assert f'href="{change(RUNS, "run-3")}"' in page.content.decode()
    assert f'href="{RUNS}?origin=order%3A7"' in page.content.decode()


def test_its_link_to_all_of_them_leads_to_just_those(shop: Any, viewer: Client) -> None:
    write_run("a", origin="order:7")
    write_run("b", origin="order:8")

    listed = viewer.get(f"{RUNS}?origin=order%3A7")

    assert [run.pk for run in listed.context["cl"].result_list] == ["a"]


@pytest.mark.parametrize(
    "tags",
    ['{% stackstate_runs task="shop.tasks.import_products" %}', "{% stackstate_status %}"],
)
def test_who_may_not_view_runs_is_shown_nothing_at_all(tags: str, shop: Any, anonymous: Client, staff: Client) -> None:
    write_run("a")

    assert text(show(anonymous, tags)) == text(show(anonymous, ""))
    assert text(show(staff, tags)) == text(show(staff, ""))
    cut(shop)
    assert text(show(staff, tags)) == text(show(staff, ""))


def test_a_template_without_a_request_shows_nothing(shop: Any) -> None:
    write_run("a", origin="order:7")

    assert Template('{% load stackstate %}{% stackstate_runs origin="order:7" %}').render(Context()) == ""


def test_viewers_who_are_no_staff_get_no_links_into_the_admin(shop: Any, run_viewer: Client) -> None:
    write_run("a", origin="order:7")
    User.objects.filter(username="run_viewer").update(is_staff=False)
    try:
        page = show(run_viewer, '{% stackstate_runs origin="order:7" %}{% stackstate_status %}')
    finally:
        User.objects.filter(username="run_viewer").update(is_staff=True)

    assert "import_products" in text(page)
    assert "/admin/" not in page.content.decode()


def test_a_store_that_is_down_is_told_of_where_the_runs_would_be(shop: Any, viewer: Client) -> None:
    cut(shop)

    page = show(viewer, '{% stackstate_runs origin="order:7" %}{% stackstate_status %}')

    assert text(page).count("The store does not answer.") == 2


def test_without_an_app_the_tags_say_so(viewer: Client) -> None:
    with override_settings(STACKSTATE_APP="proj.nowhere:app"):
        page = show(viewer, '{% stackstate_runs origin="order:7" %}{% stackstate_status %}')

    assert text(page).count("StackState is not configured.") == 2


@pytest.mark.parametrize("filters", [{}, {"colour": "red"}])
def test_runs_are_found_by_an_index_or_not_at_all(filters: dict[str, Any], shop: Any) -> None:
    with pytest.raises(TypeError, match="origin, key, task"):
        find_runs(**filters)


def test_what_is_not_known_yet_shows_nobodys_runs(shop: Any, viewer: Client) -> None:
    write_run("theirs", task="shop.t", origin="user:1", queued=now())
    write_run("7", task="shop.t", origin="7", queued=now())

    assert find_runs(origin=None, task="shop.t") == find_runs(origin=None) == []
    shown = text(show(viewer, '{% stackstate_runs origin=missing task="shop.t" %}{% stackstate_runs origin=none %}'))
    assert "theirs" not in shown
    assert [run.id for run in find_runs(origin=7)] == ["7"]
    assert "shop.t" in text(show(viewer, "{% stackstate_runs origin=7 %}"))


def test_hostile_text_is_inert_on_a_projects_page(shop: Any, viewer: Client) -> None:
    write_run('"><script>1</script>', task="<img src=x>\u202e", status=FAILURE, error="<b>\x1b[31m", origin="o")

    shown = show(viewer, '{% stackstate_runs origin="o" %}').content.decode()

    assert "<script>1" not in shown
    assert "<img" not in shown
    assert "<b>" not in shown
    assert "\u202e" not in shown
    assert "\x1b" not in shown


# -- a section in a ModelAdmin -----------------------------------------------------------------------------------------


def test_a_project_s_own_model_admin_shows_the_runs_of_the_object(shop: Any, root: Client) -> None:
    user = User.objects.get(username="root")
    for number in range(5):
        write_run(f"run-{number}", origin=f"user:{user.pk}")
    write_run("other", origin="user:0")

    page = root.get(f"/staff/auth/user/{user.pk}/change/")

    assert page.content.count(b'<code class="sse-quiet">run-') == 3
    assert b"other" not in page.content.replace(b"another", b"")
    assert f'href="{change(RUNS, "run-4")}"' in page.content.decode()
    assert b"embed.css" in page.content


def test_its_runs_may_be_found_by_something_else(shop: Any, root: Client) -> None:
    team = Group.objects.create(name="blue")
    write_run("a", key="team:blue", status=SUCCESS)
    write_run("b", key="team:blue", status=STARTED)
    try:
        page = root.get(f"/staff/auth/group/{team.pk}/change/")
    finally:
        team.delete()

    assert "Background work" in text(page)
    assert page.content.count(b'<td><a href="/admin/celery_stackstate_admin/run/') == 1


def test_saving_such_an_object_works_as_before(shop: Any, root: Client) -> None:
    team = Group.objects.create(name="blue")
    try:
        response = root.post(f"/staff/auth/group/{team.pk}/change/", {"name": "green"})
        team.refresh_from_db()
    finally:
        team.delete()

    assert response.status_code == 302
    assert team.name == "green"


def test_there_is_no_section_for_those_who_may_not_view_runs_nor_on_the_page_that_adds(shop: Any, root: Client) -> None:
    clerk = User.objects.create_user("teamster", is_staff=True)
    from django.contrib.auth.models import Permission

    clerk.user_permissions.set(Permission.objects.filter(codename__in=["view_group", "change_group"]))
    team = Group.objects.create(name="blue")
    write_run("a", key="team:blue", status=SUCCESS)
    client = Client()
    client.force_login(clerk)
    try:
        page = client.get(f"/staff/auth/group/{team.pk}/change/")
        added = root.get("/staff/auth/group/add/")
    finally:
        team.delete()
        clerk.delete()

    assert page.status_code == 200
    assert b"sse-runs" not in page.content
    assert b"Background work" not in page.content
    assert b"Background work" not in added.content


def test_a_store_that_is_down_does_not_keep_the_object_from_being_edited(shop: Any, root: Client) -> None:
    team = Group.objects.create(name="blue")
    cut(shop)
    try:
        page = root.get(f"/staff/auth/group/{team.pk}/change/")
    finally:
        team.delete()

    assert page.status_code == 200
    assert "The store does not answer." in text(page)


def test_the_section_passes_djangos_own_checks() -> None:
    from tests.admin.embedding import staff

    assert [error for owner in staff._registry.values() for error in owner.check()] == []
    assert issubclass(RunsOfObject, admin.ModelAdmin)


# -- the card ----------------------------------------------------------------------------------------------------------


def test_the_card_counts_what_is_running_queued_failed_and_lost(shop: Any, viewer: Client) -> None:
    write_run("r1", status=STARTED, queued=now())
    write_run("q1", status=QUEUED, queued=now())
    write_run("q2", status="RETRY", queued=now())
    for number in range(3):
        write_run(f"f{number}", status=FAILURE, queued=now())
    write_run("old", status=FAILURE, queued=NOON.replace(year=2020))
    write_run("l1", status=LOST, queued=now())

    page = text(show(viewer, "{% stackstate_status %}"))

    assert "1 running 2 queued 3 failed in 24 hours 1 lost in 24 hours 0 workers alive" in page


def test_the_cards_numbers_lead_to_the_lists_of_those_that_the_user_may_view(
    shop: Any, viewer: Client, root: Client
) -> None:
    write_run("q1", status="RECEIVED", queued=now())
    queued = "status__in=QUEUED%2CRECEIVED%2CRETRY"

    by_viewer, by_root = (show(client, "{% stackstate_status %}").content.decode() for client in (viewer, root))

    assert f'href="{RUNS}?{queued}"' in by_viewer
    assert ids(viewer.get(f"{RUNS}?{queued}")) == ["q1"]
    assert WORKERS not in by_viewer
    assert f'href="{WORKERS}?live=yes"' in by_root


class Counting:
    """A store whose calls are counted."""

    def __init__(self, store: Any) -> None:
        self._store, self.calls = store, list[str]()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if callable(found):
            self.calls.append(name)
        return found


def test_the_card_costs_a_fixed_number_of_calls(shop: Any, viewer: Client) -> None:
    for number in range(50):
        write_run(f"run-{number}", status=FAILURE, queued=now())
    counting = Counting(shop.store)
    shop.__dict__.pop("runs", None)
    shop.__dict__.update(store=counting, runs_store=counting)

    show(viewer, "{% stackstate_status %}")

    shop.__dict__.pop("runs", None)
    assert counting.calls.count("count_runs") == 4
    assert len(counting.calls) <= 7


# -- the status view ---------------------------------------------------------------------------------------------------


@pytest.fixture
def owner() -> Client:
    user, _ = User.objects.get_or_create(username="customer")
    client = Client()
    client.force_login(user)
    return client


def owned(run_id: str, **facts: Any) -> str:
    return write_run(run_id, origin=f"user:{User.objects.get(username='customer').pk}", **facts)


def test_the_owner_of_a_run_is_told_how_far_it_is(shop: Any, owner: Client) -> None:
    at = 1_763_812_802_000_000
    progress = event("p:1", at, "progress", "e1", done=30, total=120, message="row 30")
    owned("run-1", status=STARTED, ran=0.0, args=["s3cret"], events=[*attempt("e1", at, None, None), progress])

    response = owner.get("/progress/run-1/")
    told = response.json()

    assert (response.status_code, response["Cache-Control"]) == (200, "no-store")
    assert told["progress"] == {"done": 30, "total": 120, "message": "row 30", "percent": 25}
    assert (told["id"], told["status"], told["finished"]) == ("run-1", "STARTED", False)
    assert told["queued_at"] == NOON.isoformat()
    assert set(told) == {"id", "status", "finished", "progress", "queued_at", "started_at", "finished_at"}
    assert "s3cret" not in response.content.decode()


def test_an_unknown_run_and_a_forbidden_one_look_the_same(shop: Any, owner: Client, viewer: Client) -> None:
    owned("mine")
    write_run("theirs", origin="user:0")

    forbidden, unknown = owner.get("/progress/theirs/"), owner.get("/progress/unknown/")

    assert forbidden.status_code == unknown.status_code == 404
    assert forbidden.content == unknown.content
    assert dict(forbidden.headers) == dict(unknown.headers)
    assert Client().get("/progress/mine/").content == unknown.content
    assert viewer.get("/progress/mine/").status_code == 404
    assert owner.get("/progress/mine/?raise=1").content == unknown.content
    assert owner.get("/progress/mine/").status_code == 200


def test_they_look_the_same_to_whose_session_is_over(shop: Any, owner: Client) -> None:
    write_run("theirs", origin="user:0")
    answers = []
    for run_id in ("theirs", "unknown"):
        client = Client()
        client.cookies["sessionid"] = "a" * 32
        answers.append(client.get(f"/progress/{run_id}/"))

    assert [dict(answer.headers) for answer in answers] == [dict(answers[0].headers)] * 2
    assert [str(answer.cookies) for answer in answers] == [str(answers[0].cookies)] * 2


def test_the_id_may_be_a_uuid_in_the_url(shop: Any, owner: Client) -> None:
    run_id = owned(str(uuid4()))

    assert owner.get(f"/progress-uuid/{run_id}/").json()["id"] == run_id
    assert owner.get(f"/progress-uuid/{uuid4()}/").status_code == 404


def test_only_a_plain_true_opens_it(shop: Any, owner: Client) -> None:
    owned("mine")

    assert owner.get("/progress-sloppy/mine/").status_code == 404


def test_the_error_type_is_told_only_where_it_was_asked_for(shop: Any, owner: Client) -> None:
    at = 1_763_812_802_000_000
    failed = attempt("e1", at, at + 1, "failure", error_type="ValueError", error="iban DE02 is wrong")
    owned("run-1", status=FAILURE, error="ValueError: iban DE02 is wrong", events=failed)

    without, with_type = owner.get("/progress/run-1/"), owner.get("/progress-error/run-1/")

    assert b"ValueError" not in without.content
    assert with_type.json()["error_type"] == "ValueError"
    assert b"iban" not in with_type.content


def test_a_view_without_a_permission_cannot_be_made() -> None:
    with pytest.raises(TypeError):
        run_status()  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match="permission"):
        run_status(permission=True)  # type: ignore[arg-type]


def test_the_view_only_reads(shop: Any, owner: Client) -> None:
    owned("mine")

    assert owner.post("/progress/mine/").status_code == 405
    assert owner.delete("/progress/mine/").status_code == 405


def test_a_store_that_is_down_is_an_answer_that_a_program_understands(shop: Any, owner: Client) -> None:
    cut(shop)

    response = owner.get("/progress/mine/")

    assert (response.status_code, response.json()) == (503, {"error": "unavailable"})
    assert (response["Retry-After"], response["Cache-Control"]) == ("5", "no-store")


@pytest.mark.parametrize(
    ("done", "total", "percent"),
    [(0, 0, None), (5, None, None), (7, 5, 100), (1, 3, 33), (float("inf"), 3, None), (1, float("nan"), None)],
)
def test_odd_numbers_are_valid_json(
    done: float, total: float | None, percent: int | None, shop: Any, owner: Client
) -> None:
    from celery_stackstate_admin.status import status_of

    from celery_stackstate.records import Progress, Run

    told = status_of(Run("a", "t", STARTED, progress=Progress(done, total, "a\u202eb\x00", NOON)))

    assert told["progress"]["percent"] == percent
    assert told["progress"]["message"] == "a\\u202eb\\u0000"
    import json

    assert json.loads(json.dumps(told, allow_nan=False)) == told


# -- the bar -----------------------------------------------------------------------------------------------------------


def test_the_bar_brings_its_script_and_style_once(shop: Any, anonymous: Client) -> None:
    tag = "{% url 'progress' 'run-1' as url %}{% stackstate_progress 'run-1' url %}"

    shown = show(anonymous, f"{tag}{tag}").content.decode()

    assert shown.count("progress.js") == 1
    assert shown.count("embed.css") == 1
    assert shown.count("<stackstate-progress") == 2
    assert shown.count('data-url="/progress/run-1/"') == 2
    assert "style=" not in shown
    assert " on" + "load" not in shown


def test_the_bars_attributes_are_escaped(shop: Any, anonymous: Client) -> None:
    shown = show(anonymous, "{% stackstate_progress evil evil label=evil %}").content.decode()

    assert "<b>" not in shown
