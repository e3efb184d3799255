"""An entry's form as a browser sees and sends it."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

from celery_stackstate_admin.models import StateEntry
from django.test import Client

from celery_stackstate.keys import STATE as KIND
from tests.admin.pages import STATE, change


class _Fields(HTMLParser):
    """What a browser would send of a page's form."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.fields: dict[str, str] = {}
        self._area = self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "textarea":
            self._area = found["name"]
            self.fields[self._area] = ""
        elif tag == "select":
            self._select = found["name"]
        elif tag == "option" and "selected" in found and self._select:
            self.fields[self._select] = found["value"]
        elif tag == "input" and found.get("type") in ("hidden", "number", "text"):
            self.fields[found["name"]] = found.get("value", "")

    def handle_data(self, data: str) -> None:
        if self._area:
            self.fields[self._area] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self.fields[self._area] = self.fields[self._area].removeprefix("\n").replace("\n", "\r\n")
            self._area = ""


def fields(page: Any) -> dict[str, str]:
    """Return the fields of an entry's form, with the line ends that browsers send."""
    found = _Fields()
    found.feed(page.content.decode().partition('id="stateentry_form"')[2])
    return {name: found.fields[name] for name in ("value", "lifetime", "seconds", "seen") if name in found.fields}


def page_of(key: str, scope: str = "") -> str:
    """Return the address of an entry's page."""
    return change(STATE, StateEntry.objects.get(key=key, scope=scope).pk)


def save(client: Client, address: str, **changed: Any) -> Any:
    """Open the form, change some fields and send it."""
    return client.post(address, {**fields(client.get(address)), **changed})


class Interfering:
    """A store in which somebody else writes right before a write of ours."""

    def __init__(self, store: Any, act: Callable[[], object]) -> None:
        self._store, self._act = store, act

    def put(self, key: bytes, *args: Any, **options: Any) -> Any:
        if key.startswith(KIND):
            act, self._act = self._act, lambda: None
            act()
        return self._store.put(key, *args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def interfere(shop: Any, act: Callable[[], object]) -> None:
    """Let somebody else act right before the next write to the state."""
    shop.__dict__["store"] = Interfering(shop.store, act)
    shop.__dict__.pop("browser", None)
