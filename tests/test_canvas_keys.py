"""Keys of groups and chords: what reaches the tasks, on a plain Celery app."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from celery import Celery, Task, _state, canvas, chain, chord, group, signature
from celery.worker.request import Request

from celery_stackstate.errors import ConfigurationError, InvalidKey
from celery_stackstate.publishing import canvas as keyed_canvas

Sent = dict[str, dict[str, Any]]
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
NUMBERS = count()
#: What was sent, by the task's first argument.
SENT: Sent = {}


def is_ours(name: str) -> bool:
    return name.startswith(("idempotency_", "debounce", "on_duplicate"))


class Probe(Task):
    """Notes what it is sent with; as StateTask does, it lets nothing of it go to the broker."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        label = str(args[-1])
        assert label not in SENT, f"{label} was sent twice"
        SENT[label] = {name: value for name, value in options.items() if is_ours(name)}
        rest = {name: value for name, value in options.items() if not is_ours(name)}
        return super().apply_async(args, kwargs, **rest)


@pytest.fixture(autouse=True)
def attached() -> Iterator[None]:
    keyed_canvas.attach()
    SENT.clear()
    yield
    SENT.clear()


@pytest.fixture
def app() -> Iterator[Celery]:
    """Make an app with queues of its own: those of kombu's memory transport are the process's."""
    number = next(NUMBERS)
    before = _state._tls.current_app
    app = Celery(f"canvas{number}", broker="memory://", backend="cache+memory://", task_cls=Probe)
    app.conf.task_default_queue = f"canvas{number}"
    yield app
    app.close()
    _state._set_current_app(before)


@pytest.fixture
def t(app: Celery) -> Callable[..., Any]:
    """Return a maker of signatures whose tasks are known by their label."""

    @app.task(name="work")
    def work(label: str) -> str:
        return label

    return lambda label, **options: work.si(label).set(**options)


def keys() -> dict[str, Any]:
    return {label: options.get("idempotency_key") for label, options in SENT.items()}


def run(app: Celery, sig: Any, **options: Any) -> dict[str, Any]:
    """Publish a canvas and execute it to its end, as a worker does; return the keys."""
    sig.apply_async(**options)
    return work_off(app)


def work_off(app: Celery) -> dict[str, Any]:
    for message in take(app):
        Request(message, app=app).execute()
    return keys()


def take(app: Celery) -> Iterator[Any]:
    """Take all messages off the app's queue, also those that are published meanwhile."""
    with app.connection_for_read() as connection, connection.SimpleQueue(app.conf.task_default_queue) as queue:
        while queue.qsize():
            message = queue.get_nowait()
            message.ack()
            yield message


def through_json(sig: Any, app: Celery) -> Any:
    return signature(json.loads(json.dumps(sig)), app=app)


# -- groups --------------------------------------------------------------------------------------------------------


def test_each_member_of_a_group_gets_a_key_of_its_own(t: Any) -> None:
    group(t("a"), t("b")).apply_async(idempotency_key="k")
    assert keys() == {"a": "k/0", "b": "k/1"}


def test_members_of_groups_in_groups_are_numbered_as_they_were_written(t: Any) -> None:
    group(t("a"), group(t("b"), group(t("c"), t("d"))), t("e")).apply_async(idempotency_key="k")
    assert keys() == {"a": "k/0", "b": "k/1/0", "c": "k/1/1/0", "d": "k/1/1/1", "e": "k/2"}


def test_a_chain_in_a_group_has_the_key_in_its_first_task(app: Celery, t: Any) -> None:
    assert run(app, group(chain(t("a"), t("b")), t("c")), idempotency_key="k") == {"a": "k/0", "b": None, "c": "k/1"}


def test_members_keep_keys_of_their_own(t: Any) -> None:
    sig = group(
        t("a", idempotency_key="x", idempotency_ttl=5),
        chain(t("b", idempotency_key="y"), t("c")),
        group(t("d"), t("e", idempotency_key="z")).set(idempotency_key="g"),
        t("f", idempotency_key=None),
        chain(t("h"), t("i")).set(idempotency_key="c"),
    )
    sig.apply_async(idempotency_key="k", idempotency_ttl=9)
    assert keys() == {"a": "x", "b": "y", "d": "g/0", "e": "z", "f": None, "h": "c"}
    assert [SENT[label]["idempotency_ttl"] for label in "abde"] == [5, 9, 9, 9]


