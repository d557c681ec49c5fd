"""Webhooks through the public door: what a request may ask for, and an API process that dies between send and mark."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import redis

from server.embedded import EmbeddedServer
from server.images import ImageStore
from server.queue import Queue
from server.queue_worker import WorkerQueue
from tests.server.api.by_hand import TINY, HandWorker
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import problem
from tests.server.delivering import due, waiting
from tests.server.processes import api_process
from tests.server.receiving import Receiver, receiving
from tests.server.waiting import until

ALLOW = "127.0.0.1,hooks.example.com"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as one:
        yield one


@pytest.fixture
def hooked(
    valkey: EmbeddedServer, database: redis.Redis, worker_queue: WorkerQueue, tmp_path: Path
) -> Iterator[RunningApi]:
    """An API that may send to this machine."""
    worker_queue.register(TINY.to_json())
    with running_api(valkey.url, tmp_path, webhook_allow=tuple(ALLOW.split(","))) as api:
        yield api


def refused(api: RunningApi, webhook: Any) -> dict[str, str]:
    """What is said against a webhook."""
    answer = api.client.post("/generate", json={"prompt": "a cat", "webhook": webhook})
    faults = problem(answer, 422, "invalid_request")["errors"]
    return {fault["pointer"]: fault["detail"] for fault in faults}


def secret_of(url: str) -> str:
    """The only tenant's secret."""

    async def ask() -> str:
        queue = Queue(url)
        try:
            [secret] = await queue.hooks.signing_secrets("local")
            return secret
        finally:
            await queue.close()

    return asyncio.run(ask())


def test_webhooks_are_off_unless_the_operator_allows_hosts(api: RunningApi) -> None:
    assert "is off" in refused(api, {"url": "https://hooks.example.com/x"})["/webhook"]


@pytest.mark.parametrize(
    ("webhook", "pointer", "says"),
    [
        ({"url": "https://evil.example/x"}, "/webhook/url", "evil.example"),
        ({"url": "http://127.0.0.2/"}, "/webhook/url", "127.0.0.2"),
        ({"url": "http://[::1]/"}, "/webhook/url", "::1"),
        ({"url": "http://169.254.169.254/latest/meta-data/"}, "/webhook/url", "169.254.169.254"),
        ({"url": "http://0x7f.1/"}, "/webhook/url", "four decimal numbers"),
        ({"url": "http://2130706433/"}, "/webhook/url", "four decimal numbers"),
        ({"url": "http://localhost/"}, "/webhook/url", "localhost"),
        ({"url": "file:///etc/passwd"}, "/webhook/url", "https://"),
        ({"url": "https://user:secret@hooks.example.com/"}, "/webhook/url", "credentials"),
        ({"url": "https://hooks.example.com/?token=secret#x"}, "/webhook/url", "fragment"),
        ({"url": "https://hooks.example.com/" + "x" * 3000}, "/webhook/url", "2048"),
        ({"url": 5}, "/webhook/url", "string"),
        ({}, "/webhook/url", "required"),
        ({"url": "https://hooks.example.com/", "events": []}, "/webhook/events", "1"),
        ({"url": "https://hooks.example.com/", "events": ["job.started"]}, "/webhook/events/0", "job.succeeded"),
        ({"url": "https://hooks.example.com/", "secret": "x"}, "/webhook/secret", "not a known field"),
        ("https://hooks.example.com/", "/webhook", "object"),
    ],
)
def test_a_webhook_that_may_not_be_is_refused_by_name(
    hooked: RunningApi, webhook: Any, pointer: str, says: str
) -> None:
    faults = refused(hooked, webhook)
    assert list(faults) == [pointer]
    assert says in faults[pointer]
    assert "token=secret" not in str(faults)
    assert ":secret@" not in str(faults)


