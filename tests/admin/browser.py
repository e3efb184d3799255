"""A real Chromium before a real server that sends a strict Content-Security-Policy. Fixtures of conftest.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.db import connections
from django.test import Client
from django.test.testcases import LiveServerThread

CSP = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def _program() -> str:
    """Return the browser's program; without one, or without playwright, a skip here and a failure in CI."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        missing = "no playwright: pip install playwright"
    else:
        named = os.environ.get("STACKSTATE_TEST_CHROMIUM")
        found = named or next((path for name in NAMES if (path := shutil.which(name))), None)
        if found:
            return found
        missing = "no Chromium: install it, or name it in STACKSTATE_TEST_CHROMIUM"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser. Django may use its database beside the event loop that is in this thread meanwhile."""
    program = _program()
    from playwright.sync_api import sync_playwright

    connection = connections["default"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        with sync_playwright() as playwright:
            connections["default"] = connection  # beside a loop Django would open another one
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            yield browser
            browser.close()


def _strict(application: Any) -> Any:
    """Return a server's application whose answers carry the policy."""

    def answer(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], *args: Any) -> Any:
            return start_response(status, [*headers, ("Content-Security-Policy", CSP)], *args)

        return application(environ, start)

    return answer


class _Server(LiveServerThread):  # type: ignore[misc, unused-ignore]
    """Django's own, whose answers carry the policy."""

    def _create_server(self, connections_override: Any = None) -> Any:
        server = super()._create_server(connections_override)  # type: ignore[misc, unused-ignore]
        set_app = server.set_app
        server.set_app = lambda application: set_app(_strict(application))
        return server


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a live server over the test's own database and store."""
    connection = connections["default"]
    connection.inc_thread_sharing()
    server = _Server("127.0.0.1", StaticFilesHandler, connections_override={"default": connection})
    server.daemon = True
    server.start()
    server.is_ready.wait()
    if server.error:
        raise server.error
    yield f"http://127.0.0.1:{server.port}"
    server.terminate()
    server.join()
    connection.dec_thread_sharing()


@pytest.fixture
def browse(chromium: Any, site: str) -> Iterator[Callable[..., Any]]:
    """Opens pages as the user of a test client: `browse(viewer, address)`.

    The test fails on anything that the policy forbade, and on any error of a script.
    """
    contexts: list[Any] = []
    said: list[str] = []

    def open_page(client: Client, address: str, **options: Any) -> Any:
        context = chromium.new_context(base_url=site, viewport=options.pop("viewport", DESKTOP), **options)
        contexts.append(context)
        context.add_cookies([{"name": "sessionid", "value": client.cookies["sessionid"].value, "url": site}])
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"error: {error}"))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    wrong = [text for text in said if "Content Security Policy" in text or text.startswith("error:")]
    assert [text for text in wrong if "Failed to load resource" not in text] == []


def overflow(page: Any) -> int:
    """Return by how many pixels a page is wider than its window."""
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))
