"""Changing the state as its nouns do, wherever the entry lies."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_stackstate.errors import InvalidKey
from celery_stackstate.keys import check_key
from celery_stackstate.scoped import RunContext
from celery_stackstate_admin.source import extension

if TYPE_CHECKING:
    from celery_stackstate.state import State

KEEP, NEVER, AFTER = "keep", "never", "after"


def state_of(scope: str) -> State:
    """Return the state of a scope as it is listed: "" for the app, "task:<name>", "run:<id>" or "scope:<name>"."""
    whole: State = extension().state
    sort, _, name = scope.partition(":")
    if sort == "run":
        return whole.for_run(name)
    if sort == "task":
        within: State = extension().state_for(RunContext(task=name))
        return within.task
    return whole.scope(name) if scope else whole


def is_reachable(scope: str, key: str) -> bool:
    """Return whether the key can be named by those who use the state; an entry that cannot is only shown."""
    if scope.partition(":")[0] not in ("", "run", "task", "scope"):
        return False
    try:
        check_key(key)
        state_of(scope)
    except InvalidKey:
        return False
    return True


def write(record: Any, value: Any, *, lifetime: str = KEEP, seconds: float | None = None) -> int:
    """Store `value` in place of `record`, which must still be the one that is there, and return the new version.

    Raises:
        VersionConflict: It is not.
    """
    times: dict[str, Any] = {}
    if lifetime == AFTER and seconds is not None:
        times["ttl"] = timedelta(seconds=seconds)
    elif lifetime == KEEP and record.expires_at is not None:
        times["expires_at"] = record.expires_at
    return state_of(record.scope).set(record.key, value, if_version=record.version, **times)


def remove(record: Any) -> bool:
    """Remove the value or counter if it is still the one that was read; return whether it was."""
    return bool(state_of(record.scope).delete(record.key, if_version=record.version))


def reset(record: Any) -> int:
    """Remove the counter and return what it had counted.

    Raises:
        NotACounter: The key holds something else by now.
    """
    return state_of(record.scope).reset(record.key)


def release(record: Any) -> bool:
    """Free the lock whoever holds it; return False when it was free."""
    return state_of(record.scope).force_release(record.key)


def limit() -> int:
    """Return how many bytes a value may take."""
    return int(extension().settings.max_value_bytes)
