"""What comes to the shop's server over HTTP: Stripe's webhooks, and an administrator with a browser."""

import json
import urllib.parse
import urllib.request
from dataclasses import dataclass
from http.cookiejar import CookieJar
from typing import Any
from urllib.error import HTTPError

TIMEOUT = 30


@dataclass(frozen=True)
class Answer:
    """What the server answered."""

    status: int
    text: str

    @property
    def json(self) -> dict[str, Any]:
        """What the answer says; nothing where it is not JSON."""
        try:
            said: dict[str, Any] = json.loads(self.text)
        except ValueError:
            return {}
        return said


class Visitor:
    """A client with cookies. An error status is an answer like any other."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._cookies = CookieJar()
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(self._cookies)
        )

    def get(self, path: str) -> Answer:
        """Fetch a page."""
        return self._open(urllib.request.Request(self._address + path))

    def post_json(self, path: str, data: dict[str, Any]) -> Answer:
        """Post JSON."""
        headers = {"Content-Type": "application/json"}
        return self._open(urllib.request.Request(self._address + path, json.dumps(data).encode(), headers))

    def log_in(self, user: str, password: str) -> Answer:
        """Log in to the admin, and return the page that follows."""
        self.get("/admin/login/")
        token = next((cookie.value for cookie in self._cookies if cookie.name == "csrftoken"), "")
        form = {"username": user, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        body = urllib.parse.urlencode(form).encode()
        return self._open(urllib.request.Request(f"{self._address}/admin/login/", body))

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return Answer(response.status, response.read().decode())
        except HTTPError as error:
            with error:
                return Answer(error.code, error.read().decode(errors="replace"))
