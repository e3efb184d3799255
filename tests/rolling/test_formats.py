"""What a release does with data of a release ahead of it: what was added is kept, what it cannot read is left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu.utils import json as kombu_json

from celery_stackstate import lock_record
from celery_stackstate.browse import Browser, Unreadable
from celery_stackstate.codec import FORMAT
from celery_stackstate.errors import ConfigurationError, LockBusy, NewerFormat
from celery_stackstate.header import HEADER, HEADER_FORMAT, is_newer, read_key, read_stamp, read_ticket, stamp_headers
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import Attempt, Request, Reservation, Verdict, Window, store_key
from celery_stackstate.keys import LOCK, STATE, pack
from celery_stackstate.latest import load_progress
from celery_stackstate.liveness import Lease
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.recorder import Recorder
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import Store
from tests.waiting import wait_for

SCOPE, KEY = "task:shop.pay", "order:1"
PLACE = store_key(SCOPE, KEY)
HERE = Lease("here", "")
FUTURE = b'{"$type":"complex","is":[1.0,2.0]}'


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/state.sqlite3"}
    url = urls.get(request.param) or request.getfixturevalue("redis_url")
    opened = open_store(url, prefix=f"test-{uuid4().hex}", timeout=5)
    yield opened
    opened.close()


@pytest.fixture
def keys(store: Store) -> KeyProtocol:
    return KeyProtocol(store, prefix="", publish_lease=30, max_deliveries=10)


@pytest.fixture
def state(store: Store) -> State:
    return State(store, RunContext(), limit=262_144)


def reserve(keys: KeyProtocol, **options: Any) -> Reservation:
    ask = Request(SCOPE, KEY, "shop.pay", fingerprint="f", on_failure="release", ttl=60.0, **options)
    return keys.reserve(ask)


def attempt() -> Attempt:
    return Attempt(uuid4().hex, HERE, pid=1, epoch=1)


def stored(store: Store) -> dict[str, Any]:
    """Return the record of the key as it is stored."""
    entry = store.get(PLACE)
    assert entry is not None
    assert isinstance(entry.value, bytes)
    found: dict[str, Any] = json.loads(entry.value)
    return found


def rewrite(store: Store, **changes: Any) -> bytes:
    """Change the stored record as a newer release would, and return its bytes."""
    value = json.dumps({**stored(store), **changes}).encode()
    store.put(PLACE, value)
    return value


# -- records of keys -------------------------------------------------------------------------------------------------


def test_a_record_says_its_format(store: Store, keys: KeyProtocol) -> None:
    reserve(keys)
    assert stored(store)[FORMAT] == 1


def test_a_record_without_a_number_has_the_first_format(store: Store, keys: KeyProtocol) -> None:
    reservation = reserve(keys)
    old = {name: value for name, value in stored(store).items() if name != FORMAT}
    store.put(PLACE, json.dumps(old).encode())
    assert keys.record(PLACE) == reservation.record


def test_what_a_newer_release_added_to_a_record_outlives_every_change_made_here(
    store: Store, keys: KeyProtocol
) -> None:
    ticket = reserve(keys, window=Window(1, 1)).ticket
    found = stored(store)
    added = {"ticket": {**found["ticket"], "region": "eu"}, "window": {**found["window"], "jitter": 3}, "cost": [1]}
    rewrite(store, **added)
    claim = keys.claim(ticket, attempt())
    assert claim.verdict is Verdict.RUN
    for change in (keys.retrying, keys.interrupted, lambda held: keys.succeed(held, "1"), keys.dispatched):
        held = change(claim)
        assert held is not None
        claim = held
        after = stored(store)
        assert (after["cost"], after["ticket"]["region"], after["window"]["jitter"]) == ([1], "eu", 3)
    assert Idempotency(keys).reset(KEY, task="shop.pay")
    assert (stored(store)["state"], stored(store)["cost"]) == ("FAILED", [1])


def test_what_a_newer_release_added_is_of_its_run_and_not_of_the_next_one(store: Store, keys: KeyProtocol) -> None:
    first = reserve(keys).ticket
    rewrite(store, cost=[1])
    Idempotency(keys).reset(KEY, task="shop.pay")
    assert reserve(keys).ticket.task_id != first.task_id
    assert "cost" not in stored(store)


def test_what_a_newer_release_added_to_a_ticket_goes_on_with_its_message(keys: KeyProtocol) -> None:
    ticket = reserve(keys).ticket
    carried = {**ticket.dump(), "region": "eu"}
    assert type(ticket).load(carried).dump() == carried
    assert type(ticket).load(carried) == ticket


def test_a_record_of_a_higher_format_is_refused_by_each_call_and_stays_as_it_is(
    store: Store, keys: KeyProtocol
) -> None:
    ticket = reserve(keys).ticket
    value = rewrite(store, **{FORMAT: 2, "ticket": "elsewhere"})
    calls = {
        "reserve": lambda: reserve(keys),
        "replace": lambda: reserve(keys, replaces=True),
        "revive": lambda: keys.revive(PLACE),
        "claim": lambda: keys.claim(ticket, attempt()),
        "close": lambda: keys.close(ticket, lease=HERE, pid=0),
        "disclaim": lambda: keys.disclaim(ticket, attempt()),
        "poisoned": lambda: keys.poisoned(PLACE, "x"),
        "awaited": lambda: keys.awaited(PLACE),
        "reset": lambda: Idempotency(keys).reset(KEY, task="shop.pay"),
    }
    for name, call in calls.items():
        with pytest.raises(NewerFormat, match=r"the key 'order:1' has format 2.*upgrade this process") as caught:
            call()
        entry = store.get(PLACE)
        assert entry is not None, name
        assert entry.value == value, name
    assert vars(caught.value) == {"format": 2, "known": 1}


def test_a_record_that_cannot_be_read_is_listed_and_hides_no_other(store: Store, keys: KeyProtocol) -> None:
    reserve(keys)
    rewrite(store, **{FORMAT: 2})
    keys.reserve(Request(SCOPE, "order:2", "shop.pay", fingerprint="f", on_failure="release", ttl=60.0))
    found = [(record.key, record.scope, record.state) for record in Idempotency(keys).list(task="shop.pay")]
    assert found == [("order:1", SCOPE, "UNREADABLE"), ("order:2", SCOPE, "RESERVED")]
    one = Idempotency(keys).get(KEY, task="shop.pay")
    assert one is not None
    assert (one.state, one.run_id, one.free) == ("UNREADABLE", "", False)


def test_the_reaper_goes_on_looking_after_a_record_that_it_cannot_read(store: Store, keys: KeyProtocol) -> None:
    reserve(keys)
    rewrite(store, **{FORMAT: 2})
    assert keys.free([PLACE, b"nothing"]) == [b"nothing"]


def test_what_waits_for_a_record_that_cannot_be_read_keeps_nothing_else_from_being_done(keys: KeyProtocol) -> None:
    done, recorder = [], Recorder(open_store("memory://"))

    def refused() -> None:
        raise NewerFormat

    recorder.later(refused)
    recorder.later(lambda: done.append(True))
    wait_for(lambda: done, message="what stood behind it")


# -- values ----------------------------------------------------------------------------------------------------------


def test_a_value_with_a_type_of_a_newer_release_is_refused_and_stays_as_it_is(store: Store, state: State) -> None:
    place = pack(STATE, "", "k")
    store.put(place, FUTURE, ttl=60_000_000)
    calls = {
        "get": lambda: state.get("k"),
        "get_many": lambda: state.get_many(["k"]),
        "update": lambda: state.update("k", lambda value: value),
        "pop": lambda: state.pop("k"),
    }
    before = store.get(place)
    for name, call in calls.items():
        with pytest.raises(NewerFormat, match="'complex'"):
            call()
        entry = store.get(place)
        assert entry is not None, name
        assert before is not None
        assert (entry.value, entry.expires) == (FUTURE, before.expires), name


def test_a_value_that_cannot_be_read_keeps_its_place_when_it_is_touched(store: Store, state: State) -> None:
    store.put(pack(STATE, "", "k"), FUTURE, ttl=60_000_000)
    assert state.touch("k")
    entry = store.get(pack(STATE, "", "k"))
    assert entry is not None
    assert (entry.value, entry.expires) == (FUTURE, None)


def test_the_browser_shows_a_value_that_cannot_be_read_beside_the_others(store: Store, state: State) -> None:
    store.put(pack(STATE, "", "a"), FUTURE)
    state.set("b", 1)
    first, second = Browser(store).list()
    assert isinstance(first.value, Unreadable)
    assert "NewerFormat" in first.value.reason
    assert second.value == 1


# -- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_of_a_higher_format_is_held_by_somebody_else(store: Store, state: State) -> None:
    place = pack(LOCK, "", "catalogue")
    value = json.dumps({FORMAT: 2, "token": ["t"], "parked": True, "run": None}).encode()
    store.put(place, value, ttl=60_000_000)
    with pytest.raises(LockBusy), state.lock("catalogue", ttl=30):
        pass
    entry = store.get(place)
    assert entry is not None
    assert entry.value == value
    info = lock_record.describe("catalogue", entry)
    assert (info.owner, info.fence, info.parked) == (lock_record.FOREIGN["owner"], entry.version, False)


def test_what_a_newer_release_added_to_a_lock_changes_nothing_for_who_finds_it_busy(store: Store, state: State) -> None:
    with state.lock("catalogue", ttl=30):
        place = pack(LOCK, "", "catalogue")
        entry = store.get(place)
        assert entry is not None
        assert isinstance(entry.value, bytes)
        told = {**json.loads(entry.value), "purpose": "rebuild"}
        assert told[FORMAT] == lock_record.LOCK_FORMAT
    store.put(place, json.dumps(told).encode(), ttl=60_000_000)
    with pytest.raises(LockBusy) as busy, state.lock("catalogue", ttl=30):
        pass
    assert busy.value.owner == told["owner"]


# -- messages --------------------------------------------------------------------------------------------------------


def stamped(header: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return our header of a message that goes on with the run of `header`."""
    headers: dict[str, Any] = {"id": "r1"} if header is None else {"id": "r1", HEADER: header}
    stamp_headers(headers, {}, after_epoch=0, queue="q", origin=lambda: None)
    found: dict[str, Any] = headers[HEADER]
    return found


