"""Where the time of a publish and of an attempt goes: the reasons behind the budgets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import publish
from benchmarks.apps import CONTENDER, SAMPLES, STAMPS
from benchmarks.hosts import Host, hosted
from benchmarks.publish import QUEUE
from benchmarks.redis_info import Reads
from benchmarks.report import Row, Table
from benchmarks.rounds import Figure, Progress
from benchmarks.servers import Servers
from benchmarks.worker import POOLS
from benchmarks.worker_process import Stamps, WorkerProcess

BARE, HISTORY, KEYED = "bare Celery", "stackstate, Redis: history", "stackstate, Redis: key and history"
#: What is looked at: the subject, the contender, and whether it is the same key over and over.
PATHS: Mapping[str, tuple[str, str, bool]] = {
    "publish, bare": ("publish", BARE, False),
    "publish, key and history": ("publish", KEYED, False),
    "duplicate": ("publish", KEYED, True),
    "attempt, bare": ("worker", BARE, False),
    "attempt, history": ("worker", HISTORY, False),
    "attempt, key and history": ("worker", KEYED, False),
}
SUM = "all"


def run(servers: Servers, *, rounds: int, calls: int, progress: Progress) -> Iterator[Table]:
    """Yield the table: microseconds of each part of each path, over `rounds` times `calls` calls."""
    columns = []
    for path, (subject, contender, same) in PATHS.items():
        progress(path)
        look = _attempts if subject == "worker" else _calls
        with hosted(servers, subject, [contender]) as hosts:
            columns.append(_parts([look(servers, hosts[contender], calls, same) for _ in range(rounds)]))
    names = Counter({part: max(column.get(part, 0.0) for column in columns) for column in columns for part in column})
    rows = [Row(part, [_figure(column.get(part)) for column in columns]) for part, _ in names.most_common()]
    yield Table("where", "Where the time goes, in microseconds", list(PATHS), [0] * len(PATHS), rows)


def _calls(servers: Servers, host: Host, calls: int, same: bool) -> Mapping[str, Any]:
    found: Mapping[str, Any] = host.ask(do="sampled", calls=calls, same=same)
    Reads(servers.redis_url(0)).forget(QUEUE)
    return found


def _attempts(servers: Servers, host: Host, calls: int, _: bool) -> Mapping[str, Any]:
    host.ask(do="publish", calls=calls)
    folder = Path(servers.folder)
    stamps, samples = Stamps(folder / "stamps", calls), folder / "samples"
    more = {STAMPS: str(stamps.path), CONTENDER: host.name, SAMPLES: str(samples)}
    worker = WorkerProcess(POOLS["solo"], {**servers.environment(), **more}, folder / "worker.log")
    try:
        worker.wait_for(lambda: len(stamps.sorted()) == calls)
    finally:
        worker.stop()
        Reads(servers.redis_url(0)).forget(QUEUE)
    times = stamps.sorted()
    return {"wall": (times[-1] - times[0]) / max(1, calls - 1), "seen": json.loads(samples.read_text())}


def _parts(rounds: list[Mapping[str, Any]]) -> dict[str, float]:
    """Return the microseconds of each part of one call, and of all."""
    seen: Counter[str] = Counter()
    for one in rounds:
        seen.update(one["seen"])
    micros = 1e6 * sum(one["wall"] for one in rounds) / len(rounds)
    looks = max(1, sum(seen.values()))
    return {SUM: micros, **{part: micros * number / looks for part, number in seen.items()}}


def _figure(micros: float | None) -> Figure | None:
    return None if micros is None else Figure(micros, micros, micros)


# -- in the contender's process ----------------------------------------------------------------------------------------

serve = publish.serve
