"""What a task says of idempotency by its attributes: checked when it is bound, made into keys when it is called."""

from __future__ import annotations

from enum import Enum
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from celery_stackstate import (
    ConfigurationError,
    IdempotencyConflict,
    InvalidKey,
    NotSerializable,
    StackState,
    StateTask,
    TooManyDeliveries,
)
from celery_stackstate.fingerprint import is_same_request
from celery_stackstate.key_record import Attempt, store_key
from celery_stackstate.liveness import Lease
from celery_stackstate.records import FAILURE


@pytest.fixture
def app() -> Celery:
    app = Celery("options", broker="memory://", backend="cache+memory://", task_cls=StateTask, set_as_current=False)
    app.conf.update(stackstate_url="memory://")
    return app


def pay(order: int, currency: str = "EUR", **rest: Any) -> int:
    return order


def strict(order: int, currency: str = "EUR") -> int:
    return order


WRONG = [
    ({"idempotency_key": "pay:{oder}"}, "names 'oder', which is no argument; there are order, currency"),
    ({"idempotency_key": "pay"}, "names no argument"),
    ({"idempotency_key": "pay:{}"}, "no argument"),
    ({"idempotency_key": "pay:{order"}, "no format string"),
    ({"idempotency_scope": "tenant"}, "'task' or 'app' or 'run'"),
    ({"idempotency_ttl": -1}, "more than 0"),
    ({"idempotency_on_failure": "retry"}, "'release' or 'keep'"),
    ({"idempotency_fingerprint": "order"}, "must be a callable"),
    ({"on_duplicate": "drop"}, "'return' or 'raise' or 'replace'"),
    ({"debounce": 0}, "debounce must be a number of seconds"),
    ({"debounce": True}, "debounce must be a number of seconds"),
    ({"debounce_max_wait": 3}, "without debounce"),
    ({"debounce": 1, "on_duplicate": "raise"}, "do not go together"),
    ({"single_execution": "yes"}, "True or False"),
    ({"lost_policy": "retry"}, "'mark' or 'rerun'"),
    ({"max_deliveries": 0}, "at least 1"),
    ({"idempotency_key": 5}, "a format string or a function"),
    ({"keep_payload": "no"}, "True or False"),
    ({"keep_payload": False, "lost_policy": "rerun"}, "keep_payload=False"),
    ({"keep_payload": False, "debounce": 1}, "keep_payload=False"),
]


@pytest.mark.parametrize(("attributes", "says"), WRONG, ids=[str(attributes) for attributes, _ in WRONG])
def test_a_wrong_attribute_is_refused_when_the_task_is_bound(
    app: Celery, attributes: dict[str, Any], says: str
) -> None:
    with pytest.raises((ConfigurationError, ValueError), match=says) as caught:
        app.task(name="strict", shared=False, **attributes)(strict).bind(app)
    assert "strict" in str(caught.value) or "ttl" in str(caught.value)


def test_an_option_that_is_a_method_is_refused_with_both_names(app: Celery) -> None:
    class Paying(StateTask):
        def idempotency_key(self, order: int) -> str:
            return f"{order}"

    with pytest.raises(ConfigurationError, match=r"Paying defines a method 'idempotency_key'"):
        app.task(base=Paying, name="paying", shared=False)(strict).bind(app)


def key_of(app: Celery, task: Any, *args: Any, **kwargs: Any) -> str | None:
    """Return the key under which a call is recorded."""
    task.apply_async(args, kwargs)
    page = StackState.of(app).idempotency.list(task=task.name)
    return page.items[-1].key if page.items else None


@pytest.mark.parametrize(
    ("template", "args", "kwargs", "expected"),
    [
        ("pay:{order}", (7,), {}, "pay:7"),
        ("pay:{order}:{currency}", (7,), {}, "pay:7:EUR"),
        ("pay:{currency}-{order:04d}", (), {"order": 7, "currency": "USD"}, "pay:USD-0007"),
        ("pay:{order[id]}", ({"id": "a"},), {}, "pay:a"),
        ("pay:{tenant}:{order}", (7,), {"tenant": "t1"}, "pay:t1:7"),
    ],
)
def test_a_format_string_is_filled_with_the_bound_arguments(
    app: Celery, template: str, args: tuple[Any, ...], kwargs: dict[str, Any], expected: str
) -> None:
    run = pay if "tenant" in template else strict
    task = app.task(shared=False, name="pay", idempotency_key=template)(run)
    assert expected == key_of(app, task, *args, **kwargs)


