"""Says where a process spends its time, by looking at what it runs a thousand times a second.

Unlike a profiler that counts calls, looking costs every layer the same, and a wait counts where it is waited.
"""

from __future__ import annotations

import signal
from collections import Counter
from types import FrameType

#: Seconds between two looks.
PAUSE = 0.001
OURS, OUTSIDE = "celery_stackstate/", "elsewhere"
#: Whose code it is, by a part of the file's path; the first that the stack has from the inside.
OTHERS = {
    "/kombu/": "Celery and kombu",
    "/celery/": "Celery and kombu",
    "/vine/": "Celery and kombu",
    "/amqp/": "Celery and kombu",
    "/billiard/": "Celery and kombu",
    "/redis/": "redis-py, for the broker",
    "/psycopg": "driver",
    "/benchmarks/": OUTSIDE,
}
#: Our modules by what they are for; those that are not here stand under their folder.
PARTS = {
    "stores/redis_line.py": "the store's round trip",
    "stores/lines.py": "store",
    "payload.py": "redaction and size of what is recorded",
    "redaction.py": "redaction and size of what is recorded",
    "showing.py": "redaction and size of what is recorded",
    "value_scan.py": "redaction and size of what is recorded",
    "telling.py": "redaction and size of what is recorded",
    "details.py": "redaction and size of what is recorded",
    "log_tail.py": "history",
    "facts.py": "history",
    "attempt.py": "history",
    "recorder.py": "history",
    "recording.py": "history",
    "usage.py": "history",
    "touches.py": "history",
    "fingerprint.py": "idempotency protocol",
    "reserving.py": "idempotency protocol",
    "claiming.py": "idempotency protocol",
    "holding.py": "idempotency protocol",
    "key_record.py": "idempotency protocol",
    "key_store.py": "idempotency protocol",
    "surely.py": "idempotency protocol",
    "key_protocol.py": "idempotency protocol",
}
FOLDERS = {"stores": "store", "publishing": "passing each publish", "worker": "passing each attempt"}


def part_of(frame: FrameType | None) -> str:
    """Return whose time it is: that of the innermost code that is not the standard library's."""
    while frame is not None:
        path = frame.f_code.co_filename
        if OURS in path:
            return f"ours: {_our_part(path.rpartition(OURS)[2])}"
        for mark, part in OTHERS.items():
            if mark in path:
                return part
        frame = frame.f_back
    return OUTSIDE


def _our_part(module: str) -> str:
    return PARTS.get(module) or FOLDERS.get(module.partition("/")[0], "the rest")


class Sampler:
    """Looks at the main thread while it is on."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def start(self) -> None:
        """Begin to look."""
        signal.signal(signal.SIGALRM, self._look)
        signal.setitimer(signal.ITIMER_REAL, PAUSE, PAUSE)

    def stop(self) -> None:
        """Look no more."""
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _look(self, _: int, frame: FrameType | None) -> None:
        self.seen[part_of(frame)] += 1
