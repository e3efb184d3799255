"""Log lines of the current task become the run's log: a logging handler that finds the run by the current task."""

from __future__ import annotations

import logging
from typing import Any

from celery import signals
from celery._state import get_current_task

#: Loggers that say what the run's record says anyway.
LEFT_OUT = ("celery_stackstate", "celery.app.trace")


class RunLogHandler(logging.Handler):
    """Adds each record that is logged while a task runs to that run. It neither writes nor waits."""

    def emit(self, record: logging.LogRecord) -> None:
        """Add the record to the current run, if there is one."""
        task = get_current_task()
        request = None if task is None else task.request_stack.top
        execution = getattr(request, "_stackstate", None)
        if execution is None or record.name.startswith(LEFT_OUT):
            return
        if record.levelno < execution.extension.settings.log_level:
            return
        try:
            message = self.format(record)
        except Exception:  # a wrong format string is reported by the project's own handlers
            message = str(record.msg)
        execution.attempt.log(
            at=round(record.created * 1_000_000), level=record.levelno, logger=record.name, message=message
        )


_handler = RunLogHandler()
_handler.setFormatter(logging.Formatter("%(message)s"))


def connect() -> None:
    """Attach the handler whenever Celery, or the project in its place, has set up logging in a worker."""
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(on_logger_set_up, weak=False, dispatch_uid="celery_stackstate.logs")
    # Not worker_init: it comes before the project's set-up, which would replace the handler, or (logging.basicConfig)
    # do nothing where it finds one.
    for signal in (signals.celeryd_after_setup, signals.worker_process_init):
        signal.connect(on_worker_set_up, weak=False, dispatch_uid="celery_stackstate.logs")


def on_logger_set_up(logger: logging.Logger | None = None, **_: Any) -> None:
    """Attach to a logger that Celery has set up; adding the same handler twice adds it once."""
    if logger is not None:
        logger.addHandler(_handler)


def on_worker_set_up(**_: Any) -> None:
    """Attach where Celery did not set up logging: to the root, and to `celery.task`, which does not propagate."""
    logging.getLogger().addHandler(_handler)
    task_logger = logging.getLogger("celery.task")
    if not task_logger.propagate:
        task_logger.addHandler(_handler)
