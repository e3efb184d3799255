"""A message on its way to the broker, and what is known of it while it is published."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_stackstate.facts import Stamp
from celery_stackstate.key_record import Ticket
from celery_stackstate.publishing import repeat
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.receiving import interruptible
from celery_stackstate.result import RunResult

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


@dataclass(slots=True)
class Publication:
    """One publish under way in this context, for the signal receivers that see it.

    `parts` go into our header. A message that `goes_on` with a run makes no new request. The history may tell of it
    `in_background` when the store knows the run by its key. It is `stamped` when its message is about to be made, with
    the `stamp` that our header then has, and `sent` when the broker has taken it.
    """

    extension: StackState
    task: Any
    run_id: str | None = None
    parts: Mapping[str, Any] = field(default_factory=dict)
    after_epoch: int = 0
    queue: str | None = None
    routing_key: str | None = None
    priority: int | None = None
    goes_on: bool = False
    in_background: bool = False
    stamped: bool = False
    stamp: Stamp | None = None
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that is to be published, by the `send_task` of Celery that is behind ours."""

    extension: StackState
    original: Callable[..., Any]
    task: Any
    envelope: Envelope

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of its `send_task`."""
        return self.envelope.options

    @property
    def result_class(self) -> Callable[[str], Any]:
        """What makes the handle of its run, also of one that is sent by name."""
        make = self.task.AsyncResult if self.task is not None else partial(RunResult, app=self.extension.app)
        return self.options.get("result_cls") or make

    @property
    def is_dispatched(self) -> bool:
        """Whether Celery publishes this as what follows another task: an error would be blamed on that one.

        It names the parent of what is chained or linked. A chord's body has no parent, but an id: it is published by
        the last task of the header when that has left its body, or by a task of Celery's that waited for the header.
        """
        if self.options.get("parent_id") is not None:
            return True
        ending = self.extension.app.current_worker_task
        if ending is None or self.options.get("task_id") is None:
            return False
        execution = getattr(ending.request, "_stackstate", None)
        return ending.name.startswith("celery.") or (execution is not None and bool(execution.left))

    def with_options(self, **options: Any) -> Outgoing:
        """Return it with other options."""
        return replace(self, envelope=replace(self.envelope, options={**self.options, **options}))

    def for_later(self) -> Outgoing:
        """Return it as it is now, for the caller goes on before it is published. It takes a producer of its own then,
        unless it was given one for another broker."""
        envelope = replace(self.envelope, args=deepcopy(self.envelope.args), kwargs=deepcopy(self.envelope.kwargs))
        outgoing, producer = replace(self, envelope=envelope), self.options.get("producer")
        if producer is None or _brokers(producer.connection) != _brokers(self.extension.app.connection_for_write()):
            return outgoing
        return outgoing.with_options(producer=None)  # by then it may be in other hands, or closed

    def pass_through(self) -> Any:
        """Publish it as it is, as if the extension were not there."""
        envelope, token = self.envelope, _let_through.set(self.extension)
        try:
            return self.original(envelope.name, envelope.args, envelope.kwargs, **self.options)
        finally:
            _let_through.reset(token)

    def publish(self, publication: Publication | None = None) -> Any:
        """Publish it."""
        envelope, publication = self.envelope, publication or Publication(self.extension, self.task)
        with interruptible():
            with _publishing(publication):
                result = self.pass_through()
            if getattr(self.task, "keep_payload", None) is True and not publication.goes_on:
                repeat.keep(self.extension, envelope, str(result.id))
        return result


def may_be_sent(outgoing: Outgoing, publication: Publication, error: BaseException) -> bool:
    """Return whether a message may be out though its publish raised: an error of the transport leaves that open.

    So does what interrupts the process at any moment. Whatever else is raised was raised before it was sent.
    """
    if publication.sent or not publication.stamped:
        return publication.sent
    if not isinstance(error, Exception) or isinstance(error, (OSError, OperationalError, SoftTimeLimitExceeded)):
        return True
    producer, given = outgoing.options.get("producer"), outgoing.options.get("connection")
    connection = given or (producer and producer.connection) or outgoing.extension.app.connection_for_write()
    return isinstance(error, (*connection.connection_errors, *connection.channel_errors))


class HeldKey(Protocol):
    """The key of the run whose body is running in this context."""

    ticket: Ticket

    def pass_on(self, envelope: Envelope) -> None:
        """Record that the run goes on with a message that is about to be published."""

    def fail(self, error: BaseException | None = None) -> None:
        """Record that the run has failed."""


held_key: ContextVar[HeldKey | None] = ContextVar("stackstate_held_key", default=None)
_current: ContextVar[Publication | None] = ContextVar("stackstate_publication", default=None)
_let_through: ContextVar[StackState | None] = ContextVar("stackstate_let_through", default=None)


def _brokers(connection: Any) -> set[str]:
    return set(connection.alt or [connection.as_uri(include_password=True)])


def current() -> Publication | None:
    """Return the publish under way in this context, or None."""
    return _current.get()


def is_let_through(extension: StackState | None) -> bool:
    """Return whether a message of the extension's app has been seen in this context, and is Celery's to publish."""
    return extension is not None and _let_through.get() is extension


@contextmanager
def _publishing(publication: Publication) -> Iterator[None]:
    token = _current.set(publication)
    try:
        yield
    finally:
        _current.reset(token)
