"""A rolling deployment: processes of an older and of a newer release share one store and one broker."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.rolling import releases
from tests.rolling.releases import Release, Worker
from tests.services import RedisServer
from tests.waiting import wait_for

BOTH = [("older", "newer"), ("newer", "older")]
TIMEOUT = 40.0


class Deployment:
    """The releases, over one broker and one store, and the workers that were started."""

    def __init__(self, folder: Path, broker: str, store: str) -> None:
        self._releases = {name: Release(name, folder / name, broker, store) for name in releases.RELEASES}
        self.workers: list[Worker] = []

    def __getitem__(self, name: str) -> Release:
        return self._releases[name]

    def start(self, name: str, *queues: str) -> Worker:
        """Start a worker and wait until it is ready."""
        worker = self[name].worker(*queues)
        self.workers.append(worker)
        wait_for(lambda: worker.ready, timeout=TIMEOUT, message=f"{worker.name} to start")
        return worker

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.stop()
        for release in self._releases.values():
            release.stop()

    def ended(self, run_id: str, reader: str = "older") -> dict[str, Any]:
        """Return what a release tells of a run when it has ended."""

        def told() -> dict[str, Any] | None:
            found: dict[str, Any] | None = self[reader].do("run", run_id)
            return found if found and found["run"]["status"] in ("SUCCESS", "FAILURE") else None

        found = wait_for(told, timeout=TIMEOUT, message=f"{run_id} to end\n" + "\n".join(w.log for w in self.workers))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the releases."""
    folder = tmp_path_factory.mktemp("releases")
    releases.make(folder)
    return folder


