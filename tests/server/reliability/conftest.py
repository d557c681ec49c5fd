"""Whole services of real processes around a server that a test may harm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue import Queue, QueuePolicy
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import HandWorker
from tests.server.conftest import oldest_redis
from tests.server.processes import (
    ApiProcess,
    StartWorker,
    WorkerProcess,
    api_process,
    private_server,
    worker_processes,
)
from tests.server.waiting import until


@pytest.fixture
def own_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A server that a test may harm and start again, its data kept: Valkey, or where the test says so an old Redis."""
    with private_server(oldest_redis() if getattr(request, "param", "valkey") == "redis" else None) as server:
        yield server


@pytest.fixture
async def queue(own_server: EmbeddedServer) -> AsyncIterator[Queue]:
    """The API's side of its queue."""
    one = Queue(own_server.url)
    yield one
    await one.close()


@pytest.fixture
def start_worker(own_server: EmbeddedServer, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers."""
    with worker_processes(own_server.url, tmp_path) as start:
        yield start


@pytest.fixture
def api(own_server: EmbeddedServer, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API process with the usual settings."""
    with api_process(own_server.url, tmp_path) as running:
        yield running


@pytest.fixture
def worker(api: ApiProcess, start_worker: StartWorker) -> WorkerProcess:
    """A worker that the API knows of, and that draws in a few hundredths of a second."""
    one = start_worker(fake_step_s=0.002)
    until(lambda: api.status("/readyz?workers=1") == 200, 60)
    return one


@pytest.fixture
def by_hand(own_server: EmbeddedServer, api: ApiProcess, tmp_path: Path) -> Iterator[HandWorker]:
    """A worker that does what the test says, for a model that the API knows from it."""
    queue = WorkerQueue(own_server.url, "by-hand", QueuePolicy(lease_s=600))
    yield HandWorker(queue, ImageStore(tmp_path / "images"))
    queue.close()
