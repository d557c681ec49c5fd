"""An API process and a worker process with the fake model, which tests may stop and start again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import redis

from tests.server.processes import ApiProcess, WorkerProcess
from tests.server.waiting import until

FEW = {"num_timesteps": 5}
SOON: dict[str, Any] = {"generate": FEW, "refine": FEW}
FAST: dict[str, Any] = {"fake_step_s": 0.001}
LONG: dict[str, Any] = {"generate": {"num_timesteps": 40}, "refine": {"num_timesteps": 40}}


@dataclass
class Service:
    """An API on one port, and workers."""

    redis_url: str
    folder: Path
    settings: dict[str, Any]
    api: ApiProcess
    workers: list[WorkerProcess] = field(default_factory=list)
    _logs: Iterator[int] = field(default_factory=count)

    @property
    def url(self) -> str:
        """The API's address; it stays."""
        return self.api.url

    def start_api(self) -> None:
        """Start it again, where it was."""
        self.api.close()
        self.api = ApiProcess(self.redis_url, self.folder, self._log(), port=self.api.port, **self.settings)

    def start_worker(self, **settings: Any) -> WorkerProcess:
        """One more worker."""
        given = {"lease_s": 60.0, **settings}  # longer than a busy machine keeps a process waiting
        self.workers.append(WorkerProcess(self.redis_url, self.folder, self._log(), **given))
        return self.workers[-1]

    def _log(self) -> Path:
        return self.folder / f"{next(self._logs)}.log"


@contextmanager
def running_service(
    redis_url: str, folder: Path, *, worker: dict[str, Any] | None, **settings: Any
) -> Iterator[Service]:
    """Serve over an emptied database for as long as the block lasts; `settings` are the API's, `worker` its own."""
    with redis.Redis.from_url(redis_url, protocol=2) as database:
        database.flushdb()
    service = Service(redis_url, folder, settings, ApiProcess(redis_url, folder, folder / "api.log", **settings))
    try:
        if worker is not None:
            service.start_worker(**worker)
        ready = "/livez" if worker is None else "/readyz?workers=1"
        until(lambda: service.api.status(ready) == 200 or not service.api.is_running(), 60)
        assert service.api.is_running(), service.api.log.read_text()
        yield service
    finally:
        service.api.close()
        for one in service.workers:
            if one.is_running():
                one.kill()
