"""How long pages take in a process of their own, which no test watches: `python -m tests.admin.pagetimes URL PREFIX`.

A test's client copies the context of every template, and a test's database notes every statement.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

from tests.admin.pages import RUNS

#: A list of Django's own, for comparison.
USERS = "/admin/auth/user/"
PAGES = {
    "newest page": RUNS,
    "exact id": f"{RUNS}?q=r0000010",
    "status": f"{RUNS}?status=FAILURE",
    "task": f"{RUNS}?task=shop.task3",
    "queue": f"{RUNS}?queue=q2",
    "worker": f"{RUNS}?worker=celery@w7",
    "host": f"{RUNS}?host=web-1",
    "Django's list of 50 users": USERS,
}
#: Interleaved: a machine that is slow for a while is so for all pages.
ROUNDS = 30


def page_times(url: str, prefix: str) -> dict[str, float]:
    """Return the milliseconds of each page over a store, as a server answers it: the best of some."""
    command = [sys.executable, "-m", "tests.admin.pagetimes", url, prefix]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _client() -> Any:
    from django.conf import settings

    from tests.admin.settings import SETTINGS

    settings.configure(**SETTINGS, STACKSTATE_APP="tests.admin.project:app")
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", verbosity=0)
    User.objects.bulk_create([User(username=f"user{number}", email=f"{number}@example.com") for number in range(49)])
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def _timed(client: Any, page: str) -> float:
    begun = time.perf_counter()
    response = client.get(page)
    milliseconds = (time.perf_counter() - begun) * 1000
    assert response.status_code == 200, f"{page}: {response.status_code}"
    return milliseconds


def main(url: str, prefix: str) -> None:
    """Print the times as JSON."""
    client = _client()
    from tests.admin.project import app

    app.conf.update(stackstate_url=url, stackstate_prefix=prefix)
    rounds = [{name: _timed(client, page) for name, page in PAGES.items()} for _ in range(ROUNDS)]
    print(json.dumps({name: min(times[name] for times in rounds) for name in PAGES}))


if __name__ == "__main__":
    main(*sys.argv[1:])