BROKEN = [
    ("{order}", (None,), InvalidKey, "which is None"),
    ("{order}", ("",), InvalidKey, "which is ''"),
    ("{order.id}", (7,), ConfigurationError, "cannot be made of the arguments"),
    ("{order}", ("x" * 1100,), InvalidKey, "1,024"),
    ("{order}", ("a\nb",), InvalidKey, "control character"),
    (lambda order: 1 / 0, (7,), ConfigurationError, "raised ZeroDivisionError"),
    (lambda order: 7, (7,), InvalidKey, "must be a str"),
    (lambda order: "", (7,), InvalidKey, "must not be empty"),
]


@pytest.mark.parametrize(("key", "args", "error", "says"), BROKEN)
def test_a_key_that_cannot_be_made_is_an_error_and_nothing_is_reserved(
    app: Celery, key: Any, args: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    task = app.task(shared=False, name="pay", idempotency_key=key)(strict)
    with pytest.raises(error, match=says):
        task.apply_async(args)
    assert not StackState.of(app).idempotency.list().items


def test_a_new_parameter_with_a_default_leaves_earlier_requests_what_they_were(app: Celery) -> None:
    def newer(order: int, currency: str = "EUR", express: bool = False) -> int:
        return order

    older = app.task(shared=False, name="pay")(strict).apply_async((1, "EUR"), idempotency_key="k")
    app.tasks.unregister("pay")
    task = app.task(shared=False, name="pay")(newer)
    assert older.id == task.apply_async((1,), idempotency_key="k").id
    assert older.id == task.apply_async((1,), {"express": False}, idempotency_key="k").id
    for arguments in ({"express": True}, {"express": 0}):
        with pytest.raises(IdempotencyConflict):
            task.apply_async((1,), arguments, idempotency_key="k")


def test_a_fingerprint_that_fails_is_an_error_and_nothing_is_reserved(app: Celery) -> None:
    task = app.task(shared=False, name="pay", idempotency_fingerprint=lambda order: 1 / 0)(strict)
    with pytest.raises(ConfigurationError, match=r"idempotency_fingerprint of pay raised ZeroDivisionError"):
        task.apply_async((1,), idempotency_key="k")
    assert not StackState.of(app).idempotency.list().items


def test_a_callable_key_in_a_call_says_where_it_belongs(app: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    with pytest.raises(ConfigurationError, match="beat entry"):
        task.apply_async((1,), idempotency_key=lambda due: "k")


def test_what_a_debounced_call_cannot_have_is_refused(app: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    for options in ({"countdown": 3}, {"expires": 3}, {"task_id": "mine"}, {"link": task.si(1)}):
        with pytest.raises(ConfigurationError, match="debounce cannot be combined"):
            task.apply_async((1,), idempotency_key="k", debounce=1, **options)
    with pytest.raises(ConfigurationError, match="without an idempotency_key"):
        task.apply_async((1,), debounce=1)


def test_defaults_of_the_task_and_overrides_of_the_call(app: Celery) -> None:
    task = app.task(
        shared=False,
        name="pay",
        idempotency_key="{order}",
        idempotency_ttl=60,
        idempotency_on_failure="keep",
        max_deliveries=2,
    )(strict)
    task.delay(1)
    task.apply_async((2,), idempotency_ttl=30)
    keys = StackState.of(app).key_protocol
    first, second = (keys.record(store_key("task:pay", key)) for key in "12")
    assert first is not None
    assert second is not None
    assert (first.ticket.ttl, first.ticket.on_failure, first.ticket.deliveries) == (60.0, "keep", 2)
    assert (second.ticket.ttl, second.ticket.on_failure, second.ticket.deliveries) == (30.0, "keep", 2)


def test_a_payload_that_may_not_be_kept_is_not(app: Celery) -> None:
    kept = app.task(shared=False, name="kept")(strict)
    forbidden = app.task(shared=False, name="forbidden", keep_payload=False)(strict)
    keys = StackState.of(app).key_protocol
    for task in (kept, forbidden):
        task.apply_async((4711,), idempotency_key="k")
    records = [keys.record(store_key(f"task:{name}", "k")) for name in ("kept", "forbidden")]
    assert [record is not None and "4711" in record.dump().decode() for record in records] == [True, False]


def test_a_call_cannot_debounce_a_task_whose_payload_may_not_be_kept(app: Celery) -> None:
    forbidden = app.task(shared=False, name="forbidden", keep_payload=False)(strict)
    with pytest.raises(ConfigurationError, match="keep_payload=False forbids keeping"):
        forbidden.apply_async((1,), idempotency_key="k", debounce=5)
    assert not StackState.of(app).idempotency.list().items


def test_a_call_with_the_key_of_a_run_that_died_too_often_gets_its_failure_where_the_key_is_kept(app: Celery) -> None:
    # given
    task = app.task(shared=False, name="pay", idempotency_on_failure="keep", max_deliveries=1)(strict)
    first = task.apply_async((1,), idempotency_key="k")
    keys = StackState.of(app).key_protocol
    place = store_key("task:pay", "k")
    record = keys.record(place)
    assert record is not None
    keys.claim(record.ticket, Attempt("execution", Lease("worker@gone", "boot"), 1, 1))

    # when
    again = task.apply_async((1,), idempotency_key="k")

    # then
    assert (again.id, again.created) == (first.id, False)
    with pytest.raises(TooManyDeliveries):
        again.get(timeout=1)
    run = StackState.of(app).runs.get(first.id)
    assert run is not None
    assert (run.status, run.error and "was begun 1 times" in run.error) == (FAILURE, True)
    held = keys.record(place)
    assert held is not None
    assert held.state == "FAILED"


def test_a_call_in_eager_mode_checks_the_key_and_touches_nothing(app: Celery) -> None:
    app.conf.task_always_eager = True
    task = app.task(shared=False, name="pay", idempotency_key="{order}")(strict)
    assert [task.delay(1).created for _ in range(2)] == [True, True]
    with pytest.raises(InvalidKey):
        task.delay(None)
    assert not StackState.of(app).idempotency.list().items


@pytest.mark.parametrize("event", [{"id": None}, {"id": ""}])
def test_a_part_of_an_argument_that_is_empty_makes_no_key(app: Celery, event: dict[str, Any]) -> None:
    def handle(event: Any) -> None: ...

    task = app.task(shared=False, name="handle", idempotency_key="event:{event[id]}")(handle)
    with pytest.raises(InvalidKey, match=r"needs the argument 'event\[id\]', which is (None|'')"):
        task.delay(event)
    assert not StackState.of(app).idempotency.list().items


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("on_duplicates", "did you mean on_duplicate"),
        ("on_duplicat", "did you mean on_duplicate"),
        ("idemptency_key", "did you mean idempotency_key"),
        ("debouce", "did you mean debounce"),
        ("debounce_wait", "there are idempotency_key"),
        ("lost_policy", "is an attribute of the task"),
        ("max_deliveries", "is an attribute of the task"),
    ],
)
def test_a_misspelled_option_is_refused_wherever_it_is_given(app: Celery, option: str, says: str) -> None:
    task = app.task(shared=False, name="pay")(strict)
    for publish in (
        lambda: task.apply_async((1,), idempotency_key="k", **{option: "raise"}),
        lambda: task.s(1).set(**{option: "raise"}).apply_async(),
        lambda: app.send_task("by.name", (1,), **{option: "raise"}),
    ):
        with pytest.raises(ConfigurationError, match=says):
            publish()
    assert not StackState.of(app).idempotency.list().items


@pytest.mark.parametrize(
    ("attribute", "meant"),
    [
        ("idempotencykey", "idempotency_key"),
        ("idempotency_keyy", "idempotency_key"),
        ("lost_polcy", "lost_policy"),
        ("single_executions", "single_execution"),
        ("max_delivery", None),
        ("bounce", None),
    ],
)
def test_a_misspelled_attribute_is_refused_when_the_task_is_defined(
    app: Celery, attribute: str, meant: str | None
) -> None:
    def define() -> None:
        app.task(shared=False, name="pay", **{attribute: "rerun"})(strict).delay(1)

    if meant is None:
        define()
        return
    with pytest.raises(ConfigurationError, match=f"the task pay: {attribute} is not an option; did you mean {meant}"):
        define()


def test_options_of_celery_and_of_transports_pass(app: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    options = {"MessageGroupId": "g", "MessageDeduplicationId": "d", "mandatory": True, "once": {"graceful": True}}
    more = {"user_id": "guest", "app_id": "shop", "delivery_mode": 2, "raise_on_duplicate": True, "bounce": 1}
    assert task.apply_async((1,), idempotency_key="k", **options, **more).created


def test_a_key_with_an_id_and_retries_of_the_callers_counts(app: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    first, again = (task.apply_async((1,), idempotency_key="k", task_id="mine", retries=1) for _ in range(2))
    assert [(one.id, one.created) for one in (first, again)] == [("mine", True), ("mine", False)]


class Mode(str, Enum):
    FAST = "fast"


def test_what_serialises_as_the_default_does_is_the_default(app: Celery) -> None:
    def tagged(order: int, tags: Any = (), mode: Any = Mode.FAST) -> None: ...

    task = app.task(shared=False, name="tagged")(tagged)
    first = task.apply_async((1,), idempotency_key="k")
    alike: list[dict[str, Any]] = [{"tags": []}, {"tags": ()}, {"mode": "fast"}, {"mode": Mode.FAST, "tags": []}]
    for kwargs in alike:
        assert first.id == task.apply_async((1,), kwargs, idempotency_key="k").id
    others: list[dict[str, Any]] = [{"tags": ["a"]}, {"mode": "slow"}, {"tags": {}}]
    for kwargs in others:
        with pytest.raises(IdempotencyConflict):
            task.apply_async((1,), kwargs, idempotency_key="k")


# -- where the task is not imported --------------------------------------------------------------------------------


@pytest.fixture
def by_name(app: Celery, tmp_path: Path) -> Celery:
    """An app that knows no task, over the store of the other."""
    web = Celery("web", broker="memory://", backend="cache+memory://", set_as_current=False)
    for each in (app, web):
        each.conf.update(stackstate_url=f"sqlite:///{tmp_path}/keys.sqlite3")
    StackState(web)
    return web


def test_a_call_by_name_and_one_of_the_task_are_one_request(app: Celery, by_name: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    calls = {
        "task": lambda key: task.apply_async((1,), {"currency": "EUR"}, idempotency_key=key),
        "name": lambda key: by_name.send_task("pay", (1,), {"currency": "EUR"}, idempotency_key=key),
        "signature": lambda key: by_name.signature("pay", (1,), {"currency": "EUR"}).apply_async(idempotency_key=key),
    }
    for order in permutations(calls):
        results = [calls[which](f"k-{order}") for which in order]
        assert [one.created for one in results] == [True, False, False]
        assert len({one.id for one in results}) == 1


def test_what_is_spelled_otherwise_by_name_conflicts_and_so_do_other_arguments(app: Celery, by_name: Celery) -> None:
    task = app.task(shared=False, name="pay")(strict)
    task.apply_async((1,), idempotency_key="k")
    for args, kwargs in (((), {"order": 1}), ((1, "EUR"), {}), ((2,), {})):
        with pytest.raises(IdempotencyConflict):
            by_name.send_task("pay", args, kwargs, idempotency_key="k")


def test_a_fingerprint_of_ones_own_needs_no_arguments_that_json_can_hold(app: Celery, by_name: Celery) -> None:
    def upload(order: int, blob: Any) -> None: ...

    app.conf.update(task_serializer="pickle", accept_content=["pickle"])
    task = app.task(shared=False, name="upload", idempotency_fingerprint=lambda order, blob: order)(upload)
    first = task.apply_async((1, {1, 2}.__iter__), idempotency_key="k")
    assert first.id == task.apply_async((1, len), idempotency_key="k").id


@pytest.mark.parametrize("known", [True, False])
def test_what_json_would_change_is_not_kept_with_another_serializer(app: Celery, known: bool) -> None:
    def paint(colours: Any) -> None: ...

    app.conf.update(task_serializer="pickle", accept_content=["pickle"])
    if known:
        app.task(shared=False, name="paint")(paint)

    def kept(colours: Any, key: str) -> str | None:
        result = app.send_task("paint", (colours,), idempotency_key=key)
        record = StackState.of(app).key_protocol.record(result._ticket.store_key)
        assert record is not None
        return record.envelope

    assert kept((1, 2), "a") is kept({1: "red"}, "b") is None
    assert "red" in str(kept({"1": ["red"]}, "c"))
    with pytest.raises(NotSerializable, match="which debounce needs: JSON would not hold them as pickle does"):
        app.send_task("paint", ({1: "red"},), idempotency_key="d", debounce=1)
    app.conf.task_serializer = "json"
    assert "red" in str(kept({1: "red"}, "e")), "its message has it so, too"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("a" * 64, "a" * 64, True),  # of a release that knew one digest
        ("a" * 64, f"{'a' * 64} {'b' * 64}", True),
        ("b" * 64, f"{'a' * 64} {'b' * 64}", True),
        (f"{'a' * 64} {'b' * 64}", f"{'a' * 64} {'c' * 64}", True),
        (f"{'a' * 64} {'b' * 64}", f"{'c' * 64} {'d' * 64}", False),
        ("", "", True),
        ("", "a" * 64, False),
    ],
)
def test_fingerprints_are_of_one_request_when_they_share_a_digest(one: str, other: str, same: bool) -> None:
    assert same == is_same_request(one, other) == is_same_request(other, one)
