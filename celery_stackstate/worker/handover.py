"""A run that a canvas replaces: its key passes to the part with its id, which another worker publishes later on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_stackstate import facts
from celery_stackstate.attached import task_named, working_extension_of
from celery_stackstate.details import MAX_ERROR
from celery_stackstate.facts import next_epoch
from celery_stackstate.header import HEADER, read_ticket
from celery_stackstate.key_record import Attempt, Ticket, Verdict
from celery_stackstate.outcome import checkpoint, describe
from celery_stackstate.payload import as_text, shortened
from celery_stackstate.publishing.canvas import CANVASES
from celery_stackstate.recording import replaces
from celery_stackstate.records import FAILURE
from celery_stackstate.stores.base import RunFacts
from celery_stackstate.worker import leases

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState


def hand_over(task: Any, signature: Any) -> None:
    """Give the record and the key of the run of `task` to that part of the canvas `signature` which has its id.

    A chain that goes by the id gets them as well as its last task, which is the one that is published under it. A
    single task is published at once, which passes the key on; the record goes to one that tells nothing of itself.
    """
    execution = getattr(task.request, "_stackstate", None)
    if execution is None or not execution.extension.enabled:
        return
    single = signature.get("subtask_type") not in CANVASES
    if single and hasattr(task_named(task.app, signature.get("task")), "record_runs"):
        return
    named = [part["options"] for part in _parts(signature) if _is_named(part, task.request.id)]
    if not named:
        return
    ours = {"id": task.request.id, "after_epoch": execution.attempt.epoch}
    if execution.attempt.recorded:
        ours["replaces"] = True
    if execution.claim is not None and not single:
        ours["ticket"] = execution.ticket.dump()
        execution.pass_on()
    for options in named:
        options["headers"] = {**(options.get("headers") or {}), HEADER: ours}


def _is_named(part: Mapping[str, Any], run_id: str) -> bool:
    return bool((part.get("options") or {}).get("task_id") == run_id)


def close_behind(extension: StackState, request: Any, error: BaseException | None) -> None:
    """Close what was handed to that which stands behind a run which has failed: Celery never publishes it."""
    if request is None:
        return
    keys, lease = extension.key_protocol, leases.of_this_worker(request.hostname)
    text = None if error is None else describe(error)
    for behind in (*(request.chain or ()), request.chord):
        for part in _parts(behind):
            options = part.get("options") or {}
            ticket = _handed(options.get("headers"), options.get("task_id"))
            if ticket is not None:
                extension.recorder.later(partial(keys.close, ticket, lease=lease, pid=0, error=text))
            _fail_replaced(extension, options, request, error)


def _fail_replaced(
    extension: StackState, options: Mapping[str, Any], request: Any, error: BaseException | None
) -> None:
    """Record the failure of a run that a canvas replaced, of which a part has failed."""
    run_id, carried = options.get("task_id"), (options.get("headers") or {}).get(HEADER) or {}
    if run_id is None or not replaces(carried) or carried.get("id") != run_id:
        return
    whole = f"{request.task}[{request.id}], a part of what replaced it: {as_text(error, repr)}"
    told = extension.redactor.line("error", whole)
    extension.recorder.post(
        facts.ended(
            run_id,
            RunFacts(),
            next_epoch(carried.get("after_epoch", 0)),
            FAILURE,
            keep=extension.settings.retention,
            data={"error_type": type(error).__name__, "error": shortened(told, MAX_ERROR, of=whole)},
        )
    )


def settle_elsewhere(task: Any, result: Any) -> None:
    """Record the success of a run whose key was handed to a task that is no StateTask, such as Celery's own."""
    extension, request = working_extension_of(task.app), task.request
    ticket = _handed(request.headers, request.id)
    if extension is None or ticket is None or request.is_eager:
        return
    keys = extension.key_protocol
    attempt = Attempt(str(uuid4()), leases.of_this_worker(request.hostname), os.getpid(), next_epoch())
    kept = checkpoint(task, result)

    def settle() -> None:
        claim = keys.claim(ticket, attempt)
        if claim.verdict is Verdict.RUN:
            keys.succeed(claim, kept)

    extension.recorder.later(settle)


def fail_elsewhere(task: Any, error: BaseException | None) -> None:
    """Record the failure of such a run."""
    extension, request = working_extension_of(task.app), task.request
    ticket = _handed(request.headers, request.id)
    if extension is not None and ticket is not None and not request.is_eager:
        lease, text = leases.of_this_worker(request.hostname), None if error is None else describe(error)
        extension.recorder.later(partial(extension.key_protocol.close, ticket, lease=lease, pid=0, error=text))


def _handed(headers: Any, run_id: Any) -> Ticket | None:
    """Return the ticket in the headers of a message, if it is that of the run itself."""
    ticket = read_ticket(headers.get(HEADER)) if isinstance(headers, Mapping) else None
    return ticket if ticket is not None and ticket.task_id == run_id else None


def _parts(signature: Any) -> Iterator[dict[str, Any]]:
    """Yield a signature and what it holds of others that come after it, at any depth."""
    if not isinstance(signature, dict):
        return
    yield signature
    inner, options = signature.get("kwargs") or {}, signature.get("options") or {}
    several = [*(options.get("chain") or ()), options.get("chord")]
    if signature.get("subtask_type") in CANVASES:
        tasks = inner.get("tasks")
        several += [*(tasks if isinstance(tasks, (list, tuple)) else ()), inner.get("body")]
    for part in several:
        yield from _parts(part)
