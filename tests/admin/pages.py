"""Addresses of the pages, and helpers to read them."""

from __future__ import annotations

import re
from typing import Any

from django.contrib.admin.utils import quote

RUNS = "/admin/celery_stackstate_admin/run/"
STATE = "/admin/celery_stackstate_admin/stateentry/"
KEYS = "/admin/celery_stackstate_admin/idempotencykey/"
WORKERS = "/admin/celery_stackstate_admin/worker/"


def change(place: str, object_id: str) -> str:
    """Return the address of an object's page."""
    return f"{place}{quote(object_id)}/change/"


def ids(response: Any) -> list[str]:
    """Return the ids that a list shows, in order."""
    assert response.status_code == 200
    return [one.pk for one in response.context["cl"].result_list]


def text(response: Any) -> str:
    """Return a page's text without its tags and entities."""
    return " ".join(re.sub(r"<[^>]*>", " ", response.content.decode()).split())
