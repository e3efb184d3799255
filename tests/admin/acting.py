"""Asking for an operation and answering its confirmation, as a browser does: by what the form holds."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.test import Client

from celery_stackstate import StateTask
from tests.admin.project import app


@app.task(name="shop.tasks.convert", base=StateTask, keep_payload=True)
def convert(*args: Any, **kwargs: Any) -> str:
    """Stand for a task that can be run again."""
    return "converted"


def waiting() -> int:
    """Return how many messages the broker holds."""
    with app.connection_for_write() as connection:
        return int(connection.default_channel.queue_declare("celery", durable=True, passive=False).message_count)


def drain() -> None:
    """Throw away what the broker holds."""
    with app.connection_for_write() as connection:
        connection.default_channel.queue_purge("celery")


class _Form(HTMLParser):
    """Collects the fields of the confirmation's form."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = False
        self.action = ""
        self.fields: dict[str, str] = {}
        self.boxes: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "form" and "ss-confirm-form" in found.get("class", ""):
            self.inside, self.action = True, found["action"]
        if tag == "input" and self.inside:
            kind = self.boxes if found.get("type") == "checkbox" else self.fields
            kind[found["name"]] = found.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "form"


def form_of(page: Any) -> _Form:
    """Return the form of a confirmation."""
    form = _Form()
    form.feed(page.content.decode())
    return form


def ask(client: Client, place: str, name: str, *ids: str, **query: str) -> Any:
    """Open the confirmation from objects' pages."""
    return client.get(f"{place}_op/{name}/?{urlencode([('id', one) for one in ids])}", query or None)


def choose(client: Client, place: str, name: str, *ids: str, across: bool = False, query: str = "") -> Any:
    """Open the confirmation from the list."""
    data = {"action": name, "_selected_action": list(ids), "index": "0", "select_across": "1" if across else "0"}
    return client.post(f"{place}{query}", data)


def answer(client: Client, page: Any, **more: str) -> Any:
    """Send the form of a confirmation."""
    assert page.status_code == 200
    form = form_of(page)
    assert form.action, "the page has no form to send"
    return client.post(form.action, {**form.fields, **more})


def told(response: Any) -> list[str]:
    """Return the messages that the next page will show."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def entries() -> list[tuple[str, str, int, str]]:
    """Return who did what to which object, as the LogEntry of each says, the oldest first."""
    found = LogEntry.objects.order_by("pk").select_related("user")
    return [(one.user.get_username(), one.object_id or "", one.action_flag, one.change_message) for one in found]
