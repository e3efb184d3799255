"""What may be wrong with a set-up: settings, stores, clocks, tasks and the broker's timeouts, each with what to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from celery_stackstate.config import DEFAULT_URL
from celery_stackstate.errors import ConfigurationError, StoreUnavailable
from celery_stackstate.facts import epoch_of
from celery_stackstate.keys import PRIVATE, pack
from celery_stackstate.recording import is_built_in
from celery_stackstate.records import QUEUED, RECEIVED, RETRY, to_micros
from celery_stackstate.stores.base import RunQuery, RunRow, Store

if TYPE_CHECKING:
    from celery_stackstate.extension import StackState

OK, WARNING, ERROR, AWAY = "ok", "warning", "error", "away"

#: Microseconds by which the clocks of this host and of the store may differ unnoticed.
CLOCK_MARGIN = 1_000_000
#: So many of the newest runs of each status that waits are looked at, in pages of so many, and of so many of those that
#: seem to wait longest the ETA is read.
LOOK_AT, PAGE, READ = 10_000, 1_000, 10
#: So many of the newest runs are looked at for keys that were given by a call.
KEYED = 1_000
WAITING = (QUEUED, RECEIVED, RETRY)
INIT = "run `celery -A proj stackstate init` (the first worker does it, too, where its account may)"
#: Redis's and SQS's own, in seconds.
VISIBILITY = {"redis": 3600, "rediss": 3600, "sentinel": 3600, "sqs": 1800}
#: Seconds for which the broker, and then the workers, are waited for.
BROKER_PATIENCE, WORKER_PATIENCE = 3.0, 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `level` is "ok", "warning", "error", or "away" for a store that does not answer."""

    level: str
    subject: str
    text: str


def diagnose(stackstate: StackState) -> Iterator[Finding]:
    """Yield what was found of each thing that can be wrong.

    Makes no tables. Where there are some, or none are needed, it writes one key that is gone after a second.
    """
    try:
        settings = stackstate.settings
    except ConfigurationError as error:
        yield Finding(ERROR, "settings", str(error))
        return
    yield Finding(OK, "settings", f"environment {settings.prefix or '(no prefix)'}")
    yield from _switched_off(stackstate)
    ready = True
    for name, place, make in _places(stackstate):
        findings = list(_store(name, place, make))
        ready = ready and findings[0].level == OK
        yield from findings
    yield from _lease(stackstate)
    yield from _tasks(stackstate, ready=ready)
    if ready:
        yield from _workers(stackstate)
    try:
        timeout = _visibility_timeout(stackstate.app)
    except Exception as error:  # whatever a driver says that is not there
        yield Finding(ERROR, "broker", f"cannot be used from here: {_told(error)}")
        return
    if ready:
        yield from _strangers(stackstate)
    if timeout is not None:
        yield from _visibility(stackstate, timeout, ready=ready)


def _switched_off(stackstate: StackState) -> Iterator[Finding]:
    if stackstate.settings.enabled:
        return
    raising = stackstate.settings.publish_outage == "raise"
    running = stackstate.settings.claim_outage == "run"
    yield Finding(
        WARNING,
        "stackstate_enabled",
        "is False: NOTHING is recorded, no worker has a lease, and publishing with an idempotency key "
        f"{'raises' if raising else 'goes out WITHOUT its promise'}; a run with a key that comes to such a worker "
        f"{'runs WITHOUT its promise' if running else 'is sent on until a worker that is switched on takes it'}",
    )


def _places(stackstate: StackState) -> Iterator[tuple[str, str, Callable[[], Store]]]:
    yield "store", stackstate.where(), lambda: stackstate.store
    if stackstate.settings.runs_url is not None:
        yield "history", stackstate.where_runs(), lambda: stackstate.runs_store


