"""PostgreSQL's writes of entries, each decided by the server in one round trip.

The row is locked, and made before where it is missing, then decided on and written by one statement that reads the
clock; all travel in one message. What such a statement does not do (somebody's entry is in the way, a counter would
leave its range) changed nothing and is left to the general form, which knows why.
"""

from __future__ import annotations

from typing import Any

from celery_stackstate.stores import rules
from celery_stackstate.stores.base import INT64_MAX, INT64_MIN, Expect
from celery_stackstate.stores.sql_base import Row, Statement

CLOCK = "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"
LIVE = "e.present = 1 AND (e.expires IS NULL OR e.expires > {})"
THE_KEY = 'e.prefix = ? AND e."key" = ?'

#: What a write leaves: `w` holds the decided value, number, expires and linger, and the time.
SET = (
    "UPDATE stackstate_entry AS e "
    "SET (present, value, number, version, expires, updated, linger, keep, purge_at) = ("
    "SELECT 1, x.value, x.number, x.version, x.expires, x.now, x.linger, x.keep, "
    "CASE WHEN x.expires IS NOT NULL THEN GREATEST(x.expires + x.linger, x.keep, x.version + 1) END FROM ("
    "SELECT w.*, GREATEST(e.version + 1, w.now) AS version, CASE WHEN e.version > 0 THEN "
    "GREATEST(LEAST(w.now, COALESCE(e.expires, w.now)) + e.linger, e.keep, e.version + 1) ELSE 0 END AS keep "
    "FROM ({decided}) AS w) AS x) "
)
THE_CLOCK = f"(SELECT {CLOCK} AS now, e.version AS looked_at) AS c"
#: LEAST leaves out what is NULL.
END = (
    "COALESCE(CAST(? AS BIGINT), CASE WHEN CAST(? AS BIGINT) IS NOT NULL "
    f"THEN LEAST(c.now + CAST(? AS BIGINT), {rules.MAX_MOMENT}) END)"
)
PUT = (
    "SELECT CAST(? AS BYTEA) AS value, CAST(? AS BIGINT) AS number, CAST(? AS BIGINT) AS linger, "  # noqa: S608
    f"{END} AS expires, c.now AS now FROM {THE_CLOCK}"
)
ADD = (
    "SELECT CAST(NULL AS BYTEA) AS value, CASE WHEN c.live THEN e.number + ? ELSE ? END AS number, "  # noqa: S608
    "CASE WHEN c.live THEN e.linger ELSE 0 END AS linger, CASE WHEN {stays} THEN e.expires ELSE "
    f"{END} END AS expires, c.now AS now FROM (SELECT now, {{live}} AS live FROM {THE_CLOCK}) AS c"
)
REMOVE = (
    f"DELETE FROM stackstate_entry AS e WHERE {THE_KEY} AND {LIVE.format(CLOCK)} AND e.linger <= 0 "  # noqa: S608
    f"AND e.keep <= {CLOCK} AND e.version < {CLOCK} AND e.version = COALESCE(CAST(? AS BIGINT), e.version) "
    f'RETURNING e."key", e.value, e.number, e.version, e.expires, e.updated, {CLOCK}'
)
#: PostgreSQL computes what an UPDATE writes before it waits for a row that is merely locked: so it is locked before.
LOCK = f"SELECT 1 FROM stackstate_entry AS e WHERE {THE_KEY}"  # noqa: S608
ABSENT = f"NOT ({LIVE.format(CLOCK)})"
#: Makes the row of a key where it is missing.
MAKE = (
    'INSERT INTO stackstate_entry (prefix, "key", present, version, updated, linger, keep, purge_at) '
    'VALUES (?, ?, 0, 0, 0, 0, 0, 0) ON CONFLICT (prefix, "key") DO NOTHING'
)
BURY = (
    "UPDATE stackstate_entry AS e SET (present, value, number, expires, updated, linger, keep, purge_at) = ("  # noqa: S608
    "SELECT 0, CAST(NULL AS BYTEA), CAST(NULL AS BIGINT), x.now, x.now, 0, x.keep, x.keep FROM (SELECT c.now, "
    "GREATEST(LEAST(c.now, COALESCE(e.expires, c.now)) + e.linger, e.keep, e.version + 1) AS keep "
    # What an UPDATE overwrites it cannot return. The row may be younger than the lock, where there was none to lock.
    f"FROM {THE_CLOCK}) AS x) FROM (SELECT value, number, version, expires, updated FROM stackstate_entry "
    'WHERE prefix = ? AND "key" = ? FOR UPDATE) AS old '
    f"WHERE {THE_KEY} AND e.version = old.version AND e.version = COALESCE(CAST(? AS BIGINT), e.version) "
    f'AND {LIVE.format(CLOCK)} RETURNING e."key", old.value, old.number, old.version, old.expires, old.updated, '
    "e.updated"
)
UNUSED = 'DELETE FROM stackstate_entry WHERE prefix = ? AND "key" = ? AND version = 0'


