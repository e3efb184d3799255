"""What every built-in store does alike: the checks of arguments, and the merging and filtering of runs in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import islice
from typing import Any

from celery_stackstate.errors import ConfigurationError
from celery_stackstate.stores.base import (
    INT64_MAX,
    INT64_MIN,
    TEXT_SEARCH_LIMIT,
    Expect,
    RunFacts,
    RunQuery,
    RunRow,
    RunStanding,
    RunWrite,
    StoredEntry,
    check_expiry,
    check_key,
    check_value,
)
from celery_stackstate.stores.batches import in_batches

#: The latest moment that every store keeps exactly (the year 2255); what lies beyond is kept as this.
MAX_MOMENT = 2**53 - 1

MAX_PREFIX_BYTES = 64

#: What those may not know whose URL cannot be read.
ENCODED = "in a user or password / ? # @ : [ ] and % are percent-encoded"

#: The longest run id, execution and uid, in characters.
MAX_NAME = 255

#: So many bytes of each text column of a run's summary are kept, and of its error.
MAX_TEXT_BYTES = 1024
MAX_ERROR_BYTES = 4096

#: The columns of a run that a query compares for equality.
EQUALS = ("task", "worker", "queue", "key", "parent_id", "root_id", "group_id", "host", "origin", "duplicated")

#: The text columns among a run's facts.
FACT_TEXTS = tuple(item.name for item in fields(RunFacts) if item.name != "created")

#: The columns whose distinct values `run_names` lists.
NAMED = ("task", "worker", "queue", "host")


def check_prefix(prefix: str) -> str:
    """Return `prefix`; raise ConfigurationError when it is longer than a store takes."""
    if not isinstance(prefix, str) or len(prefix.encode()) > MAX_PREFIX_BYTES:
        raise ConfigurationError(
            f"stackstate_prefix: give a string of at most {MAX_PREFIX_BYTES} bytes, not {prefix!r:.80}"
        )
    return prefix


def check_timeout(timeout: float) -> float:
    """Return `timeout`; raise ConfigurationError unless it is a positive number of seconds."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise ConfigurationError(f"stackstate_store_timeout: give a positive number of seconds, not {timeout!r}")
    return float(timeout)


def check_expect(expect: Expect | int) -> None:
    """Raise TypeError unless `expect` is an Expect or a version."""
    if not isinstance(expect, (Expect, int)) or isinstance(expect, bool):
        raise TypeError(f"expect is an Expect or a version, not {type(expect).__name__}")


def check_put(key: bytes, value: bytes | int, expect: Expect | int, ttl: int | None, expires: int | None) -> None:
    """Raise what a wrong argument of `put` deserves."""
    check_key(key)
    check_value(value)
    check_expect(expect)
    check_expiry(ttl, expires)


def check_remove(key: bytes, expect: Expect | int) -> None:
    """Raise what a wrong argument of `remove` deserves."""
    check_key(key)
    check_expect(expect)
    if expect is Expect.ABSENT:
        raise ValueError("remove() cannot expect the key to be absent")


def as_expected(entry: StoredEntry | None, expect: Expect | int) -> bool:
    """Return whether what stands at a key is what a write expects there."""
    if expect is Expect.ANY:
        return True
    if expect is Expect.ABSENT:
        return entry is None
    return entry is not None and entry.version == expect


def check_add(key: bytes, delta: int, ttl: int | None, expires: int | None) -> None:
    """Raise what a wrong argument of `add` deserves."""
    check_key(key)
    if isinstance(delta, bytes):
        raise TypeError("delta is an integer, not bytes")
    check_value(delta)
    check_expiry(ttl, expires)


def check_named(column: str) -> str:
    """Return `column`; raise ValueError unless `run_names` lists it."""
    if column not in NAMED:
        raise ValueError(f"run_names() lists {', '.join(NAMED)}, not {column!r}")
    return column


def kept(write: RunWrite) -> RunWrite:
    """Return `write` with its summary cut to what is kept; raise ValueError for what no store takes."""
    check_name("run id", write.run_id)
    for event in write.events:
        check_name("uid", event.uid)
        check_name("execution", event.execution or "")
        check_text("name", event.name)
    for log in write.logs:
        check_name("execution", log.execution)
        check_text("logger", log.logger)
        check_text("message", log.message)
    for dropped in write.dropped:
        check_name("execution", dropped.execution)
    standing = None if write.standing is None else _cut_standing(write.standing)
    facts = _cut_facts(write.facts)
    if facts is write.facts and standing is write.standing:
        return write
    return replace(write, facts=facts, standing=standing)


