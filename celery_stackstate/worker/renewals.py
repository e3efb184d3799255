"""Whether a worker may judge others: how well it could renew its own lease lately tells whether they could, too."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds after which a worker tries again to renew its lease, at most.
RETRY_PAUSE = 1.0
#: The part of a lease without a renewal, of which a third is usual, that another worker may have found too long.
GAP = 0.6


class Renewals:
    """The renewals of this worker's own lease, as the thread reports them that makes them.

    A lease that is renewed at each third of its length can only lapse in an outage of two thirds or more, in which this
    worker cannot renew its own either.
    """

    def __init__(self, *, lease: float, timeout: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Judge by a `lease` and by the `timeout` of a store call, in seconds."""
        self._gap, self._clock = GAP * lease, clock
        #: After an outage a worker that waits for an answer needs the rest of that call, a pause, and one more call.
        self.settling = min(timeout + 2 * RETRY_PAUSE, lease / 2)
        self._latest, self._steady_from = float("-inf"), float("inf")

    def succeeded(self) -> None:
        """Take note of a renewal."""
        now = self._clock()
        if now - self._latest > self._gap:
            self._steady_from = now + self.settling
        self._latest = now

    def failed(self) -> None:
        """Take note of one that went wrong."""
        self._latest = float("-inf")

    def are_steady(self) -> bool:
        """Return whether everybody who lives has had the time to renew a lease."""
        now = self._clock()
        return now - self._latest <= self._gap and now >= self._steady_from
