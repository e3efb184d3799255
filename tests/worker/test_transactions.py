"""Idempotency keys inside Django's transactions: real databases, a real broker, real workers."""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("django")

from celery import Celery, chain, chord, group
from django.db import Error, OperationalError, connections, transaction
from pytest_celery import CeleryTestBroker, CeleryTestWorker

from celery_stackstate import DuplicateRun, IdempotencyConflict, StackState, StoreUnavailable
from tests.admin.settings import SETTINGS
from tests.stores.django_databases import (
    add_database,
    configure,
    database,
    forget_database,
    installed_app,  # noqa: F401
)
from tests.waiting import Stopwatch, wait_for
from tests.worker.probes import in_another_process, key_state, messages, notes, record, run_of, wait_for_note

configure(**SETTINGS)

CONF = {
    "stackstate_worker_lease": 2,
    "stackstate_publish_lease": 1,
    "stackstate_store_timeout": 2,
    "task_publish_retry": False,
}
pytestmark = pytest.mark.worker(
    app="tests.worker.app_django", broker="redis", conf=CONF, env={"DJANGO_SETTINGS_MODULE": "tests.admin.settings"}
)
#: Where a worker runs, one database stands for all: the transactions are told apart by the tests without one.
ONE = pytest.mark.parametrize("place", ["postgresql"], indirect=True)
SERVERS = pytest.mark.parametrize("place", ["postgresql", "mysql"], indirect=True)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of Django's with our tables: `alias|URL`."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('django') / 'db.sqlite3'}"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    with database(f"worker_{request.param}", url) as found:
        yield found


@pytest.fixture
def worker_store(place: str) -> str:
    """The place, with a prefix of the test's own."""
    return f"{place}#{uuid.uuid4().hex}"


class Undo(Exception):
    """What a caller's transaction is rolled back by."""


def elsewhere(work: Callable[[], Any]) -> Any:
    """Do something in this thread, which ends with it."""
    try:
        return work()
    finally:
        connections.close_all()


