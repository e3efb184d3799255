"""An app whose task classes have a `__call__` of their own; it instruments Celery as the environment says."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import celery.app.trace
from celery import Celery, Task

from celery_stackstate import StateTask
from tests.worker.noting import note

INSTRUMENTS: dict[str, Callable[[], None]] = {}


def instrument(install: Callable[[], None]) -> Callable[[], None]:
    """Let the environment ask for `install` by its name."""
    INSTRUMENTS[install.__name__] = install
    return install


def _noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        note(app, name)
        return original(*args, **kwargs)

    return wrapped


@instrument
def base_class() -> None:
    """Patch the methods of Celery's own class, as agents do."""
    Task.__call__ = _noting("patched call", Task.__call__)
    Task.apply_async = _noting("patched apply_async", Task.apply_async)


@instrument
def each_class() -> None:
    """Patch the `__call__` of each task's class when its tracer is built, as sentry-sdk does."""
    build_tracer = celery.app.trace.build_tracer

    def patching(name: str, task: Any, *args: Any, **kwargs: Any) -> Any:
        if not getattr(task, "_is_patched", False):
            type(task).__call__ = _noting("patched call", type(task).__call__)
            task._is_patched = True
        return _noting("patched tracer", build_tracer(name, task, *args, **kwargs))

    celery.app.trace.build_tracer = patching


@instrument
def sentry() -> None:
    """Use sentry-sdk; what it would send becomes a note."""
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.transport import Transport

    class Notes(Transport):
        def capture_envelope(self, envelope: Any) -> None:
            event = envelope.get_event() or envelope.get_transaction_event() or {}
            kinds = [one["type"] for one in (event.get("exception") or {}).get("values", [])]
            note(app, "sent", kind=event.get("type", "event"), errors=kinds)

    sentry_sdk.init(
        "http://key@127.0.0.1:1/1", transport=Notes, integrations=[CeleryIntegration()], traces_sample_rate=1.0
    )


@instrument
def opentelemetry() -> None:
    """Use OpenTelemetry; each span becomes a note."""
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    class Notes(SpanProcessor):
        def on_end(self, span: Any) -> None:
            note(app, "span", span=span.name, code=span.status.status_code.name)

    provider = TracerProvider()
    provider.add_span_processor(Notes())
    CeleryInstrumentor().instrument(tracer_provider=provider)


app = Celery("calls", broker=os.environ["STACKSTATE_TEST_BROKER"], backend=os.environ["STACKSTATE_TEST_BACKEND"])
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]
if os.environ.get("INSTRUMENT"):
    INSTRUMENTS[os.environ["INSTRUMENT"]]()


class InContext(StateTask):
    """The pattern of Flask's documentation: it calls the body itself, and not the base class."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body within a context."""
        with contextlib.nullcontext():
            note(app, "called")
            return self.run(*args, **kwargs)


class CallsBase(StateTask):
    """A class that calls its base class, and changes what that returns."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return more than the body does."""
        note(app, "called")
        return super().__call__(*args, **kwargs)


class Mixin:
    """A class that stands before the base class, and does not know it."""

    run: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body."""
        note(app, "called")
        return self.run(*args, **kwargs)


class Mixed(Mixin, StateTask):
    """A class that gets its `__call__` from there."""

    abstract = True


class Twice(InContext):
    """A class over one that has a `__call__` of its own."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Go on to the class below."""
        return super().__call__(*args, **kwargs)


def pay(amount: int) -> int:
    """Note that it was done."""
    note(app, "pay", amount=amount)
    return amount


for base in (StateTask, InContext, CallsBase, Mixed, Twice):
    app.task(base=base, name=base.__name__, acks_late=True, shared=False)(pay)
app.task(base=InContext, name="rerun", lost_policy="rerun", shared=False)(pay)


@app.task(
    base=InContext,
    bind=True,
    name="autoretried",
    autoretry_for=(KeyError,),
    retry_kwargs={"countdown": 0},
    shared=False,
)
def autoretried(self: Task, failures: int) -> int:
    """Fail some times."""
    note(app, "pay", retries=self.request.retries)
    if self.request.retries < failures:
        raise KeyError(failures)
    return int(self.request.retries)


@app.task(base=CallsBase, bind=True, name="nested", shared=False)
def nested(self: Task, depth: int) -> list[Any]:
    """Call itself like a function, which is a request above that of the run."""
    note(app, "pay", depth=depth)
    inner = self(depth - 1) if depth else []
    return [*inner, len(self.request_stack)]


@app.task(base=InContext, bind=True, name="waiting", shared=False)
def waiting(self: StateTask) -> str:
    """Wait for a lock that is busy, without using up a retry."""
    with self.state.lock("busy", ttl=5):
        return "entered"


@app.task(base=StateTask, name="failing", shared=False)
def failing() -> None:
    """Fail."""
    raise ValueError("no")


@app.task(base=StateTask, acks_late=True, reject_on_worker_lost=True, name="killed_once", shared=False)
def killed_once() -> str:
    """Kill the process that runs it, the first time."""
    note(app, "pay")
    if app.backend.client.incr("killed_once") == 1:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"
