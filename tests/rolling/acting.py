"""A producer of a release: it does what each line of its input asks for, and answers with a line of JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from celery_stackstate import StackState, StackStateError, facts
from celery_stackstate.holding import LockOwner
from celery_stackstate.key_record import store_key
from celery_stackstate.records import Run
from celery_stackstate.stores.base import RunFacts
from tests.rolling import app_rolling

stackstate = StackState.of(app_rolling.app)


def publish(task: str, args: list[Any], key: str, queue: str) -> dict[str, Any]:
    """Publish under a key."""
    result = getattr(app_rolling, task).apply_async(args, idempotency_key=key, queue=queue)
    return {"id": result.id, "created": result.created}


def record(task: str, key: str) -> Any:
    """Return the record of a key as it is stored."""
    entry = stackstate.store.get(store_key(f"task:{app_rolling.__name__}.{task}", key))
    return json.loads(entry.value) if entry is not None and isinstance(entry.value, bytes) else None


def mark(task: str, key: str, number: int) -> None:
    """Give the record of a key another number of its format."""
    place = store_key(f"task:{app_rolling.__name__}.{task}", key)
    stackstate.store.put(place, json.dumps({**record(task, key), "format": number}).encode())


def keys(task: str) -> dict[str, str]:
    """Return the states of the keys of a task."""
    found = stackstate.idempotency.list(task=f"{app_rolling.__name__}.{task}", limit=500)
    return {one.key: one.state for one in found}


def run(run_id: str) -> Any:
    """Return all that is told of a run."""
    found = stackstate.runs.get(run_id)
    if found is None:
        return None
    return {
        "run": _plain(found),
        "listed": [_plain(one) for one in stackstate.runs.list(limit=500) if one.id == run_id],
        "events": [[event.name, dict(event.data)] for event in stackstate.runs.events(run_id)],
        "log": [[line.level, line.message] for line in stackstate.runs.logs(run_id)],
    }


def _plain(found: Run) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(asdict(found), default=str))
    return plain


def pause(run_id: str) -> None:
    """Write a status that only a newer release knows."""
    stackstate.recorder.record(
        facts.ended(run_id, RunFacts(), facts.next_epoch(), "PAUSED", keep=stackstate.settings.retention, data={})
    )


def increment(key: str, times: int) -> int:
    """Count so many times."""
    return [stackstate.state.increment(key) for _ in range(times)][-1]


def put(key: str, value: Any) -> None:
    """Store a value."""
    stackstate.state.set(key, value)


def put_complex(key: str) -> None:
    """Store a value of a type that only a newer release has."""
    stackstate.state.set(key, {"at": 1 + 2j})


def get(key: str) -> str:
    """Return a value, as Python shows it."""
    return repr(stackstate.state.get(key))


def extend(key: str, item: Any) -> Any:
    """Add an item to a list by compare-and-set."""
    return stackstate.state.update(key, lambda before: [*before, item], [])


def lock(name: str, ttl: float) -> dict[str, Any]:
    """Take a lock, and do not give it back; return the fence, or who has it."""
    held = stackstate.state.lock(name, ttl=ttl, renew=False)
    if held.acquire():
        return {"fence": held.fence}
    found = stackstate.state.lock_info(name)
    return {"owner": found and found.owner}


def whoami() -> str:
    """Return the name under which this process takes locks."""
    return LockOwner.of_process().name


def main() -> None:
    """Do what the lines ask for, until there are no more."""
    for line in sys.stdin:
        action, args = json.loads(line)
        try:
            answer = globals()[action](*args)
        except StackStateError as error:
            answer = {"error": type(error).__name__, "message": str(error)}
        print(json.dumps(answer), flush=True)
    stackstate.close()


if __name__ == "__main__":
    main()
