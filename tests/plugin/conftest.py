"""Projects of a few files, whose tests run in a pytest of their own that has the plug-in as an installed one."""

from __future__ import annotations

import os
from collections.abc import Callable
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHOP = """
import logging

from celery import Celery
from celery_stackstate import StateTask

app = Celery("shop", broker="amqp://guest@192.0.2.1//", backend="redis://192.0.2.1/1", task_cls=StateTask)
app.conf.stackstate_url = "redis://192.0.2.1/0"  # an address at which nobody answers
app.conf.task_routes = {"shop.send_mail": {"queue": "mail"}}


@app.task(bind=True)
def import_rows(self, import_id, rows=3, fail=False):
    for number in range(self.state.get(f"{import_id}:done", 0), rows):
        self.state.set(f"{import_id}:done", number + 1)
        self.timeline.progress(number + 1, rows)
    self.timeline.event("all there", rows=rows)
    logging.getLogger(__name__).info("%d rows", rows)
    if fail:
        raise ValueError("no such row")
    return rows


@app.task(idempotency_key="order:{order}")
def charge(order, amount=1): ...


@app.task
def send_mail(to): ...


@app.task(bind=True, max_retries=2)
def flaky(self):
    if self.state.run.get("tries", 0) < 2:
        self.state.run.set("tries", self.request.retries + 1)
        raise self.retry(countdown=0)
    return "done"


@app.task
def order_all(orders):
    for order in orders:
        charge.delay(order)
"""

Project = Callable[..., pytest.RunResult]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a function that writes files and runs their tests: `project(options, shop=SHOP, test_shop=...)`."""
    site = pytester.mkdir("site")
    _install(site)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (pytester.path, site, ROOT, ROOT / "django_admin"))))
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.delenv("STACKSTATE_APP", raising=False)

    def run(*options: str, **files: str) -> pytest.RunResult:
        pytester.makepyfile(**{"shop": SHOP, **files})
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-W", "error", *options, timeout=300)

    return run


def _install(site: Path) -> None:
    """Make what installing the package makes of its plug-in, unless it is installed."""
    if any(found.name == "stackstate" for found in entry_points(group="pytest11")):
        return
    declared = ConfigParser()
    declared.read(ROOT / "setup.cfg")
    folder = site / "celery_stackstate-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: celery-stackstate\nVersion: 0\n")
    (folder / "entry_points.txt").write_text(f"[pytest11]{declared['options.entry_points']['pytest11']}\n")
