"""The protocol of idempotency keys over every store, without Celery."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from celery_stackstate import liveness
from celery_stackstate.errors import ConfigurationError, DuplicateRun, IdempotencyConflict
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.key_protocol import KeyProtocol
from celery_stackstate.key_record import Attempt, Claim, Request, Reservation, Ticket, Verdict, Window
from celery_stackstate.keys import ONE_RUN, OPEN, pack
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import Store

KEY = "stripe:evt_1"
HERE = Lease("celery@here", "boot-1")
#: Seconds: long enough for what comes before it ends, also on a slow disk.
LEASE = 1.0


@pytest.fixture
def keys(store: Store) -> KeyProtocol:
    liveness.renew(store, HERE, seconds=60, pids=[1, 2], before=0)
    return KeyProtocol(store, prefix="test", publish_lease=LEASE, max_deliveries=3)


def reserve(keys: KeyProtocol, **changes: Any) -> Reservation:
    defaults = {"scope": "task:pay", "key": KEY, "task": "pay", "fingerprint": "a" * 64, "on_failure": "release"}
    return keys.reserve(Request(**{**defaults, "ttl": 60.0, **changes}))


def attempt(lease: Lease = HERE, pid: int = 1) -> Attempt:
    return Attempt(uuid4().hex, lease, pid, 1)


def begun(keys: KeyProtocol, **changes: Any) -> Claim:
    reservation = reserve(keys, **changes)
    keys.confirm(reservation)
    claim = keys.claim(reservation.ticket, attempt())
    assert claim.verdict is Verdict.RUN
    return claim


def test_of_many_requests_at_once_one_creates_the_run(store: Store) -> None:
    keys = KeyProtocol(store, prefix="test", publish_lease=60, max_deliveries=3)
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda _: reserve(keys), range(20)))
    assert sorted(one.created for one in got) == [False] * 19 + [True]
    assert len({one.ticket.task_id for one in got}) == 1


def test_another_fingerprint_conflicts_and_names_both(keys: KeyProtocol) -> None:
    first = reserve(keys)
    with pytest.raises(IdempotencyConflict) as caught:
        reserve(keys, fingerprint="b" * 64)
    error = caught.value
    assert (error.key, error.task_id) == (KEY, first.ticket.task_id)
    assert (error.stored_fingerprint, error.given_fingerprint) == ("a" * 64, "b" * 64)
    assert first.ticket.task_id in str(error)
    assert keys.claim(first.ticket, attempt()).verdict is Verdict.RUN


def test_keys_of_other_scopes_are_other_keys(keys: KeyProtocol) -> None:
    ids = {reserve(keys, scope=scope).ticket.task_id for scope in ("task:pay", "task:mail", "")}
    assert len(ids) == 3


def test_a_dead_producers_reservation_is_taken_over_with_the_same_id(keys: KeyProtocol) -> None:
    dead = reserve(keys)
    assert not reserve(keys).created
    time.sleep(LEASE + 0.05)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, dead.ticket)
    keys.confirm(dead)
    assert not reserve(keys).created


def test_a_release_frees_the_key_and_an_abandoned_one_keeps_the_id(keys: KeyProtocol) -> None:
    first = reserve(keys)
    keys.abandon(first)
    second = reserve(keys)
    assert (second.created, second.ticket.task_id) == (True, first.ticket.task_id)
    keys.release(second)
    third = reserve(keys)
    assert third.created
    assert third.ticket.task_id != first.ticket.task_id


def test_a_confirmed_key_does_not_end_with_the_lease(keys: KeyProtocol) -> None:
    keys.confirm(reserve(keys))
    time.sleep(LEASE + 0.05)
    assert not reserve(keys).created


def test_a_success_is_replayed_and_never_run_again(keys: KeyProtocol) -> None:
    claim = begun(keys)
    assert keys.succeed(claim, '{"n":1}') is not None
    again = keys.claim(claim.record.ticket, attempt())
    assert (again.verdict, again.record.result) == (Verdict.REPLAY, '{"n":1}')
    assert not reserve(keys).created


def test_a_success_whose_result_could_not_be_kept_is_not_run_again_either(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.succeed(claim, None)
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.DONE


def test_the_key_is_free_when_its_ttl_after_the_end_has_passed(keys: KeyProtocol) -> None:
    claim = begun(keys, ttl=0.2)
    time.sleep(0.25)
    assert not reserve(keys).created
    keys.succeed(claim, "1")
    time.sleep(0.25)
    fresh = reserve(keys)
    assert fresh.created
    assert fresh.ticket.generation > claim.record.ticket.generation


def test_a_final_failure_releases_the_key_unless_it_is_to_be_kept(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.fail(claim)
    fresh = reserve(keys, fingerprint="b" * 64)
    assert fresh.created
    assert fresh.ticket.task_id != claim.record.ticket.task_id
    kept = begun(keys, key="kept", on_failure="keep")
    keys.fail(kept)
    duplicate = reserve(keys, key="kept")
    assert (duplicate.created, duplicate.ticket.task_id) == (False, kept.record.ticket.task_id)


def test_a_message_of_an_older_generation_does_nothing(keys: KeyProtocol) -> None:
    old = begun(keys)
    keys.fail(old)
    fresh = reserve(keys)
    assert keys.claim(old.record.ticket, attempt()).verdict is Verdict.STALE
    assert keys.claim(fresh.ticket, attempt()).verdict is Verdict.RUN


def test_a_copy_of_a_live_run_is_told_to_come_back(keys: KeyProtocol) -> None:
    claim = begun(keys)
    assert keys.claim(claim.record.ticket, attempt(pid=2)).verdict is Verdict.BUSY
    assert not reserve(keys).created


def test_a_run_whose_worker_is_gone_is_taken_over_under_its_id(keys: KeyProtocol, store: Store) -> None:
    gone = Lease("celery@gone", "boot-9")
    liveness.renew(store, gone, seconds=LEASE, pids=[1], before=0)
    reservation = reserve(keys)
    dead = keys.claim(reservation.ticket, attempt(gone))
    assert not reserve(keys).created
    time.sleep(LEASE + 0.05)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, reservation.ticket)
    assert again.lost == dead.record
    claim = keys.claim(again.ticket, attempt())
    assert (claim.verdict, claim.record.deliveries) == (Verdict.RUN, 2)
    assert keys.succeed(dead, "1") is None  # the stalled attempt cannot overwrite
    assert keys.succeed(claim, "2") is not None


def renewed(store: Store, *pids: int) -> None:
    """Renew the lease twice with a list of processes, so that it tells about all that began before."""
    time.sleep(0.01)
    first = liveness.renew(store, HERE, seconds=60, pids=pids, before=0)
    liveness.renew(store, HERE, seconds=60, pids=pids, before=first)


def test_a_child_that_left_the_pool_is_noticed_after_two_renewals(keys: KeyProtocol, store: Store) -> None:
    claim = begun(keys)
    renewed(store, 1, 2)
    assert keys.claim(claim.record.ticket, attempt(pid=2)).verdict is Verdict.BUSY
    renewed(store, 2, 3)
    over = keys.claim(claim.record.ticket, attempt(pid=3))
    assert (over.verdict, over.lost) == (Verdict.RUN, claim.record)


def test_a_child_that_was_forked_while_the_list_was_made_is_not_taken_for_dead(keys: KeyProtocol, store: Store) -> None:
    before = liveness.renew(store, HERE, seconds=60, pids=[1], before=0)
    time.sleep(0.01)
    ticket = reserve(keys).ticket
    assert keys.claim(ticket, attempt(pid=9)).verdict is Verdict.RUN
    liveness.renew(store, HERE, seconds=60, pids=[1], before=before)
    assert keys.claim(ticket, attempt(pid=1)).verdict is Verdict.BUSY


def test_a_run_that_kills_its_workers_is_stopped(keys: KeyProtocol, store: Store) -> None:
    ticket = begun(keys).record.ticket
    for pid in (4, 5):
        renewed(store, pid)
        assert keys.claim(ticket, attempt(pid=pid)).verdict is Verdict.RUN
    renewed(store, 6)
    poison = keys.claim(ticket, attempt(pid=6))
    assert (poison.verdict, poison.record.deliveries) == (Verdict.POISON, 3)


def test_a_success_whose_callbacks_are_out_is_not_replayed(keys: KeyProtocol) -> None:
    claim = begun(keys)
    done = keys.succeed(claim, "1")
    assert done is not None
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.REPLAY
    keys.dispatched(done)
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.DONE
    assert not reserve(keys).created


def test_an_interrupted_attempt_frees_the_run_at_once(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.interrupted(claim)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, claim.record.ticket)


def test_a_retry_passes_and_does_not_count_as_a_delivery(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.retrying(claim)
    assert not reserve(keys).created
    again = keys.claim(claim.record.ticket, attempt())
    assert (again.verdict, again.record.deliveries) == (Verdict.RUN, 1)


def test_a_record_that_the_store_lost_is_made_again_from_the_message(keys: KeyProtocol, store: Store) -> None:
    reservation = reserve(keys)
    store.remove(reservation.ticket.store_key)
    claim = keys.claim(reservation.ticket, attempt())
    assert claim.verdict is Verdict.RUN
    assert not reserve(keys).created


def test_closing_leaves_a_run_that_was_published_since(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.interrupted(claim)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, claim.record.ticket)
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    assert keys.claim(again.ticket, attempt()).verdict is Verdict.RUN


def test_closing_what_never_began_leaves_a_live_attempt(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.close(claim.record.ticket, lease=HERE, pid=0)
    assert keys.succeed(claim, "1") is not None
    waiting = reserve(keys, key="another")
    keys.close(waiting.ticket, lease=HERE, pid=0)
    assert reserve(keys, key="another").ticket.task_id != waiting.ticket.task_id


def test_closing_ends_a_run_once_and_only_the_keys_own(keys: KeyProtocol) -> None:
    claim = begun(keys)
    keys.close(claim.record.ticket, lease=Lease("celery@there", "boot-1"), pid=1)
    assert not reserve(keys).created
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    fresh = reserve(keys)
    assert fresh.created
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    assert not reserve(keys).created


def test_a_key_is_told_and_can_be_reset_whatever_its_run_does(keys: KeyProtocol) -> None:
    assert Idempotency(keys).get(KEY, task="pay") is None
    assert not Idempotency(keys).reset(KEY, task="pay")
    claim = begun(keys)
    ticket = claim.record.ticket
    known = Idempotency(keys).get(KEY, task="pay")
    assert known is not None
    assert (known.key, known.task, known.run_id, known.state) == (KEY, "pay", ticket.task_id, "RUNNING")
    assert Idempotency(keys).get(KEY) is None
    assert Idempotency(keys).reset(KEY, task="pay")
    assert not Idempotency(keys).reset(KEY, task="pay")
    assert keys.claim(ticket, attempt()).verdict is Verdict.DONE
    fresh = reserve(keys, fingerprint="b" * 64)
    assert fresh.created
    assert keys.claim(ticket, attempt()).verdict is Verdict.STALE
    assert keys.claim(fresh.ticket, attempt()).verdict is Verdict.RUN
    assert keys.succeed(claim, "1") is None


def test_a_kept_failure_can_be_reset(keys: KeyProtocol) -> None:
    claim = begun(keys, on_failure="keep")
    keys.fail(claim)
    assert not reserve(keys, on_failure="keep").created
    assert Idempotency(keys).reset(KEY, task="pay")
    assert reserve(keys, on_failure="keep").created


# -- who may publish a run again -----------------------------------------------------------------------------------


def test_nobody_revives_a_run_that_somebody_looks_after(keys: KeyProtocol) -> None:
    fresh = reserve(keys)
    place = fresh.ticket.store_key
    assert keys.revive(place) is None
    keys.confirm(fresh)
    assert keys.revive(place) is None
    claim = keys.claim(fresh.ticket, attempt())
    assert keys.revive(place) is None
    keys.succeed(claim, "1")
    assert keys.revive(place) is None


def test_a_run_that_was_given_up_is_revived_once_with_its_envelope(keys: KeyProtocol) -> None:
    claim = begun(keys, envelope="how to publish it")
    keys.interrupted(claim)
    revived = keys.revive(claim.record.ticket.store_key)
    assert revived is not None
    assert (True, "how to publish it", claim.record.ticket) == (
        revived.created,
        revived.record.envelope,
        revived.ticket,
    )
    assert keys.revive(claim.record.ticket.store_key) is None


def test_a_message_that_was_not_begun_by_its_deadline_is_published_again(store: Store) -> None:
    # given
    keys = KeyProtocol(store, prefix="test", publish_lease=60, max_deliveries=3, start_deadline=LEASE)
    first = reserve(keys)
    keys.confirm(first)
    later = reserve(keys, key="with an ETA", not_before=time.time_ns() // 1000 + 60_000_000)
    keys.confirm(later)
    assert not reserve(keys).created

    # when
    time.sleep(LEASE + 0.05)

    # then
    again = reserve(keys)
    assert (True, True, first.ticket) == (again.created, again.revived, again.ticket)
    assert not reserve(keys, key="with an ETA").created


def test_what_died_too_often_is_not_revived_but_fails(keys: KeyProtocol) -> None:
    claim = begun(keys, deliveries=1)
    keys.interrupted(claim)
    place = claim.record.ticket.store_key
    assert keys.revive(place) is None
    assert keys.poisoned(place, "a reason") is not None
    record = keys.record(place)
    assert record is not None
    assert (record.state, record.error) == ("FAILED", "a reason")
    assert keys.poisoned(place, "another") is None


@pytest.mark.parametrize("on_failure", ["release", "keep"])
def test_what_died_too_often_has_failed_for_the_next_request_too(keys: KeyProtocol, on_failure: str) -> None:
    claim = begun(keys, deliveries=1, on_failure=on_failure)
    keys.interrupted(claim)
    again = reserve(keys, deliveries=1, on_failure=on_failure)
    if on_failure == "release":
        assert (again.created, again.revived) == (True, False)
        assert again.ticket.task_id != claim.record.ticket.task_id
        return
    assert (again.created, again.poisoned, again.ticket) == (False, True, claim.record.ticket)
    with pytest.raises(IdempotencyConflict):
        reserve(keys, on_failure=on_failure, fingerprint="b" * 64)
    with pytest.raises(DuplicateRun):
        reserve(keys, on_failure=on_failure, replaces=True)


def test_a_message_that_goes_back_to_its_queue_does_not_count_as_a_death(keys: KeyProtocol) -> None:
    claim = begun(keys, deliveries=1)
    for _ in range(3):
        keys.requeued(claim)
        claim = keys.claim(claim.record.ticket, attempt())
        assert claim.verdict is Verdict.RUN


def test_the_payload_of_a_run_goes_at_its_end(keys: KeyProtocol) -> None:
    for end in (lambda claim: keys.succeed(claim, "1"), lambda claim: keys.fail(claim, "why")):
        claim = begun(keys, envelope="secret", key=uuid4().hex)
        end(claim)
        record = keys.record(claim.record.ticket.store_key)
        assert record is not None
        assert record.envelope is None


# -- requests that replace others ----------------------------------------------------------------------------------


def test_a_run_that_has_not_begun_is_replaced_and_its_message_is_stale(keys: KeyProtocol) -> None:
    first = reserve(keys)
    keys.confirm(first)
    second = reserve(keys, fingerprint="b" * 64, replaces=True)
    assert second.created
    assert second.replaced is not None
    assert first.ticket == second.replaced.ticket
    assert second.ticket.task_id != first.ticket.task_id
    assert keys.claim(first.ticket, attempt()).verdict is Verdict.STALE
    assert keys.claim(second.ticket, attempt()).verdict is Verdict.RUN


def test_a_run_that_has_begun_or_ended_is_not_replaced(keys: KeyProtocol) -> None:
    claim = begun(keys)
    with pytest.raises(DuplicateRun, match="RUNNING"):
        reserve(keys, replaces=True)
    retrying = keys.retrying(claim)
    assert retrying is not None
    with pytest.raises(DuplicateRun, match="RETRYING"):
        reserve(keys, replaces=True)
    again = keys.claim(claim.record.ticket, attempt())
    keys.succeed(again, "1")
    with pytest.raises(DuplicateRun, match="SUCCEEDED"):
        reserve(keys, replaces=True)


def test_a_request_that_replaces_takes_up_a_run_that_nobody_is_left_to_run(keys: KeyProtocol) -> None:
    first, gone = reserve(keys), Lease("celery@gone", "boot-1")
    keys.confirm(first)
    for _ in range(2):
        assert keys.claim(first.ticket, attempt(gone)).verdict is Verdict.RUN
        same = reserve(keys, replaces=True)
        assert (same.created, same.revived, same.ticket) == (True, True, first.ticket)
    keys.claim(first.ticket, attempt(gone))
    keys.reset(first.ticket.store_key)
    second = reserve(keys)
    keys.claim(second.ticket, attempt(gone))
    other = reserve(keys, replaces=True, fingerprint="b" * 64)
    assert (other.created, other.revived) == (True, False)
    assert keys.claim(second.ticket, attempt()).verdict is Verdict.STALE


@pytest.mark.parametrize("how", ["replaced", "reset"])
def test_a_message_that_is_to_do_nothing_does_nothing_after_the_ttl_either(keys: KeyProtocol, how: str) -> None:
    old = reserve(keys, ttl=0.2)
    keys.confirm(old)
    if how == "reset":
        assert keys.reset(old.ticket.store_key)
    else:
        new = reserve(keys, ttl=0.2, fingerprint="b" * 64, replaces=True)
        keys.confirm(new)
        assert keys.succeed(keys.claim(new.ticket, attempt()), "1") is not None
    time.sleep(0.4)
    assert keys.claim(old.ticket, attempt()).verdict in (Verdict.STALE, Verdict.DONE)
    after = reserve(keys, ttl=0.2)
    assert (after.created, after.ticket.task_id != old.ticket.task_id) == (True, True)
    assert keys.claim(old.ticket, attempt()).verdict is Verdict.STALE


def test_a_call_that_takes_a_run_up_says_when_it_expires(keys: KeyProtocol) -> None:
    keys.abandon(reserve(keys, expires=1, envelope="old"))
    again = reserve(keys, expires=10**18, envelope="new")
    assert (again.revived, again.record.envelope, again.ticket.expires) == (True, "new", 10**18)
    keys.abandon(again)
    assert reserve(keys, expires=10**18, envelope="newer").record.envelope == "new"


# -- debounced requests --------------------------------------------------------------------------------------------

WINDOW = Window(delay=400_000, longest=900_000)


def debounced(keys: KeyProtocol, payload: str) -> Reservation:
    return reserve(keys, fingerprint=payload, envelope=payload, window=WINDOW)


def test_the_window_moves_with_each_request_up_to_the_longest_wait(keys: KeyProtocol) -> None:
    began = time.monotonic()
    first = debounced(keys, "a")
    keys.confirm(first)
    assert first.created
    for number in range(3):
        time.sleep(0.2)
        again = debounced(keys, str(number))
        assert (False, first.ticket.task_id) == (again.created, again.ticket.task_id)
        assert 0 < (keys.seconds_to_wait(first.ticket) or 0) <= 0.4
    while (left := keys.seconds_to_wait(first.ticket)) != 0:
        assert left is not None
        debounced(keys, "last")
        time.sleep(min(left, 0.05))
    assert time.monotonic() - began >= 0.88
    stored = keys._store.get(first.ticket.store_key)
    record = keys.record(first.ticket.store_key)
    assert stored is not None
    assert record is not None
    assert record.window is not None
    assert record.window.due(stored) <= record.window.opened + WINDOW.longest  # by the store's clock


def test_the_claim_takes_the_last_payload_and_ends_the_window(keys: KeyProtocol) -> None:
    first = debounced(keys, "a")
    keys.confirm(first)
    debounced(keys, "b")
    own = replace(first.ticket, scope=ONE_RUN, key=first.ticket.task_id)

    claim = keys.close_window(first.ticket, keys.claim(own, attempt()))

    assert claim is not None
    assert claim.record.envelope == "b"
    assert keys.seconds_to_wait(first.ticket) is None
    later = debounced(keys, "c")
    assert (later.created, later.ticket.task_id != first.ticket.task_id) == (True, True)
    assert (keys.record(own.store_key) or claim.record).envelope == "b"


def test_a_debounced_run_that_failed_before_its_begin_and_is_kept_is_free_after_its_ttl(keys: KeyProtocol) -> None:
    first = reserve(keys, fingerprint="a", window=WINDOW, on_failure="keep", ttl=0.3)
    keys.confirm(first)
    keys.close(first.ticket, lease=Lease("w", "b"), pid=0, error="revoked")
    again = debounced(keys, "b")
    assert (again.created, again.ticket.task_id) == (False, first.ticket.task_id)
    time.sleep(0.35)
    assert debounced(keys, "c").created


def test_a_debounced_request_whose_producer_died_is_published_by_the_next(keys: KeyProtocol) -> None:
    dead = debounced(keys, "a")
    assert not debounced(keys, "b").created
    time.sleep(LEASE + 0.05)
    again = debounced(keys, "c")
    assert (True, dead.ticket.task_id) == (again.created, again.ticket.task_id)
    keys.confirm(again)
    assert not debounced(keys, "d").created


def test_a_confirmation_that_meets_a_later_payload_keeps_it(keys: KeyProtocol) -> None:
    first = debounced(keys, "a")
    debounced(keys, "b")
    keys.confirm(first)
    record = keys.record(first.ticket.store_key)
    assert record is not None
    assert (record.state, record.envelope) == ("PUBLISHED", "b")


# -- what a publisher by name did not know -------------------------------------------------------------------------


def test_a_claim_keeps_what_the_publisher_did_not_know_of_each_run_of_an_id(keys: KeyProtocol) -> None:
    watched = pack(OPEN, ONE_RUN, "mine")
    for generation in (1, 2):
        ticket = Ticket(ONE_RUN, "mine", generation, "mine", "pay", "", "keep", 60.0, deliveries=3, rerun=True)
        claim = keys.claim(ticket, attempt(), envelope=f"as asked {generation}".strip)
        assert f"as asked {generation}" == claim.record.envelope
        assert keys._store.remove(watched) is not None
        keys.succeed(claim, "1")


def test_a_claim_completes_the_record_of_a_reservation(keys: KeyProtocol) -> None:
    first = reserve(keys, envelope="as reserved")
    claim = keys.claim(replace(first.ticket, rerun=True, deliveries=3), attempt(), envelope="as claimed".strip)
    assert (
        claim.record.ticket.rerun,
        claim.record.ticket.deliveries,
        claim.record.envelope,
    ) == (True, 3, "as reserved")
    assert keys._store.get(pack(OPEN, first.ticket.scope, KEY)) is not None


# -- runs without a reservation ------------------------------------------------------------------------------------


def test_of_two_runs_without_a_reservation_one_has_the_key_and_the_other_follows(keys: KeyProtocol) -> None:
    tickets = [keys.unreserved(Request("task:pay", KEY, "pay", "a", "release", 60.0)) for _ in range(2)]
    assert len({ticket.task_id for ticket in tickets}) == 2
    for order in (tickets, tickets[::-1]):
        first, second = (keys.claim(ticket, attempt()) for ticket in order)
        assert [first.verdict, second.verdict] == [Verdict.RUN, Verdict.FOLLOW]
        keys.succeed(first, "1")
        assert keys.claim(order[1], attempt()).verdict is Verdict.FOLLOW
        Idempotency(keys).reset(KEY, task="pay")
        keys._store.remove(order[0].store_key)


# -- for people ----------------------------------------------------------------------------------------------------


def test_keys_are_listed_in_order_and_page_by_page(keys: KeyProtocol) -> None:
    for name in ("b", "a", "c"):
        reserve(keys, key=name)
    reserve(keys, key="other", scope="")
    reserve(keys, key=uuid4().hex, scope=ONE_RUN)
    first = Idempotency(keys).list(task="pay", limit=2)
    assert [one.key for one in first] == ["a", "b"]
    assert [one.key for one in Idempotency(keys).list(task="pay", limit=2, after=first.next)] == ["c"]
    assert [one.key for one in Idempotency(keys).list("b", task="pay")] == ["b"]
    assert {"a", "b", "c", "other"} == {one.key for one in Idempotency(keys).list()}
    with pytest.raises(ConfigurationError, match="task="):
        Idempotency(keys).list("b")
    with pytest.raises(ConfigurationError, match="next"):
        Idempotency(keys).list(after="nonsense!")
