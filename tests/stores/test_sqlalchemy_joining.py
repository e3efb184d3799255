"""What joins the transaction of a SQLAlchemy session: state, counters and the keys of what is published."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any

import psycopg
import pytest
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from celery_stackstate import StackState, StateTask
from celery_stackstate.errors import (
    ConfigurationError,
    CounterRange,
    InTransaction,
    LockLost,
    NotACounter,
    StoreUnavailable,
    VersionConflict,
)
from celery_stackstate.steps import Steps
from celery_stackstate.stores.base import Expect, Guard, GuardFailed
from celery_stackstate.timeline import Timeline
from tests.databases import text_of
from tests.waiting import Stopwatch, wait_for

DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
WAIT = {"postgresql": "SHOW lock_timeout", "mysql": "SELECT @@innodb_lock_wait_timeout"}
BYTES = bytes(range(256)) + b"%s '\\"


class Undo(Exception):
    pass


@pytest.fixture(scope="module", params=list(DRIVERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def url(kind: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{kind}_url"))


@pytest.fixture(scope="module")
def engine(kind: str, url: str) -> Iterator[Engine]:
    made = create_engine(make_url(url).set(drivername=DRIVERS[kind]))
    with made.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS joining_order"))
        connection.execute(text("CREATE TABLE joining_order (id VARCHAR(50) PRIMARY KEY)"))
    yield made
    with made.begin() as connection:
        connection.execute(text("DROP TABLE joining_order"))
    made.dispose()


@contextmanager
def attached(url: str, timeout: float = 5.0) -> Iterator[Any]:
    """Make an app with a keyed task, in a place of its own."""
    name = uuid.uuid4().hex
    app = Celery(name, broker="memory://", task_cls=StateTask, set_as_current=False)
    app.conf.update(
        stackstate_url=url, stackstate_prefix=name, stackstate_store_timeout=timeout, task_default_queue=name
    )

    @app.task(name="charge")
    def charge(order: int) -> int:
        return order

    yield app
    StackState.of(app).close()


@pytest.fixture
def app(url: str) -> Iterator[Any]:
    with attached(url) as made:
        yield made


@pytest.fixture
def ours(app: Celery) -> StackState:
    return StackState.of(app)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as made:
        yield made


def order(session: Session) -> str:
    """Insert a row of the caller's."""
    name = uuid.uuid4().hex
    session.execute(text("INSERT INTO joining_order VALUES (:id)"), {"id": name})
    return name


def exists(engine: Engine, name: str) -> bool:
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT COUNT(*) FROM joining_order WHERE id = :id"), {"id": name}))


def charge(app: Any, number: int = 1, key: str = "k", **options: Any) -> Any:
    return app.tasks["charge"].apply_async((number,), idempotency_key=key, **options)


def queued(app: Celery) -> int:
    with app.connection_for_write() as connection:
        channel = connection.default_channel
        queue = app.conf.task_default_queue
        return int(channel._size(queue)) if queue in channel.queues else 0


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    ended: list[Any] = []

    def run() -> None:
        try:
            ended.append(work())
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def elsewhere(work: Callable[[], Any]) -> Any:
    thread, ended = in_thread(work)
    thread.join(30)
    return ended[0]


# -- values and counters -----------------------------------------------------------------------------------------------


def test_what_is_written_is_committed_with_the_callers_rows(ours: StackState, session: Session, engine: Engine) -> None:
    state = ours.state
    with ours.joining(session):
        name = order(session)
        state.set("bytes", BYTES)
        state.set("text", "\u4e2d\U0001f600")
        assert state.increment("count", 2) == 2
        assert state.get("bytes") == BYTES
        assert elsewhere(lambda: state.get("bytes")) is None
        session.commit()
    assert exists(engine, name)
    assert (state.get("bytes"), state.get("text")) == (BYTES, "\u4e2d\U0001f600")
    assert state.count("count") == 2