@pytest.fixture(scope="module", params=["redis", "sqlite"])
def deployment(
    request: pytest.FixtureRequest, folder: Path, redis_server_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """Both releases at once: a worker each, for a queue of its own name."""
    data = tmp_path_factory.mktemp("data")
    server = RedisServer(redis_server_binary, data, "--save", "", "--appendonly", "no")
    server.start()
    url = server.url.rsplit("/", 1)[0]
    store = f"{url}/2" if request.param == "redis" else f"sqlite:///{data}/stackstate.sqlite3"
    deployment = Deployment(folder, f"{url}/0", store)
    deployment.start("older", "older")
    deployment.start("newer", "newer")
    yield deployment
    deployment.stop()
    server.stop(signal.SIGKILL)


@pytest.mark.parametrize(("producer", "worker"), BOTH)
def test_a_key_that_one_release_reserved_is_run_by_the_other_and_known_to_both(
    deployment: Deployment, producer: str, worker: str
) -> None:
    key = f"paid-{producer}"
    first = deployment[producer].do("publish", "plain", ["done"], key, worker)
    found = deployment.ended(first["id"])["run"]
    assert (first["created"], found["status"], found["result"]) == (True, "SUCCESS", f"done by {worker}")
    for release in (producer, worker):
        again = deployment[release].do("publish", "plain", ["done"], key, release)
        assert again == {"id": first["id"], "created": False}
        other = deployment[release].do("publish", "plain", ["otherwise"], key, release)
        assert other["error"] == "IdempotencyConflict"
        assert deployment[release].do("keys", "plain")[key] == "SUCCEEDED"


def test_what_the_newer_release_put_into_a_record_is_there_when_the_older_has_finished_it(
    deployment: Deployment,
) -> None:
    run_id = deployment["newer"].do("publish", "plain", ["x"], "kept", "older")["id"]
    deployment.ended(run_id)
    record = deployment["older"].do("record", "plain", "kept")
    assert (record["state"], record["ticket"]["region"], record["cost"]) == ("SUCCEEDED", "eu", 0)
    deployment["older"].do("publish", "plain", ["x"], "kept", "older")
    assert deployment["newer"].do("record", "plain", "kept")["ticket"]["region"] == "eu"


@pytest.mark.parametrize(("first", "second"), BOTH)
def test_a_run_hops_between_releases_by_its_retries_with_its_state_its_lock_and_its_history(
    deployment: Deployment, first: str, second: str
) -> None:
    path = [first, second, first, second]
    published = deployment[first].do("publish", "hop", [path], f"hop-{first}", first)
    run_id = published["id"]
    found = deployment.ended(run_id)
    run, result = found["run"], found["run"]["result"]
    assert result["by"] == path
    assert len(set(result["fences"])) == 4
    assert result["fences"] == sorted(result["fences"])
    assert [attempt["status"] for attempt in run["attempts"]] == ["RETRY", "RETRY", "RETRY", "SUCCESS"]
    assert [attempt["worker"].split("-")[0] for attempt in run["attempts"]] == path
    assert (run["progress"]["done"], run["retries"], run["key"]) == (4, 3, f"hop-{first}")
    assert [data["release"] for name, data in found["events"] if name == "hop"] == path
    assert [message for _, message in found["log"] if message.startswith("attempt")] == [
        f"attempt {number} on {release}" for number, release in enumerate(path, 1)
    ]
    assert deployment[first].do("publish", "hop", [path], f"hop-{first}", first) == {**published, "created": False}


def test_what_the_newer_release_says_in_a_message_passes_through_the_retries_of_the_older(
    deployment: Deployment,
) -> None:
    run_id = deployment["newer"].do("publish", "hop", [["older", "older", "newer"]], "tenant", "older")["id"]
    assert deployment.ended(run_id)["run"]["result"]["tenant"] == "acme"
    plain = deployment["older"].do("publish", "hop", [["older", "older"]], "no tenant", "older")["id"]
    assert deployment.ended(plain)["run"]["result"]["tenant"] is None


def test_both_releases_tell_the_same_of_a_run(deployment: Deployment) -> None:
    run_id = deployment["newer"].do("publish", "hop", [["older", "newer"]], "told", "older")["id"]
    deployment.ended(run_id)
    older, newer = (deployment[name].do("run", run_id) for name in ("older", "newer"))
    assert older == newer
    assert older["listed"][0]["status"] == "SUCCESS"
    assert "routed" in [name for name, _ in older["events"]]  # which the older does not know
    assert {"zone": "z1"}.items() <= dict(older["events"])["routed"].items()


def test_a_status_that_the_older_release_does_not_know_is_shown_as_it_is(deployment: Deployment) -> None:
    run_id = deployment["older"].do("publish", "plain", ["x"], "paused", "nobody")["id"]
    wait_for(lambda: deployment["older"].do("run", run_id), timeout=TIMEOUT)
    deployment["newer"].do("pause", run_id)
    older, newer = (deployment[name].do("run", run_id) for name in ("older", "newer"))
    assert older == newer
    assert (older["run"]["status"], older["listed"][0]["status"]) == ("PAUSED", "PAUSED")


def test_counters_values_and_locks_are_the_same_ones_for_both(deployment: Deployment) -> None:
    older, newer = deployment["older"], deployment["newer"]
    with ThreadPoolExecutor() as threads:
        list(threads.map(lambda release: release.do("increment", "calls", 100), (older, newer)))
        list(threads.map(lambda release: release.do("extend", "names", release.name), (older, newer)))
    assert {older.do("get", "calls"), newer.do("get", "calls")} == {"200"}
    assert older.do("get", "names") == newer.do("get", "names") in ("['older', 'newer']", "['newer', 'older']")
    for number, (holder, other) in enumerate(((older, newer), (newer, older))):
        assert holder.do("lock", f"catalogue-{number}", 60)["fence"]
        assert other.do("lock", f"catalogue-{number}", 60) == {"owner": holder.do("whoami")}


def test_a_value_of_a_type_that_the_older_release_lacks_is_refused_there_and_stays(deployment: Deployment) -> None:
    older, newer = deployment["older"], deployment["newer"]
    newer.do("put_complex", "point")
    for refused in (older.do("get", "point"), older.do("extend", "point", 1)):
        assert refused["error"] == "NewerFormat"
    assert newer.do("get", "point") == "{'at': (1+2j)}"


def test_a_run_whose_worker_of_one_release_was_killed_is_brought_back_by_the_other(deployment: Deployment) -> None:
    doomed = deployment.start("older", "doomed")
    run_id = deployment["newer"].do("publish", "stubborn", [], "stubborn", "doomed")["id"]
    wait_for(lambda: f"stubborn[{run_id}] received" in doomed.log, timeout=TIMEOUT)
    wait_for(lambda: _statuses(deployment, run_id) == ["STARTED"], timeout=TIMEOUT)
    doomed.kill()
    deployment.start("newer", "doomed")
    assert deployment.ended(run_id)["run"]["result"] == ["older", "newer"]
    assert _statuses(deployment, run_id) == ["LOST", "SUCCESS"]


def _statuses(deployment: Deployment, run_id: str) -> list[str]:
    found = deployment["older"].do("run", run_id)
    return [attempt["status"] for attempt in found["run"]["attempts"]] if found else []


def test_a_run_of_a_higher_format_waits_for_a_worker_that_can_read_it_and_is_run_once(deployment: Deployment) -> None:
    older, ahead = deployment["older"], deployment["ahead"]
    early = deployment.start("older", "early")
    run_id = ahead.do("publish", "plain", ["x"], "ahead", "early")["id"]
    wait_for(lambda: f"plain[{run_id}] received" in early.log, timeout=TIMEOUT)
    before = ahead.do("record", "plain", "ahead")
    assert (before["format"], before["ticket"]["task_id"]) == (2, run_id)
    refused = older.do("publish", "plain", ["x"], "ahead", "early")
    assert refused["error"] == "NewerFormat"
    assert "upgrade this process" in refused["message"]
    assert older.do("keys", "plain")["ahead"] == "UNREADABLE"
    assert ahead.do("record", "plain", "ahead")["state"] in ("RESERVED", "PUBLISHED")
    early.stop()
    deployment.start("ahead", "early")
    assert deployment.ended(run_id, "ahead")["run"]["result"] == "x by ahead"
    assert ahead.do("publish", "plain", ["x"], "ahead", "early") == {"id": run_id, "created": False}


def test_a_message_whose_record_has_a_higher_format_comes_back_until_it_can_be_read(deployment: Deployment) -> None:
    older = deployment["older"]
    run_id = older.do("publish", "plain", ["x"], "marked", "marked")["id"]
    wait_for(lambda: older.do("record", "plain", "marked")["state"] == "PUBLISHED", timeout=TIMEOUT)
    older.do("mark", "plain", "marked", 2)
    deployment.start("older", "marked")
    wait_for(lambda: "postponed" in [name for name, _ in older.do("run", run_id)["events"]], timeout=TIMEOUT)
    assert deployment["ahead"].do("record", "plain", "marked")["state"] == "PUBLISHED"
    older.do("mark", "plain", "marked", 1)
    assert deployment.ended(run_id)["run"]["result"] == "x by older"


def test_a_lock_of_a_higher_format_is_busy_for_the_older_release(deployment: Deployment) -> None:
    deployment["ahead"].do("lock", "ahead", 60)
    assert deployment["older"].do("lock", "ahead", 60) == {"owner": "a process of a newer celery-stackstate"}
