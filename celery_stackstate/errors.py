"""Every error this package raises, under one root.

An error's docstring is its default message. Errors carry what happened as attributes, and survive pickling
and the JSON result backend: a worker that cannot unpickle an exception dies of it.
"""

from __future__ import annotations

import inspect
from typing import Any


class StackStateError(Exception):
    """Something went wrong in celery-stackstate."""

    def __init__(self, message: str | None = None, **details: Any) -> None:
        super().__init__(message if message is not None else inspect.getdoc(type(self)))
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), self.args, self.__dict__)


class ConfigurationError(StackStateError, ValueError):
    """A `stackstate_*` setting, a store URL or a task option is wrong."""


class NewerFormat(ConfigurationError):
    """What is stored was written by a newer celery-stackstate in a format that this one does not know: upgrade."""


class InvalidKey(StackStateError, ValueError):
    """A key must be a non-empty string of at most 1,024 UTF-8 bytes, with no control characters or outer blanks."""


class InvalidExpiry(StackStateError, ValueError):
    """Give ttl= (seconds, more than 0) or expires_at= (an aware datetime), not both."""


class NotInARun(StackStateError, RuntimeError):
    """This needs a running task: there is no run here."""


class InTransaction(StackStateError, RuntimeError):
    """This cannot be done inside a database transaction: nobody else would see it before the commit."""


class WrongType(StackStateError, TypeError):
    """The stored value does not fit the type that was asked for."""

    path: str = "value"


class StepConflict(StackStateError, ValueError):
    """The name of the step was used for something else in this run."""

    name: str = ""


class NotSerializable(StackStateError, TypeError):
    """The value cannot be stored so that it comes back equal and of the same type."""

    path: str = "value"


class ValueTooLarge(StackStateError, ValueError):
    """The value is larger than `stackstate_max_value_bytes` allows."""

    size: int = 0
    limit: int = 0


class NotACounter(StackStateError, TypeError):
    """The key holds a value where a counter is needed."""


class CounterRange(StackStateError, ArithmeticError):
    """The counter would leave its range; it keeps its value."""


class VersionConflict(StackStateError):
    """Somebody else changed the key first."""


class LockBusy(StackStateError):
    """Somebody else holds the lock."""

    name: str = ""
    retry_after: float = 0.0
    owner: str = ""


class LockLost(StackStateError):
    """The lock was not held until the end: its TTL ran out or it was released by force."""

    name: str = ""


class Throttled(StackStateError):
    """The pace limit is reached."""

    name: str = ""
    retry_after: float = 0.0


class IdempotencyConflict(StackStateError):
    """The idempotency key was used before with another payload."""

    key: str = ""
    task_id: str = ""
    stored_fingerprint: str = ""
    given_fingerprint: str = ""


class DuplicateRun(StackStateError):
    """The idempotency key already belongs to a run."""

    key: str = ""
    task_id: str = ""


class LeaderFailed(StackStateError):
    """The run that has the idempotency key did not bring the result that this one was to adopt."""

    key: str = ""
    task_id: str = ""


class TooManyDeliveries(StackStateError):
    """The run was begun `stackstate_max_deliveries` times and each time its worker died."""

    task_id: str = ""


class NotRepeatable(StackStateError):
    """Nothing was kept of the run from which it could be run again."""


class StoreUnavailable(StackStateError):
    """The store could not be reached in time."""

    maybe_applied: bool = False