def test_what_is_written_is_rolled_back_with_the_callers_rows(
    ours: StackState, session: Session, engine: Engine
) -> None:
    state = ours.state
    state.set("kept", "before")
    with ours.joining(session):
        name = order(session)
        state.set("kept", "changed")
        state.set("new", 1)
        state.increment("count", 1)
        state.delete("kept")
        session.rollback()
    assert not exists(engine, name)
    assert (state.get("kept"), state.get("new"), state.count("count")) == ("before", None, 0)


def test_a_savepoint_that_is_rolled_back_takes_only_its_part(ours: StackState, session: Session) -> None:
    state = ours.state
    with ours.joining(session), session.begin():
        state.increment("count", 1)
        with suppress(Undo), session.begin_nested():
            state.increment("count", 10)
            raise Undo
        with session.begin_nested():
            state.increment("count", 100)
    assert state.count("count") == 101


def test_a_refused_call_undoes_itself_and_nothing_else(ours: StackState, session: Session, engine: Engine) -> None:
    store = ours.store
    with ours.joining(session):
        name = order(session)
        ours.state.set("value", 1)
        entry = ours.state.entry("value")
        assert entry is not None
        ours.state.set("value", 2)
        with pytest.raises(VersionConflict):
            ours.state.set("value", 3, if_version=entry.version)
        store.put(b"bytes", b"")
        with pytest.raises(NotACounter):
            store.add(b"bytes", 1)
        with pytest.raises(CounterRange):
            store.add(b"count", 5, ceiling=4)
        with pytest.raises(GuardFailed):
            store.put(b"guarded", b"", guard=Guard(b"no such key", 1))
        assert not store.put(b"bytes", b"x", expect=Expect.ABSENT).applied
        store.put(b"after", b"")
        session.commit()
    assert exists(engine, name)
    assert ours.state.get("value") == 2
    assert [found for found in (b"after", b"bytes", b"count", b"guarded") if store.get(found)] == [b"after", b"bytes"]


def test_a_statement_that_fails_leaves_the_transaction_usable(
    ours: StackState, session: Session, engine: Engine
) -> None:
    with attached(text_of(make_url(ours.settings.url)), timeout=1) as hurried, Session(engine) as holder:
        mine = StackState.of(hurried)
        mine.state.set("held", 0)
        with mine.joining(holder), holder.begin():
            mine.state.set("held", 1)

            def work() -> str:
                with mine.joining(session):
                    name = order(session)
                    watch = Stopwatch()
                    with pytest.raises(StoreUnavailable) as refused:
                        mine.state.set("held", 2)
                    assert refused.value.maybe_applied is False
                    assert watch.seconds < 1.9
                    mine.state.set("other", 1)
                    session.commit()
                    return name

            name = elsewhere(work)
        assert isinstance(name, str), name
        assert exists(engine, name)
        assert (mine.state.get("held"), mine.state.get("other")) == (1, 1)


def test_the_callers_settings_are_put_back(ours: StackState, session: Session, kind: str) -> None:
    changed = {"postgresql": "SET LOCAL lock_timeout = '33s'", "mysql": "SET SESSION innodb_lock_wait_timeout = 33"}
    with ours.joining(session):
        session.execute(text(changed[kind]))
        before = session.scalar(text(WAIT[kind]))
        ours.state.set("k", 1)
        ours.store.put(b"k", b"")
        with pytest.raises(NotACounter):
            ours.store.add(b"k", 1)
        assert session.scalar(text(WAIT[kind])) == before
        session.rollback()
    session.connection().invalidate()


def test_other_keys_are_not_locked(ours: StackState, session: Session) -> None:
    ours.state.set("a", 1)
    ours.state.set("b", 1)
    with ours.joining(session):
        ours.state.set("a", 2)
        watch = Stopwatch()
        elsewhere(lambda: ours.state.set("b", 2))
        elsewhere(lambda: ours.state.set("c", 2))
        assert watch.seconds < 1
        assert ours.store.apart(lambda: ours.state.get_many(["a", "b", "c"])) == {"a": 1, "b": 2, "c": 2}
        session.commit()
    assert ours.state.get("a") == 2


