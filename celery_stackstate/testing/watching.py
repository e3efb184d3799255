"""Sees what an app enqueues: messages by Celery's signals, and the calls that eager mode runs at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from celery import Task, signals
from celery.canvas import Signature
from celery.utils import uuid

from celery_stackstate.errors import StackStateError
from celery_stackstate.header import HEADER, read_key, read_stamp, read_ticket
from celery_stackstate.positional import by_name
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.publishing.options import complete, take_options
from celery_stackstate.publishing.publication import current
from celery_stackstate.publishing.tidings import REPLACED
from celery_stackstate.recording import is_built_in
from celery_stackstate.records import from_micros, micros_of
from celery_stackstate.signals import duplicate_suppressed, run_finished
from celery_stackstate.task import StateTask
from celery_stackstate.testing.enqueued import Enqueued, Outbox, as_sent

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState
    from celery_stackstate.key_record import Ticket


@contextmanager
def watched(extension: StackState, outbox: Outbox) -> Iterator[None]:
    """Put into `outbox` what the extension's app enqueues inside of the block, in all threads."""
    messages, eager = Messages(extension, outbox), EagerCalls(extension, outbox)
    with ExitStack() as stack:
        for signal, receiver in (
            (signals.after_task_publish, messages.published),
            (duplicate_suppressed, messages.suppressed),
            (run_finished, messages.finished),
            (signals.task_prerun, eager.begun),
        ):
            signal.connect(receiver, weak=False)
            stack.callback(signal.disconnect, receiver)
        for owner, name, watching in (
            (Task, "apply_async", eager.of_task),
            (StateTask, "apply_async", eager.of_task),
            (Signature, "apply", eager.of_signature),
        ):
            original = vars(owner)[name]
            setattr(owner, name, watching(original))
            stack.callback(setattr, owner, name, original)
        yield


class Messages:
    """What is told of each message that was published."""

    def __init__(self, extension: StackState, outbox: Outbox) -> None:
        self._extension, self._outbox = extension, outbox
        self._windows: dict[str, Ticket] = {}  # of debounced runs, by their ids

    def published(self, sender: Any = None, headers: Any = None, body: Any = None, **_: Any) -> None:
        """Note a message that asks for a run; not one with which a run goes on."""
        publication = current()
        if publication is None or publication.extension is not self._extension or publication.goes_on:
            return
        if not isinstance(headers, Mapping) or "id" not in headers or is_built_in(str(sender)):
            return
        header = headers.get(HEADER)
        stamp, run_id, window = read_stamp(header), str(headers["id"]), read_ticket(header, "window")
        self._outbox.add(
            Enqueued(
                str(sender),
                run_id,
                *as_sent(body[0], body[1]),
                key=read_key(header),
                queue=stamp.queue if stamp else None,
                eta=from_micros(micros_of(headers.get("eta"))),
                created=read_ticket(header, "follow") is None,
            )
        )
        if window is not None:
            self._windows[run_id] = window
            self._take_latest(run_id)  # there may have been others before the commit of a transaction

    def suppressed(self, sender: Any = None, app: Any = None, run_id: str = "", key: str = "", **_: Any) -> None:
        """Note a request that has made no message; that of a debounced run gives it its arguments."""
        if app is self._extension.app:
            self._outbox.suppress(str(sender), key, run_id)
            self._take_latest(run_id)

    def finished(self, app: Any = None, run_id: str = "", error: str | None = None, **_: Any) -> None:
        """Note that a run has given its place to another before it began."""
        if app is self._extension.app and (error or "").startswith(f"{REPLACED}:"):
            self._outbox.drop(run_id)

    def _take_latest(self, run_id: str) -> None:
        """Take over what the store holds for the body of a debounced run."""
        window = self._windows.get(run_id)
        record = None if window is None else self._extension.key_protocol.record(window.store_key)
        if record is not None and record.ticket.task_id == run_id and record.envelope is not None:
            asked = Envelope.load(record.envelope)
            self._outbox.change(run_id, asked.args, asked.kwargs)


class EagerCalls:
    """What is told of each call that runs at once: it is announced with its options, and counts when it begins."""

    def __init__(self, extension: StackState, outbox: Outbox) -> None:
        self._extension, self._outbox = extension, outbox
        self._announced: dict[str, Enqueued] = {}

    def of_task(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `apply_async` of a task class."""

        @functools.wraps(original)
        def apply_async(task: Any, args: Any = None, kwargs: Any = None, *rest: Any, **options: Any) -> Any:
            options = by_name(Task.apply_async, "kwargs", rest, options)
            if self._is_eager(task):
                options["task_id"] = options.get("task_id") or uuid()
                self._announce(task, args, kwargs, options)
            return original(task, args, kwargs, **options)

        return apply_async

    def of_signature(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap `Signature.apply`, by which eager canvases run their parts."""

        @functools.wraps(original)
        def apply(signature: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            task = self._extension.app.tasks.get(signature.task)
            if task is not None and self._is_eager(task):
                given = signature._merge(tuple(args or ()), kwargs or {}, options)
                options["task_id"] = given[2].get("task_id") or uuid()
                self._announce(task, given[0], given[1], {**given[2], "task_id": options["task_id"]})
            return original(signature, args, kwargs, **options)

        return apply

    def begun(self, task_id: str = "", **_: Any) -> None:
        """Note a call that was announced."""
        sent = self._announced.pop(task_id, None)
        if sent is not None:
            self._outbox.add(sent)

    def _is_eager(self, task: Any) -> bool:
        app = self._extension.app
        return task.app is app and bool(app.conf.task_always_eager) and not is_built_in(task.name)

    def _goes_on(self, run_id: str) -> bool:
        """Return whether a run that is under way calls itself, or what replaces it."""
        running = self._extension.app.current_task
        return running is not None and running.request.id == run_id

    def _announce(self, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> None:
        run_id, args, kwargs = str(options["task_id"]), tuple(args or ()), dict(kwargs or {})
        if run_id in self._announced or options.get("retries") or self._goes_on(run_id):
            return
        try:
            mine, rest = take_options(options)
            ours = complete(task, mine, args, kwargs) if isinstance(task, StateTask) else None
        except StackStateError:  # the call is going to raise it
            return
        self._announced[run_id] = Enqueued(
            task.name,
            run_id,
            *as_sent(args, kwargs),
            key=None if ours is None else ours.idempotency_key,
            queue=self._queue(task, args, kwargs, rest),
            eta=from_micros(Envelope(task.name, args, kwargs, rest).moments().get("eta")),
        )

    def _queue(self, task: Any, args: Any, kwargs: Any, options: Mapping[str, Any]) -> str | None:
        """Return where the message would have gone."""
        asked = {name: options[name] for name in ("queue", "exchange", "routing_key") if options.get(name) is not None}
        try:
            asked = {**task._get_exec_options(), **asked}
            route = self._extension.app.amqp.router.route(asked, task.name, args, kwargs, task)
        except Exception:  # an eager call needs no queue
            route = asked
        queue = route.get("queue")
        return None if queue is None else str(getattr(queue, "name", queue))
