"""Goes through the pages under a theme, in a process of its own: `python -m tests.admin.themed unfold`."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings

from tests.admin.settings import SETTINGS


def main(theme: str) -> None:
    """Open every sort of page, do one operation from the list and one from a page; fail on whatever is missing."""
    installed: Any = SETTINGS["INSTALLED_APPS"]
    settings.configure(
        **{
            **SETTINGS,
            "INSTALLED_APPS": [theme, *installed],
            "ROOT_URLCONF": "tests.admin.embedding",
            "STACKSTATE_APP": "tests.admin.project:app",
        }
    )
    import django

    django.setup()
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    setup_test_environment()
    call_command("check", fail_level="ERROR")
    call_command("migrate", verbosity=0)
    walk()


def walk() -> None:
    """Open the pages as a superuser."""
    from django.contrib.auth.models import User
    from django.test import Client

    from tests.admin.acting import answer, ask, choose, convert, form_of
    from tests.admin.pages import RUNS, STATE, change
    from tests.admin.project import extension
    from tests.admin.seeds import write_run

    user = User.objects.create_superuser("root")
    client = Client()
    client.force_login(user)
    write_run("run-1", status="STARTED", key="order:7", origin=f"user:{user.pk}")
    write_run("run-2", status="FAILURE", error="ValueError: no")
    kept = str(convert.delay("video").id)
    extension.recorder.flush()
    extension.state.set("imports:7:done", 230)

    for address in (
        RUNS,
        f"{RUNS}?_facets=True&status=FAILURE",
        f"{RUNS}?q=run",
        STATE,
        "/admin/",
        f"{RUNS}run-1/history/",
    ):
        assert client.get(address).status_code == 200, address
    assert b"_selected_action" in client.get(RUNS).content
    page = client.get(change(RUNS, "run-1")).content.decode()
    for needed in ('id="ss-run"', "admin.css", "_op/terminate/", "_op/delete/", "/history/"):
        assert needed in page, needed
    assert b"_op/rerun/" in client.get(change(RUNS, kept)).content
    asked = ask(client, RUNS, "rerun", kept)
    for needed in ("Run this again?", "admin.css", "confirm.js", "video"):
        assert needed in asked.content.decode(), needed
    assert form_of(asked).fields["csrfmiddlewaretoken"]
    told = client.get(answer(client, asked)["Location"]).content.decode()
    assert "It runs again." in told
    answer(client, choose(client, RUNS, "delete", "run-2"))
    assert sorted(run.id for run in extension.runs.list() if run.id.startswith("run-")) == ["run-1"]
    assert b"sse-runs" in client.get(f"/staff/auth/user/{user.pk}/change/").content
    print("fine")


if __name__ == "__main__":
    main(sys.argv[1])
