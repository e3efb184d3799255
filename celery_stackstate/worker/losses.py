"""What dead workers have left in the history: open attempts, and deliveries that nobody has begun to tell of."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_stackstate import facts, liveness
from celery_stackstate.facts import END, now_micros
from celery_stackstate.history import ENDINGS
from celery_stackstate.liveness import Lease, Living
from celery_stackstate.records import LOST, RECEIVED, RETRY
from celery_stackstate.stores.base import RunRow, RunWrite, Store, StoredEvent

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

#: So many runs are remembered, so that their events are read once and not in each round.
MOST = 20_000


@dataclass(frozen=True, slots=True)
class OpenStart:
    """An attempt that has begun and not ended. `at` is in microseconds of its host's clock."""

    execution: str
    lease: Lease
    pid: int
    at: int
    epoch: int
    retries: int
    waited: int | None


@dataclass(frozen=True, slots=True)
class Held:
    """Who has a run: its open attempts, and the workers that received the message by which it stands, in that order.

    No holders are told of a run that stands as lost already, or by anything that came after the receipt.
    """

    attempts: tuple[OpenStart, ...] = ()
    holders: tuple[Lease, ...] = ()


class Census:
    """Who was alive in one round. A lease that is missing is looked for once more before its worker is dead."""

    def __init__(self, store: Store, found: Mapping[Lease, Living] | None = None) -> None:
        self._store, self._found = store, dict(found or {})
        self._gone: set[Lease] = set()
        names = Counter(lease.worker for lease in self._found)
        self._alone = {lease.worker: one for lease, one in self._found.items() if names[lease.worker] == 1}

    def is_gone(self, lease: Lease) -> bool:
        """Return whether a worker is dead. One that held no lease never is: nothing can tell."""
        if not lease.boot or lease in self._found:
            return False
        if lease not in self._gone:
            found = liveness.living_one(self._store, lease)
            if found is not None:
                self._found[lease] = found
                return False
            self._gone.add(lease)
        return True

    def is_over(self, start: OpenStart) -> bool:
        """Return whether nobody runs an attempt any more."""
        if self.is_gone(start.lease):
            return True
        found = self._found.get(start.lease)
        return found is not None and not found.has(start.pid, start.at)

    def is_new(self, start: OpenStart) -> bool:
        """Return whether an attempt is too new for its worker's lease to say whether it is over."""
        found = self._found.get(start.lease)
        return found is not None and found.is_new(start.at)

    def shows_new(self, row: RunRow) -> bool:
        """Return whether a row shows an attempt that is too new for the only lease of its worker's name."""
        found = self._alone.get(row.standing.worker or "")
        return found is not None and row.standing.started is not None and found.is_new(row.standing.started)


@dataclass
class Losses:
    """Reads who has runs, and records as LOST what the dead had."""

    extension: StackState
    _known: OrderedDict[str, tuple[int, Held]] = field(default_factory=OrderedDict)

    def record(self, rows: Iterable[RunRow], census: Census, *, dead: Collection[Lease] = ()) -> None:
        """Record what is lost of some runs: the attempts of the gone, and what the `dead` had received."""
        writes = [write for row in rows for write in self._lost(row, census, dead)]
        if writes:
            self.extension.recorder.record(*writes)

    def record_below(self, run_id: str, census: Census, *, own: Lease) -> bool:
        """Record the lost attempts of a run, whatever it stands as.

        Returns:
            Whether an attempt may still turn out as lost: one of another worker than `own`, or too new to say.
        """
        found = self.extension.runs_store.run(run_id)
        if found is None:
            return False
        row, attempts = found[0], _attempts(found[1])
        over = [start for start in attempts if census.is_over(start)]
        if over:
            self.extension.recorder.record(*(self._attempt_lost(row, start) for start in over))
        return any(start.lease != own or census.is_new(start) for start in attempts if start not in over)

    def _lost(self, row: RunRow, census: Census, dead: Collection[Lease]) -> list[RunWrite]:
        """Return what is lost of a run. What is remembered of it only says that it need not be read again."""
        known = self._known.get(row.run_id)
        if known is not None and known[0] == row.rank and not self._verdicts(row, known[1], census, dead):
            self._known.move_to_end(row.run_id)
            return []
        lost = self._verdicts(row, self._read(row), census, dead)
        if lost:
            del self._known[row.run_id]
        return lost

    def _read(self, row: RunRow) -> Held:
        found = self.extension.runs_store.run(row.run_id)
        held = Held() if found is None or found[0].rank != row.rank else _held(found[0], found[1])
        self._known[row.run_id] = row.rank, held
        self._known.move_to_end(row.run_id)
        if len(self._known) > MOST:
            self._known.popitem(last=False)
        return held

    def _verdicts(self, row: RunRow, held: Held, census: Census, dead: Collection[Lease]) -> list[RunWrite]:
        lost = [self._attempt_lost(row, start) for start in held.attempts if census.is_over(start)]
        if held.holders and held.holders[-1] in dead and all(map(census.is_gone, held.holders)):
            lost.append(self._message_lost(row, held.holders[-1]))
        return lost

    def _attempt_lost(self, row: RunRow, start: OpenStart) -> RunWrite:
        return facts.ended(
            row.run_id,
            row.facts,
            start.epoch,
            LOST,
            execution=start.execution,
            worker=start.lease.worker,
            retries=start.retries,
            waited=start.waited,
            started=start.at,
            at=max(now_micros(), start.at + 1),
            keep=self.extension.settings.retention,
            data=_error(f"{start.lease.worker} (pid {start.pid}) is gone; nobody is left who runs it"),
        )

    def _message_lost(self, row: RunRow, lease: Lease) -> RunWrite:
        """Return the end of a run whose worker died with its message: nobody knows whether the body was begun."""
        return facts.ended(
            row.run_id,
            row.facts,
            facts.epoch_of(row.rank),
            LOST,
            worker=lease.worker,
            retries=row.standing.retries,
            keep=self.extension.settings.retention,
            data=_error(f"{lease.worker} is gone, which had its message and may have begun it"),
        )


def _error(text: str) -> dict[str, Any]:
    return {"error_type": "Lost", "error": text}


def _held(row: RunRow, events: list[StoredEvent]) -> Held:
    if row.standing.status not in (RECEIVED, RETRY):
        return Held(_attempts(events))
    epoch = facts.epoch_of(row.rank)
    if any(event.uid.startswith(f"{END}lost:{epoch}:") for event in events):
        return Held(_attempts(events))
    received = [json.loads(event.data) for event in events if event.uid.startswith(f"received:{epoch}:")]
    return Held(_attempts(events), tuple(_lease(data) for data in received))


def _attempts(events: Iterable[StoredEvent]) -> tuple[OpenStart, ...]:
    """Return the attempts that have not ended."""
    starts: dict[str, OpenStart] = {}
    ended = set()
    for event in events:
        if event.execution is None:
            continue
        if event.name == "started" and event.uid.startswith("started:"):
            data = json.loads(event.data)
            starts[event.execution] = OpenStart(
                event.execution,
                _lease(data),
                data.get("pid") or 0,
                event.at,
                data.get("epoch") or 0,
                data.get("retries") or 0,
                data.get("wait"),
            )
        elif event.name in ENDINGS and event.uid.startswith(END):
            ended.add(event.execution)
    return tuple(start for execution, start in starts.items() if execution not in ended)


def _lease(data: Mapping[str, Any]) -> Lease:
    return Lease(data.get("worker") or "", data.get("boot") or "")