def variants(kind: str) -> Iterator[dict[str, Any]]:
    """Yield what connections of callers' may be like."""
    if kind == "postgresql":
        yield {"connect_args": {"cursor_factory": psycopg.ClientCursor}}
        yield {"connect_args": {"prepare_threshold": 0, "options": "-c timezone=Asia/Tokyo"}}
        yield {"isolation_level": "SERIALIZABLE"}
    else:
        for charset in ("latin1", "gbk"):
            yield {"connect_args": {"charset": charset, "init_command": "SET time_zone = '-03:00', sql_mode = ''"}}
        yield {"connect_args": {"binary_prefix": True}}
        yield {"connect_args": {"init_command": "SET sql_mode = 'NO_BACKSLASH_ESCAPES,ANSI_QUOTES'"}}


def test_settings_of_the_callers_connection_make_no_difference(ours: StackState, engine: Engine, kind: str) -> None:
    for options in variants(kind):
        other = create_engine(engine.url, **options)
        with Session(other) as session, ours.joining(session):
            for _ in range(3):
                ours.state.set("bytes", BYTES)
                ours.state.set("\u4e2d", "\U0001f600")
            assert ours.state.increment("count", 5) == 5
            assert (ours.state.get("bytes"), ours.state.get("\u4e2d")) == (BYTES, "\U0001f600")
            session.commit()
        other.dispose()
        assert (ours.state.get("bytes"), ours.state.get("\u4e2d")) == (BYTES, "\U0001f600")
        assert ours.state.pop("count") == 5
        assert ours.state.delete("bytes", "\u4e2d") == 2


def test_a_deadlock_is_the_callers_to_retry(ours: StackState, engine: Engine, kind: str) -> None:
    both, store = threading.Barrier(2), ours.store
    store.add(b"a", 0)
    store.add(b"b", 0)

    def work(first: bytes, second: bytes) -> bool:
        with Session(engine) as session, ours.joining(session):
            store.add(first, 1)
            both.wait(10)
            try:
                store.add(second, 1)
            except DBAPIError:
                if kind == "mysql":  # nothing is left of the transaction, and nobody may commit what comes
                    with pytest.raises(PendingRollbackError):
                        session.commit()
                session.rollback()
                return False
            session.commit()
            return True

    other, ended = in_thread(lambda: work(b"b", b"a"))
    ended.append(work(b"a", b"b"))
    other.join(30)
    assert sorted(ended) == [False, True]
    assert (store.add(b"a", 0), store.add(b"b", 0)) == (1, 1)


# -- what else is asked of a transaction -------------------------------------------------------------------------------


def test_a_lock_is_refused_inside(ours: StackState, session: Session) -> None:
    with ours.joining(session), pytest.raises(InTransaction, match="catalog"):
        ours.state.lock("catalog").acquire()
    with ours.state.lock("catalog"):
        pass


def test_only_this_context_joins_and_only_inside(ours: StackState, session: Session) -> None:
    with ours.joining(session):
        assert ours.store.in_transaction()
        assert elsewhere(ours.store.in_transaction) is False
        assert ours.store.apart(ours.store.in_transaction) is False
        ours.store.apart(lambda: ours.state.set("apart", 1))
        kept = copy_context()
        assert kept.run(ours.store.in_transaction)
        session.rollback()
    assert not ours.store.in_transaction()
    assert not kept.run(ours.store.in_transaction)
    assert ours.state.get("apart") == 1


def test_history_is_written_apart(ours: StackState, session: Session, app: Celery) -> None:
    with ours.joining(session):
        ours.state.set("k", 1)
        result = app.tasks["charge"].apply_async((1,))
        session.rollback()
    wait_for(lambda: ours.store.run(result.id) is not None, timeout=20)
    assert ours.state.get("k") is None


def test_a_scoped_session_joins(ours: StackState, engine: Engine) -> None:
    registry = scoped_session(sessionmaker(engine))
    with ours.joining(registry):
        ours.state.set("k", 1)
        registry.commit()
    registry.remove()
    assert ours.state.get("k") == 1


# -- what cannot join --------------------------------------------------------------------------------------------------