def test_a_header_says_its_format() -> None:
    assert stamped()[FORMAT] == HEADER_FORMAT


def test_what_a_newer_release_says_of_a_run_goes_on_with_its_messages(keys: KeyProtocol) -> None:
    first = {**stamped(), "ticket": reserve(keys).ticket.dump(), "tenant": {"id": 7}}
    first["stamp"]["shard"] = 3
    again = stamped(first)
    assert (again["tenant"], again["ticket"]) == ({"id": 7}, first["ticket"])
    assert again["stamp"]["first"] == first["stamp"]["first"]
    assert "shard" not in again["stamp"]  # which is of one message


def test_a_header_of_a_higher_format_is_not_read_and_goes_on_as_it_is(keys: KeyProtocol) -> None:
    header = {**stamped(), "ticket": reserve(keys).ticket.dump(), FORMAT: 2}
    assert is_newer(header)
    assert (read_stamp(header), read_ticket(header), read_key(header)) == (None, None, None)
    assert stamped(header) == header


def test_what_stands_behind_what_is_known_of_an_envelope_or_a_progress_is_left_out() -> None:
    text = Envelope("t", (1,), {}, {"queue": "q"}).dump()
    assert text is not None
    longer = kombu_json.dumps([*kombu_json.loads(text), "more"])
    assert Envelope.load(longer) == Envelope.load(text)
    progress = load_progress('[1, 2, "half", 0, "more"]')
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (1, 2, "half")


# -- stores ----------------------------------------------------------------------------------------------------------


def test_a_redis_that_a_newer_release_laid_out_is_refused_when_a_worker_starts(redis_url: str) -> None:
    import redis

    prefix = f"test-{uuid4().hex}"
    store, raw = open_store(redis_url, prefix=prefix, timeout=5), redis.Redis.from_url(redis_url)
    place = f"{{stackstate:{prefix}}}:layout"
    store.check()
    assert raw.get(place) == b"1"
    raw.set(place, 2)
    with pytest.raises(ConfigurationError, match=r"newer celery-stackstate \(layout 2\): upgrade"):
        store.check()
    assert raw.get(place) == b"2"
    raw.delete(place)
    store.close()
    raw.close()
