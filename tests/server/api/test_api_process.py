"""The API as a process of its own: light, quick to start, up while Redis is away, orderly at its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from server.embedded import EmbeddedServer, find_binary, locked
from server.images import ImageStore
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import TINY, HandWorker
from tests.server.api.events import check_whole, parsed
from tests.server.api.test_api_generate import problem
from tests.server.processes import R3, api_process, free_port
from tests.server.promises import promised
from tests.server.waiting import until

ROOT = Path(__file__).parents[3]


def test_the_api_process_knows_no_torch_and_is_up_in_two_seconds(valkey: EmbeddedServer, tmp_path: Path) -> None:
    program = """
import sys
from server.app import create_app
from server.api import run_api
from server.settings import Settings
app = create_app(Settings.model_construct())
app.openapi()
heavy = [name for name in ("torch", "transformers", "diffusers", "xformers") if name in sys.modules]
print(heavy)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "[]"
    with ExitStack() as running:
        with promised(2):
            running.enter_context(api_process(valkey.url, tmp_path, program=R3))


def test_asked_to_end_it_closes_streams_and_ends_with_0(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, tmp_path: Path
) -> None:
    worker_queue.register(TINY.to_json())
    with api_process(valkey.url, tmp_path, log_level="info") as api:
        client = api.client
        job = client.post("/generate", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).json()
        with client.stream("GET", job["links"]["events"]) as answer:
            events = parsed(answer.iter_lines())
            assert next(events).name == "job.queued"
            api.send(signal.SIGTERM)
            assert next(events).name == "stream.closing"
            assert list(events) == []
        assert api.process.wait(10) == 0
    lines = [json.loads(line) for line in (api.log).read_text().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert {line["route"] for line in requests} >= {"/generate", "/jobs/{job_id}/events"}
    assert all(line["request_id"] for line in requests)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedServer]:
    """A Valkey that this test may stop."""
    with tempfile.TemporaryDirectory(prefix="r3-") as folder:
        Path(folder).chmod(0o700)
        with locked(Path(folder)) as directory, EmbeddedServer(directory, find_binary()) as server:
            yield server


def kill(server: EmbeddedServer) -> None:
    """As `kill -9` does; `start` brings it back with its data."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    until(lambda: not server.is_running())


def queue_error(client: httpx.Client, method: str, path: str, **how: Any) -> None:
    with promised(2):
        answer = client.request(method, path, **how)
    problem(answer, 503, "queue_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


def test_while_redis_is_away_the_process_stays_and_recovers_with_its_streams(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    queue, metrics_port = WorkerQueue(own_redis.url, "by-hand"), free_port()
    with api_process(own_redis.url, tmp_path, metrics_port=metrics_port) as api:
        client = api.client
        worker = HandWorker(queue, ImageStore(tmp_path / "images"))
        job = client.post("/generate", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).json()
        with client.stream("GET", job["links"]["events"]) as answer, httpx.Client(base_url=client.base_url) as other:
            events = parsed(answer.iter_lines())
            seen = [next(events)]
            kill(own_redis)
            assert other.get("/livez", timeout=5).status_code == 200
            other.timeout = httpx.Timeout(10)
            queue_error(other, "GET", "/readyz")
            queue_error(other, "GET", f"/jobs/{job['id']}")
            queue_error(other, "GET", job["links"]["events"])
            queue_error(other, "POST", job["links"]["cancel"])
            queue_error(other, "POST", "/generate", json={"prompt": "a"})
            queue_error(other, "GET", "/metrics")  # whether a key is needed cannot be known
            assert "r3_queue_up 0.0" in httpx.get(f"http://127.0.0.1:{metrics_port}/metrics", timeout=20).text
            own_redis.start()
            with promised(3):
                until(lambda: other.get("/readyz").status_code == 200, 30)
            worker.takes().whole_run()
            seen += list(events)
        check_whole(seen)
        assert api.is_running()
    queue.close()


def test_who_waits_while_redis_goes_away_is_told_which_job_it_was(own_redis: EmbeddedServer, tmp_path: Path) -> None:
    queue = WorkerQueue(own_redis.url, "by-hand")
    with api_process(own_redis.url, tmp_path) as api, ThreadPoolExecutor(1) as pool:
        HandWorker(queue, ImageStore(tmp_path / "images"))
        asked: dict[str, Any] = {"json": {"prompt": "a"}, "headers": {"Prefer": "wait=2"}, "timeout": 30}
        answer = pool.submit(partial(api.client.post, "/generate", **asked))
        with redis.Redis.from_url(own_redis.url) as client:
            until(lambda: bool(client.keys("{r3}:job:*")))
        time.sleep(0.5)  # it has looked at its job, and waits
        kill(own_redis)
        assert (answer.result().status_code, answer.result().json()["status"]) == (202, "queued")
        assert answer.result().headers["location"] == f"/jobs/{answer.result().json()['id']}"
    queue.close()


def test_started_before_redis_it_waits_for_it(own_redis: EmbeddedServer, tmp_path: Path) -> None:
    kill(own_redis)
    with api_process(own_redis.url, tmp_path) as api:
        client = api.client
        queue_error(client, "GET", "/readyz")
        own_redis.start()
        until(lambda: client.get("/readyz").status_code == 200, 30)


def test_at_the_memory_limit_nothing_new_is_taken_and_what_is_there_can_be_read(
    own_redis: EmbeddedServer, tmp_path: Path
) -> None:
    queue = WorkerQueue(own_redis.url, "by-hand")
    with (
        api_process(own_redis.url, tmp_path) as api,
        redis.Redis.from_url(own_redis.url, protocol=2) as database,
    ):
        client = api.client
        worker = HandWorker(queue, ImageStore(tmp_path / "images"))
        job = client.post("/generate", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).json()
        hand = worker.takes()
        database.config_set("maxmemory", 1)
        queue_error(client, "POST", "/generate", json={"prompt": "a"})
        hand.whole_run()
        assert client.get(job["links"]["self"]).json()["status"] == "succeeded"
    queue.close()