def put(
    place: tuple[str, bytes],
    value: bytes | int,
    expect: Expect | int,
    ttl: int | None,
    expires: int | None,
    linger: int,
) -> Statement:
    """Return the statement that writes an entry; it returns version, expires and the time."""
    allowed, parameters = "TRUE", list[Any]()
    if expect is Expect.ABSENT:
        allowed = ABSENT
    elif not isinstance(expect, Expect):
        allowed = f"e.version = ? AND {LIVE.format(CLOCK)}"
        parameters.append(expect)
    blob, number = (value, None) if isinstance(value, bytes) else (None, value)
    sql = f"{SET.format(decided=PUT)} WHERE {THE_KEY} AND {allowed} RETURNING e.version, e.expires, e.updated"
    linger = min(linger, rules.MAX_MOMENT)
    return sql, (blob, number, linger, *_end(ttl, expires), *place, *parameters)


def add(
    place: tuple[str, bytes],
    delta: int,
    ttl: int | None,
    expires: int | None,
    floor: int | None,
    ceiling: int | None,
    *,
    prolong: bool,
) -> Statement | None:
    """Return the statement that counts, and returns the new number; None where no number could be counted from."""
    least = max(INT64_MIN, max(INT64_MIN, INT64_MIN if floor is None else floor) - delta)
    most = min(INT64_MAX, min(INT64_MAX, INT64_MAX if ceiling is None else ceiling) - delta)
    if least > most:
        return None
    allowed, live = f"{LIVE.format(CLOCK)} AND e.number BETWEEN ? AND ?", "TRUE"
    if rules.in_range(delta, floor, ceiling):
        # An entry can end between this look at the clock and the next, and the next one decides.
        allowed, live = f"({allowed} OR {ABSENT})", LIVE.format("now")
    decided = ADD.format(live=live, stays="FALSE" if prolong else "c.live")
    sql = f"{SET.format(decided=decided)} WHERE {THE_KEY} AND {allowed} RETURNING e.number"
    return sql, (delta, delta, *_end(ttl, expires), *place, least, most)


def remove(place: tuple[str, bytes], expect: Expect | int) -> Statement:
    """Return the statement that deletes a live entry whose version need not be remembered."""
    return REMOVE, (*place, None if isinstance(expect, Expect) else expect)


def bury(place: tuple[str, bytes], expect: Expect | int) -> Statement:
    """Return the statement that removes a live entry and remembers its version; it returns the entry."""
    return BURY, (*place, *place, None if isinstance(expect, Expect) else expect)


def on_row(
    place: tuple[str, bytes], statement: Statement, *, create: bool, expect: Expect | int = Expect.ANY
) -> list[Statement]:
    """Return `statement` behind what makes and locks its row, and before what deletes a row that it left unused.

    A live row where none is expected is not locked, so that looking in vain costs the server no write.
    """
    lock = LOCK + (f" AND {ABSENT}" if expect is Expect.ABSENT else "") + " FOR UPDATE"
    return [*([(MAKE, place)] if create else []), (lock, place), statement, *([(UNUSED, place)] if create else [])]


def fits(expect: Expect | int) -> bool:
    """Return whether `expect` can be compared with a version by the server."""
    return isinstance(expect, Expect) or 0 < expect <= INT64_MAX


def first(rows: list[Row]) -> Row | None:
    """Return the one row of an answer, or None."""
    return rows[0] if rows else None


def _end(ttl: int | None, expires: int | None) -> tuple[int | None, int | None, int | None]:
    """Return the parameters of END."""
    ttl = None if ttl is None else min(ttl, rules.MAX_MOMENT)
    return None if expires is None else min(expires, rules.MAX_MOMENT), ttl, ttl
