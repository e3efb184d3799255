"""The demo: runs the shop, kills its worker, and shows what celery-stackstate makes of it.

python demo.py          stays until Ctrl-C, with the admin to look at
python demo.py --once   ends when the story is told; the status is not 0 if anything was not as it should be
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import django
from celery_stackstate import StackState
from django.core.management import call_command

from story.account import Account
from story.processes import Background, Processes, address_of, wait_until_ready
from story.waiting import StoryStopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130


def main() -> int:
    """Tell the story; return 0 when everything was as it should be."""
    parser = argparse.ArgumentParser(description="Run the example shop and show what celery-stackstate does for it.")
    parser.add_argument("--once", action="store_true", help="end when the story is told, not at Ctrl-C")
    once = parser.parse_args().once
    account = Account()
    with interruptible(), temporary_folder() as data:
        processes = Processes(data)
        try:
            tell(account, processes, stay=not once)
        except StoryStopped as stopped:
            account.failure(str(stopped))
        except Exception as error:  # of the shop or of the demo: shown with the logs like any other failure
            account.failure("".join(traceback.format_exception(error)))
        except KeyboardInterrupt:
            account.say("Stopped: worker, server and data are gone.")
            return INTERRUPTED if once else 0
        finally:
            ignore_signals()
            processes.kill_all()
        if account.wrong:
            for process in processes.started:
                account.log(process.name, process.log())
            account.verdict()
    return 1 if account.wrong else 0


def tell(account: Account, processes: Processes, *, stay: bool) -> None:
    """Start the shop, tell the story, look at the admin; then stay, if all is well."""
    account.title(
        "celery-stackstate: the shop",
        "A Django shop and its Celery worker. State, keys and history are in an SQLite\n"
        "file, the broker is a folder; no server is needed.",
    )
    django.setup()
    call_command("migrate", verbosity=0)
    worker, server = processes.worker("worker1"), processes.server()
    login = make_superuser()
    wait_until_ready(worker)
    address = address_of(server)

    from shop.celery import app  # what needs Django's settings is imported after them
    from story.admin import check_admin
    from story.chapters import Story

    with closing(StackState.of(app)) as stackstate:
        story = Story(account, processes, stackstate, address, worker)
        story.tell()
        check_admin(account, stackstate, address, login)
    if account.wrong:
        return
    account.verdict()
    if stay:
        invite(account, address, login)
        stay_while_alive(story.worker, server)


def make_superuser() -> tuple[str, str]:
    """Make an administrator and return name and password."""
    from django.contrib.auth import get_user_model

    password = secrets.token_hex(4)
    get_user_model().objects.create_superuser("admin", "admin@example.com", password)
    return "admin", password


def invite(account: Account, address: str, login: tuple[str, str]) -> None:
    """Say where the admin is and what else there is to try."""
    account.chapter("Your turn", "Worker and server stay up. Look at the runs and the state in the admin:")
    account.gap()
    account.facts({"admin": f"{address}/admin/", "user": login[0], "password": login[1]})
    account.gap()
    account.say("Send a webhook yourself, twice if you like:")
    account.gap()
    account.command(f"curl {address}/webhooks/stripe/ \\", """  -d '{"id": "evt_2001", "order": 9, "cents": 700}'""")
    account.gap()
    account.say("Ctrl-C ends everything and removes the data.")
    account.gap()


def stay_while_alive(*processes: Background) -> None:
    """Return never: an interrupt ends it, or the end of one of the processes."""
    while all(process.alive() for process in processes):
        time.sleep(0.5)
    ended = ", ".join(process.name for process in processes if not process.alive())
    raise StoryStopped(f"{ended} ended by itself")


# -- whatever happens, nothing is left behind --------------------------------------------------------------------------


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make the folder that all data of the shop goes to, and name it to the shop's settings."""
    folder = Path(tempfile.mkdtemp(prefix="celery-stackstate-shop-"))
    os.environ["SHOP_DATA"] = str(folder)
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let each way to end the demo raise KeyboardInterrupt, once: nothing interrupts the cleaning up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        ignore_signals()
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)
    yield


def ignore_signals() -> None:
    """Go on whatever signal comes."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
