"""The runs whose message this worker was given again: an attempt before may still be open, of a process that died.

The history shows such a run by what became of the copy, so nobody else looks for what is open below it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

#: So many runs are remembered, the newest, and each for so many rounds in which nothing of it was open.
MOST, ROUNDS = 10_000, 4


class Copies:
    """A bounded list of run ids; any thread may add to it."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._calm: OrderedDict[str, int] = OrderedDict()

    def add(self, run_id: str) -> None:
        """Remember that a run's message was delivered again."""
        with self._mutex:
            self._calm[run_id] = 0
            self._calm.move_to_end(run_id)
            if len(self._calm) > MOST:
                self._calm.popitem(last=False)

    def ids(self) -> list[str]:
        """Return the runs that are to be looked at, those first that were not looked at for longest."""
        with self._mutex:
            return list(self._calm)

    def looked_at(self, run_id: str, *, undecided: bool) -> None:
        """Say whether an attempt of it may still turn out as lost; a run without such a one is soon forgotten."""
        with self._mutex:
            if run_id not in self._calm:
                return
            calm = 0 if undecided else self._calm[run_id] + 1
            if calm >= ROUNDS:
                del self._calm[run_id]
            else:
                self._calm[run_id] = calm
                self._calm.move_to_end(run_id)


#: Those of the worker that this process is.
of_this_worker = Copies()
