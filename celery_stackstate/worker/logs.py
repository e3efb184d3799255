"""Log lines of the current task become the run's log: a logging handler that finds the run by the current task."""

from __future__ import annotations

import logging
import threading
from typing import Any
from weakref import ref

from celery import signals
from celery._state import _task_stack

from celery_stackstate.attached import attached_to
from celery_stackstate.attempt import OpenAttempt
from celery_stackstate.payload import as_text
from celery_stackstate.receiving import INTERRUPTS
from celery_stackstate.recording import is_recorded

#: Loggers that say what the run's record says anyway.
LEFT_OUT = ("celery_stackstate", "celery.app.trace")


class RunLogHandler(logging.Handler):
    """Adds each record that is logged while a task runs to that run, once. It neither writes nor waits."""

    def __init__(self) -> None:
        super().__init__()
        self._last = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record to the current run, if there is one."""
        seen = getattr(self._last, "record", None)
        if record.name.startswith(LEFT_OUT) or (seen is not None and seen() is record):
            return
        self._last.record = ref(record)  # a logger may have the handler, and hand the record up to another that does
        try:
            self._add(record)
        except INTERRUPTS:
            raise
        except Exception:  # a line is never worth a task
            self.handleError(record)

    def _add(self, record: logging.LogRecord) -> None:
        task, attempt = _innermost()
        if attempt is None or record.levelno < attached_to(task).settings.log_level:
            return
        attempt.log(
            at=round(record.created * 1_000_000),
            level=record.levelno,
            logger=record.name,
            message=self._message(record),
        )

    def _message(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except INTERRUPTS:
            raise
        except Exception:  # a wrong format string is reported by the project's own handlers
            return as_text(record.msg)


def _innermost() -> tuple[Any, OpenAttempt | None]:
    """Return the innermost task in this thread whose attempt is recorded, and that; not one that is only called."""
    depths: dict[int, int] = {}
    for task in reversed(_task_stack.stack):
        depth = depths[id(task)] = depths.get(id(task), 0) + 1
        requests = task.request_stack.stack
        attempt = getattr(requests[-depth], "_stackstate_attempt", None) if depth <= len(requests) else None
        if attempt is not None and (attempt.recorded or is_recorded(attached_to(task), task)):
            return task, attempt
    return None, None


_handler = RunLogHandler()
_handler.setFormatter(logging.Formatter("%(message)s"))


def connect() -> None:
    """Attach the handler whenever Celery, or the project in its place, has set up logging in a worker.

    Not at worker_init: it comes before the project's set-up, which would replace the handler, or (logging.basicConfig)
    do nothing where it finds one.
    """
    for signal in (
        signals.after_setup_logger,
        signals.after_setup_task_logger,
        signals.celeryd_after_setup,
        signals.worker_process_init,
    ):
        signal.connect(on_set_up, weak=False, dispatch_uid="celery_stackstate.logs")


def on_set_up(logger: logging.Logger | None = None, **_: Any) -> None:
    """Attach to the logger that Celery has set up, else to the root; and to each logger that hands nothing up to it.

    Adding the same handler twice adds it once.
    """
    (logger or logging.getLogger()).addHandler(_handler)
    for one in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(one, logging.Logger) and not one.propagate:
            one.addHandler(_handler)
