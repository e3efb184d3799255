"""How many runs there were, by task and status, over time: counted once for each ten minutes, and kept.

Totals and charts add up what was counted, so they cost the same for a thousand runs and for a hundred million. A worker
counts the newest buckets again and again, and older ones while runs of them have not ended; a bucket is of the runs
that were asked for in its time. What is kept outlives the runs: a purge takes nothing from it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from celery_stackstate.facts import now_micros
from celery_stackstate.keys import TALLY, pack
from celery_stackstate.records import FINISHED, LOST
from celery_stackstate.stores.base import RunQuery, Store

SECOND = 1_000_000
WIDTH = 600 * SECOND
#: What is told of a run may come so much later than it happened.
SETTLING = 60 * SECOND
DAY = 86_400 * SECOND
#: What has not ended after so long, or is lost, is likely to stay as it is.
RESTING = 6 * 3600 * SECOND
PAGE = 1000
#: So many runs one bucket is counted to, and so many buckets a reader counts itself.
CAP, OWN = 100_000, 20

ByTask = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Counted:
    """One bucket as it was counted `at` a time. Times in microseconds."""

    start: int
    at: int
    by_task: ByTask

    @property
    def is_open(self) -> bool:
        """Whether a run of it may still change its status."""
        return any(status not in FINISHED for counts in self.by_task.values() for status in counts)

    @property
    def is_settled(self) -> bool:
        """Whether all runs of its time were there when it was counted."""
        return self.at >= self.start + WIDTH + SETTLING

    @property
    def is_final(self) -> bool:
        """Whether it will not change any more."""
        return self.is_settled and not self.is_open

    def of(self, task: str | None) -> Counted:
        """Return it with one task only; with all of them for None."""
        if task is None:
            return self
        return replace(self, by_task={name: counts for name, counts in self.by_task.items() if name == task})

    @property
    def is_cut(self) -> bool:
        """Whether there may have been more runs than it was counted to."""
        return sum(sum(counts.values()) for counts in self.by_task.values()) >= CAP

    def beside(self, before: Counted | None) -> Counted:
        """Return it with what was counted `before` of runs that were purged since, which it cannot tell of."""
        if before is None:
            return self
        merged = {task: _beside(self.by_task.get(task, {}), counts) for task, counts in before.by_task.items()}
        return replace(self, by_task={**self.by_task, **merged})

    def is_due(self, now: int) -> bool:
        """Return whether it is worth counting again: the older it is, the more seldom."""
        if self.is_final:
            return False
        return now - self.at >= max(SETTLING // 2, (now - self.start - WIDTH) // 10)

    def is_current(self, now: int) -> bool:
        """Whether it tells how it is: final, or at rest and counted not long ago."""
        going_on = {status for counts in self.by_task.values() for status in counts} - FINISHED - {LOST}
        at_rest = self.is_settled and (not going_on or now - self.start > RESTING)
        return self.is_final or (at_rest and not self.is_due(now))


class Tallies:
    """The counts of the runs in one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def write(self, *, keep: float, back: float, budget: float) -> int:
        """Count what is due of the last `back` seconds, newest first, for at most about `budget` seconds.

        Args:
            keep: Seconds for which a count is kept.
            back: How far to look back, in seconds.
            budget: Seconds after which to stop, for a later call to go on.

        Returns:
            How many buckets were counted.
        """
        now, deadline = now_micros(), time.monotonic() + budget
        oldest = self._store.runs(RunQuery(oldest_first=True, limit=1))
        if not oldest:
            return 0
        since = max(_floor(oldest[0].facts.created or 0), _floor(now - round(back * SECOND)))
        known, counted = self._kept(since, now), 0
        for start in range(_floor(now), since - 1, -WIDTH):
            if start in known and not known[start].is_due(now):
                continue
            if time.monotonic() >= deadline:
                break
            bucket = self._count(start, now, known.get(start))
            value = json.dumps({"at": bucket.at, "runs": bucket.by_task}).encode()
            self._store.put(_key(start), value, ttl=max(SECOND, start + WIDTH + round(keep * SECOND) - now))
            counted += 1
        return counted

    def read(self, since: int, until: int) -> tuple[list[Counted], bool]:
        """Return the buckets of a time, those that are not current counted now, and whether all were, to the last run.

        Both ends are moved to whole buckets.
        """
        now, known = now_micros(), self._kept(_floor(since), until)
        found, own, exact = list[Counted](), 0, True
        oldest = self._store.runs(RunQuery(oldest_first=True, limit=1))
        first = _floor(oldest[0].facts.created or 0) if oldest else now + WIDTH
        for start in range(_floor(min(until - 1, now)), _floor(since) - 1, -WIDTH):
            kept = known.get(start)
            if (kept is None and start >= first) or (kept is not None and not kept.is_current(now)):
                if own < OWN:
                    own += 1
                    kept = self._count(start, now, kept)
                else:
                    exact = False
            if kept is not None:
                found.append(kept)
                exact = exact and not kept.is_cut
        return found[::-1], exact

    def _count(self, start: int, now: int, before: Counted | None) -> Counted:
        by_task: dict[str, dict[str, int]] = {}
        for tally in self._store.tally(start, start + WIDTH, cap=CAP):
            by_task.setdefault(tally.task or "", {})[tally.status] = tally.runs
        return Counted(start, now, by_task).beside(before)

    def _kept(self, since: int, until: int) -> dict[int, Counted]:
        return {counted.start: counted for counted in self._scan(since, until)}

    def _scan(self, since: int, until: int) -> Iterator[Counted]:
        prefix, after = pack(TALLY, ""), _key(since - 1)
        while True:
            entries = self._store.scan(prefix, after=after, limit=PAGE)
            for entry in entries:
                start = int(entry.key[len(prefix) :])
                if start >= until:
                    return
                if isinstance(entry.value, bytes):
                    value = json.loads(entry.value)
                    yield Counted(start, value["at"], value["runs"])
            if len(entries) < PAGE:
                return
            after = entries[-1].key


def _beside(now: Mapping[str, int], before: Mapping[str, int]) -> Mapping[str, int]:
    """Return the counts of a task; where runs are gone since they were counted `before`, with those that had ended.

    Runs of a bucket do not become fewer but by a purge: only then is a smaller number no news.
    """
    if sum(now.values()) >= sum(before.values()):
        return now
    ended = {status: max(number, now.get(status, 0)) for status, number in before.items() if status in FINISHED}
    return {**now, **ended}


def added(buckets: Iterable[Counted]) -> dict[str, dict[str, int]]:
    """Return the sum of buckets, by task and status."""
    total: dict[str, dict[str, int]] = {}
    for bucket in buckets:
        for task, counts in bucket.by_task.items():
            of_task = total.setdefault(task, {})
            for status, number in counts.items():
                of_task[status] = of_task.get(status, 0) + number
    return total


def statuses(buckets: Iterable[Counted]) -> dict[str, int]:
    """Return the sum of buckets, by status."""
    found: dict[str, int] = {}
    for counts in added(buckets).values():
        for status, number in counts.items():
            found[status] = found.get(status, 0) + number
    return found


def _floor(moment: int) -> int:
    return moment - moment % WIDTH


def _key(start: int) -> bytes:
    return pack(TALLY, "", f"{max(0, start):020d}")
