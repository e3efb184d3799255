"""One scope of the state in one store: where every kind of state call begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from celery_stackstate.errors import NotInARun
from celery_stackstate.holding import LockOwner
from celery_stackstate.keys import APP_SCOPE, STATE, check_key, expiry, pack, scope_of
from celery_stackstate.locks import Lock
from celery_stackstate.stores.base import Guard, Store

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

TTL = float | timedelta | None


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where state is used from.

    Args:
        owner: Who takes its locks; None outside of runs, where each lock has an owner of its own.
        run_id: The run whose scope `.run` is.
        task: The task whose scope `.task` is.
        run_ttl: Seconds for which the keys of a run are kept after each write.
        touch: Gets each key that is used, packed.
    """

    owner: LockOwner | None = None
    run_id: str | None = None
    task: str | None = None
    run_ttl: float | None = None
    touch: Callable[[bytes], None] | None = None


class Scoped:
    """The keys of one scope."""

    __slots__ = ("_context", "_limit", "_scope", "_store", "_ttl")

    def __init__(
        self, store: Store, context: RunContext, *, scope: str = APP_SCOPE, limit: int, ttl: float | None = None
    ) -> None:
        self._store = store
        self._context = context
        self._scope = scope
        self._limit = limit
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<State {self._scope or 'app'}>"

    @property
    def task(self) -> Self:
        """The keys of this task, by its name."""
        if self._context.task is None:
            raise NotInARun("state.task needs a task; outside of one use .scope(name)")
        return self._scoped(scope_of("task", self._context.task))

    @property
    def run(self) -> Self:
        """The keys of this run alone, kept as long as the longest run retention after the last write."""
        if self._context.run_id is None:
            raise NotInARun("state.run needs a running task; outside of one use .for_run(task_id)")
        return self.for_run(self._context.run_id)

    def for_run(self, run_id: str) -> Self:
        """Return the keys of the run `run_id`, as `.run` gives them inside it."""
        return self._scoped(scope_of("run", run_id), ttl=self._context.run_ttl)

    def scope(self, name: str) -> Self:
        """Return the keys of the scope `name`, apart from all others."""
        return self._scoped(scope_of("scope", name))

    def _scoped(self, scope: str, ttl: float | None = None) -> Self:
        return type(self)(self._store, self._context, scope=scope, limit=self._limit, ttl=ttl)

    def _key(self, key: str) -> bytes:
        return self._touched(pack(STATE, self._scope, check_key(key)))

    def _touched(self, packed: bytes) -> bytes:
        if self._context.touch is not None:
            self._context.touch(packed)
        return packed

    def _times(self, ttl: TTL, expires_at: datetime | None) -> dict[str, Any]:
        return expiry(self._ttl if ttl is None and expires_at is None else ttl, expires_at)

    def _guarded(self, fence: Lock | None, write: Callable[[Guard | None], T]) -> T:
        """Do `write`, guarded by the lock if there is one, which must then be one of the same store."""
        if fence is None:
            return write(None)
        if not isinstance(fence, Lock):
            raise TypeError(f"fence must be a lock of self.state.lock(...), not {fence!r:.80}")
        return fence.guarded(self._store, write)
