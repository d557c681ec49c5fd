"""`r3 api` and a worker with the fake model, each a process of its own, for clients that are not ours."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import redis
from PIL import Image as PILImage

from tests.server.processes import ApiProcess, WorkerProcess, api_process
from tests.server.waiting import until

FEW_STEPS: Final = {"generate": {"num_timesteps": 5}, "refine": {"num_timesteps": 5}}


@contextmanager
def served(redis_url: str, data_dir: Path, **settings: Any) -> Iterator[ApiProcess]:
    """An API over an emptied database, with a worker that is heard from."""
    with redis.Redis.from_url(redis_url, protocol=2) as database:
        database.flushall()
    with api_process(redis_url, data_dir, **settings) as api:
        worker = WorkerProcess(redis_url, data_dir, data_dir / "worker.log", fake_step_s=0.005, drain_s=1)
        try:
            until(lambda: api.status("/readyz?workers=1") == 200 or not worker.is_running(), 60)
            assert worker.is_running(), worker.log.read_text()
            yield api
        finally:
            worker.send(signal.SIGTERM)
            worker.process.wait(30)


def status_of(api: ApiProcess, job_id: str) -> str:
    """How a job stands."""
    return str(api.client.get(f"/jobs/{job_id}").json()["status"])


def size_of(content: bytes) -> tuple[str | None, tuple[int, int]]:
    """A picture's format and its size."""
    with PILImage.open(io.BytesIO(content)) as picture:
        picture.load()
        return picture.format, picture.size
