"""How many runs are kept: what is too old, and what is more than a number of one status, goes in bounded batches."""

from __future__ import annotations

from collections.abc import Mapping

from celery_stackstate.facts import now_micros
from celery_stackstate.stores.base import RunQuery, Store

BATCH = 500
#: Microseconds for which an ended run is kept although there are too many: what another process of its worker has yet
#: to write of it would make it anew.
SETTLING = 60_000_000


def purge(store: Store, most: Mapping[str, int], *, limit: int) -> int:
    """Delete up to about `limit` of what has ended its time, and of the oldest runs that are too many.

    Args:
        store: Where from.
        most: How many runs are kept of each status, the newest, beside what ended within the last minute; a status that
            is not named has no such bound.
        limit: How much to delete at most, about.

    Returns:
        How many runs and entries were deleted; 0 means that nothing is left to do.
    """
    done = 0
    while done < limit:
        purged = store.purge(limit=min(BATCH, limit - done))
        done += purged
        if not purged:
            break
    for status, number in most.items():
        done += _trim(store, status, number, limit=limit - done)
    return done


def _trim(store: Store, status: str, most: int, *, limit: int) -> int:
    done = 0
    while done < limit:
        batch = min(BATCH, limit - done)
        excess = store.count_runs(RunQuery(status=(status,)), cap=most + batch) - most
        if excess <= 0:
            break
        oldest = store.runs(RunQuery(status=(status,), oldest_first=True, limit=excess))
        settled = now_micros() - SETTLING
        removed = store.remove_runs([row.run_id for row in oldest if (row.standing.finished or 0) < settled])
        done += removed
        if not removed:
            break
    return done