def test_the_other_options_go_to_every_task(app: Celery, t: Any) -> None:
    others = {
        "idempotency_ttl": 60,
        "idempotency_scope": "app",
        "idempotency_on_failure": "keep",
        "on_duplicate": "raise",
    }
    sig = chord([t("a"), group(t("b"), t("c")), chain(t("d"), t("x"))], t("e"))
    assert run(app, sig, idempotency_key="k", queue=app.conf.task_default_queue, **others) == {
        **{"a": "k/0", "b": "k/1/0", "c": "k/1/1", "d": "k/2", "x": None, "e": "k/body"},
    }
    for label in "abcde":
        assert SENT[label] == {**others, "idempotency_key": SENT[label]["idempotency_key"]}


def test_a_function_for_the_fingerprint_goes_to_every_member(t: Any) -> None:
    group(t("a"), chain(t("b"), t("c"))).apply_async(idempotency_key="k", idempotency_fingerprint=len)
    assert [SENT[label]["idempotency_fingerprint"] for label in "ab"] == [len, len]


def test_the_key_may_sit_on_the_group(t: Any) -> None:
    sig = group(t("a"), t("b")).set(idempotency_key="k", idempotency_ttl=5)
    sig.apply_async()
    assert keys() == {"a": "k/0", "b": "k/1"}
    SENT.clear()
    sig.apply_async(idempotency_key="call")
    assert keys() == {"a": "call/0", "b": "call/1"}
    assert SENT["a"]["idempotency_ttl"] == 5
    SENT.clear()
    sig = group(t("c", idempotency_key="x"), group(t("d"), t("e")).set(idempotency_key="k", idempotency_ttl=7))
    sig.apply_async(idempotency_ttl=9)
    assert keys() == {"c": "x", "d": "k/0", "e": "k/1"}
    assert SENT["c"]["idempotency_ttl"] == 9


def test_none_says_that_there_is_no_key(t: Any) -> None:
    group(t("a"), t("b")).set(idempotency_key="k").apply_async(idempotency_key=None)
    assert SENT == {"a": {"idempotency_key": None}, "b": {"idempotency_key": None}}


def test_a_group_can_be_published_again_and_is_not_changed(app: Celery, t: Any) -> None:
    sig = group(t("a"), group(t("b"), t("c")), chain(t("d"), t("e")))
    before = json.dumps(sig)
    for key in ("k", "l"):
        SENT.clear()
        sig.apply_async(idempotency_key=key)
        assert keys() == {"a": f"{key}/0", "b": f"{key}/1/0", "c": f"{key}/1/1", "d": f"{key}/2"}
    assert json.dumps(sig) == before


@pytest.mark.parametrize("key", [None, "k"])
def test_a_generator_is_run_while_its_group_is_published(t: Any, key: str | None) -> None:
    def members() -> Iterator[Any]:
        for number in range(30):
            assert len(SENT) > number - 10, "it ran ahead"
            yield t(str(number))

    sig = group(members())
    if key is not None:
        sig.set(idempotency_key=key)
    sig.apply_async()
    assert keys() == {str(number): key and f"k/{number}" for number in range(30)}
    SENT.clear()
    sig.apply_async(idempotency_key="l")
    assert keys() == {str(number): f"l/{number}" for number in range(30)}


def test_members_may_be_plain_dictionaries(app: Celery, t: Any) -> None:
    members = [json.loads(json.dumps(t("a"))), json.loads(json.dumps(group(t("b"), t("c"))))]
    group(members, app=app).apply_async(idempotency_key="k")
    assert keys() == {"a": "k/0", "b": "k/1/0", "c": "k/1/1"}


# -- chords --------------------------------------------------------------------------------------------------------


def test_the_tasks_of_a_chord_get_keys_of_their_own(app: Celery, t: Any) -> None:
    assert run(app, chord([t("a"), t("b")], t("c")), idempotency_key="k") == {"a": "k/0", "b": "k/1", "c": "k/body"}


def test_a_body_given_in_the_call_gets_its_key(app: Celery, t: Any) -> None:
    chord([t("a"), t("b")])(t("c"), idempotency_key="k")
    assert work_off(app) == {"a": "k/0", "b": "k/1", "c": "k/body"}


