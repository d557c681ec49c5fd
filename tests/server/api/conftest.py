"""An API over a real Valkey, and a worker played by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import HandWorker
from tests.server.api.keyed import KeyedApi, keyed_api
from tests.server.api.running import RunningApi, running_api
from tests.server.processes import private_server


@pytest.fixture(scope="session")
def valkey() -> Iterator[EmbeddedServer]:
    """A running Valkey that no test harms."""
    with private_server() as server:
        yield server


@pytest.fixture(scope="session")
def shared_api(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApi]:
    """An API with the usual settings, started once."""
    with running_api(valkey.url, tmp_path_factory.mktemp("data")) as api:
        yield api


@pytest.fixture
def database(valkey: EmbeddedServer) -> Iterator[redis.Redis]:
    """The database, empty."""
    with redis.Redis.from_url(valkey.url, decode_responses=True, protocol=2) as client:
        client.flushall()
        yield client


@pytest.fixture
def worker_queue(valkey: EmbeddedServer, database: redis.Redis) -> Iterator[WorkerQueue]:
    """A worker's side of the queue."""
    one = WorkerQueue(valkey.url, "worker-by-hand")
    yield one
    one.close()


@pytest.fixture
def api(shared_api: RunningApi, worker: HandWorker) -> RunningApi:
    """An API over an empty database that knows one model."""
    return shared_api


@pytest.fixture
def worker(shared_api: RunningApi, worker_queue: WorkerQueue) -> HandWorker:
    """A worker that has described its model and does nothing by itself."""
    return HandWorker(worker_queue, ImageStore(shared_api.settings.image_store_url))


@pytest.fixture(scope="module")
def module_keyed(valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedApi]:
    """An API that asks for keys, started once for a file of tests."""
    with keyed_api(valkey.url, tmp_path_factory.mktemp("keyed")) as keyed:
        yield keyed


@pytest.fixture
def keyed(module_keyed: KeyedApi) -> KeyedApi:
    """An API that asks for keys, without jobs; keys of earlier tests of the file are good."""
    module_keyed.forget_jobs()
    return module_keyed
