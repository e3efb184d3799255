"""A run that has everything a run can have, to see what of it is left when it is deleted."""

from __future__ import annotations

from celery_stackstate.stores.base import RunFacts, RunStanding, RunWrite, Store, StoredEvent, StoredLog


def whole_run(run_id: str, forget: int | None = None) -> RunWrite:
    """Return the write of a run with all columns, an event and two log lines."""
    facts = RunFacts("t", "q", "k", "p", "o", "g", "h", "i", 1)
    lines = [StoredLog("e", number, number, 20, "l", "m") for number in (1, 2)]
    return RunWrite(
        run_id, 1, facts, RunStanding("SUCCESS", "w", forget=forget), [StoredEvent("u", 1, "n", "e", b"x")], lines
    )


def make_and_delete(store: Store) -> None:
    """Write 120 runs, of which half are removed and the others purged."""
    ids = [f"r{number}" for number in range(120)]
    store.append([whole_run(run_id, 1 if number % 2 else None) for number, run_id in enumerate(ids)])
    assert store.remove_runs(ids[::2]) == 60
    assert store.purge() == 60
    assert store.purge() == 0
