"""How a run ended, as text that Celery's JSON result backend would write: for whoever asks for it by its key."""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import TaskPredicate
from celery.utils.serialization import ensure_serializable
from kombu.utils import json as kombu_json

logger = logging.getLogger(__name__)

MAX_ERROR_BYTES = 16_384
MAX_RESULT_BYTES = 1_048_576


def describe(error: BaseException) -> str:
    """Return an exception as text from which `restore` makes one like it."""
    kind = type(error)
    described = {
        "exc_type": getattr(kind, "__qualname__", kind.__name__),
        "exc_message": ensure_serializable(error.args, kombu_json.dumps),
        "exc_module": kind.__module__,
    }
    text = str(kombu_json.dumps(described))
    if len(text) <= MAX_ERROR_BYTES:
        return text
    return str(kombu_json.dumps({**described, "exc_message": [str(error)[:1000]]}))


def restore(backend: Any, text: str | None) -> BaseException | None:
    """Return the exception that `describe` wrote, made as a Celery result backend makes one.

    None without a text, and for Ignore and the like: they would end whoever raises them, not fail it.
    """
    if text is None:
        return None
    error: BaseException | None = backend.exception_to_python(kombu_json.loads(text))
    return None if isinstance(error, TaskPredicate) or not isinstance(error, Exception) else error


def checkpoint(task: Any, result: Any) -> str | None:
    """Return the result as JSON as the result backend would give it, or None when it cannot be kept."""
    try:
        text = str(kombu_json.dumps(result))
    except Exception as error:
        logger.warning("The result of %s[%s] cannot be kept for its key: %s", task.name, task.request.id, error)
        return None
    if len(text) > MAX_RESULT_BYTES:
        logger.warning("The result of %s[%s] is too large to be kept for its key", task.name, task.request.id)
        return None
    return text
