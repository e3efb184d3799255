"""Does operations where store and admin share an SQLite file and requests are transactions, in a process of its own."""

from __future__ import annotations

import sys

from django.conf import settings

from tests.admin.settings import SETTINGS


def main(file: str) -> None:
    """Run a run again and delete an entry; print what the pages said."""
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": file, "ATOMIC_REQUESTS": True}
    settings.configure(
        **{
            **SETTINGS,
            "DATABASES": {"default": database},
            "INSTALLED_APPS": [*SETTINGS["INSTALLED_APPS"], "celery_stackstate.stores.django"],  # type: ignore[misc]
            "STACKSTATE_APP": "tests.admin.project:app",
        }
    )
    import django

    django.setup()
    from django.core.management import call_command
    from django.test.utils import setup_test_environment

    setup_test_environment()
    call_command("migrate", verbosity=0)
    operate()


def operate() -> None:
    """Do the operations as a superuser."""
    from celery_stackstate_admin.models import StateEntry
    from django.contrib.auth.models import User
    from django.test import Client

    from tests.admin.acting import answer, ask, convert, entries, told
    from tests.admin.pages import RUNS, STATE
    from tests.admin.project import app, extension

    app.conf.stackstate_url = "django://default"
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    run = str(convert.delay("video").id)
    extension.recorder.flush()
    extension.state.set("k", 1)

    print(told(answer(client, ask(client, RUNS, "rerun", run)))[0].partition(" <")[0])
    print(told(answer(client, ask(client, STATE, "delete_entries", StateEntry.objects.get(key="k").pk)))[-1])
    print(len(entries()), "entries")


if __name__ == "__main__":
    main(sys.argv[1])
