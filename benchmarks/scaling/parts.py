"""The parts of a measured service, as processes: one Redis, API processes, worker processes, the clients.

Redis listens on a port of loopback and writes its append-only file as in production. Whatever ends the block ends all
of them; what they said lies in the folder until then.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
import redis

from benchmarks.scaling.plan import TENANTS, Point
from server import child
from server.embedded import find_binary
from server.keys import Key, digest_of, id_of, new_secret
from server.keys_file import entry

ROOT: Final = Path(__file__).resolve().parents[2]
UP_WITHIN_S: Final = 120.0
GRACE_S: Final = 15.0
# A queue may hold all that is offered; nobody is refused for asking too often. API and workers must be told the same.
POLICY: Final[dict[str, Any]] = {
    "queue_limit": 100_000,
    "tenant_queue_limit": 100_000,
    "queue_cost_limit": 1e9,
    "tenant_queue_cost_limit": 1e9,
}
_OFTEN: Final = 1_000_000


class Broken(Exception):
    """A part ended by itself, or did not come up; the message has its last words."""


@dataclass
class Parts:
    """What runs."""

    point: Point
    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stats: dict[str, Path] = field(default_factory=dict)
    redis_port: int = 0

    @property
    def redis_url(self) -> str:
        """Where Redis listens."""
        return f"redis://127.0.0.1:{self.redis_port}"

    @property
    def pids(self) -> dict[str, int]:
        """All processes by name."""
        return {name: process.pid for name, process in self.processes.items()}

    def look(self) -> None:
        """Raises Broken where one has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise Broken(f"{name} ended with {process.returncode}: {self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The end of what a part said."""
        return self.log(name).read_text(errors="replace")[-2000:].strip() or "it said nothing"

    def log(self, name: str) -> Path:
        """Where what it says lies."""
        return self.folder / f"{name}.log"

    def spawn(self, name: str, *command: str | Path, **settings: Any) -> None:
        """Start a part, with these settings and no other `R3_` variable."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith("R3_")}
        given = {f"R3_{key.upper()}": str(value) for key, value in settings.items()}
        environment = {**plain, "PYTHONPATH": str(ROOT), **given}
        with self.log(name).open("wb") as log:
            self.processes[name] = child.spawn(list(command), environment=environment, output=log)

    def until(self, holds: Callable[[], bool], what: str, within_s: float = UP_WITHIN_S) -> None:
        """Wait until it holds. Raises Broken where a part ends meanwhile, or it takes too long."""
        deadline = time.monotonic() + within_s
        while not holds():
            self.look()
            if time.monotonic() > deadline:
                raise Broken(f"{what} is not there after {within_s:g} s")
            time.sleep(0.05)


@contextmanager
def running(point: Point) -> Iterator[Parts]:
    """Redis, APIs and workers for as long as the block lasts; then nothing is left of them."""
    with tempfile.TemporaryDirectory(prefix="r3-scale-") as folder, ExitStack() as ends:
        parts = Parts(point, Path(folder))
        ends.callback(_end, parts)
        _start_redis(parts)
        _write_keys(parts)
        _start_apis(parts)
        _start_workers(parts)
        yield parts


def start_clients(parts: Parts) -> Path:
    """Start the generator; where its results will lie. What it says lies in its log."""
    out = parts.folder / "saw.json"
    asked = {"point": parts.point.to_json(), "urls": parts.urls, "keys": parts.keys, "out": str(out)}
    parts.spawn("generator", sys.executable, "-u", "-m", "benchmarks.scaling.load", json.dumps(asked))
    return out


def _start_redis(parts: Parts) -> None:
    parts.redis_port = _free_port()
    (parts.folder / "redis").mkdir()
    where = ("--bind", "127.0.0.1", "--port", str(parts.redis_port), "--dir", str(parts.folder / "redis"))
    kept = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction")
    parts.spawn("redis", find_binary(), *where, *kept)
    db = redis.Redis.from_url(parts.redis_url, socket_connect_timeout=1)

    def answers() -> bool:
        try:
            return bool(db.ping())
        except redis.RedisError:
            return False

    parts.until(answers, "Redis")
    db.close()


def _write_keys(parts: Parts) -> None:
    text = "keys:\n"
    for tenant in TENANTS:
        secret = parts.keys[tenant.name] = new_secret()
        key_id = id_of(secret)
        assert key_id is not None
        text += entry(Key(key_id, tenant.name, tenant.name, ("generate",), digest_of(secret), None, _OFTEN))
    weights = {tenant.name: {"weight": tenant.weight} for tenant in TENANTS}
    (parts.folder / "keys.yaml").write_text(f"{text}tenants: {json.dumps(weights)}\n")


def _start_apis(parts: Parts) -> None:
    for index in range(parts.point.apis):
        port = _free_port()
        parts.urls.append(f"http://127.0.0.1:{port}")
        parts.spawn(
            f"api-{index}",
            *(sys.executable, "-P", "-m", "server.cli", "api"),
            redis_url=parts.redis_url,
            data_dir=parts.folder,
            checkpoint=parts.folder / "none",  # so that the model is called "fake"
            keys_file=parts.folder / "keys.yaml",
            port=port,
            log_level="warning",
            **POLICY,
        )
    for url in parts.urls:
        parts.until(lambda url=url: _is_up(url), url)  # type: ignore[misc]


def _start_workers(parts: Parts) -> None:
    point = parts.point
    for first in range(0, point.workers, point.per_process):
        name = f"worker-{first // point.per_process}"
        parts.stats[name] = parts.folder / f"{name}.json"
        asked = {
            "redis_url": parts.redis_url,
            "data_dir": str(parts.folder),
            "workers": min(point.per_process, point.workers - first),
            "places": point.places,
            "speedup": point.speedup,
            "policy": POLICY,
            "stats": str(parts.stats[name]),
        }
        parts.spawn(name, sys.executable, "-m", "benchmarks.scaling.workers", json.dumps(asked))
    parts.until(lambda: all(path.exists() for path in parts.stats.values()), "a worker")


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/livez", timeout=2, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _end(parts: Parts) -> None:
    """Clients first, Redis last: nobody is to wait for who is gone."""
    for name in sorted(parts.processes, key=lambda name: ("gawr".index(name[0]), name)):
        child.stop(parts.processes[name], GRACE_S if name != "generator" else 1.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
