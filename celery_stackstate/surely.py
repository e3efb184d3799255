"""Writing once when the answer may get lost on the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery_stackstate.errors import StoreUnavailable
from celery_stackstate.stores.base import Expect, PutResult, RunWrite, Store, StoredEntry


def put_surely(
    store: Store,
    key: bytes,
    value: bytes,
    *,
    mine: Callable[[StoredEntry], bool],
    expect: Expect | int,
    ttl: int | None = None,
    linger: int = 0,
    before_each: Callable[[], None] = lambda: None,
    writes: Sequence[RunWrite] = (),
) -> PutResult:
    """Put, and if the answer was lost look whether it was applied: a token in the value tells, so repeating is safe.

    Args:
        store: Where to.
        key: The store key.
        value: What to write; it carries a token that no other writer uses.
        mine: Tells an entry that carries this token.
        expect: As in `Store.put`.
        ttl: Microseconds, as in `Store.put`.
        linger: As in `Store.put`.
        before_each: Called before each request; what was called last came before the answer that is returned.
        writes: What is to be appended with it, see `Store.put_and_append`.
    """

    def put() -> PutResult:
        if writes:
            return store.put_and_append(key, value, writes, expect=expect, ttl=ttl, linger=linger)
        return store.put(key, value, expect=expect, ttl=ttl, linger=linger)

    before_each()
    try:
        return put()
    except StoreUnavailable as error:
        if not error.maybe_applied:
            raise
    try:
        before_each()
        found = store.get(key)
        if found is not None and mine(found):
            return PutResult(True, found)
        before_each()
        result = put()
    except StoreUnavailable as error:
        error.maybe_applied = True  # the first one
        raise
    if not result.applied and result.entry is not None and mine(result.entry):
        return PutResult(True, result.entry)  # the first one arrived behind the look
    return result
