"""Data as one format has it in a store: written once, kept in `golden/`, and read by every later release.

`python -m tests.rolling.frozen REDIS-URL` writes `golden/format-1.json`, with the help of an empty Redis database. That
is done once for a format, before it is released.
"""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, datetime, time, timezone
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import redis

from celery_stackstate import facts, liveness
from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.browse import Browser
from celery_stackstate.facts import rank
from celery_stackstate.header import HEADER, read_key, read_stamp, read_ticket, stamp_headers
from celery_stackstate.holding import LockOwner
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import Attempt, Request, Window, store_key
from celery_stackstate.keys import pack
from celery_stackstate.liveness import Lease
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import Redactor
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import FAILURE, RETRY, STATUSES, SUCCESS
from celery_stackstate.runs import Runs
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import RunFacts, Store

GOLDEN = Path(__file__).parent / "golden" / "format-1.json"
PREFIX = "golden"
CENTURY = 36_500 * 86_400 - 1.0
TASK = "shop.import_products"
SCOPE = f"task:{TASK}"
HERE = Lease("worker1@host.example", "boot-1")
KEYS = ("reserved", "published", "running", "retrying", "succeeded", "failed", "debounced")

VALUES: dict[str, Any] = {
    "none": None,
    "true": True,
    "large": 2**70,
    "float": -0.5,
    "text": "Grüße, \u2028 世界",
    "list": [1, [2, {"a": None}]],
    "tuple": (1, ("two",)),
    "dict": {"$type": "not a tag", "b": 1},
    "moment": datetime(2030, 3, 31, 2, 30, tzinfo=timezone.utc),
    "local": datetime(2030, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    "date": date(2030, 2, 28),
    "time": time(23, 59, 59, 999_999),
    "decimal": Decimal("1.10"),
    "uuid": UUID("6f1d6c5e-1f0e-5d0c-9a67-3c1a5b7c7a10"),
    "bytes": b"\x00\xff",
}


def write(store: Store) -> None:
    """Write something of each kind."""
    _write_state(store)
    _write_keys(KeyProtocol(store, prefix=PREFIX, publish_lease=30, max_deliveries=10))
    _write_runs(store)
    liveness.enrol(store, HERE, pid=7, pids=[8, 9], started=1_900_000_000_000_000)
    liveness.renew(store, HERE, seconds=CENTURY, pids=[8, 9], before=0, listed=1)


def _write_state(store: Store) -> None:
    owner = LockOwner(f"{TASK}[run-1]", "token", run_id="run-1")
    state = State(store, RunContext(owner, run_id="run-1", task=TASK, run_ttl=CENTURY), limit=262_144)
    for name, value in VALUES.items():
        state.scope("values").set(name, value)
    state.set("imports:7:done", 250, ttl=CENTURY)
    state.increment("calls", 2**62)
    state.task.set("cursor", "abc")
    state.run.set("step:charge", {"function": "shop.charge", "result": {"id": 1}})
    state.lock("catalogue", ttl=CENTURY, renew=False).acquire()
    state.throttle("mails", 1, per=3600, burst=10)


def _write_keys(keys: KeyProtocol) -> None:
    envelope = Envelope(TASK, (7,), {"rows": 100}, {"queue": "imports", "headers": {}}).dump()
    for number, name in enumerate(KEYS):
        window = Window(1_000_000, 60_000_000) if name == "debounced" else None
        ask = Request(
            SCOPE, name, TASK, "f" * 64, "release", CENTURY, rerun=True, envelope=envelope, window=window, deliveries=3
        )
        reservation = keys.reserve(ask)
        if name != "reserved":
            keys.confirm(reservation)
        if name not in ("reserved", "published", "debounced"):
            claim = keys.claim(reservation.ticket, Attempt(f"execution-{number}", HERE, pid=8, epoch=number))
            if name == "retrying":
                keys.retrying(claim, envelope=envelope, not_before=1_900_000_000_000_000)
            elif name == "succeeded":
                keys.succeed(claim, '{"rows": 100}')
            elif name == "failed":
                keys.fail(claim, '{"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}')


def _write_runs(store: Store) -> None:
    recorder, header = Recorder(store), message()
    stamp = read_stamp(header)
    assert stamp is not None
    known = RunFacts(task=TASK, queue="imports", key="import:7", host=stamp.host, origin="alice", created=stamp.first)
    keep: Callable[[str], float] = lambda status: CENTURY  # noqa: E731
    asked = {
        "args": [7],
        "kwargs": {"password": "***"},
        "host": stamp.host,
        "pid": 1,
        "program": "web",
        "chain": [1, 2],
    }
    recorder.record(facts.queued("run-1", known, stamp, retries=0, eta=None, data=asked, keep=keep))
    recorder.record(facts.received("run-1", known, stamp.epoch, worker=HERE.worker, retries=0, eta=None, keep=keep))
    for number, status in enumerate((RETRY, SUCCESS)):
        delivery = Delivery(HERE.worker, HERE.boot, 8, number, False, stamp.at, None)
        redactor = Redactor(("password",), limit=65_536)
        attempt = OpenAttempt(
            "run-1", known, stamp.epoch + number, delivery, redactor=redactor, keep=keep, limits=LogLimits()
        )
        attempt.log(at=1_900_000_000_000_000 + number, level=20, logger="shop", message=f"row {number} " + "x" * 400)
        attempt.progress(number + 1, 2, "half")
        attempt.note("hop", {"from": "a"})
        attempt.state("PROGRESS", {"percent": 50})
        attempt.touch(pack(b"s", "", "imports:7:done"))
        if status == RETRY:
            attempt.end(RETRY, error_type="Busy", error="busy", traceback="Traceback ...")
        else:
            attempt.end(SUCCESS, result={"rows": 100})
        recorder.finish(attempt)
    for status in STATUSES:
        data = {"error_type": "Problem", "error": status} if status == FAILURE else {}
        recorder.record(
            facts.ended(f"run-{status}", RunFacts(task="t", created=1), stamp.epoch, status, keep=keep, data=data)
        )


def message() -> dict[str, Any]:
    """Return our header of a message."""
    ticket = {
        **{"scope": SCOPE, "key": "import:7", "generation": 3, "task_id": "run-1", "task": TASK, "fingerprint": "f"},
        **{"on_failure": "release", "ttl": 60.0, "expires": None, "deliveries": None, "rerun": False},
        "unreserved": False,
    }
    headers: dict[str, Any] = {"id": "run-1"}
    parts = {"ticket": ticket, "chain": [1, 2], "rerun_of": "run-0"}
    stamp_headers(headers, parts, after_epoch=0, queue="imports", origin=lambda: "alice")
    found: dict[str, Any] = headers[HEADER]
    return found


# -- telling what there is -------------------------------------------------------------------------------------------


def told(store: Store) -> dict[str, Any]:
    """Return what can be read of what `write` wrote, as JSON has it."""
    keys, runs = KeyProtocol(store, prefix=PREFIX, publish_lease=30, max_deliveries=10), Runs(store)
    listed = [run.id for run in runs.list(limit=100)]
    records = {name: keys.record(store_key(SCOPE, name)) for name in KEYS}
    found = {
        "state": [
            (one.scope, one.key, one.kind, one.value, one.version, one.expires_at) for one in Browser(store).list()
        ],
        "keys": [asdict(one) for one in Idempotency(keys).list()],
        "records": {name: asdict(record) for name, record in records.items() if record is not None},
        "runs": {run_id: asdict(run) for run_id in listed if (run := runs.get(run_id)) is not None},
        "listed": [asdict(run) for run in runs.list(limit=100)],
        "events": {run_id: [(one.at, one.name, one.data) for one in runs.events(run_id)] for run_id in listed},
        "logs": [asdict(line) for line in runs.logs("run-1")],
        "workers": [asdict(worker) for worker in liveness.workers(store)],
    }
    plain: dict[str, Any] = json.loads(json.dumps(found, default=repr))
    without: dict[str, Any] = _without_now(plain)
    return without


def told_of_message(header: dict[str, Any]) -> dict[str, Any]:
    """Return what can be read of a message's header."""
    stamp, ticket = read_stamp(header), read_ticket(header)
    assert stamp is not None
    assert ticket is not None
    return {"stamp": asdict(stamp), "ticket": asdict(ticket), "key": read_key(header)}


def _without_now(found: Any) -> Any:
    """Leave out when it was read."""
    if isinstance(found, dict):
        return {name: _without_now(value) for name, value in found.items() if name != "read_at"}
    return [_without_now(item) for item in found] if isinstance(found, list) else found


# -- stores as files -------------------------------------------------------------------------------------------------


def dump_sqlite(path: Path) -> str:
    """Return an SQLite file as text."""
    copy = path.with_suffix(".copy")
    with sqlite3.connect(path) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    return b64encode(gzip.compress(copy.read_bytes(), mtime=0)).decode()


def restore_sqlite(text: str, path: Path) -> None:
    """Write the file that `dump_sqlite` was given."""
    path.write_bytes(gzip.decompress(b64decode(text)))


def dump_redis(client: redis.Redis[bytes]) -> list[Any]:
    """Return the keys of the prefix: name, kind, content."""
    found = []
    for key in sorted(client.scan_iter(f"{{stackstate:{PREFIX}}}:*")):
        kind = client.type(key).decode()
        content: Any
        if kind == "hash":
            content = {_text(name): _text(value) for name, value in client.hgetall(key).items()}
        elif kind == "zset":
            content = {_text(member): score for member, score in client.zrange(key, 0, -1, withscores=True)}
        else:
            content = _text(client.get(key) or b"")
        found.append([_text(key), kind, content])
    return found


def restore_redis(client: redis.Redis[bytes], dumped: list[Any], prefix: str) -> None:
    """Write what `dump_redis` returned, under another prefix."""
    for name, kind, content in dumped:
        key = b64decode(name).replace(b"{stackstate:%s}" % PREFIX.encode(), b"{stackstate:%s}" % prefix.encode())
        if kind == "hash":
            client.hset(key, mapping={b64decode(field): b64decode(value) for field, value in content.items()})
        elif kind == "zset":
            client.zadd(key, {b64decode(member): score for member, score in content.items()})
        else:
            client.set(key, b64decode(content))


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def freeze(redis_url: str) -> dict[str, Any]:
    """Return the data of this format with what is told of it, from an SQLite file and an empty Redis database."""
    frozen: dict[str, Any] = {"message": message(), "ranks": {status: rank(status, 7) for status in STATUSES}}
    frozen["told_of_message"] = told_of_message(frozen["message"])
    with TemporaryDirectory() as folder:
        path = Path(folder, "stackstate.sqlite3")
        for name, url in (("sqlite", f"sqlite:///{path}"), ("redis", redis_url)):
            store = open_store(url, prefix=PREFIX, timeout=5)
            write(store)
            store.check()
            frozen[name] = {"told": told(store)}
            store.close()
        frozen["sqlite"]["data"] = dump_sqlite(path)
        with redis.Redis.from_url(redis_url) as client:
            frozen["redis"]["data"] = dump_redis(client)
    return frozen


if __name__ == "__main__":
    socket.gethostname = lambda: "host.example"
    GOLDEN.write_text(json.dumps(freeze(sys.argv[1]), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
