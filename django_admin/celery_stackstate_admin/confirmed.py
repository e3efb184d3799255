"""What the form of a confirmation carries, and what of that is believed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from django.core.exceptions import BadRequest
from django.http import HttpRequest

from celery_stackstate_admin import present
from celery_stackstate_admin.operations import Operation
from celery_stackstate_admin.queryset import COUNT_CAP

TOKEN = re.compile(r"[0-9a-f]{32}")
LEFT = re.compile(r"([1-9]\d{0,14})(\+?)", re.ASCII)


def is_token(text: str) -> bool:
    """Return whether a text is one of the tokens that the forms are given."""
    return bool(TOKEN.fullmatch(text))


def left_of(queryset: Any, objects: Sequence[Any]) -> str:
    """Return how many more there are, with a plus where counting ended before they did; "" for none."""
    total = queryset.count()
    more = total - len(objects)
    return f"{more}{'+' if total >= COUNT_CAP else ''}" if more > 0 else ""


def left_words(left: str) -> str:
    """Return that number as it is read, "" for none and for what a form made up."""
    found = LEFT.fullmatch(left)
    return f"{present.number(int(found[1]))}{found[2]}" if found else ""


def wanted_of(request: HttpRequest, operation: Operation) -> dict[str, str]:
    """Return the ids that were confirmed, each with the stamp of what was seen."""
    try:
        pairs = json.loads(request.POST.get("objects", ""))
        wanted = {str(pk): str(stamp) for pk, stamp in pairs}
    except (TypeError, ValueError, RecursionError):
        raise BadRequest("The form names no objects.") from None
    if not 0 < len(wanted) <= operation.at_once:
        raise BadRequest("The form names too many objects, or none.")
    return wanted
