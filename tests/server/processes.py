"""`r3 api` and `r3 worker` as processes that tests kill, stop and look at; their logs lie in files."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from server.embedded import EmbeddedServer, find_binary, locked
from tests.server.forked import Forked
from tests.server.waiting import until

ROOT: Final = Path(__file__).resolve().parents[2]
LEASE_S: Final = 2.0
R3: Final = "server.cli"


@contextmanager
def private_server(binary: Path | None = None) -> Iterator[EmbeddedServer]:
    """A Valkey, or another server of this binary, that is nobody else's, with data of its own."""
    with tempfile.TemporaryDirectory(prefix="r3-") as folder:  # short: a socket's path is bounded
        Path(folder).chmod(0o700)
        with locked(Path(folder)) as directory, EmbeddedServer(directory, binary or find_binary()) as server:
            yield server


class R3Process:
    """`r3 <command>` with these settings and no other `R3_` variable.

    It is forked from what has imported its modules already, unless `program` is named: then Python begins that module.
    """

    def __init__(self, command: str, log: Path, settings: dict[str, Any], program: str | None = None) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
        given = {f"R3_{name.upper()}": str(value) for name, value in settings.items()}
        self.log = log
        env = {**plain, "PYTHONPATH": str(ROOT), **given}
        self.process: subprocess.Popen[bytes] | Forked
        if program is None:
            self.process = Forked([command], env, log)
            return
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", program, command], env=env, stdout=out, stderr=out
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9` does."""
        self.process.kill()
        self.process.wait()

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def said(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log that tell that event."""
        lines = (json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def rss_bytes(self) -> int:
        """The memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def cpu_s(self) -> float:
        """The processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class WorkerProcess(R3Process):
    """`r3 worker` with the fake model."""

    def __init__(self, url: str, data_dir: Path, log: Path, program: str | None = None, **settings: Any) -> None:
        given = {
            "redis_url": url,
            "data_dir": data_dir,
            "checkpoint": data_dir / "none",  # so that its model is called "fake"
            "runner": "fake",
            "fake_step_s": 0.02,
            "worker_port": 0,
            "lease_s": LEASE_S,
            "renew_s": 0.2,
            "max_trajectories": 4,
            **settings,
        }
        super().__init__("worker", log, given, program)

    def probe(self, path: str) -> int:
        """The status of a probe, 0 before the port is open."""
        port = re.search(r'"port": (\d+)', self.log.read_text())
        if port is None:
            return 0
        connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


StartWorker = Callable[..., WorkerProcess]


class ApiProcess(R3Process):
    """`r3 api` on a free port, or that of one which is started again; `client` calls it."""

    def __init__(self, url: str, data_dir: Path, log: Path, program: str | None = None, **settings: Any) -> None:
        self.port = int(settings.get("port") or free_port())
        given = {
            "redis_url": url,
            "data_dir": data_dir,
            "checkpoint": data_dir / "none",
            "port": self.port,
            "log_level": "warning",
            **settings,
        }
        super().__init__("api", log, given, program)
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)

    def is_up(self) -> bool:
        """Whether it answers."""
        return self.status("/livez") == 200

    def status(self, path: str) -> int:
        """The status of an answer, 0 where there is none."""
        try:
            return self.client.get(path).status_code
        except httpx.TransportError:
            return 0

    def close(self) -> None:
        """End it, however it stands."""
        self.client.close()
        if self.is_running():
            self.kill()


@contextmanager
def api_process(url: str, data_dir: Path, **settings: Any) -> Iterator[ApiProcess]:
    """An API that is up for as long as the block lasts."""
    api = ApiProcess(url, data_dir, data_dir / "api.log", **settings)
    try:
        until(lambda: api.is_up() or not api.is_running(), 60)
        assert api.is_running(), api.log.read_text()
        yield api
    finally:
        api.close()


@contextmanager
def worker_processes(url: str, data_dir: Path) -> Iterator[StartWorker]:
    """Starts workers, each with a log of its own, that last as long as the block."""
    started: list[WorkerProcess] = []

    def begin(url: str = url, **settings: Any) -> WorkerProcess:
        started.append(WorkerProcess(url, data_dir, data_dir / f"worker-{len(started)}.log", **settings))
        return started[-1]

    try:
        yield begin
    finally:
        for one in started:
            if one.is_running():
                one.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