@contextmanager
def meanwhile(work: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Do something in another thread, so on another connection."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(elsewhere, work)


def ids(app: Celery) -> list[str]:
    return [message.headers["id"] for message in messages(app)]


def pay(tasks: ModuleType, amount: int = 5, **options: Any) -> Any:
    return tasks.charge.apply_async((amount,), **{"idempotency_key": "k", **options})


def state_of(app: Celery, tasks: ModuleType) -> str:
    return key_state(app, "k", tasks.charge.name)


def has_events(app: Celery, run_id: str, *names: str) -> None:
    def found() -> bool:
        return {*names} <= {event.name for event in StackState.of(app).runs.events(run_id)}

    wait_for(found, message=f"the events {names}")


# -- commit and rollback -------------------------------------------------------------------------------------------


def test_a_commit_publishes_one_message_and_one_run_follows(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    # when a worker waits for it all the time
    with tasks.atomic():
        result = pay(tasks)
        time.sleep(0.3)
        assert (notes(app, "charge"), result.created) == ([], True)

    # then
    assert result.get(timeout=10) == 5
    wait_for(lambda: state_of(app, tasks) == "SUCCEEDED", message="the key to be closed", node=celery_worker)
    assert [result.id] == [one["id"] for one in notes(app, "charge")]
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    has_events(app, result.id, "queued", "received", "success")
    assert (pay(tasks).created, pay(tasks).id) == (False, result.id)


def test_nothing_is_published_before_the_commit(app: Celery, tasks: ModuleType) -> None:
    with tasks.atomic():
        result = pay(tasks)
        assert ids(app) == []
    assert ids(app) == [result.id]
    wait_for(lambda: state_of(app, tasks) == "PUBLISHED", message="the confirmation")


@pytest.mark.parametrize("how", ["an exception", "set_rollback", "an inner block"])
def test_a_rollback_publishes_nothing_and_leaves_the_key_free(app: Celery, tasks: ModuleType, how: str) -> None:
    # when
    with suppress(Undo), tasks.atomic():
        with suppress(Undo) if how == "an inner block" else tasks.atomic(), tasks.atomic():
            gone = pay(tasks)
            if how != "set_rollback":
                raise Undo
        if how == "set_rollback":
            transaction.set_rollback(True, using=tasks.ALIAS)

    # then
    assert ids(app) == []
    assert record(app, "k", tasks.charge.name) is None
    assert StackState.of(app).runs.get(gone.id) is None
    after = pay(tasks, 6)
    assert after.created
    assert ids(app) == [after.id]


def test_a_savepoint_that_is_rolled_back_by_hand_takes_the_message_back_as_well(app: Celery, tasks: ModuleType) -> None:
    with tasks.atomic():
        savepoint = transaction.savepoint(using=tasks.ALIAS)
        pay(tasks)
        transaction.savepoint_rollback(savepoint, using=tasks.ALIAS)
    assert ids(app) == []
    after = pay(tasks, 6)
    assert (after.created, ids(app)) == (True, [after.id])


def test_a_call_after_an_inner_rollback_creates_the_run_in_the_outer_block(app: Celery, tasks: ModuleType) -> None:
    with tasks.atomic():
        with suppress(Undo), tasks.atomic():
            pay(tasks)
            raise Undo
        second = pay(tasks)
        assert second.created
    assert ids(app) == [second.id]


def test_duplicates_in_one_transaction_are_one_message(app: Celery, tasks: ModuleType) -> None:
    with tasks.atomic():
        results = [pay(tasks) for _ in range(3)]
    assert [result.created for result in results] == [True, False, False]
    assert {result.id for result in results} == {*ids(app)}
    assert len(ids(app)) == 1


def test_a_refused_call_leaves_the_transaction_usable(app: Celery, tasks: ModuleType) -> None:
    taken = pay(tasks)
    with tasks.atomic():
        with pytest.raises(IdempotencyConflict, match=taken.id):
            pay(tasks, 6)
        with pytest.raises(DuplicateRun, match=taken.id):
            pay(tasks, on_duplicate="raise")
        other = pay(tasks, 6, idempotency_key="other")
        StackState.of(app).state.set("after", 1)
    assert StackState.of(app).state.get("after") == 1
    assert ids(app) == [taken.id, other.id]


def test_the_message_has_the_arguments_of_the_call_and_not_of_the_commit(app: Celery, tasks: ModuleType) -> None:
    amounts = [1, 2]
    with tasks.atomic():
        tasks.add_up.apply_async((amounts,), {}, idempotency_key="k")
        amounts.append(3)
    (message,) = messages(app)
    assert message.payload[0] == [[1, 2]]


def test_a_producer_that_is_the_pools_again_at_the_commit_is_not_used(app: Celery, tasks: ModuleType) -> None:
    with tasks.atomic():
        with app.producer_pool.acquire(block=True) as producer:
            result = pay(tasks, producer=producer)
        with app.connection_for_write() as connection:
            other = pay(tasks, connection=connection, idempotency_key="other")
    assert {result.id, other.id} == {*ids(app)}


def test_a_transaction_in_another_database_does_not_matter(app: Celery, tasks: ModuleType) -> None:
    with suppress(Undo), transaction.atomic():
        assert transaction.get_connection().alias != tasks.ALIAS
        result = pay(tasks)
        assert ids(app) == [result.id]
        raise Undo
    assert not pay(tasks).created


def test_a_transaction_managed_by_hand_publishes_at_once(app: Celery, tasks: ModuleType) -> None:
    transaction.set_autocommit(False, using=tasks.ALIAS)
    try:
        assert StackState.of(app).store.in_transaction()
        result = pay(tasks)
        assert ids(app) == [result.id]
        transaction.commit(using=tasks.ALIAS)
    finally:
        transaction.set_autocommit(True, using=tasks.ALIAS)
    assert state_of(app, tasks) == "PUBLISHED"
    assert not pay(tasks).created


def test_atomic_blocks_in_a_transaction_managed_by_hand_publish_when_django_runs_its_hooks(
    app: Celery, tasks: ModuleType
) -> None:
    transaction.set_autocommit(False, using=tasks.ALIAS)
    try:
        with tasks.atomic():
            result = pay(tasks)
        transaction.commit(using=tasks.ALIAS)
        assert ids(app) == []
    finally:
        transaction.set_autocommit(True, using=tasks.ALIAS)
    assert ids(app) == [result.id]


# -- two transactions and one key ----------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
@pytest.mark.parametrize("joined", [True, False], ids=["in a transaction", "outside"])
def test_the_loser_waits_for_the_winner(app: Celery, tasks: ModuleType, commits: bool, joined: bool) -> None:
    def lose() -> Any:
        if not joined:
            return pay(tasks)
        with tasks.atomic():
            return pay(tasks)

    # given
    with suppress(Undo), ThreadPoolExecutor(1) as pool, tasks.atomic():
        winner = pay(tasks)
        loser = pool.submit(elsewhere, lose)
        time.sleep(0.4)
        assert not loser.done()
        # when
        if not commits:
            raise Undo

    # then
    lost = loser.result(10)
    assert (winner.created, lost.created) == (True, not commits)
    assert (lost.id == winner.id) is commits
    assert ids(app) == [lost.id]


@SERVERS
def test_when_a_winner_rolls_back_one_of_those_who_wait_for_it_has_the_run(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    def call() -> Any:
        with tasks.atomic():
            return pay(tasks)

    def lose() -> Any:
        try:
            return call()
        except OperationalError as error:
            if error.args[0] != 1213:
                raise
            return call()  # InnoDB ended it, with its transaction, as a deadlock of those who wait

    # given
    with suppress(Undo), ThreadPoolExecutor(3) as pool, tasks.atomic():
        gone = pay(tasks)
        losers = [pool.submit(elsewhere, lose) for _ in range(3)]
        time.sleep(0.4)
        raise Undo

    # then
    results = [loser.result(20) for loser in losers]
    assert sorted(result.created for result in results) == [False, False, True]
    assert len({result.id for result in results} - {gone.id}) == 1
    assert results[0].get(timeout=10) == 5
    time.sleep(0.3)
    assert [results[0].id] == [one["id"] for one in notes(app, "charge")]


@pytest.mark.parametrize("joined", [True, False], ids=["in a transaction", "outside"])
def test_a_winner_that_takes_too_long_is_not_waited_for(app: Celery, tasks: ModuleType, joined: bool) -> None:
    state = StackState.of(app).state
    in_a_file = connections[tasks.ALIAS].vendor == "sqlite"

    def lose() -> float:
        watch = Stopwatch()
        if not joined:
            with pytest.raises(StoreUnavailable):
                pay(tasks)
            return watch.seconds
        with tasks.atomic():
            # On SQLite this is Django's own error: nobody can write in that file.
            with pytest.raises(OperationalError if in_a_file else StoreUnavailable):
                pay(tasks)
            waited = watch.seconds
            if not in_a_file:
                state.set("after", 1)  # the transaction is as it was before the call
            assert state.get("nothing") is None
        return waited

    with tasks.atomic():
        winner = pay(tasks)
        with meanwhile(lose) as loser:
            waited = loser.result(10)
    assert 0.5 < waited < 3
    assert (state.get("after") == 1) is (joined and not in_a_file)
    assert ids(app) == [winner.id]


def lock_wait_of(tasks: ModuleType) -> Any:
    """Return for how long this thread's connection waits for locks."""
    asked = {"postgresql": "SHOW lock_timeout", "mysql": "SELECT @@SESSION.innodb_lock_wait_timeout"}
    connection = connections[tasks.ALIAS]
    with connection.cursor() as cursor:
        cursor.execute(asked[connection.vendor])
        return cursor.fetchone()


@SERVERS
def test_the_callers_own_waits_for_locks_are_as_long_as_before(app: Celery, tasks: ModuleType) -> None:
    before = lock_wait_of(tasks)
    with tasks.atomic():
        pay(tasks)
        assert before == lock_wait_of(tasks)
        with pytest.raises(IdempotencyConflict):
            pay(tasks, 6)
        assert before == lock_wait_of(tasks)
    assert before == lock_wait_of(tasks)


@SERVERS
def test_a_deadlock_over_two_keys_is_the_callers_to_retry(app: Celery, tasks: ModuleType) -> None:
    both, before = threading.Barrier(2), lock_wait_of(tasks)

    def call(first: str, second: str) -> Any:
        try:
            with tasks.atomic():
                pay(tasks, idempotency_key=first)
                both.wait(10)
                pay(tasks, idempotency_key=second)
        except (Error, StoreUnavailable) as error:
            assert before == lock_wait_of(tasks)
            return error
        return None

    with meanwhile(lambda: call("a", "b")) as one, meanwhile(lambda: call("b", "a")) as other:
        ended = [one.result(20), other.result(20)]
    assert sorted(type(error) is OperationalError for error in ended) == [False, True]
    assert len(ids(app)) == 2  # of the one that was committed


@SERVERS
@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_a_loser_with_a_snapshot_older_than_the_winner_does_not_create_a_second_run(
    app: Celery, tasks: ModuleType, place: str, commits: bool
) -> None:
    # given a loser in REPEATABLE READ that has looked at the database already
    name, _, url = place.partition("|")
    level: Any = "repeatable read" if "mysql" in name else 2
    alias, looked, go = f"{name}_repeatable", threading.Event(), threading.Event()
    add_database(alias, url, OPTIONS={"isolation_level": level})
    repeatable = StackState.of(app).store.from_url(f"django://{alias}", prefix=app.conf.stackstate_prefix, timeout=2)

    def lose() -> Any:
        from celery_stackstate.stores.base import Expect

        try:
            with transaction.atomic(using=alias):
                repeatable.get(b"anything")
                looked.set()
                go.wait(10)
                return repeatable.put(b"contested", b"loser", expect=Expect.ABSENT).applied
        except OperationalError as error:  # the caller's to retry
            return error

    try:
        with meanwhile(lose) as loser:
            looked.wait(10)
            with suppress(Undo), tasks.atomic():
                StackState.of(app).store.put(b"contested", b"winner")
                go.set()
                time.sleep(0.3)
                if not commits:
                    raise Undo
            outcome = loser.result(20)
    finally:
        forget_database(alias)

    # then
    found = StackState.of(app).store.get(b"contested")
    assert found is not None
    if commits:
        assert found.value == b"winner"
        assert outcome is False or isinstance(outcome, OperationalError)
    else:
        assert (found.value, outcome) == (b"loser", True)


# -- what goes wrong at the commit ---------------------------------------------------------------------------------

KILLED_AT_THE_COMMIT = """
import os, signal
from django.db import transaction
from tests.worker.app_django import ALIAS, atomic, charge
with atomic():
    transaction.on_commit(lambda: os.kill(os.getpid(), signal.SIGKILL), using=ALIAS)
    print(charge.apply_async((5,), idempotency_key="k").id, flush=True)
"""


@ONE
def test_a_process_that_is_killed_after_the_commit_leaves_a_run_that_the_next_call_publishes(
    app: Celery, tasks: ModuleType
) -> None:
    killed = in_another_process(KILLED_AT_THE_COMMIT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (ids(app), state_of(app, tasks)) == ([], "RESERVED")

    # within the lease of its publish nobody knows that it is dead
    assert not pay(tasks).created
    wait_for(lambda: pay(tasks).created, timeout=5, message="the lease of the publish to end")

    assert ids(app) == [killed.stdout.strip()]
    assert not pay(tasks).created


@ONE
def test_a_broker_that_is_down_at_the_commit_costs_the_caller_nothing(
    app: Celery, tasks: ModuleType, celery_broker: CeleryTestBroker, caplog: pytest.LogCaptureFixture
) -> None:
    # given
    celery_broker.kill()
    with caplog.at_level(logging.ERROR, "celery_stackstate"), tasks.atomic():
        first = pay(tasks)
        follower = pay(tasks, link=tasks.charge.si(1))
    assert (first.created, follower.created) == (True, False)
    assert first.id in caplog.text
    assert follower.id in caplog.text
    assert state_of(app, tasks) == "RESERVED"

    # when it is still down for the next one
    with pytest.raises(Exception, match=r"refused|closed|reset"):
        pay(tasks)
    celery_broker.container.start()
    celery_broker.ready()
    again = pay(tasks)

    # then
    assert (again.created, again.id) == (True, first.id)
    assert ids(app) == [first.id]


@pytest.mark.worker(conf={**CONF, "stackstate_publish_outage": "publish"})
@SERVERS
def test_a_key_that_could_not_be_reserved_is_published_at_the_commit_too(app: Celery, tasks: ModuleType) -> None:
    both = threading.Barrier(2, timeout=10)

    def lose(*, undo: bool) -> Any:
        with suppress(Undo), tasks.atomic():
            result = pay(tasks)
            both.wait()  # neither ends before the other has called
            assert ids(app) == []
            both.wait()
            if undo:
                raise Undo
        return result

    with tasks.atomic():
        winner = pay(tasks)
        with meanwhile(lambda: lose(undo=True)) as undone, meanwhile(lambda: lose(undo=False)) as kept:
            assert undone.result(10).created
            result = kept.result(10)
        assert ids(app) == [result.id]
    assert {result.id, winner.id} == {*ids(app)}


# -- every kind of call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_a_key_of_an_attribute_and_a_watched_run(app: Celery, tasks: ModuleType, commits: bool) -> None:
    with suppress(Undo), tasks.atomic():
        results = [tasks.by_attribute.delay(7, 1), tasks.by_attribute.delay(7, 1), tasks.watched.delay()]
        assert ids(app) == []
        if not commits:
            raise Undo
    assert ids(app) == ([results[0].id, results[2].id] if commits else [])


@ONE
def test_a_debounced_request_of_a_transaction(app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker) -> None:
    # given
    with tasks.atomic():
        first = pay(tasks, 1, debounce=0.7)
        second = pay(tasks, 2, debounce=0.7)
        assert ids(app) == []
    # when a later request is taken back
    with suppress(Undo), tasks.atomic():
        pay(tasks, 3, debounce=0.7)
        raise Undo
    # then
    assert (first.id, first.created, second.created) == (second.id, True, False)
    assert first.get(timeout=10) == 2
    assert [one["amount"] for one in notes(app, "charge")] == [2]


@ONE
def test_a_request_that_replaces_another_is_taken_back_with_its_transaction(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    # given
    first = pay(tasks, 1, countdown=1)
    with suppress(Undo), tasks.atomic():
        gone = pay(tasks, 2, on_duplicate="replace")
        raise Undo

    # then the first one runs, and its history says nothing else
    assert first.get(timeout=10) == 1
    run_of(app, first.id, status="SUCCESS", node=celery_worker)
    names = [event.name for event in StackState.of(app).runs.events(first.id)]
    assert "revoked" not in names
    assert StackState.of(app).runs.get(gone.id) is None

    # when it is committed
    late = pay(tasks, 3, countdown=30, idempotency_key="other")
    with tasks.atomic():
        instead = pay(tasks, 4, on_duplicate="replace", idempotency_key="other")
    assert instead.get(timeout=10) == 4
    run_of(app, late.id, status="REVOKED", node=celery_worker)
    assert [one["amount"] for one in notes(app, "charge")] == [1, 4]


@ONE
def test_a_request_replaced_in_its_own_transaction_is_not_run(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    with tasks.atomic():
        pay(tasks, 1)
        last = pay(tasks, 2, on_duplicate="replace")
    assert last.get(timeout=10) == 2
    time.sleep(0.5)
    assert [one["amount"] for one in notes(app, "charge")] == [2]


@ONE
def test_canvases_with_keys_are_published_at_the_commit(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    charge = tasks.charge
    # when
    with tasks.atomic():
        chained = chain(charge.s(1), charge.si(2).set(idempotency_key="second")).apply_async(idempotency_key="chain")
        grouped = group(charge.s(3), charge.s(4)).apply_async(idempotency_key="group")
        summed = chord([charge.s(5), charge.s(6)], tasks.add_up.s()).apply_async(idempotency_key="chord")
        linked = charge.apply_async((7,), idempotency_key="link", link=charge.si(8))
        follower = charge.apply_async((7,), idempotency_key="link", link=charge.si(9))
        time.sleep(0.3)
        assert notes(app, "charge") == []

    # then
    assert chained.get(timeout=10) == 2
    assert grouped.get(timeout=10) == [3, 4]
    assert summed.get(timeout=10) == 11
    assert (linked.created, follower.created, linked.get(timeout=10), follower.get(timeout=20)) == (True, False, 7, 7)
    wait_for_note(app, "charge", count=9, node=celery_worker)
    assert sorted(one["amount"] for one in notes(app, "charge")) == list(range(1, 10))


def test_a_canvas_of_a_transaction_that_is_rolled_back_is_nothing(app: Celery, tasks: ModuleType) -> None:
    leader = pay(tasks, 7, idempotency_key="link")
    with suppress(Undo), tasks.atomic():
        chain(tasks.charge.s(1), tasks.charge.si(2)).apply_async(idempotency_key="chain")
        group(tasks.charge.s(3), tasks.charge.s(4)).apply_async(idempotency_key="group")
        chord([tasks.charge.s(5), tasks.charge.s(6)], tasks.add_up.s()).apply_async(idempotency_key="chord")
        pay(tasks, 7, idempotency_key="link", link=tasks.charge.si(9))
        raise Undo
    assert ids(app) == [leader.id]


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_calls_on_commit_of_django_tasks(app: Celery, tasks: ModuleType, commits: bool) -> None:
    # when; they look at Django's default database
    with suppress(Undo), transaction.atomic():
        tasks.charge.delay_on_commit(1)
        tasks.charge.apply_async_on_commit((2,), idempotency_key="k")
        tasks.charge.apply_async_on_commit((2,), idempotency_key="k")
        tasks.by_attribute.delay_on_commit(7, 3)
        tasks.by_attribute.delay_on_commit(order=7, amount=3)
        assert ids(app) == []
        if not commits:
            raise Undo

    # then
    assert [message.payload[0] for message in messages(app)] == ([[1], [2], [7, 3]] if commits else [])


def test_calls_on_commit_of_django_tasks_without_a_transaction(app: Celery, tasks: ModuleType) -> None:
    tasks.charge.delay_on_commit(1)
    tasks.charge.apply_async_on_commit((2,), idempotency_key="k")
    tasks.charge.apply_async_on_commit((2,), idempotency_key="k")
    assert [message.payload[0] for message in messages(app)] == [[1], [2]]


# -- in the bodies of tasks ----------------------------------------------------------------------------------------


@ONE
def test_a_retry_inside_a_transaction_takes_back_its_attempt_and_keeps_its_key(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    # when
    result = tasks.buy.apply_async(("child", 2), idempotency_key="k")
    child = result.get(timeout=15)

    # then the two attempts that were rolled back left nothing
    assert [one["retries"] for one in notes(app, "buy")] == [0, 1, 2]
    assert app.AsyncResult(child).get(timeout=10) == 5
    assert [child] == [one["id"] for one in notes(app, "charge")]
    assert StackState.of(app).state.count("bought") == 1
    wait_for(lambda: key_state(app, "k", tasks.buy.name) == "SUCCEEDED", message="its key to be closed")
    run_of(app, result.id, status="SUCCESS", node=celery_worker)
    events = StackState.of(app).runs.events(result.id)
    assert [name for name in (event.name for event in events) if name == "retry"] == ["retry", "retry"]


@ONE
def test_a_body_that_fails_takes_back_what_it_called(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker
) -> None:
    result = tasks.buy_and_fail.apply_async(("child",), idempotency_key="k")
    with pytest.raises(tasks.Broken):
        result.get(timeout=10)
    run = run_of(app, result.id, status="FAILURE", node=celery_worker)
    assert "Broken" in str(run.error)
    wait_for(lambda: key_state(app, "k", tasks.buy_and_fail.name) == "FAILED", message="the key to be free")
    assert key_state(app, "child", tasks.charge.name) == ""
    assert notes(app, "charge") == []
    assert pay(tasks, idempotency_key="child").get(timeout=10) == 5


@ONE
@pytest.mark.parametrize("fail", [False, True], ids=["commits", "rolls back"])
def test_a_body_that_is_one_transaction_has_a_whole_history(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker, fail: bool
) -> None:
    result = tasks.whole.apply_async(("child", fail), idempotency_key="k")
    run_of(app, result.id, status="FAILURE" if fail else "SUCCESS", node=celery_worker)
    ended = "FAILED" if fail else "SUCCEEDED"
    wait_for(lambda: key_state(app, "k", tasks.whole.name) == ended, message=f"the key to be {ended}")
    has_events(app, result.id, "queued", "received", "working", "failure" if fail else "success")
    assert StackState.of(app).state.count("whole") == (0 if fail else 1)
    if not fail:
        wait_for_note(app, "charge", node=celery_worker)
    assert len(notes(app, "charge")) == (0 if fail else 1)
    assert len(notes(app, "whole")) == 1


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("fail", [False, True], ids=["commits", "rolls back"])
def test_a_transaction_around_the_claim_does_not_take_the_claim_along(
    app: Celery, tasks: ModuleType, celery_worker: CeleryTestWorker, fail: bool
) -> None:
    result = tasks.wrapped.apply_async((fail,), idempotency_key="k")
    run_of(app, result.id, status="FAILURE" if fail else "SUCCESS", node=celery_worker)
    ended = "FAILED" if fail else "SUCCEEDED"
    wait_for(lambda: key_state(app, "k", tasks.wrapped.name) == ended, message=f"the key to be {ended}")
    assert StackState.of(app).state.count("wrapped") == (0 if fail else 1)
    assert len(notes(app, "wrapped")) == 1
    assert tasks.wrapped.apply_async((fail,), idempotency_key="k").created is fail