def test_a_chord_with_chains_and_groups(app: Celery, t: Any) -> None:
    sig = chord([chain(t("a"), t("b")), group(t("c"), t("d"))], chain(t("e"), t("f")))
    assert run(app, sig, idempotency_key="k") == {
        **{"a": "k/0", "b": None, "c": "k/1/0", "d": "k/1/1", "e": "k/body", "f": None}
    }


def test_a_group_as_the_body(app: Celery, t: Any) -> None:
    sig = chord([t("a"), t("b")], group(t("c"), group(t("d"), t("e"))))
    assert run(app, sig, idempotency_key="k") == {
        "a": "k/0",
        "b": "k/1",
        "c": "k/body/0",
        "d": "k/body/1/0",
        "e": "k/body/1/1",
    }


def test_a_chord_in_a_group(app: Celery, t: Any) -> None:
    sig = group(t("a"), chord([t("b"), group(t("c"), t("d"))], t("e")))
    assert run(app, sig, idempotency_key="k") == {
        **{"a": "k/0", "b": "k/1/0", "c": "k/1/1/0", "d": "k/1/1/1", "e": "k/1/body"}
    }


def test_a_chord_in_a_chord(app: Celery, t: Any) -> None:
    sig = chord([t("a"), chord([t("b"), t("c")], t("d"))], t("e"))
    assert run(app, sig, idempotency_key="k") == {
        **{"a": "k/0", "b": "k/1/0", "c": "k/1/1", "d": "k/1/body", "e": "k/body"}
    }


def test_the_key_may_sit_on_the_chord_and_own_keys_are_kept(app: Celery, t: Any) -> None:
    sig = chord([t("a"), t("b", idempotency_key="x")], t("c", idempotency_key="y")).set(idempotency_key="k")
    assert run(app, sig) == {"a": "k/0", "b": "x", "c": "y"}


def test_a_chord_can_be_published_again_and_is_not_changed(app: Celery, t: Any) -> None:
    sig = chord([t("a"), group(t("b"), t("c"))], t("d"))
    before = json.dumps(sig)
    for key in ("k", "l"):
        SENT.clear()
        assert run(app, sig, idempotency_key=key) == {
            **{"a": f"{key}/0", "b": f"{key}/1/0", "c": f"{key}/1/1", "d": f"{key}/body"}
        }
    assert json.dumps(sig) == before


def test_a_chord_without_a_header_task(app: Celery, t: Any) -> None:
    assert run(app, chord([], t("a")), idempotency_key="k") == {"a": "k/body"}


# -- chains --------------------------------------------------------------------------------------------------------


def test_a_key_of_a_chain_is_its_first_tasks(app: Celery, t: Any) -> None:
    assert run(app, chain(t("a"), t("b")), idempotency_key="k") == {"a": "k", "b": None}


def test_a_chain_that_begins_with_a_group(app: Celery, t: Any) -> None:
    sig = chain(group(t("a"), group(t("b"), t("c"))), t("d"), t("e"))
    assert run(app, sig, idempotency_key="k") == {"a": "k/0", "b": "k/1/0", "c": "k/1/1", "d": "k/body", "e": None}


def test_a_chain_in_which_celery_makes_the_chord_when_it_runs(app: Celery, t: Any) -> None:
    sig = canvas._chain([group(t("a"), group(t("b"), t("c"))), t("d"), t("e")], app=app)
    expected = {"a": "k/0", "b": "k/1/0", "c": "k/1/1", "d": "k/body", "e": None}
    assert run(app, sig, idempotency_key="k") == expected
    SENT.clear()
    expected = {"a": "k/0/0", "b": "k/0/1/0", "c": "k/0/1/1", "d": "k/0/body", "e": None}
    assert run(app, group(sig), idempotency_key="k") == expected


def test_an_immutable_chain_takes_no_arguments(app: Celery, t: Any) -> None:
    sig = chain(app.tasks["work"].s("a"), t("b"))
    sig.set_immutable(True)
    assert run(app, sig, args=("more",), idempotency_key="k") == {"a": "k", "b": None}


def test_a_group_further_on_in_a_chain(app: Celery, t: Any) -> None:
    sig = chain(t("a"), group(t("b"), group(t("c"), t("d"))).set(idempotency_key="k", idempotency_ttl=5))
    assert run(app, sig) == {"a": None, "b": "k/0", "c": "k/1/0", "d": "k/1/1"}
    assert SENT["d"]["idempotency_ttl"] == 5


