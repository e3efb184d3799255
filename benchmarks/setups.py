"""The contenders of publish and worker: what a Celery project can be set up with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from benchmarks.servers import Servers

BARE = "bare Celery"
STATE_TASK = "celery_stackstate:StateTask"


@dataclass(frozen=True)
class Setup:
    """One way to set up the app and its no-op task. In `conf` the places of the servers stand in braces."""

    name: str
    base: str = "celery:Task"
    conf: Mapping[str, Any] = field(default_factory=dict)
    #: Attributes of the task.
    task: Mapping[str, Any] = field(default_factory=dict)
    keyed: bool = False
    #: Attach the extension, whatever the base of the task.
    attached: bool = False
    django: bool = False
    #: Connect the hand-written recorder.
    floor: bool = False
    worker_flags: tuple[str, ...] = ()
    #: Modules that must be there.
    needs: tuple[str, ...] = ()

    def configuration(self, servers: Servers) -> dict[str, Any]:
        """Return the settings of the app."""
        places = {f"redis{number}": servers.redis_url(number) for number in range(5)}
        places |= {"postgresql": servers.postgresql, "sqlite": servers.sqlite}
        return {name: _filled(value, places) for name, value in self.conf.items()}

    def missing(self, servers: Servers) -> str | None:
        """Return what it lacks here, or None."""
        needs_database = self.django or any("{postgresql}" in str(value) for value in self.conf.values())
        no_server = "no PostgreSQL server" if needs_database and not servers.postgresql else None
        return missing_module(*self.needs) or no_server


def floor(name: str, store: str, **options: Any) -> Setup:
    """Return a set-up of bare Celery that writes runs down by hand."""
    needs = ("psycopg",) if store == "{postgresql}" else ()
    return Setup(f"floor, {name}", conf={"floor_url": store}, needs=needs, **options)


def missing_module(*modules: str) -> str | None:
    """Return the first of these that is not installed, as a reason; None when all are."""
    missing = [module for module in modules if find_spec(module) is None]
    return f"not installed: {missing[0]}" if missing else None


def _filled(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return value.format_map(places)
    return {name: _filled(part, places) for name, part in value.items()} if isinstance(value, Mapping) else value


def ours(name: str, store: str, **options: Any) -> Setup:
    """Return a set-up of this project on a store."""
    needs = ("psycopg", "sqlalchemy") if store == "{postgresql}" else ()
    base = options.pop("base", STATE_TASK)
    return Setup(f"stackstate, {name}", base, {"stackstate_url": store}, needs=needs, **options)


UNRECORDED = {"record_runs": False}
RESULTS = {"result_backend": "{redis1}", "task_ignore_result": False}
ONCE = Setup(
    "celery-once",
    "celery_once:QueueOnce",
    {"ONCE": {"backend": "celery_once.backends.Redis", "settings": {"url": "{redis2}", "default_timeout": 3600}}},
    {"once": {"graceful": True}},
    needs=("celery_once",),
)
SINGLETON = Setup(
    "celery-singleton",
    "celery_singleton:Singleton",
    {"singleton_backend_url": "{redis3}", "singleton_lock_expiry": 3600},
    needs=("celery_singleton",),
)
DJANGO_RESULTS = Setup(
    "django-celery-results, PostgreSQL",
    conf={"result_backend": "django-db", "task_ignore_result": False, "result_extended": True},
    django=True,
    needs=("django", "django_celery_results", "psycopg"),
)
REDIS, POSTGRESQL, SQLITE, NORMAL = "{redis4}", "{postgresql}", "{sqlite}", "{sqlite}-normal?synchronous=normal"
STORES = {"Redis": REDIS, "PostgreSQL": POSTGRESQL, "SQLite": SQLITE, "SQLite, synchronous=normal": NORMAL}

PUBLISH: Sequence[Setup] = (
    Setup(BARE),
    Setup("Celery, Redis result backend", conf=RESULTS),
    Setup("Celery, sent events", conf={"task_send_sent_event": True}),
    ONCE,
    SINGLETON,
    *(floor(name, store, base="benchmarks.floor:FloorTask") for name, store in STORES.items()),
    ours("Redis: key and history", REDIS, keyed=True),
    ours("Redis: key alone", REDIS, keyed=True, task=UNRECORDED),
    ours("Redis: history alone", REDIS),
    ours("Redis: task not tracked", REDIS, base="celery:Task", attached=True),
    ours("PostgreSQL: key and history", POSTGRESQL, keyed=True),
    ours("PostgreSQL: history alone", POSTGRESQL),
    ours("SQLite: key and history", SQLITE, keyed=True),
    ours("SQLite: history alone", SQLITE),
    ours("SQLite, synchronous=normal: key and history", NORMAL, keyed=True),
)
#: Those that suppress a duplicate.
DUPLICATES = tuple(
    setup for setup in PUBLISH if setup.keyed or setup.name.startswith((BARE, ONCE.name, SINGLETON.name, "floor"))
)

WORKER: Sequence[Setup] = (
    Setup(BARE),
    Setup("Celery, events (-E)", worker_flags=("-E",)),
    Setup("Celery, Redis result backend", conf=RESULTS),
    Setup("Celery, the same and track_started", conf={**RESULTS, "task_track_started": True}),
    ONCE,
    SINGLETON,
    DJANGO_RESULTS,
    *(floor(name, store, floor=True) for name, store in STORES.items()),
    ours("Redis: task not tracked", REDIS, base="celery:Task", attached=True),
    ours("Redis: history", REDIS),
    ours("Redis: history in the background", REDIS, task={"record_in_background": True}),
    ours("Redis: key alone", REDIS, keyed=True, task=UNRECORDED),
    ours("Redis: key and history", REDIS, keyed=True),
    ours("PostgreSQL: history", POSTGRESQL),
    ours("PostgreSQL: key and history", POSTGRESQL, keyed=True),
    ours("SQLite: history", SQLITE),
    ours("SQLite: key and history", SQLITE, keyed=True),
    ours("SQLite, synchronous=normal: history", NORMAL),
)
ALL = {"publish": PUBLISH, "worker": WORKER}


def find(subject: str, name: str) -> Setup:
    """Return one of them."""
    return next(setup for setup in ALL[subject] if setup.name == name)
