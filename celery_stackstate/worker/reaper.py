"""Finds the runs of dead workers: marks them LOST, and brings those back that are to be rerun.

Every worker has the thread, one at a time does the work: the one that holds the turn, which others take when it lapses.
A round looks at the runs that the history shows as STARTED, at those that a worker without a lease has received, and at
the records of tasks with `lost_policy="rerun"`. However many runs wait in queues, or in workers that live, they cost
nothing. Beside that each worker looks after the runs whose message it was given again.

How long it takes: a worker's lease lapses `worker_lease` seconds after it was renewed for the last time, the next round
begins half a lease later at most, so what a dead worker had is LOST after `1.5 * worker_lease` seconds and the time of
that round. A pool child that died without a word of its worker's parent is missing from the lists of renewals after
that, so what it had is LOST after `worker_lease` and 2 s (`liveness.SLACK`).

Who is never marked: a worker that renews its lease, however long its bodies take, also one that is stopping. While the
store is away nobody can renew, and afterwards all leases have lapsed; so a worker judges nobody while its own renewals
fail or are late, nor for `settling` seconds after that, in which the others renew theirs. Where a lease is too short
for that (less than about three times `store_timeout`), or a worker that lives is cut off or stopped for longer than its
lease, its runs are marked; what they say later corrects it. No clocks of two hosts are compared.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from celery_stackstate import liveness
from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.key_record import store_key
from celery_stackstate.keys import OPEN, REAPER, pack, unpack
from celery_stackstate.liveness import Enrolled, Lease
from celery_stackstate.publishing import keyed
from celery_stackstate.records import RECEIVED, RETRY, STARTED
from celery_stackstate.stores.base import Expect, RunQuery, StoredEntry
from celery_stackstate.stores.rules import position
from celery_stackstate.worker import copies
from celery_stackstate.worker.losses import Census, Losses

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

PAGE = 500
#: So many runs are judged before the time is looked at.
BATCH = 50
#: Seconds one round may take for each of its parts; the next one goes on behind where it stopped.
BUDGET = 2.0
#: Microseconds for which an index entry may precede the record it points to.
GRACE = 60_000_000
#: So many leases after its own has lapsed a dead worker stays on the roll: others may write late what it had.
LINGER = 2
PURGE_PAUSE, PURGE_LIMIT = 60.0, 2_000
#: Seconds between two counts of the newest runs; each so many of them looks at all that is kept.
COUNT_PAUSE, COUNT_ALL, DAY = 30.0, 30, 86_400.0
#: Behind the last run of a list.
END = (2**63 - 1, "")
TURN = pack(REAPER, "", "turn")


class Reaper:
    """Takes turns with those of the other workers of an environment."""

    def __init__(self, extension: StackState, lease: Lease, is_steady: Callable[[], bool] = lambda: True) -> None:
        """Look after the runs of dead workers on behalf of the one with `lease`, while `is_steady` says that it may."""
        self._extension, self._lease, self._is_steady = extension, lease, is_steady
        self._losses = Losses(extension)
        self._stopped = threading.Event()
        self._turn: int | None = None
        self._purge_at = self._count_at = time.monotonic()
        self._counted = 0
        self._after: bytes | None = None
        #: Where to go on in the list of runs of a status, of all workers (None) or a dead one.
        self._places: dict[tuple[str, str | None], tuple[int, str]] = {}
        #: When the last look at the runs of a dead worker ended, and when, by the store's clock, this one began.
        self._swept: dict[str, float] = {}
        self._began: dict[str, int] = {}

    def start(self) -> None:
        """Begin to take turns."""
        threading.Thread(target=self._loop, name="stackstate-reaper", daemon=True).start()

    def stop(self) -> None:
        """Take no more turns."""
        self._stopped.set()

    def resign(self) -> None:
        """Leave the turn to others."""
        turn, self._turn = self._turn, None
        if turn is not None:
            self._extension.store.remove(TURN, expect=turn)

    def round(self) -> None:
        """Do one round, if it is the turn of this worker, and look after what was delivered to it again."""
        if self._is_steady():
            self._look_at_copies()
        if not self._has_turn():
            return
        if self._is_steady():
            self._recover()
            self._mark()
        self._upkeep(self._purge)
        self._upkeep(self._count)

    def _loop(self) -> None:
        while not self._stopped.wait(self._extension.settings.worker_lease / 2):
            try:
                self.round()
            except StoreUnavailable as error:
                logger.warning("Runs of dead workers could not be looked for, trying again: %s", error)
            except Exception:
                logger.exception("Runs of dead workers could not be looked for, trying again")
                self._turn = None  # it lapses; another worker may do better

    def _has_turn(self) -> bool:
        """Take the turn, or keep it: what was read in the last round need not be read again by another worker."""
        ttl = round(self._extension.settings.worker_lease * 750_000)
        held, self._turn = self._turn, None
        for expect in (held, Expect.ABSENT):
            if expect is None:
                continue
            put = self._extension.store.put(TURN, b"", expect=expect, ttl=ttl)
            if put.applied and put.entry is not None:
                self._turn = put.entry.version
                return True
        return False

    def _goes_on(self, deadline: float) -> bool:
        return time.monotonic() < deadline and not self._stopped.is_set()

    def _upkeep(self, work: Callable[[], None]) -> None:
        """Do what needs no judgement, and what must not keep the rest from its turn when it goes wrong."""
        try:
            work()
        except StoreUnavailable as error:
            logger.warning("The history could not be kept up, trying again: %s", error)
        except Exception:
            logger.exception("The history could not be kept up, trying again")

    def _purge(self) -> None:
        """Delete ended entries and runs beyond their retention, now and then; the next round goes on with the rest."""
        deadline = time.monotonic() + BUDGET
        while self._purge_at <= time.monotonic() and self._goes_on(deadline):
            if self._extension.purge(limit=PURGE_LIMIT) < PURGE_LIMIT:
                self._purge_at = time.monotonic() + PURGE_PAUSE

    def _count(self) -> None:
        """Count the runs of the last day, and now and then those of all the time for which runs are kept."""
        if time.monotonic() < self._count_at:
            return
        self._count_at = time.monotonic() + COUNT_PAUSE
        keep = self._extension.settings.longest_retention
        back = keep if self._counted % COUNT_ALL == 0 else DAY
        self._counted += 1
        self._extension.tallies.write(keep=keep, back=back, budget=BUDGET)

    # -- runs that come back ---------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Publish again what is lost of the tasks with `lost_policy="rerun"`."""
        for entries in self._open_entries():
            keys = {entry.key: store_key(*unpack(entry.key)[1:]) for entry in entries}
            over = set(self._extension.key_protocol.free(list(keys.values())))
            for entry in entries:
                if keys[entry.key] not in over:
                    self._recover_one(keys[entry.key])
                elif entry.now - entry.updated > GRACE:
                    self._extension.store.remove(entry.key, expect=entry.version)

    def _open_entries(self) -> Iterator[list[StoredEntry]]:
        deadline = time.monotonic() + BUDGET
        while self._goes_on(deadline):
            entries = self._extension.store.scan(OPEN + b"\0", after=self._after, limit=PAGE)
            if entries:
                yield entries
            self._after = entries[-1].key if len(entries) == PAGE else None
            if self._after is None:
                return

    def _recover_one(self, key: bytes) -> None:
        try:
            keyed.recover(self._extension, key)
        except StoreUnavailable:
            raise
        except Exception as error:  # the broker: the run stays as it was found, for the next round
            logger.warning("A lost run could not be published again, trying later: %r", error)

    # -- the history -----------------------------------------------------------------------------------------------

    def _look_at_copies(self) -> None:
        """Record the lost attempts below the runs whose message was delivered again to this worker."""
        census, deadline = Census(self._extension.store), time.monotonic() + BUDGET
        for run_id in copies.of_this_worker.ids():
            if not self._goes_on(deadline):
                return
            undecided = self._losses.record_below(run_id, census, own=self._lease)
            copies.of_this_worker.looked_at(run_id, undecided=undecided)

    def _mark(self) -> None:
        """Record as LOST what dead workers have left in the history."""
        store = self._extension.store
        census = Census(store, liveness.living(store))
        if self._walk(RunQuery(status=(STARTED,)), census, time.monotonic() + BUDGET):
            del self._places[STARTED, None]
        dead: dict[str, list[Enrolled]] = {}
        for enrolled in liveness.roll(store):
            if census.is_gone(enrolled.lease):
                dead.setdefault(enrolled.lease.worker, []).append(enrolled)
        self._swept = {name: self._swept.get(name, 0.0) for name in dead}
        self._began = {name: began for name, began in self._began.items() if name in dead}
        self._places = {place: after for place, after in self._places.items() if place[1] is None or place[1] in dead}
        deadline = time.monotonic() + BUDGET
        for name in sorted(dead, key=lambda name: self._swept[name]):
            self._sweep(name, dead[name], census, deadline)

    def _sweep(self, name: str, dead: list[Enrolled], census: Census, deadline: float) -> None:
        """Look at what the dead workers of one name have received and not begun; forget those that died long ago."""
        began = self._began.setdefault(name, dead[0].now)
        leases = {enrolled.lease for enrolled in dead}
        queries = [RunQuery(status=(status,), worker=name) for status in (RECEIVED, RETRY)]
        if not all(self._walk(query, census, deadline, dead=leases) for query in queries):
            return
        for query in queries:
            del self._places[query.status[0], name]
        del self._began[name]
        self._swept[name] = time.monotonic()
        patience = (1 + LINGER) * self._extension.settings.worker_lease * 1_000_000
        for enrolled in dead:
            if began - enrolled.seen > patience:
                liveness.strike_off(self._extension.store, enrolled)

    def _walk(self, query: RunQuery, census: Census, deadline: float, *, dead: Collection[Lease] = frozenset()) -> bool:
        """Look at the runs of a list from where it was left; return whether its end was reached, now or before."""
        place = query.status[0], query.worker
        while (after := self._places.get(place)) != END and self._goes_on(deadline):
            rows = self._extension.runs_store.runs(replace(query, after=after, oldest_first=True, limit=PAGE))
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                self._losses.record([row for row in batch if not census.shows_new(row)], census, dead=dead)
                self._places[place] = position(batch[-1])
                if not self._goes_on(deadline):
                    return False
            if len(rows) < PAGE:
                self._places[place] = END
        return self._places.get(place) == END
