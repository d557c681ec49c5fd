"""The same submission many times at once, and submissions while Redis hangs (R5): exactly one job each."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import redis

from server.embedded import EmbeddedServer
from server.queue_worker import WorkerQueue
from tests.recorded import Record
from tests.server.api.by_hand import TINY
from tests.server.processes import ApiProcess

pytestmark = [pytest.mark.row("R5"), pytest.mark.parametrize("own_server", ["valkey", "redis"], indirect=True)]


@pytest.fixture(autouse=True)
def _known_model(own_server: EmbeddedServer) -> Iterator[None]:
    """A worker described it, and is gone: jobs stay where they were put."""
    queue = WorkerQueue(own_server.url, "gone")
    queue.register(TINY.to_json())
    yield
    queue.close()


def headers(key: str | None = None) -> dict[str, str]:
    """For an answer at once."""
    return {"Prefer": "respond-async", **({} if key is None else {"Idempotency-Key": key})}


def test_a_hundred_at_once_with_one_key_are_one_job(api: ApiProcess, record: Record) -> None:
    with ThreadPoolExecutor(100) as clients:
        asked = [clients.submit(submit, api, "one key") for _ in range(100)]
        answers = [one.result() for one in asked]
    [job_id] = {job_id for job_id, _ in answers}
    [job] = api.client.get("/jobs").json()["jobs"]
    assert job["id"] == job_id
    refused = sum(refused for _, refused in answers)
    record("R5", f"100 at once over HTTP with one key: 1 job{f', {refused} answers of 503 before' if refused else ''}")


@contextmanager
def stalled(server: EmbeddedServer, how: str, for_s: float) -> Iterator[None]:
    """Redis hangs for so long, as long as the block lasts."""
    began = time.monotonic()
    if how == "stopped":
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
    else:
        with redis.Redis.from_url(server.url) as database:
            database.client_pause(int(for_s * 1000), all=False)
    try:
        yield
        time.sleep(max(0.0, for_s - (time.monotonic() - began)))
    finally:
        if how == "stopped":
            assert server.pid is not None
            os.kill(server.pid, signal.SIGCONT)


def submit(api: ApiProcess, key: str | None) -> tuple[str, int]:
    """The job's id, once it is acknowledged, and how often it was refused before: the client keeps its key."""
    refused = 0
    while True:
        answer = api.client.post("/generate", json={"prompt": "a cat"}, headers=headers(key))
        if answer.status_code == 202:
            return str(answer.json()["id"]), refused
        assert answer.status_code == 503, answer.text
        assert key is not None, "without a key nobody may try again"
        refused += 1
        time.sleep(0.1)


@pytest.mark.parametrize("how", ["stopped", "writes paused"])
def test_whoever_keeps_its_key_while_redis_hangs_gets_one_job(
    own_server: EmbeddedServer, api: ApiProcess, record: Record, how: str
) -> None:
    with ThreadPoolExecutor(20) as clients:
        with stalled(own_server, how, 3.0):
            asked = [clients.submit(submit, api, f"key-{i}") for i in range(20)]
        answers = [one.result() for one in asked]
    jobs = api.client.get("/jobs?limit=100").json()["jobs"]
    assert sorted(job["id"] for job in jobs) == sorted(job_id for job_id, _ in answers)
    assert sum(refused for _, refused in answers) >= 20
    record("R5", f"Redis {how} for 3 s under 20 submissions with keys: 20 jobs")


def test_a_short_stall_makes_no_job_twice_even_without_keys(
    own_server: EmbeddedServer, api: ApiProcess, record: Record
) -> None:
    """The API itself asks again, with the very same job."""
    with ThreadPoolExecutor(5) as clients:
        with stalled(own_server, "stopped", 1.0):
            asked = [clients.submit(submit, api, None) for _ in range(5)]
        answers = [one.result() for one in asked]
    jobs = api.client.get("/jobs?limit=100").json()["jobs"]
    assert sorted(job["id"] for job in jobs) == sorted(job_id for job_id, _ in answers)
    record("R5", "Redis stopped for 1 s under 5 submissions without keys: 5 jobs")
