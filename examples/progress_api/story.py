"""What `demo.py --once` drives through, and checks: start, duplicate, conflict, kill, resume, outage."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from processes import Background, start_worker, wait_for

ROWS = 120
KEY = "prices:7"


class Story:
    """Sends requests and says of each answer whether it is as it should be."""

    def __init__(self, address: str, data: Path, worker: Background) -> None:
        self.wrong = 0
        self._data, self._worker = data, worker
        self._client = httpx.Client(base_url=address, timeout=30)

    def tell(self) -> None:
        """Drive an import through all that may happen to it."""
        with closing(self._client):
            import_id = self._start_twice()
            self._kill_half_way(import_id)
            self._look(self._follow(import_id))
            self._outage(import_id)

    def _start_twice(self) -> str:
        first = self._post(rows=ROWS)
        self._check("a request starts an import", first.status_code, 202)
        again = self._post(rows=ROWS)
        self._check("the same request again starts nothing", again.status_code, 200)
        self._check("it is answered with the same import", again.json()["id"], first.json()["id"])
        self._check("the key for another import is refused", self._post(rows=ROWS + 1).status_code, 409)
        self._check("a request without a key is refused", self._post(rows=1, key=None).status_code, 422)
        self._check("an import that nobody started is not found", self._client.get("/imports/none").status_code, 404)
        import_id: str = first.json()["id"]
        return import_id

    def _kill_half_way(self, import_id: str) -> None:
        def half_way() -> bool:
            progress = self._show(import_id)["progress"]
            return progress is not None and progress["done"] >= ROWS / 3

        wait_for(half_way, "the import to be half-way")
        self._worker.kill()
        before = self._show(import_id)
        self._check("the import is not finished when its worker is killed", before["finished"], False)
        self._worker = start_worker("worker2", self._data)

    def _follow(self, import_id: str) -> dict[str, Any]:
        def finished() -> dict[str, Any] | None:
            run = self._show(import_id)
            return run if run["finished"] else None

        return wait_for(finished, "the import to finish", seconds=60)

    def _look(self, run: dict[str, Any]) -> None:
        self._check("the import has succeeded, under the same id", run["status"], "SUCCESS")
        self._check("all rows are imported", run["progress"], {"done": ROWS, "total": ROWS})
        attempts = [(attempt["status"], attempt["worker"]) for attempt in run["attempts"]]
        expected = [("LOST", "worker1@imports"), ("SUCCESS", "worker2@imports")]
        self._check("it took two attempts, on two workers", attempts, expected)
        behind = run["result"]["resumed_behind"]
        self._check("the second went on where the first was", ROWS / 3 <= behind < ROWS, True)
        self._check("its log ends with the last row", run["log"][-1].endswith(f"all {ROWS} rows are stored"), True)
        self._check("the duplicate was counted", run["duplicates"], 1)

    def _outage(self, import_id: str) -> None:
        with locked(self._data / "stackstate.sqlite3"):
            away = self._post(rows=1, key="during-the-outage")
        self._check("while the store is away nothing is started", away.status_code, 503)
        self._check("and the client is told when to try again", away.headers.get("Retry-After"), "2")
        again = self._post(rows=1, key="during-the-outage")
        self._check("then it starts", again.status_code, 202)
        self._check("and finishes", self._follow(again.json()["id"])["status"], "SUCCESS")
        self._check("the first key still answers with its import", self._post(rows=ROWS).json()["id"], import_id)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _post(self, *, rows: int, key: str | None = KEY) -> httpx.Response:
        headers = {} if key is None else {"Idempotency-Key": key}
        return self._client.post("/imports", json={"name": "prices.csv", "rows": rows}, headers=headers)

    def _show(self, import_id: str) -> dict[str, Any]:
        run: dict[str, Any] = self._client.get(f"/imports/{import_id}").raise_for_status().json()
        return run

    def _check(self, what: str, found: object, expected: object) -> None:
        good = found == expected
        self.wrong += not good
        print(f"  {'ok' if good else 'NO'}  {what}" + ("" if good else f": {found!r}, not {expected!r}"), flush=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep every writer out of an SQLite file, as a store that does not answer."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def stay(server: Background, worker: Background, start: Callable[[str], Background]) -> None:
    """Keep a worker up until Ctrl-C, or until the server ends: start another when somebody has killed it."""
    number = 1
    while server.alive():
        if not worker.alive():
            number += 1
            print(f"  the worker is gone; starting worker{number}", flush=True)
            worker = start(f"worker{number}")
            print(f"  kill it, too, with   kill -9 -{worker.pid}", flush=True)
        time.sleep(0.5)