def test_a_chord_further_on_in_a_chain(app: Celery, t: Any) -> None:
    sig = chain(t("a"), chord([t("b"), t("c")], t("d")).set(idempotency_key="k"), t("e"))
    assert run(app, sig, idempotency_key="first") == {"a": "first", "b": "k/0", "c": "k/1", "d": "k/body", "e": None}


def test_a_group_of_one_in_a_chain(app: Celery, t: Any) -> None:
    sig = chain(t("a"), group([t("b")]).set(idempotency_key="k"), t("c"))
    assert run(app, sig) == {"a": None, "b": "k/0", "c": None}


def test_a_group_with_a_key_that_becomes_a_chord(app: Celery, t: Any) -> None:
    sig = group(t("a"), t("b")).set(idempotency_key="k", idempotency_ttl=5) | t("c")
    assert run(app, sig) == {"a": "k/0", "b": "k/1", "c": None}
    assert SENT["b"]["idempotency_ttl"] == 5
    SENT.clear()
    sig = chain(t("d"), group(t("a"), t("b")).set(idempotency_key="k"), t("c"))
    assert run(app, sig) == {"d": None, "a": "k/0", "b": "k/1", "c": None}


def test_a_group_that_became_a_chord(app: Celery, t: Any) -> None:
    assert run(app, group(t("a"), t("b")) | t("c"), idempotency_key="k") == {"a": "k/0", "b": "k/1", "c": "k/body"}


def test_a_group_as_a_callback(app: Celery, t: Any) -> None:
    sig = t("a")
    sig.link(group(t("b"), group(t("c"), t("d"))).set(idempotency_key="k"))
    assert run(app, sig) == {"a": None, "b": "k/0", "c": "k/1/0", "d": "k/1/1"}


# -- serialised ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in the call", "on the canvas"])
def test_a_canvas_that_was_serialised(app: Celery, t: Any, how: str) -> None:
    sig = group(t("a"), chord([t("b"), group(t("c"), t("d"))], t("e")), chain(t("f"), t("g")))
    options = {"idempotency_key": "k"}
    if how == "on the canvas":
        sig.set(**options)
    sig = through_json(sig, app)
    expected = {"a": "k/0", "b": "k/1/0", "c": "k/1/1/0", "d": "k/1/1/1", "e": "k/1/body", "f": "k/2", "g": None}
    assert run(app, sig, **({} if how == "on the canvas" else options)) == expected
    SENT.clear()
    sig = through_json(chain(t("x"), sig), app)
    with_key = {label: key if how == "on the canvas" else None for label, key in expected.items()}
    assert run(app, sig) == {"x": None, **with_key}


def test_a_chord_that_was_serialised(app: Celery, t: Any) -> None:
    sig = through_json(chord([t("a"), group(t("b"), t("c"))], t("d")), app)
    assert run(app, sig, idempotency_key="k") == {"a": "k/0", "b": "k/1/0", "c": "k/1/1", "d": "k/body"}


def test_a_frozen_chord(app: Celery, t: Any) -> None:
    sig = chord([t("a"), t("b")], t("c"))
    result = sig.freeze()
    published = sig.apply_async(idempotency_key="k", task_id=result.id)
    assert (published.id, published.parent.id) == (result.id, result.parent.id)
    assert work_off(app) == {"a": "k/0", "b": "k/1", "c": "k/body"}
    SENT.clear()
    sig = chord([t("a"), t("b")], t("c"))
    sig.freeze()
    assert run(app, group(sig), idempotency_key="k") == {"a": "k/0/0", "b": "k/0/1", "c": "k/0/body"}


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["debounce", "debounce_max_wait"])
def test_debounce_is_for_single_tasks(t: Any, option: str) -> None:
    for sig in (group(t("a"), t("b")), chord([t("a"), t("b")], t("c")), chain(group(t("a"), t("b")), t("c"))):
        with pytest.raises(ConfigurationError, match=f"{option} cannot be given to a (group|chord)"):
            sig.apply_async(idempotency_key="k", **{option: 5})
        with pytest.raises(ConfigurationError, match=option):
            sig.set(idempotency_key="k", **{option: 5}).apply_async()
    assert SENT == {}


def test_a_function_does_not_travel_with_a_body(t: Any) -> None:
    for sig in (chord([t("a")], t("b")), group(t("c"), chord([t("a")], t("b")))):
        with pytest.raises(ConfigurationError, match="idempotency_fingerprint cannot be given to a chord"):
            sig.apply_async(idempotency_key="k", idempotency_fingerprint=len)
    assert SENT == {}


