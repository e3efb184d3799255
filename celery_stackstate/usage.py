"""What an attempt costs its process: processor time, and the memory that was resident at most."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


class Usage:
    """Measures from now on, with two cheap calls. Used in the thread that runs the attempt."""

    __slots__ = ("_clock", "_started")

    def __init__(self) -> None:
        self._clock = _clock()
        self._started = None if self._clock is None else self._clock()

    def since(self) -> dict[str, Any]:
        """Return the seconds of processor time since then, and the peak of the process in bytes, as far as known."""
        found: dict[str, Any] = {}
        if self._clock is not None and self._started is not None:
            found["cpu"] = round(max(0.0, self._clock() - self._started), 6)
        if resource is not None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            found["peak_memory"] = peak if sys.platform == "darwin" else peak * 1024
        return found


def _clock() -> Callable[[], float] | None:
    """Return the clock that counts for this attempt: of the process where it has the main thread to itself.

    Green threads share one thread, in which nobody can tell whose time passes.
    """
    if _is_green():
        return None
    return time.process_time if threading.current_thread() is threading.main_thread() else time.thread_time


def _is_green() -> bool:
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return True
    return eventlet is not None and bool(eventlet.is_monkey_patched("thread"))
