"""The protocol of idempotency keys over every store, without Celery."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest

from celery_stackstate import liveness
from celery_stackstate.errors import IdempotencyConflict
from celery_stackstate.idempotency import Idempotency
from celery_stackstate.key_record import Attempt, Claim, Reservation, Verdict
from celery_stackstate.liveness import Lease
from celery_stackstate.stores.base import Store

KEY = "stripe:evt_1"
HERE = Lease("celery@here", "boot-1")


@pytest.fixture
def keys(store: Store) -> Idempotency:
    liveness.renew(store, HERE, seconds=60, pids=[1, 2], before=0)
    return Idempotency(store, prefix="test", publish_lease=0.2, max_deliveries=3)


def reserve(keys: Idempotency, **changes: Any) -> Reservation:
    defaults = {"scope": "task:pay", "key": KEY, "task": "pay", "fingerprint": "a" * 64, "on_failure": "release"}
    return keys.reserve(**{**defaults, "ttl": 60.0, **changes})


def attempt(lease: Lease = HERE, pid: int = 1) -> Attempt:
    return Attempt(uuid4().hex, lease, pid, 1)


def begun(keys: Idempotency, **changes: Any) -> Claim:
    reservation = reserve(keys, **changes)
    keys.confirm(reservation)
    claim = keys.claim(reservation.ticket, attempt())
    assert claim.verdict is Verdict.RUN
    return claim


def test_of_many_requests_at_once_one_creates_the_run(keys: Idempotency) -> None:
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda _: reserve(keys), range(20)))
    assert sorted(one.created for one in got) == [False] * 19 + [True]
    assert len({one.ticket.task_id for one in got}) == 1


def test_another_fingerprint_conflicts_and_names_both(keys: Idempotency) -> None:
    first = reserve(keys)
    with pytest.raises(IdempotencyConflict) as caught:
        reserve(keys, fingerprint="b" * 64)
    error = caught.value
    assert (error.key, error.task_id) == (KEY, first.ticket.task_id)
    assert (error.stored_fingerprint, error.given_fingerprint) == ("a" * 64, "b" * 64)
    assert first.ticket.task_id in str(error)
    assert keys.claim(first.ticket, attempt()).verdict is Verdict.RUN


def test_keys_of_other_scopes_are_other_keys(keys: Idempotency) -> None:
    ids = {reserve(keys, scope=scope).ticket.task_id for scope in ("task:pay", "task:mail", "")}
    assert len(ids) == 3


def test_a_dead_producers_reservation_is_taken_over_with_the_same_id(keys: Idempotency) -> None:
    dead = reserve(keys)
    assert not reserve(keys).created
    time.sleep(0.25)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, dead.ticket)
    keys.confirm(dead)
    assert not reserve(keys).created


def test_a_release_frees_the_key_and_an_abandoned_one_keeps_the_id(keys: Idempotency) -> None:
    first = reserve(keys)
    keys.abandon(first)
    second = reserve(keys)
    assert (second.created, second.ticket.task_id) == (True, first.ticket.task_id)
    keys.release(second)
    third = reserve(keys)
    assert third.created
    assert third.ticket.task_id != first.ticket.task_id


def test_a_confirmed_key_does_not_end_with_the_lease(keys: Idempotency) -> None:
    keys.confirm(reserve(keys))
    time.sleep(0.25)
    assert not reserve(keys).created


def test_a_success_is_replayed_and_never_run_again(keys: Idempotency) -> None:
    claim = begun(keys)
    assert keys.succeed(claim, '{"n":1}') is not None
    again = keys.claim(claim.record.ticket, attempt())
    assert (again.verdict, again.record.result) == (Verdict.REPLAY, '{"n":1}')
    assert not reserve(keys).created


def test_a_success_whose_result_could_not_be_kept_is_not_run_again_either(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.succeed(claim, None)
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.DONE


def test_the_key_is_free_when_its_ttl_after_the_end_has_passed(keys: Idempotency) -> None:
    claim = begun(keys, ttl=0.2)
    time.sleep(0.25)
    assert not reserve(keys).created
    keys.succeed(claim, "1")
    time.sleep(0.25)
    fresh = reserve(keys)
    assert fresh.created
    assert fresh.ticket.generation > claim.record.ticket.generation


def test_a_final_failure_releases_the_key_unless_it_is_to_be_kept(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.fail(claim)
    fresh = reserve(keys, fingerprint="b" * 64)
    assert fresh.created
    assert fresh.ticket.task_id != claim.record.ticket.task_id
    kept = begun(keys, key="kept", on_failure="keep")
    keys.fail(kept)
    duplicate = reserve(keys, key="kept")
    assert (duplicate.created, duplicate.ticket.task_id) == (False, kept.record.ticket.task_id)


def test_a_message_of_an_older_generation_does_nothing(keys: Idempotency) -> None:
    old = begun(keys)
    keys.fail(old)
    fresh = reserve(keys)
    assert keys.claim(old.record.ticket, attempt()).verdict is Verdict.STALE
    assert keys.claim(fresh.ticket, attempt()).verdict is Verdict.RUN


def test_a_copy_of_a_live_run_is_told_to_come_back(keys: Idempotency) -> None:
    claim = begun(keys)
    assert keys.claim(claim.record.ticket, attempt(pid=2)).verdict is Verdict.BUSY
    assert not reserve(keys).created


def test_a_run_whose_worker_is_gone_is_taken_over_under_its_id(keys: Idempotency, store: Store) -> None:
    gone = Lease("celery@gone", "boot-9")
    liveness.renew(store, gone, seconds=0.2, pids=[1], before=0)
    reservation = reserve(keys)
    dead = keys.claim(reservation.ticket, attempt(gone))
    assert not reserve(keys).created
    time.sleep(0.25)
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


def test_a_child_that_left_the_pool_is_noticed_after_two_renewals(keys: Idempotency, store: Store) -> None:
    claim = begun(keys)
    renewed(store, 1, 2)
    assert keys.claim(claim.record.ticket, attempt(pid=2)).verdict is Verdict.BUSY
    renewed(store, 2, 3)
    over = keys.claim(claim.record.ticket, attempt(pid=3))
    assert (over.verdict, over.lost) == (Verdict.RUN, claim.record)


def test_a_child_that_was_forked_while_the_list_was_made_is_not_taken_for_dead(keys: Idempotency, store: Store) -> None:
    before = liveness.renew(store, HERE, seconds=60, pids=[1], before=0)
    time.sleep(0.01)
    ticket = reserve(keys).ticket
    assert keys.claim(ticket, attempt(pid=9)).verdict is Verdict.RUN
    liveness.renew(store, HERE, seconds=60, pids=[1], before=before)
    assert keys.claim(ticket, attempt(pid=1)).verdict is Verdict.BUSY


def test_a_run_that_kills_its_workers_is_stopped(keys: Idempotency, store: Store) -> None:
    ticket = begun(keys).record.ticket
    for pid in (4, 5):
        renewed(store, pid)
        assert keys.claim(ticket, attempt(pid=pid)).verdict is Verdict.RUN
    renewed(store, 6)
    poison = keys.claim(ticket, attempt(pid=6))
    assert (poison.verdict, poison.record.deliveries) == (Verdict.POISON, 3)


def test_a_success_whose_callbacks_are_out_is_not_replayed(keys: Idempotency) -> None:
    claim = begun(keys)
    done = keys.succeed(claim, "1")
    assert done is not None
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.REPLAY
    keys.dispatched(done)
    assert keys.claim(claim.record.ticket, attempt()).verdict is Verdict.DONE
    assert not reserve(keys).created


def test_an_interrupted_attempt_frees_the_run_at_once(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.interrupted(claim)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, claim.record.ticket)


def test_a_retry_passes_and_does_not_count_as_a_delivery(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.retrying(claim)
    assert not reserve(keys).created
    again = keys.claim(claim.record.ticket, attempt())
    assert (again.verdict, again.record.deliveries) == (Verdict.RUN, 1)


def test_a_record_that_the_store_lost_is_made_again_from_the_message(keys: Idempotency, store: Store) -> None:
    reservation = reserve(keys)
    store.remove(reservation.ticket.store_key)
    claim = keys.claim(reservation.ticket, attempt())
    assert claim.verdict is Verdict.RUN
    assert not reserve(keys).created


def test_closing_leaves_a_run_that_was_published_since(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.interrupted(claim)
    again = reserve(keys)
    assert (again.created, again.ticket) == (True, claim.record.ticket)
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    assert keys.claim(again.ticket, attempt()).verdict is Verdict.RUN


def test_closing_what_never_began_leaves_a_live_attempt(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.close(claim.record.ticket, lease=HERE, pid=0)
    assert keys.succeed(claim, "1") is not None
    waiting = reserve(keys, key="another")
    keys.close(waiting.ticket, lease=HERE, pid=0)
    assert reserve(keys, key="another").ticket.task_id != waiting.ticket.task_id


def test_closing_ends_a_run_once_and_only_the_keys_own(keys: Idempotency) -> None:
    claim = begun(keys)
    keys.close(claim.record.ticket, lease=Lease("celery@there", "boot-1"), pid=1)
    assert not reserve(keys).created
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    fresh = reserve(keys)
    assert fresh.created
    keys.close(claim.record.ticket, lease=HERE, pid=1)
    assert not reserve(keys).created


def test_a_key_is_told_and_can_be_reset_whatever_its_run_does(keys: Idempotency) -> None:
    assert keys.get(KEY, task="pay") is None
    assert not keys.reset(KEY, task="pay")
    claim = begun(keys)
    ticket = claim.record.ticket
    known = keys.get(KEY, task="pay")
    assert known is not None
    assert (known.key, known.task, known.run_id, known.state) == (KEY, "pay", ticket.task_id, "RUNNING")
    assert keys.get(KEY) is None
    assert keys.reset(KEY, task="pay")
    assert not keys.reset(KEY, task="pay")
    assert keys.claim(ticket, attempt()).verdict is Verdict.DONE
    fresh = reserve(keys, fingerprint="b" * 64)
    assert fresh.created
    assert keys.claim(ticket, attempt()).verdict is Verdict.STALE
    assert keys.claim(fresh.ticket, attempt()).verdict is Verdict.RUN
    assert keys.succeed(claim, "1") is None


def test_a_kept_failure_can_be_reset(keys: Idempotency) -> None:
    claim = begun(keys, on_failure="keep")
    keys.fail(claim)
    assert not reserve(keys, on_failure="keep").created
    assert keys.reset(KEY, task="pay")
    assert reserve(keys, on_failure="keep").created
