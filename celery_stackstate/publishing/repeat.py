"""Running a run again: what it was asked for is kept where its task says so, apart from the history and unredacted."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_stackstate import facts
from celery_stackstate.errors import ConfigurationError, NotRepeatable
from celery_stackstate.header import HEADER
from celery_stackstate.keys import PRIVATE, pack
from celery_stackstate.publishing.canvas import CANVASES
from celery_stackstate.publishing.envelope import Envelope
from celery_stackstate.publishing.options import OPTION_NAMES
from celery_stackstate.receiving import INTERRUPTS
from celery_stackstate.stores.base import RunFacts, RunWrite

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

logger = logging.getLogger(__name__)

#: Options of a message, or of a signature behind it, that belong to one run and its place in a canvas.
OF_ONE_RUN = frozenset(
    {"task_id", "chord", "group_id", "group_index", "root_id", "parent_id", "retries", "reply_to", "headers"}
)
#: The times have passed.
LEFT_OUT = OF_ONE_RUN | {"eta", "expires"}
#: Options that hold the signatures of what follows, and arguments of a canvas that hold those of its parts.
FOLLOWING, PARTS = ("chain", "link", "link_error"), ("tasks", "header", "body")


def keep(extension: StackState, envelope: Envelope, run_id: str) -> None:
    """Keep what a run was asked for, for as long as its record may be kept; later, while the store is down."""
    text = envelope.dump()
    if text is None:
        logger.warning("%s[%s] cannot be run again: its arguments or options are no JSON", envelope.name, run_id)
        return
    keep_text(extension, text, run_id)


def keep_text(extension: StackState, text: str, run_id: str) -> None:
    """Keep an envelope that is a text already, in place of what was kept of the run before."""

    def put() -> None:
        ttl = round(extension.settings.longest_retention * 1_000_000)
        extension.store.put(pack(PRIVATE, "", run_id), text.encode(), ttl=ttl)

    try:
        extension.store.apart(put)
    except INTERRUPTS:
        extension.recorder.later(put)
        raise
    except Exception as error:  # the message is out: whatever is wrong here is not its publisher's
        logger.warning("What the run %s was asked for is kept in the background: %r", run_id, error)
        extension.recorder.later(put)


def repeatable(extension: StackState, run_ids: Iterable[str]) -> frozenset[str]:
    """Return those of the runs of which what they were asked for is kept."""
    keys = {pack(PRIVATE, "", run_id): run_id for run_id in run_ids}
    return frozenset(keys[key] for key in extension.store.get_many(list(keys)))


def forget(extension: StackState, run_ids: Iterable[str]) -> None:
    """Remove what is kept of the runs to run them again."""
    for run_id in run_ids:
        extension.store.remove(pack(PRIVATE, "", run_id))


def repeat(extension: StackState, run_id: str, given: Mapping[str, Any]) -> Any:
    """Publish what a run was asked for as a run of its own, and link both in the history.

    Args:
        extension: The extension of the app it is published by.
        run_id: The run to repeat.
        given: Options of `send_task`, over those that it was sent with.

    Raises:
        NotRepeatable: Nothing was kept of it.
        ConfigurationError: An option is one of a key, which it cannot have.
    """
    wrong = sorted(given.keys() & set(OPTION_NAMES))
    if wrong:
        raise ConfigurationError(f"{', '.join(wrong)}: a run that repeats another has no key; call its task instead")
    kept = extension.store.get(pack(PRIVATE, "", run_id))
    if kept is None or not isinstance(kept.value, bytes):
        raise NotRepeatable(
            f"the run {run_id} cannot be run again: there is none, or what it was asked for was not kept, which needs "
            f"keep_payload=True on its task"
        )
    text, new_id = kept.value.decode(), str(given.get("task_id") or uuid4())
    envelope = Envelope.load(text)
    headers = {**(envelope.options.get("headers") or {}), **(given.get("headers") or {})}
    options = {
        **_anew(envelope.options),
        **given,
        "task_id": new_id,
        "headers": {**headers, HEADER: {"id": new_id, "rerun_of": run_id}},
        "idempotency_key": None,  # not that of the task either
    }
    result = extension.app.send_task(envelope.name, envelope.args, envelope.kwargs, **options)
    keep_text(extension, text, new_id)
    event = facts.event(f"rerun:{new_id}", "rerun", run=new_id)
    extension.recorder.post(RunWrite(run_id, 0, RunFacts(), None, [event]))
    return result


def _anew(options: Mapping[str, Any], left_out: frozenset[str] = LEFT_OUT) -> dict[str, Any]:
    """Return options without those of one run; what follows gets ids of its own as well."""
    kept = {name: value for name, value in options.items() if name not in left_out}
    return {name: _follows_anew(value) if name in FOLLOWING else value for name, value in kept.items()}


def _follows_anew(signature: Any) -> Any:
    """Return a signature, or a list of them, as it was before Celery gave it, and its parts, ids and places."""
    if isinstance(signature, list):
        return [_follows_anew(one) for one in signature]
    if not isinstance(signature, dict) or "task" not in signature:
        return signature
    arguments = signature.get("kwargs") or {}
    if signature.get("subtask_type") in CANVASES:
        arguments = {name: _follows_anew(part) if name in PARTS else part for name, part in arguments.items()}
    return {**signature, "kwargs": arguments, "options": _anew(signature.get("options") or {}, OF_ONE_RUN)}
