"""What goes wrong between two lines: lost answers, bad facts, finalizers that log, errors of every kind."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest

from celery_stackstate.attempt import Delivery, OpenAttempt
from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.holding import HeldLocks, LockOwner
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import Attempt, Request, Verdict
from celery_stackstate.liveness import Lease, renew
from celery_stackstate.log_tail import LogLimits
from celery_stackstate.payload import Redactor
from celery_stackstate.recorder import Recorder
from celery_stackstate.records import SUCCESS
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.stores import open_store
from celery_stackstate.stores.base import PutResult, RunFacts, RunWrite, Store, StoredEvent
from celery_stackstate.stores.memory import MemoryStore
from tests.nouns.conftest import state_of
from tests.waiting import wait_for

HERE = Lease("celery@here", "boot-1")


class LosingStore(MemoryStore):
    """A memory store between which and its user the network loses answers: of the next puts, then of the next gets."""

    lose_puts = lose_gets = 0

    def put(self, *args: Any, **options: Any) -> PutResult:
        result = super().put(*args, **options)
        if self.lose_puts:
            self.lose_puts -= 1
            raise StoreUnavailable("the answer was lost", maybe_applied=True)
        return result

    def get(self, key: bytes) -> Any:
        if self.lose_gets:
            self.lose_gets -= 1
            raise StoreUnavailable("the answer was lost", maybe_applied=False)
        return super().get(key)


class DownStore(MemoryStore):
    """A memory store to which nothing can be written while it is `down`."""

    down = False

    def append(self, writes: Sequence[RunWrite]) -> None:
        if self.down:
            raise StoreUnavailable("down", maybe_applied=False)
        super().append(writes)


@pytest.fixture
def losing() -> LosingStore:
    made = LosingStore.from_url("memory://", prefix="", timeout=1)
    assert isinstance(made, LosingStore)
    return made


def keys_over(store: Store) -> KeyProtocol:
    renew(store, HERE, seconds=60, pids=[1, 2], before=0)
    return KeyProtocol(store, prefix="", publish_lease=60, max_deliveries=3)


def reserve(keys: KeyProtocol, **changes: Any) -> Any:
    defaults = {
        "scope": "task:pay",
        "key": "k",
        "task": "pay",
        "fingerprint": "f",
        "on_failure": "release",
        "ttl": 60.0,
    }
    return keys.reserve(Request(**{**defaults, **changes}))


def attempt(run_id: str = "r") -> OpenAttempt:
    delivery = Delivery("w", "b", 1, 0, False, None, None)
    redactor = Redactor(("password",), limit=1000)
    return OpenAttempt(run_id, RunFacts(), 1, delivery, redactor=redactor, keep=lambda _: 60.0, limits=LogLimits())


def test_a_reservation_whose_answer_was_lost_is_still_ones_own(losing: LosingStore) -> None:
    keys = keys_over(losing)
    losing.lose_puts = 1
    assert reserve(keys).created
    assert not reserve(keys).created


def test_a_claim_whose_answer_was_lost_is_given_back(losing: LosingStore) -> None:
    keys = keys_over(losing)
    ticket = reserve(keys).ticket
    mine = Attempt(uuid4().hex, HERE, 1, 1)
    first_get_passes = losing.get

    def get(key: bytes) -> Any:
        found = first_get_passes(key)
        losing.lose_puts, losing.lose_gets = 1, 1
        return found

    losing.get = get  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        keys.claim(ticket, mine)
    del losing.get
    losing.lose_puts = losing.lose_gets = 0
    assert keys.claim(ticket, Attempt(uuid4().hex, HERE, 2, 1)).verdict is Verdict.BUSY
    keys.disclaim(ticket, mine)
    assert keys.claim(ticket, Attempt(uuid4().hex, HERE, 2, 1)).verdict is Verdict.RUN
    keys.disclaim(ticket, mine)
    assert keys.claim(ticket, Attempt(uuid4().hex, HERE, 1, 1)).verdict is Verdict.BUSY


def test_a_lock_that_was_given_although_no_answer_came_is_given_back_at_the_attempts_end(losing: LosingStore) -> None:
    held = HeldLocks()
    context = RunContext(LockOwner("job[r]", "execution", "r", held=held), run_id="r")
    state = State(losing, context, limit=1000)
    losing.lose_puts = losing.lose_gets = 1
    with pytest.raises(StoreUnavailable) as caught:
        state.lock("l", ttl=3600).acquire()
    assert caught.value.maybe_applied
    losing.lose_puts = losing.lose_gets = 0
    assert state.lock_info("l") is not None
    held.settle(None)
    assert state.lock_info("l") is None


def test_a_lock_whose_renewal_lost_its_answer_is_released_all_the_same(losing: LosingStore) -> None:
    lock = state_of(losing).lock("l", ttl=30)
    lock.acquire()
    losing.lose_puts, losing.lose_gets = 1, 1
    with pytest.raises(StoreUnavailable):
        lock.holding.renew()
    lock.check()
    lock.release()
    assert state_of(losing).lock_info("l") is None


def test_a_run_whose_child_died_before_the_claim_is_published_again_under_its_id() -> None:
    keys = keys_over(open_store("memory://"))
    reservation = reserve(keys)
    keys.confirm(reservation)
    assert not reserve(keys).created
    keys.close(reservation.ticket, lease=HERE, pid=1)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, reservation.ticket)


def test_a_message_that_expired_unseen_does_not_keep_its_key() -> None:
    keys = keys_over(open_store("memory://"))
    long_ago = time.time_ns() // 1000 - 120_000_000
    first = reserve(keys, expires=long_ago)
    keys.confirm(first)
    again = reserve(keys)
    assert again.created
    assert again.ticket.task_id != first.ticket.task_id


def test_a_newer_message_waits_for_a_live_run_of_an_older_generation() -> None:
    keys = keys_over(open_store("memory://"))
    ticket = reserve(keys).ticket
    assert keys.claim(ticket, Attempt(uuid4().hex, HERE, 1, 1)).verdict is Verdict.RUN
    newer = type(ticket).load({**{name: getattr(ticket, name) for name in ticket.__slots__}, "generation": 2**52})
    assert keys.claim(newer, Attempt(uuid4().hex, HERE, 2, 1)).verdict is Verdict.BUSY


def test_a_finalizer_that_logs_while_a_line_is_added_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = attempt()
    redact = Redactor.text

    def text_and_finalizer(self: Redactor, text: str, *, tail: bool = False) -> str:
        if text == "outer":
            with opened._mutex:  # as when garbage is collected inside of it
                opened.log(at=2, level=30, logger="asyncio", message="Task was destroyed but it is pending!")
        return redact(self, text, tail=tail)

    monkeypatch.setattr(Redactor, "text", text_and_finalizer)
    thread = threading.Thread(target=opened.log, kwargs={"at": 1, "level": 20, "logger": "a", "message": "outer"})
    thread.daemon = True
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    write = opened.take()
    assert write is not None
    assert len(write.logs) == 2


def test_one_fact_that_cannot_be_stored_takes_no_other_along(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(store)
    bad: Any = object()
    good = [RunWrite(f"run-{n}", 1, events=[StoredEvent("u", 1, "queued", None, b"{}")]) for n in range(3)]
    recorder.record(good[0], RunWrite(bad, 1), good[1], RunWrite("odd", 1, RunFacts(task=bad)), good[2])
    wait_for(lambda: all(store.run(f"run-{n}") for n in range(3)), message="the good facts to be written")
    if not isinstance(store, MemoryStore):  # which holds anything
        assert recorder.unrecorded >= 1
        assert "was not recorded" in caplog.text


def test_an_outage_is_one_warning_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    store = DownStore.from_url("memory://", prefix="", timeout=1)
    assert isinstance(store, DownStore)
    recorder = Recorder(store)

    def warnings() -> list[str]:
        told = {"cannot be written now": "down", "is written again": "up"}
        return [word for one in caplog.records for part, word in told.items() if part in one.getMessage()]

    for outage in (1, 2):
        # given an outage in which the store is tried again and again
        store.down = True
        for number in range(5):
            recorder._closed_until = 0.0  # the pause is over
            recorder.record(RunWrite(f"{outage}-{number}", 1, RunFacts(task="shop")))
        assert warnings() == ["down", "up"] * (outage - 1) + ["down"]

        # when it is back
        store.down, recorder._closed_until = False, 0.0
        recorder.settle()
        assert warnings() == ["down", "up"] * outage
        assert all(store.run(f"{outage}-{number}") for number in range(5))


def test_names_that_are_no_text_do_not_lose_the_run(store: Store) -> None:
    opened = attempt("named")
    opened.note("imported \udce9.csv\x00", {"path": "\udce9"})
    opened.log(at=1, level=20, logger="app.\udce9", message="\udce9")
    opened.end(SUCCESS)
    Recorder(store).finish(opened)
    found = store.run("named")
    assert found is not None
    assert [event.name for event in found[1]] == ["started", "imported ?.csv\\x00", "success"]


def test_what_is_to_be_done_in_the_store_waits_for_it_and_for_a_mended_password() -> None:
    recorder = Recorder(open_store("memory://"))
    troubles: list[Exception] = [StoreUnavailable("down"), ConfigurationError("wrong password")]
    done = []

    def chore() -> None:
        if troubles:
            raise troubles.pop()
        done.append(True)

    recorder.later(chore)
    recorder.later(lambda: done.append(True))
    wait_for(lambda: len(done) == 2, timeout=10, message="both to be done")


def test_what_waits_for_the_history_keeps_no_key_waiting() -> None:
    recorder, done = Recorder(open_store("memory://")), []

    def down() -> None:
        raise StoreUnavailable("the history's store is another one")

    recorder.later(down, history=True)
    recorder.later(lambda: done.append(True))
    recorder.later(lambda: done.append(True))
    wait_for(lambda: len(done) == 2, timeout=10, message="what the keys need to be done")


def test_a_chore_that_is_wrong_is_given_up_and_the_next_is_done(caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(open_store("memory://"))
    done = []

    def wrong() -> None:
        raise KeyError("wrong")

    recorder.later(wrong)
    recorder.later(lambda: done.append(True))
    wait_for(lambda: done, timeout=10, message="the second to be done")
    assert "failed" in caplog.text


def test_the_last_line_of_a_long_traceback_is_kept() -> None:
    redactor = Redactor(("password",), limit=1000)
    shown = redactor.text("\n".join([f"  line {n}" for n in range(10_000)] + ["ValueError: the reason"]), tail=True)
    assert shown.endswith("ValueError: the reason")
    assert len(shown) < 17_000