def test_another_database_is_refused_without_its_password(ours: StackState, url: str, kind: str) -> None:
    elsewhere = make_url(url).set(drivername=DRIVERS[kind], database="other", password="secret")
    with pytest.raises(ConfigurationError) as refused, ours.joining(Session(create_engine(elsewhere))):
        pass
    database = make_url(url).database
    assert f"/{database}," in str(refused.value)
    assert "/other;" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_what_is_no_session_with_transactions_is_refused(ours: StackState, engine: Engine) -> None:
    for given, told in (
        (AsyncSession(), "AsyncSession"),
        (None, "NoneType"),
        (Session(), "bound to an engine"),
        (Session(create_engine("sqlite://")), "pysqlite"),
    ):
        with pytest.raises(ConfigurationError, match=told), ours.joining(given):
            pass
    with engine.connect() as connection, pytest.raises(ConfigurationError, match="not to a connection"):
        ours.joining(Session(connection)).__enter__()
    session = Session(engine.execution_options(isolation_level="AUTOCOMMIT"))
    with session, ours.joining(session), pytest.raises(ConfigurationError, match="AUTOCOMMIT"):
        ours.state.set("k", 1)


def test_an_asynchronous_driver_is_refused(ours: StackState, engine: Engine, kind: str) -> None:
    if kind == "mysql":
        pytest.skip("PyMySQL has no asynchronous form")
    session = Session(create_engine(engine.url, _is_async=True))
    with pytest.raises(ConfigurationError, match="asynchronous"), ours.joining(session):
        pass


def test_a_store_in_memory_is_refused(session: Session) -> None:
    with attached("memory://") as app, pytest.raises(ConfigurationError, match="cannot join a SQLAlchemy session"):
        StackState.of(app).joining(session)


# -- keys --------------------------------------------------------------------------------------------------------------


def test_a_message_goes_out_after_the_commit(ours: StackState, session: Session, app: Celery, engine: Engine) -> None:
    with ours.joining(session):
        name = order(session)
        created = charge(app)
        again = charge(app)
        assert (created.created, again.created) == (True, False)
        assert created.id == again.id
        assert queued(app) == 0
        session.commit()
        assert queued(app) == 1
        assert charge(app).created is False
        session.rollback()  # what looks a key up keeps its row
    assert exists(engine, name)
    assert charge(app).created is False
    assert charge(app).id == created.id
    assert queued(app) == 1


def test_the_commit_may_come_after_the_block(ours: StackState, session: Session, app: Celery) -> None:
    with ours.joining(session):
        charge(app)
    assert queued(app) == 0
    session.commit()
    assert queued(app) == 1


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_no_message_goes_out_without_a_commit(ours: StackState, session: Session, app: Celery, end: str) -> None:
    with ours.joining(session):
        first = charge(app)
        getattr(session, end)()
        session.execute(text("SELECT 1"))
        session.commit()
        assert queued(app) == 0
        second = charge(app)
        assert second.created
        assert second.id != first.id
        session.commit()
    assert queued(app) == 1


def test_savepoints_decide_what_goes_out(ours: StackState, session: Session, app: Celery) -> None:
    with ours.joining(session), session.begin():
        with suppress(Undo), session.begin_nested():
            with session.begin_nested():
                charge(app, key="released, then rolled back")
            raise Undo
        with session.begin_nested(), session.begin_nested():
            charge(app, key="released")
        assert queued(app) == 0
        assert charge(app, key="released").created is False
    assert queued(app) == 1
    assert charge(app, key="released, then rolled back").created


def test_a_failed_commit_publishes_nothing(ours: StackState, session: Session, app: Celery, kind: str) -> None:
    if kind == "mysql":
        pytest.skip("a statement that fails there breaks no transaction")
    with ours.joining(session):
        charge(app)
        with suppress(DBAPIError):
            session.execute(text("SELECT * FROM no_such_table"))
        with pytest.raises(DBAPIError, match="aborted"):  # the server would roll back, and say nothing
            session.commit()
        session.rollback()
    assert queued(app) == 0
    assert charge(app).created


def test_several_sessions_and_transactions_in_turn(ours: StackState, engine: Engine, app: Celery) -> None:
    for number in range(3):
        with Session(engine) as session:
            for part in "ab":
                with ours.joining(session), session.begin():
                    charge(app, key=f"{number}{part}")
    assert queued(app) == 6