def check_name(what: str, text: str) -> None:
    """Raise ValueError unless `text` can name a run, an execution or an event."""
    if len(text) > MAX_NAME:
        raise ValueError(f"the {what} has at most {MAX_NAME} characters, not {len(text)}: {text!r:.80}")
    check_text(what, text)


def check_text(what: str, text: str) -> None:
    """Raise ValueError for NUL and for lone surrogates, which not every database can hold."""
    if "\0" in text or not (text.isascii() or _is_unicode(text)):
        raise ValueError(f"the {what} has a NUL or a lone surrogate: {text!r:.80}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _cut_facts(facts: RunFacts) -> RunFacts:
    cut: dict[str, Any] = {name: _cut(name, getattr(facts, name), MAX_TEXT_BYTES) for name in FACT_TEXTS}
    changed = any(cut[name] is not getattr(facts, name) for name in FACT_TEXTS)
    return replace(facts, **cut) if changed else facts


def _cut_standing(standing: RunStanding) -> RunStanding:
    status = _cut("status", standing.status, MAX_TEXT_BYTES)
    worker = _cut("worker", standing.worker, MAX_TEXT_BYTES)
    error = _cut("error", standing.error, MAX_ERROR_BYTES)
    progress = _cut("progress", standing.progress, MAX_TEXT_BYTES)
    cut = (status, worker, error, progress)
    if cut == (standing.status, standing.worker, standing.error, standing.progress):
        return standing
    return replace(standing, status=status or "", worker=worker, error=error, progress=progress)


def _cut(what: str, text: str | None, longest: int) -> str | None:
    """Return `text` up to `longest` bytes, without a part of a character."""
    if text is None:
        return None
    check_text(what, text)
    if len(text) * 4 <= longest:
        return text
    encoded = text.encode()
    return text if len(encoded) <= longest else encoded[:longest].decode(errors="ignore")


def end_of(now: int, ttl: int | None, expires: int | None) -> int | None:
    """Return the absolute expiry that `ttl` or `expires` ask for, or None."""
    if ttl is not None:
        return min(now + ttl, MAX_MOMENT)
    return None if expires is None else min(expires, MAX_MOMENT)


def in_range(number: int, floor: int | None, ceiling: int | None) -> bool:
    """Return whether a counter may hold `number`."""
    if floor is not None and number < floor:
        return False
    return (ceiling is None or number <= ceiling) and INT64_MIN <= number <= INT64_MAX


def key_after(prefix: bytes) -> bytes | None:
    """Return the first key behind all that start with `prefix`, or None when none can be behind them."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes((head[-1] + 1,)) if head else None


def removed(run_ids: Sequence[str], batch: int, remove: Callable[[Sequence[str]], int]) -> int:
    """Remove runs by `remove`, so many at once, and return how many there were."""
    return in_batches(list(dict.fromkeys(run_ids)), batch, remove)


def position(row: RunRow) -> tuple[int, str]:
    """Return where `row` stands in a listing."""
    return row.facts.created or 0, row.run_id


def matches(row: RunRow, query: RunQuery) -> bool:
    """Return whether `row` passes every filter of `query` but its text."""
    created = position(row)[0]
    if query.status and row.standing.status not in query.status:
        return False
    if query.ids is not None and row.run_id not in query.ids:
        return False
    if (query.since is not None and created < query.since) or (query.until is not None and created >= query.until):
        return False
    return all(getattr(query, name) in (None, column(row, name)) for name in EQUALS)


def column(row: RunRow, name: str) -> Any:
    """Return the summary column `name` of `row`."""
    return getattr(row.facts if hasattr(row.facts, name) else row.standing, name)


def search(newest_first: Iterable[RunRow], text: str) -> Iterator[RunRow]:
    """Yield the rows among the first `TEXT_SEARCH_LIMIT` that contain `text` where a search looks."""
    needle = text.casefold()
    for row in islice(newest_first, TEXT_SEARCH_LIMIT):
        looked_at = (row.run_id, row.facts.task, row.facts.key, row.standing.error)
        if any(needle in field.casefold() for field in looked_at if field):
            yield row


def page(rows: Iterable[RunRow], query: RunQuery) -> list[RunRow]:
    """Return the page of `rows`, which come in any order and match already, that `query` asks for."""
    ordered = sorted(rows, key=position, reverse=not query.oldest_first)
    if query.after is not None:
        after = query.after
        ordered = [row for row in ordered if (position(row) > after if query.oldest_first else position(row) < after)]
    return ordered[query.offset : query.offset + query.limit]