def _store(name: str, place: str, make: Callable[[], Store]) -> Iterator[Finding]:
    """Yield what was found of a store; the first is ok only where the store can be used."""
    try:
        store = make()
        lacking = store.pending()
        if lacking:
            yield Finding(WARNING, name, f"{place}: {'; '.join(lacking)}; {INIT}")
            return
        warnings, server, offset = store.check(), store.server(), _offset(store)
    except ConfigurationError as error:
        yield Finding(ERROR, name, str(error))
        return
    except StoreUnavailable as error:
        yield Finding(AWAY, name, str(error))
        return
    yield Finding(OK, name, f"{place}{f' ({server})' if server else ''} answers, and can be written")
    for warning in warnings:
        yield Finding(WARNING, name, warning)
    if abs(offset) > CLOCK_MARGIN:
        yield Finding(
            WARNING,
            "clock",
            f"the clock of {place} is {abs(offset) / 1_000_000:.1f} s {'ahead of' if offset > 0 else 'behind'} this "
            "host's: leases and TTLs follow the store's, the times of runs those of the hosts; keep them in step",
        )
    else:
        yield Finding(OK, "clock", f"{name} and this host agree within {CLOCK_MARGIN / 1_000_000:.0f} s")


def _offset(store: Store) -> int:
    """Return by how many microseconds the store's clock is ahead, as well as the way there lets it be told."""
    before = time.time_ns() // 1000
    entry = store.put(pack(PRIVATE, "", "check"), b"", ttl=1_000_000).entry
    after = time.time_ns() // 1000
    now = entry.now if entry is not None else after
    return now - after if now > after else min(0, now - before)


def _lease(stackstate: StackState) -> Iterator[Finding]:
    settings = stackstate.settings
    if settings.url == DEFAULT_URL:
        yield Finding(
            WARNING,
            "stackstate_url",
            f"is not set: state, keys and runs are in {stackstate.where()}, which only this machine sees; "
            "set it to a Redis or SQL database that all hosts reach",
        )
    if settings.worker_lease < 3 * settings.store_timeout:
        yield Finding(
            WARNING,
            "stackstate_worker_lease",
            f"is {settings.worker_lease:g} s, less than three times stackstate_store_timeout "
            f"({settings.store_timeout:g} s): a short outage may let live workers pass for dead; raise it",
        )


def _tasks(stackstate: StackState, *, ready: bool) -> Iterator[Finding]:
    app: Any = stackstate.app
    ours = {
        name: task
        for name, task in app.tasks.items()
        if hasattr(task, "record_runs") and not name.startswith(("celery.", "celery_stackstate."))
    }
    yield Finding(OK, "tasks", f"{len(ours)} with the base class StateTask")
    keyed = {name for name, task in ours.items() if _has_key(task)}
    if ready:
        keyed |= {run.task for run in stackstate.runs.list(limit=KEYED) if run.key and run.task in ours}
    early = sorted(name for name in keyed if not ours[name].acks_late and ours[name].lost_policy != "rerun")
    if early:
        yield Finding(
            WARNING,
            "acks_late",
            f"is off for {_some(early)}, whose runs have keys: when a worker dies, their message is gone, and the run "
            "is LOST until somebody asks again; set acks_late=True, which a key makes safe, and beside it "
            "reject_on_worker_lost=True, for a pool process that is killed alone; or lost_policy='rerun'",
        )


def _has_key(task: Any) -> bool:
    return bool(getattr(task, "idempotency_key", None) or getattr(task, "single_execution", False))


def _workers(stackstate: StackState) -> Iterator[Finding]:
    live = [worker for worker in stackstate.workers() if worker.live]
    hosts = sorted({worker.host for worker in live})
    yield Finding(OK, "workers", f"{len(live)} live on {_some(hosts)}" if live else "none is live")
    if len(hosts) > 1 and not stackstate.store.shared_between_hosts and not stackstate.where().startswith("django"):
        yield Finding(WARNING, "workers", f"of {len(hosts)} hosts share a store that one host alone sees")


def _strangers(stackstate: StackState) -> Iterator[Finding]:
    """Yield a warning of the workers that answer through the broker, and have not told the store that they live."""
    try:
        answered = _answering(stackstate.app)
    except Exception as error:  # each transport raises errors of its own
        text = f"does not answer ({_told(error)}): workers without the extension cannot be looked for"
        yield Finding(WARNING, "broker", text)
        return
    strangers = sorted(answered - {worker.hostname for worker in stackstate.workers() if worker.live})
    if strangers:
        yield Finding(
            WARNING,
            "workers",
            f"{_some(strangers)} answered through the broker and is not among those of this store: it runs without "
            "the extension, or with another store or prefix: its runs are not recorded here, and keys are not heeded",
        )


