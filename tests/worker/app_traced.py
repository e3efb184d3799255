"""An app that others have their hands in as well: tracers that wrap tasks, and a base class of the project's own."""

from __future__ import annotations

import json
import os
from typing import Any

from celery import Celery, Task

from celery_stackstate import StateTask
from tests.worker.noting import note

TRACERS = os.environ.get("STACKSTATE_TEST_TRACERS", "").split()

if "sentry" in TRACERS:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration

    def show(event: Any, hint: Any) -> None:
        """Say in the worker's log what would have been sent, and drop it."""
        print(f"sentry saw {event['exception']['values'][-1]['type']}")

    sentry_sdk.init(
        "http://key@localhost/1",
        traces_sample_rate=1.0,
        before_send=show,
        before_send_transaction=lambda event, hint: None,
        integrations=[CeleryIntegration()],
    )

if "opentelemetry" in TRACERS:
    from opentelemetry import trace
    from opentelemetry.instrumentation.celery import CeleryInstrumentor
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(formatter=lambda span: f"span {span.name}\n")))
    trace.set_tracer_provider(provider)
    CeleryInstrumentor().instrument()


class Audited(Task):
    """A base class of the project's own, which wraps the call and the publish."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Note each call."""
        note(app, "audited", id=self.request.id)
        return super().__call__(*args, **kwargs)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """Publish with a header of the project's own."""
        headers = {**(options.pop("headers", None) or {}), "tenant": "acme"}
        return super().apply_async(args, kwargs, headers=headers, **options)


class Traced(Audited, StateTask):
    """Both."""


app = Celery(
    "traced",
    broker=os.environ["STACKSTATE_TEST_BROKER"],
    backend=os.environ["STACKSTATE_TEST_BACKEND"],
    task_cls=Traced,
)
app.conf.update(json.loads(os.environ["STACKSTATE_TEST_CONF"]))
app.conf.stackstate_url = os.environ["STACKSTATE_TEST_STORE"]


@app.task(bind=True)
def charge(self: Task, amount: int) -> list[Any]:
    """Charge, once for each key."""
    note(app, "charge", id=self.request.id)
    return [amount, self.request.headers["tenant"], self.state.run.increment("charged")]


@app.task(bind=True, max_retries=2)
def flaky(self: Task) -> int:
    """Fail the first time."""
    if self.request.retries == 0:
        raise self.retry(countdown=0.1)
    return int(self.request.retries)


@app.task
def refuse() -> None:
    """Fail for good."""
    raise ValueError("no")


@app.task(bind=True)
def publish(self: Task, key: str) -> list[Any]:
    """Publish twice under a key, with the tracers of the worker around it."""
    return [(one.id, one.created) for one in (charge.apply_async((1,), idempotency_key=key) for _ in range(2))]
