"""How runs travel to the scripts of a Redis store and back, and what of them is kept as packed bytes."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, Literal

from celery_stackstate.stores.base import FIRST_EVENTS, RunFacts, RunRow, RunStanding, RunWrite, StoredEvent, StoredLog

#: The columns of a run, in the order in which they travel; `lua/run_common.lua` has a letter for each.
FACTS = tuple(item.name for item in fields(RunFacts))
STANDING = tuple(item.name for item in fields(RunStanding))
#: Memory is what a Redis runs out of: of so many bytes and more, what an event says is compressed (12 us a kB).
COMPRESSED_FROM = 256
COMPRESSED = "z"
NUMBERS = frozenset({"created", "retries", "waited", "started", "finished", "forget"})
_ARE_NUMBERS = {RunFacts: [name in NUMBERS for name in FACTS], RunStanding: [name in NUMBERS for name in STANDING]}
_CREATED = FACTS.index("created")


def place(moment: int) -> bytes:
    """Return 8 bytes that sort as the moments do by which runs are listed."""
    return min(max(moment, 0), 2**63 - 1).to_bytes(8, "big")


def order(at: int, execution: str, seq: int) -> bytes:
    """Return bytes that sort as the log lines of a run do."""
    return _int64(at) + execution.encode() + b"\0" + _int64(seq)


def flattened(writes: Sequence[RunWrite]) -> Iterator[Any]:
    """Yield what `lua/append.lua` takes."""
    yield FIRST_EVENTS
    for write in writes:
        yield write.run_id
        yield "" if write.standing is None else write.rank
        yield from _columns(write.facts, FACTS)
        yield from _columns(write.standing, STANDING)
        yield len(write.events)
        for event in write.events:
            yield event.uid
            yield _int64(event.at) + _pack(event.name, event.execution, *_squeezed(event.data))
        yield len(write.logs)
        for log in write.logs:
            yield _int64(log.seq) + log.execution.encode()
            yield _int64(log.at) + _pack(log.level, log.logger, log.message)
        yield len(write.dropped)
        for dropped in write.dropped:
            yield from (dropped.execution, _int64(dropped.first), _int64(dropped.last))
        yield "" if write.most_events is None else write.most_events
        yield "" if write.most_logs is None else write.most_logs


def row(run_id: str, found: bytes) -> RunRow | None:
    """Return the row that `run_row` of `lua/run_common.lua` found, None if there is no such run."""
    rank, *columns = json.loads(found)
    facts, standing = columns[: len(FACTS)], columns[len(FACTS) :]
    if facts[_CREATED] is False:
        return None
    return RunRow(
        run_id,
        int(rank or 0),
        RunFacts(*map(_value, facts, _ARE_NUMBERS[RunFacts])),
        RunStanding(*map(_value, standing, _ARE_NUMBERS[RunStanding])),
    )


def events(found: Sequence[bytes]) -> list[StoredEvent]:
    """Return the events of uid, payload, uid, payload..., by `(at, uid)`."""
    every = (_event(uid, payload) for uid, payload in zip(found[::2], found[1::2], strict=True))
    return sorted(every, key=lambda event: (event.at, event.uid))


def log(order: bytes, payload: bytes) -> StoredLog:
    """Return the line of this order and payload."""
    level, logger, message = _unpack(payload[8:])
    execution, at, seq = order[8:-9].decode(), _number(order[:8]), _number(order[-8:])
    return StoredLog(execution, seq, at, int(level or 0), _text(logger) or "", _text(message) or "")


def _event(uid: bytes, payload: bytes) -> StoredEvent:
    name, execution, data, *how = _unpack(payload[8:])
    said = zlib.decompress(data or b"") if how else data or b""
    return StoredEvent(uid.decode(), _number(payload[:8]), _text(name) or "", _text(execution), said)


def _squeezed(data: bytes) -> tuple[bytes] | tuple[bytes, str]:
    """Return bytes as they are, or compressed and with a mark where that makes them shorter."""
    if len(data) < COMPRESSED_FROM:
        return (data,)
    shorter = zlib.compress(data, 1)
    return (shorter, COMPRESSED) if len(shorter) < len(data) else (data,)


def _columns(record: Any, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = None if record is None else getattr(record, name)
        yield "" if value is None else f"+{value}"


def _value(column: str | Literal[False], is_number: bool) -> Any:
    return None if column is False else int(column) if is_number else column


def _text(part: bytes | None) -> str | None:
    return None if part is None else part.decode()


def _int64(number: int) -> bytes:
    """Return 8 bytes that sort as the signed number does."""
    return (number + 2**63).to_bytes(8, "big")


def _number(packed: bytes) -> int:
    return int.from_bytes(packed, "big") - 2**63


def _pack(*parts: str | bytes | int | None) -> bytes:
    """Join parts behind a line of their lengths; None has the length -."""
    encoded = [
        part.encode() if isinstance(part, str) else b"%d" % part if isinstance(part, int) else part for part in parts
    ]
    lengths = b",".join(b"-" if part is None else b"%d" % len(part) for part in encoded)
    return lengths + b";" + b"".join(part for part in encoded if part is not None)


def _unpack(packed: bytes) -> Iterator[bytes | None]:
    lengths, _, rest = packed.partition(b";")
    start = 0
    for length in lengths.split(b","):
        if length == b"-":
            yield None
        else:
            yield rest[start : start + int(length)]
            start += int(length)
