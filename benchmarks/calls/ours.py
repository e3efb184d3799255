"""The calls of this project, on any store."""

from __future__ import annotations

from celery import Celery

from benchmarks.calls.common import LIMIT, TTL, Calls, key, value
from celery_stackstate import StackState


def on(url: str) -> Calls:
    """Return the calls on the store of `url`."""
    app = Celery("benchmarks", broker="memory://", set_as_current=False)
    app.conf.stackstate_url = url
    state = StackState(app).state

    def lock(_: int) -> None:
        with state.lock("benchmarks:lock", ttl=TTL):
            pass

    return {
        "set": lambda n: state.set(key(n), value(n)),
        "get": lambda n: state.get(key(n)),
        "increment": lambda n: state.increment("benchmarks:counter"),
        "add": lambda n: state.add(f"benchmarks:added:{n}", value(n), ttl=TTL),
        "lock + unlock": lock,
        "throttle": lambda n: state.throttle("benchmarks:pace", LIMIT, 1, burst=LIMIT),
    }
