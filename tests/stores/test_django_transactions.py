"""What Django's transactions do with state, counters, locks and history."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

pytest.importorskip("django")

from django.db import OperationalError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError

from celery_stackstate.errors import CounterRange, InTransaction, LockLost, NotACounter, StoreUnavailable
from celery_stackstate.holding import LockOwner
from celery_stackstate.locks import Lock
from celery_stackstate.recorder import Recorder
from celery_stackstate.scoped import RunContext
from celery_stackstate.state import State
from celery_stackstate.steps import Steps
from celery_stackstate.stores.base import Expect, Guard, GuardFailed, RunFacts, RunWrite, StoredEvent
from celery_stackstate.stores.django.store import DjangoStore
from celery_stackstate.timeline import Timeline
from tests.admin.settings import SETTINGS
from tests.stores.django_databases import configure, database, installed_app, open_django  # noqa: F401
from tests.waiting import Stopwatch, wait_for

configure(**SETTINGS)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mysql"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('django') / 'db.sqlite3'}"
    else:
        url = request.getfixturevalue(f"{request.param}_url")
    with database(f"transactions_{request.param}", url) as found:
        yield found


@pytest.fixture
def prefix() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def store(place: str, prefix: str) -> Iterator[DjangoStore]:
    opened = open_django(place, prefix=prefix, timeout=5)
    assert isinstance(opened, DjangoStore)
    yield opened
    opened.close()


@pytest.fixture
def connection(store: DjangoStore) -> BaseDatabaseWrapper:
    return connections[store.alias]


class Undo(Exception):
    pass


def elsewhere(work: Callable[[], Any]) -> Any:
    """Do something in another thread, so on another connection."""
    done: list[Any] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:
            done.append(error)
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return done[0]


def value_of(store: DjangoStore, key: bytes) -> Any:
    entry = store.get(key)
    return None if entry is None else entry.value


def test_what_a_rolled_back_block_wrote_is_gone(store: DjangoStore) -> None:
    store.put(b"kept", b"before")
    store.add(b"count", 5)
    with suppress(Undo), transaction.atomic(using=store.alias):
        store.put(b"new", b"value")
        store.put(b"kept", b"changed")
        assert store.add(b"count", 1) == 6
        store.remove(b"kept")
        # Inside, the block sees what it wrote.
        assert value_of(store, b"new") == b"value"
        assert value_of(store, b"kept") is None
        raise Undo
    assert value_of(store, b"new") is None
    assert value_of(store, b"kept") == b"before"
    assert value_of(store, b"count") == 5


def test_what_a_committed_block_wrote_stays(store: DjangoStore) -> None:
    with transaction.atomic(using=store.alias):
        store.put(b"k", b"value")
        store.add(b"count", 2)
        assert elsewhere(lambda: value_of(store, b"k")) is None
    assert elsewhere(lambda: value_of(store, b"k")) == b"value"
    assert value_of(store, b"count") == 2


def test_an_inner_block_that_is_rolled_back_takes_only_its_part(store: DjangoStore) -> None:
    with transaction.atomic(using=store.alias):
        store.add(b"count", 1)
        with suppress(Undo), transaction.atomic(using=store.alias):
            store.add(b"count", 10)
            store.put(b"inner", b"")
            raise Undo
        store.add(b"count", 100)
    assert value_of(store, b"count") == 101
    assert value_of(store, b"inner") is None


def test_a_refused_call_inside_a_block_undoes_itself_and_nothing_else(
    store: DjangoStore, connection: BaseDatabaseWrapper, prefix: str
) -> None:
    with transaction.atomic(using=store.alias):
        store.put(b"bytes", b"")
        with pytest.raises(NotACounter):
            store.add(b"bytes", 1)
        with pytest.raises(CounterRange):
            store.add(b"count", 5, ceiling=4)
        with pytest.raises(GuardFailed):
            store.put(b"guarded", b"", guard=Guard(b"no such key", 1))
        assert not store.put(b"bytes", b"x", expect=Expect.ABSENT).applied
        store.put(b"after", b"")
        with connection.cursor() as cursor:
            cursor.execute("SELECT COUNT(*) FROM stackstate_entry WHERE prefix = %s", [prefix])
            assert cursor.fetchone() == (2,)
    assert [entry.key for entry in store.scan(b"")] == [b"after", b"bytes"]


def test_a_store_says_whether_this_thread_is_in_a_transaction(
    store: DjangoStore, connection: BaseDatabaseWrapper
) -> None:
    assert not store.in_transaction()
    with transaction.atomic(using=store.alias):
        assert store.in_transaction()
        assert elsewhere(store.in_transaction) is False
    assert not store.in_transaction()
    store.get(b"k")
    transaction.set_autocommit(False, using=store.alias)
    try:
        assert store.in_transaction()
        store.put(b"k", b"")
        assert elsewhere(lambda: value_of(store, b"k")) is None
        connection.rollback()
        store.put(b"kept", b"")
        connection.commit()
    finally:
        transaction.set_autocommit(True, using=store.alias)
    assert not store.in_transaction()
    assert [entry.key for entry in store.scan(b"")] == [b"kept"]


def test_a_lock_is_refused_inside_a_block_and_says_so(store: DjangoStore) -> None:
    lock = Lock(store, b"lock", "catalog", owner=LockOwner("me", "token"), ttl=60)
    with transaction.atomic(using=store.alias), pytest.raises(InTransaction, match=r"catalog.*atomic"):
        lock.acquire()
    with lock, transaction.atomic(using=store.alias):
        store.put(b"k", b"")
    assert value_of(store, b"k") == b""


def test_history_of_a_block_that_is_rolled_back_is_written(store: DjangoStore) -> None:
    recorder = Recorder(store)
    with suppress(Undo), transaction.atomic(using=store.alias):
        store.put(b"k", b"takes the write lock of SQLite")
        recorder.record(
            RunWrite("run", 1, RunFacts(task="t", created=1), events=[StoredEvent("u", 1, "began", None, b"")])
        )
        time.sleep(0.3)
        raise Undo
    wait_for(lambda: store.run("run") is not None, timeout=20)
    found = store.run("run")
    assert found is not None
    assert [event.name for event in found[1]] == ["began"]
    assert recorder.unrecorded == 0


def test_a_broken_transaction_is_the_callers_as_ever(store: DjangoStore) -> None:
    with transaction.atomic(using=store.alias):
        transaction.set_rollback(True, using=store.alias)
        for call in (lambda: store.get(b"k"), lambda: store.put(b"k", b"")):
            with pytest.raises(TransactionManagementError):
                call()


def settings_of(connection: BaseDatabaseWrapper) -> Any:
    asked = {
        "sqlite": "PRAGMA busy_timeout",
        "postgresql": "SELECT current_setting('statement_timeout'), current_setting('transaction_isolation')",
        "mysql": "SELECT @@innodb_lock_wait_timeout, @@autocommit",
    }
    with connection.cursor() as cursor:
        cursor.execute(asked[connection.vendor])
        return cursor.fetchall()


def test_settings_of_the_connection_are_as_before_after_each_call(
    store: DjangoStore, connection: BaseDatabaseWrapper
) -> None:
    before = settings_of(connection)
    store.put(b"k", b"")
    store.get(b"k")
    with pytest.raises(NotACounter):
        store.add(b"k", 1)
    with transaction.atomic(using=store.alias):
        store.add(b"count", 1)
        assert len(before) == len(settings_of(connection))
    assert before == settings_of(connection)
    assert connection.get_autocommit()


def test_a_row_that_a_block_holds_is_waited_for_no_longer_than_the_timeout(
    store: DjangoStore, place: str, prefix: str
) -> None:
    store.add(b"count", 1)
    hurried = open_django(place, prefix=prefix, timeout=2)
    with transaction.atomic(using=store.alias):
        store.add(b"count", 1)
        watch = Stopwatch()
        refused = elsewhere(lambda: hurried.add(b"count", 1))
        assert watch.seconds < 2.5
    assert isinstance(refused, StoreUnavailable)
    assert refused.maybe_applied is False
    assert store.add(b"count", 1) == 3


def test_a_deadlock_in_a_block_is_the_callers_to_retry(store: DjangoStore, connection: BaseDatabaseWrapper) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer")
    both = threading.Barrier(2)

    def work(first: bytes, second: bytes) -> None:
        with transaction.atomic(using=store.alias):
            store.add(first, 1)
            both.wait(10)
            store.add(second, 1)

    ended: list[Any] = []
    other = threading.Thread(target=lambda: ended.append(elsewhere(lambda: work(b"b", b"a"))))
    other.start()
    try:
        work(b"a", b"b")
        ended.append(None)
    except OperationalError as error:
        ended.append(error)
    other.join(30)
    # One of the two was given up as a whole, with the error that Django's own retries look for.
    assert sorted(type(end) is OperationalError for end in ended) == [False, True]
    assert (store.add(b"a", 0), store.add(b"b", 0)) == (1, 1)


# -- what does not join --------------------------------------------------------------------------------------------


def state_over(store: DjangoStore) -> State:
    return State(store, RunContext(run_id="run", run_ttl=60), limit=1000)


def test_a_step_is_refused_inside_a_block_before_its_function_is_called(store: DjangoStore) -> None:
    calls: list[int] = []
    steps = Steps(state_over(store).run, Timeline(None))
    with transaction.atomic(using=store.alias), pytest.raises(InTransaction, match=r"'charge'.*atomic"):
        steps.step("charge", lambda: calls.append(1), (), {})
    assert calls == []
    steps.step("charge", lambda: calls.append(1), (), {})
    assert calls == [1]


def test_a_pace_counts_though_the_block_is_rolled_back_and_holds_up_nobody(store: DjangoStore) -> None:
    with suppress(Undo), transaction.atomic(using=store.alias):
        assert state_over(store).throttle("api", 1, 60)
        watch = Stopwatch()
        elsewhere(lambda: state_over(store).throttle("api", 1, 60))
        assert watch.seconds < 3
        raise Undo
    assert not state_over(store).throttle("api", 1, 60)


def test_a_lock_that_is_released_inside_a_block_stays_released(store: DjangoStore) -> None:
    state = state_over(store)
    first, second = state.lock("first", ttl=60), state.lock("second", ttl=60)
    first.acquire()
    second.acquire()
    with suppress(Undo), transaction.atomic(using=store.alias):
        first.release()
        assert state.force_release("second")
        raise Undo
    assert (state.lock_info("first"), state.lock_info("second")) == (None, None)
    with pytest.raises(LockLost), transaction.atomic(using=store.alias):
        second.check()