def _answering(app: Any) -> set[str]:
    """Return the names of the workers that answer through the broker, none where it cannot call them all."""
    with app.connection_for_write(connect_timeout=BROKER_PATIENCE) as connection:
        if "fanout" not in connection.transport.implements.exchange_type:
            return set()
        if connection.transport.driver_type == "redis":  # which would wait for as long as TCP does
            timeouts = {"socket_connect_timeout": BROKER_PATIENCE, "socket_timeout": BROKER_PATIENCE}
            connection.transport_options = {**timeouts, **connection.transport_options}
        connection.ensure_connection(max_retries=1, interval_start=0, timeout=BROKER_PATIENCE)
        replies = app.control.inspect(connection=connection, timeout=WORKER_PATIENCE).ping()
    return set(replies or ())


def _visibility_timeout(app: Any) -> float | None:
    """Return after how many seconds the broker delivers once more what nobody acknowledged; None where it does not."""
    with app.connection_for_read() as connection:
        transport = str(connection.transport_cls).partition("+")[0]
        if transport not in VISIBILITY:
            return None
        timeout: float | None = connection.transport_options.get("visibility_timeout", VISIBILITY[transport])
    return timeout


def _visibility(stackstate: StackState, timeout: float, *, ready: bool) -> Iterator[Finding]:
    app: Any = stackstate.app
    rows, are_all = _waiting(stackstate) if ready else ([], True)
    exposed = {name: task for name, task in app.tasks.items() if not is_built_in(name) and not _has_key(task)}
    keyless = [
        row for row in rows if not row.facts.key and (row.facts.task in exposed or row.facts.task not in app.tasks)
    ]
    waits = [(_wait(stackstate, row.run_id), row.facts.task or "a task") for row in _longest(stackstate, keyless)]
    waits += [(float(task.default_retry_delay or 0), name) for name, task in exposed.items()]
    longest, name = max(waits, default=(0.0, ""))
    if longest <= timeout:
        looked = f"all {len(rows):,} waiting runs" if are_all else f"the newest {len(rows):,} waiting runs"
        etas = f", and than {looked} wait for their ETA" if rows else ""
        yield Finding(OK, "visibility_timeout", f"{timeout:g} s is longer than each retry delay of tasks{etas}")
        return
    yield Finding(
        WARNING,
        "visibility_timeout",
        f"is {timeout:g} s, but {name} waits for {timedelta(seconds=round(longest))}: the broker delivers what waits "
        "longer once more, again and again, and without a key it runs more than once; raise visibility_timeout in "
        "broker_transport_options above that, or give the task a key",
    )


def _waiting(stackstate: StackState) -> tuple[list[RunRow], bool]:
    """Return the newest runs that wait, by their summaries, and whether these are all."""
    rows: list[RunRow] = []
    are_all = True
    for status in WAITING:
        query, found = RunQuery(status=(status,), limit=PAGE), list[RunRow]()
        while len(found) < LOOK_AT:
            page = stackstate.runs_store.runs(query)
            found += page
            if len(page) < PAGE:
                break
            query = replace(query, after=(page[-1].facts.created or 0, page[-1].run_id))
        else:
            are_all = False
        rows += found
    return rows, are_all


def _longest(stackstate: StackState, rows: list[RunRow]) -> list[RunRow]:
    """Return those of the runs that seem to wait longest.

    A run that waits is kept for its retention behind its ETA, or behind the time at which that was written where there
    is none. So the summary tells about how far behind its message the ETA is, if it is yet to come.
    """
    now = time.time_ns() // 1000

    def order(row: RunRow) -> tuple[bool, int]:
        end = (row.standing.forget or 0) - round(stackstate.settings.retention(row.standing.status) * 1_000_000)
        return end > now, end - epoch_of(row.rank) * 1_000

    return sorted(rows, key=order, reverse=True)[:READ]


def _wait(stackstate: StackState, run_id: str) -> float:
    """Return for how many seconds the newest message of a run is to wait."""
    queued = [event for event in stackstate.runs.events(run_id) if event.name == "queued" and event.data.get("eta")]
    return (queued[-1].data["eta"] - to_micros(queued[-1].at)) / 1_000_000 if queued else 0.0


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