@pytest.mark.parametrize("reads_before", [True, False])
@pytest.mark.parametrize("commits", [True, False])
def test_of_two_transactions_with_one_key_the_later_waits(
    ours: StackState, engine: Engine, app: Celery, commits: bool, reads_before: bool
) -> None:
    def work() -> Any:
        with Session(engine) as session, ours.joining(session), session.begin():
            if reads_before:  # in REPEATABLE READ of MySQL it goes on to see what was then
                session.scalar(text("SELECT COUNT(*) FROM stackstate_entry"))
            return charge(app)

    with Session(engine) as session:
        with ours.joining(session):
            first = charge(app)
            other, ended = in_thread(work)
            other.join(0.5)
            assert not ended
        session.commit() if commits else session.rollback()
    other.join(30)
    assert ended[0].created is not commits
    assert (ended[0].id == first.id) is commits
    assert queued(app) == 1


def test_a_snapshot_that_is_too_old_is_the_callers_to_retry(
    ours: StackState, engine: Engine, app: Celery, kind: str
) -> None:
    if kind == "mysql":
        pytest.skip("MariaDB 10.11 reads what is locked as it is now")
    with Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session, ours.joining(session):
        session.scalar(text("SELECT COUNT(*) FROM stackstate_entry"))
        first = elsewhere(lambda: charge(app))
        with pytest.raises(DBAPIError, match="could not serialize"):
            charge(app)
        session.rollback()
        assert charge(app).id == first.id
        session.commit()
    assert queued(app) == 1


def test_a_copied_info_does_not_take_the_work_along(
    ours: StackState, session: Session, engine: Engine, app: Celery
) -> None:
    with ours.joining(session), session.begin():
        charge(app, key="first")
    with Session(engine, info=session.info) as other, ours.joining(other), other.begin():
        charge(app, key="second")
    assert queued(app) == 2


def test_a_broker_that_is_away_does_not_fail_the_commit(
    ours: StackState, session: Session, app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise BrokerError("away")

    with ours.joining(session):
        created = charge(app)
        with monkeypatch.context() as patch:
            patch.setattr("kombu.transport.virtual.Channel.basic_publish", refuse)
            session.commit()
    assert queued(app) == 0
    again = charge(app)
    assert again.id == created.id
    assert queued(app) == 1


# -- what others do meanwhile, and what does not join ------------------------------------------------------------------


def test_a_reset_and_a_clear_end_though_the_snapshot_shows_what_others_changed(
    ours: StackState, engine: Engine, kind: str
) -> None:
    state = ours.state
    state.increment("n", 5)
    state.set("p:a", 1)
    level = "REPEATABLE READ" if kind == "mysql" else "READ COMMITTED"
    with Session(engine.execution_options(isolation_level=level)) as session, ours.joining(session):
        assert state.count("n") == 5
        elsewhere(lambda: (state.increment("n"), state.delete("p:a")))
        assert state.reset("n") == 6
        assert state.clear("p:") == 0
        session.commit()
    assert (state.count("n"), list(state.keys())) == (0, [])


def test_a_step_is_refused_inside_and_a_pace_counts_though_it_is_rolled_back(
    ours: StackState, session: Session
) -> None:
    state = ours.state
    steps = Steps(state.for_run("run"), Timeline(None))
    with ours.joining(session):
        with pytest.raises(InTransaction, match=r"'charge'.*joining"):
            steps.step("charge", lambda: None, (), {})
        assert state.throttle("api", 1, 60)
    session.rollback()
    assert not state.throttle("api", 1, 60)


def test_a_renewal_that_waits_for_a_transaction_costs_no_other_lock(
    ours: StackState, session: Session, kind: str
) -> None:
    written, other = ours.state.lock("written", ttl=5), ours.state.lock("other", ttl=5)
    for lock in (written, other):
        lock.ttl = 3
        lock.acquire()
    with ours.joining(session):
        ours.state.set("k", 1, fence=written)
        time.sleep(5)
        session.commit()
    other.check()
    other.release()
    if kind == "postgresql":  # MariaDB locks the row of a guard by itself alone
        with pytest.raises(LockLost):
            written.check()