def test_the_end_of_a_job_is_posted_as_the_api_shows_the_job(
    hooked: RunningApi, worker_queue: WorkerQueue, valkey: EmbeddedServer, receiver: Receiver
) -> None:
    worker = HandWorker(worker_queue, ImageStore(hooked.settings.image_store_url))
    job = hooked.submit(webhook={"url": receiver.url, "events": ["job.succeeded"]})
    worker.takes().whole_run()
    until(lambda: len(receiver.received) == 1)
    said = receiver.received[0].verified(secret_of(valkey.url))
    assert (said["type"], said["data"]) == ("job.succeeded", hooked.job(job["id"]))
    other = hooked.submit(webhook={"url": receiver.url, "events": ["job.succeeded"]})
    hooked.client.post(f"/jobs/{other['id']}/cancel")
    last = hooked.submit(webhook={"url": receiver.url})
    hooked.client.post(f"/jobs/{last['id']}/cancel")
    until(lambda: len(receiver.received) == 2)
    assert json.loads(receiver.received[1].body)["data"]["id"] == last["id"]
    until(lambda: 'r3_webhooks_total{outcome="delivered"} 2.0' in hooked.client.get("/metrics").text)


def test_the_same_body_with_another_webhook_is_another_body(hooked: RunningApi) -> None:
    key = {"Idempotency-Key": "k", "Prefer": "respond-async"}
    first = {"prompt": "a cat", "webhook": {"url": "https://hooks.example.com/1"}}
    assert hooked.client.post("/generate", json=first, headers=key).status_code == 202
    second = {**first, "webhook": {"url": "https://hooks.example.com/2"}}
    problem(hooked.client.post("/generate", json=second, headers=key), 422, "idempotency_mismatch")


def test_an_api_killed_between_sending_and_marking_sends_it_again_under_the_same_id(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, database: redis.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    worker_queue.register(TINY.to_json())
    with api_process(valkey.url, tmp_path, log_level="info", webhook_allow=ALLOW) as api:
        client = api.client

        def kill(handler: BaseHTTPRequestHandler) -> None:
            api.kill()
            handler.send_response(204)
            handler.end_headers()

        receiver.answers = [kill]
        body = {"prompt": "a", "webhook": {"url": receiver.url}}
        job = client.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()
        client.post(f"/jobs/{job['id']}/cancel")
        until(lambda: not api.is_running())
    assert waiting(database) == [job["id"]]
    due(database, job["id"])  # its lease is over
    with api_process(valkey.url, tmp_path, log_level="info", webhook_allow=ALLOW) as api:
        until(lambda: len(receiver.received) == 2 and not waiting(database))
        api.send(signal.SIGTERM)
        assert api.process.wait(10) == 0
    first, second = receiver.received
    assert first.id == second.id == f"msg_{job['id'].removeprefix('job_')}"
    secret = secret_of(valkey.url)
    assert first.verified(secret) == second.verified(secret)
    log = api.log.read_text()
    assert "webhook delivered" in log
    assert not any(word in log for word in ("path-secret", "query-secret", secret))


def test_an_api_that_is_asked_to_end_gives_back_what_is_not_answered(
    valkey: EmbeddedServer, worker_queue: WorkerQueue, database: redis.Redis, receiver: Receiver, tmp_path: Path
) -> None:
    worker_queue.register(TINY.to_json())
    with api_process(valkey.url, tmp_path, log_level="info", webhook_allow=ALLOW) as api:
        client = api.client
        receiver.answers = [lambda _: api.process.wait(20)]  # type: ignore[list-item]
        body = {"prompt": "a", "webhook": {"url": receiver.url}}
        job = client.post("/generate", json=body, headers={"Prefer": "respond-async"}).json()
        client.post(f"/jobs/{job['id']}/cancel")
        until(lambda: len(receiver.received) == 1)
        api.send(signal.SIGTERM)
        assert api.process.wait(10) == 0
    score, now = database.zscore("{r3}:hooks", job["id"]), database.time()
    assert isinstance(score, float)
    assert score <= now[0] * 1000 + 1000