@pytest.mark.parametrize("key", ["", 5, "a\nb", "k" * 1024])
def test_a_key_that_cannot_be_one_is_refused_before_anything_is_published(t: Any, key: Any) -> None:
    for sig in (group(t("a"), t("b")), chord([t("a"), t("b")], t("c"))):
        with pytest.raises(InvalidKey):
            sig.apply_async(idempotency_key=key)
    assert SENT == {}


def test_maps_and_chunks_have_no_key(app: Celery, t: Any) -> None:
    work = app.tasks["work"]
    for member in (work.map(["x"]), work.starmap([("x",)]), work.chunks([("x",)], 1)):
        with pytest.raises(ConfigurationError, match="use a group"):
            group(t("a"), member).apply_async(idempotency_key="k")
    for sig in (work.chunks([("x",), ("y",)], 1), work.chunks([("x",), ("y",)], 1).group()):
        with pytest.raises(ConfigurationError, match="use a group"):
            sig.apply_async(idempotency_key="k")
    assert SENT == {}


# -- eager mode, and without a key ---------------------------------------------------------------------------------


def test_eager_mode(app: Celery, t: Any) -> None:
    app.conf.task_always_eager = True
    assert group(t("a"), group(t("b"), t("c"))).apply_async(idempotency_key="k").get() == ["a", "b", "c"]
    assert chord([t("a"), t("b")], t("c")).apply_async(idempotency_key="k").get() == "c"
    assert (group(t("a"), t("b")).set(idempotency_key="k") | t("c")).apply_async().get() == "c"
    assert chain(group(t("a"), t("b")), t("c")).apply_async(idempotency_key="k").get() == "c"
    assert chain(t("a"), group(t("b"), t("c"))).apply_async(idempotency_key="k").get() == ["b", "c"]


def test_attaching_again_does_nothing() -> None:
    before = (group.apply_async, canvas._chord.apply_async, canvas._chain.apply_async, canvas._chord.__init__)
    keyed_canvas.attach()
    assert before == (group.apply_async, canvas._chord.apply_async, canvas._chain.apply_async, canvas._chord.__init__)
    assert not hasattr(group.apply_async.__wrapped__, "__wrapped__")


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def detach() -> None:
        for owner in (canvas.group, canvas._chord, canvas._chain):
            monkeypatch.setattr(owner, "apply_async", owner.apply_async.__wrapped__)
        monkeypatch.setattr(canvas._chord, "__init__", canvas._chord.__init__.__wrapped__)
        monkeypatch.setattr(canvas, "maybe_unroll_group", canvas.maybe_unroll_group.__wrapped__)

    return detach


CANVASES: dict[str, Callable[[Any], Any]] = {
    "group": lambda t: group(t("a"), t("b", idempotency_key="own", countdown=1)),
    "nested": lambda t: group(t("a"), group(t("b"), group(t("c"), t("d")))),
    "generator": lambda t: group(t(label) for label in "abc"),
    "chord": lambda t: chord([t("a"), group(t("b"), t("c")), chain(t("d"), t("e"))], t("f") | t("g")),
    "chain": lambda t: chain(t("a"), group(t("b"), t("c")), t("d"), group([t("e")]), group(t("f"), t("g"))),
    "upgrade": lambda t: group(t("a"), chord([t("b")], t("c"))).set(expires=9) | t("d") | group(t("e"), t("f")),
}


@pytest.mark.parametrize("name", CANVASES)
def test_without_a_key_the_messages_are_celerys(app: Celery, t: Any, name: str, detached: Callable[[], None]) -> None:
    def publish() -> tuple[str, Sent]:
        SENT.clear()
        sig = CANVASES[name](t)
        sig.apply_async(priority=3)
        return messages(app) + normal(json.dumps(sig)), dict(SENT)

    with_ours = publish()
    detached()
    assert not hasattr(group.apply_async, "_stackstate")
    assert with_ours == publish()


def messages(app: Celery) -> str:
    taken = [[message.headers, message.payload, message.properties["priority"]] for message in take(app)]
    assert taken
    return normal(json.dumps(taken, default=str))


def normal(text: str) -> str:
    """Replace the random ids by numbers, in the order in which they are met, and forget the time."""
    known: dict[str, str] = {}
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(\+00:00)?", "time", text)
    return UUID.sub(lambda found: known.setdefault(found[0], f"id{len(known)}"), text)
