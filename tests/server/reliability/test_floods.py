"""A tenant that sends more than it may, and more than there is room for, beside one that does not (T2, T3)."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import Any

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.keys import TenantLimits
from server.queue import Queue
from tests.recorded import Record
from tests.server.api.keyed import new_key
from tests.server.processes import LEASE_S, ApiProcess, WorkerProcess, api_process
from tests.server.waiting import until

SHORT = {"prompt": "a cat", "max_rounds": 0, "think": False, "generate": {"num_timesteps": 6}}
STEP_S = 0.05  # so a picture takes a quarter of a second
FLOOD = 1000
BURST, BURSTS = 12, 6
QUEUED = 3
QUOTAS = TenantLimits(queued=QUEUED, running=1)


@contextmanager
def holder(api: ApiProcess, url: str, tenant: str, **fields: Any) -> Iterator[httpx.Client]:
    """Someone with a key that the API knows."""
    _, secret = new_key(url, tenant, **fields)
    bearer = {"Authorization": f"Bearer {secret}", "Prefer": "respond-async"}
    with httpx.Client(base_url=api.url, timeout=60, trust_env=False, headers=bearer) as client:
        until(lambda: client.get("/jobs?limit=1").status_code == 200, 15)
        yield client


@pytest.fixture
def keyed(own_server: EmbeddedServer, tmp_path: Path) -> Iterator[ApiProcess]:
    """An API process that asks for keys and takes a flood."""
    limits = {"queue_limit": 2 * FLOOD, "tenant_queue_limit": 2 * FLOOD, "requests_per_min": "none"}
    with api_process(own_server.url, tmp_path, auth="keys", **limits) as api:
        yield api


def waited_s(job: dict[str, Any]) -> float:
    """From its submission to its start."""
    made, started = (datetime.fromisoformat(job[name]) for name in ("created_at", "started_at"))
    return (started - made).total_seconds()


@pytest.mark.row("T3")
def test_who_sends_one_job_is_served_at_once_though_another_sent_a_thousand(
    own_server: EmbeddedServer, keyed: ApiProcess, start_worker: Callable[..., WorkerProcess], record: Record
) -> None:
    with holder(keyed, own_server.url, "flood") as flood, holder(keyed, own_server.url, "one") as one:
        first = start_worker(fake_step_s=STEP_S)
        until(lambda: keyed.status("/readyz?workers=1") == 200, 60)
        first.kill()  # its model is known, and nothing is leased yet
        with ThreadPoolExecutor(8) as clients:
            statuses = Counter(clients.map(lambda _: flood.post("/generate", json=SHORT).status_code, range(FLOOD)))
        assert statuses == {202: FLOOD}
        start_worker(fake_step_s=STEP_S)
        until(lambda: bool(flood.get("/jobs?status=running").json()["jobs"]), 60)
        job = one.post("/generate", json=SHORT).json()
        waited = waited_s(finished(one, job["id"]))
        before = len(flood.get("/jobs?status=succeeded&limit=100").json()["jobs"])
    batch_s = STEP_S * 6
    kept = waited <= batch_s + 2 * LEASE_S
    record("T3", f"{FLOOD} jobs waiting: the one started after {waited:.2f} s", kept=kept)
    assert before < 100, "it did not wait for them"


@pytest.mark.row("T2")
def test_who_is_over_its_limits_is_refused_and_holds_up_nobody(
    own_server: EmbeddedServer, keyed: ApiProcess, start_worker: Callable[..., WorkerProcess], record: Record
) -> None:
    start_worker(fake_step_s=STEP_S)
    until(lambda: keyed.status("/readyz?workers=1") == 200, 60)
    asyncio.run(_limit(own_server.url, "greedy"))
    with (
        holder(keyed, own_server.url, "quiet") as quiet,
        holder(keyed, own_server.url, "greedy", requests_per_min=6000) as greedy,
    ):
        with sending(greedy, patiently=True) as polite:
            beside_polite = mean_wait_s(quiet)
        with sending(greedy, patiently=False) as rude:
            beside_rude = mean_wait_s(quiet)
    assert polite.refused == 0
    assert rude.refused > 20
    assert rude.without_word == 0, "each refusal says when to come again, and how the limits stand"
    ratio = beside_rude / beside_polite
    told = f"waits of {beside_polite:.2f} s beside who keeps to the limits, {beside_rude:.2f} s beside who does not"
    record("T2", f"{rude.refused} refusals; the other's {told}: {ratio - 1:+.0%}", kept=ratio <= 1.1)
    if os.environ.get("R3_TEST_TIMES") == "1":
        assert ratio <= 1.3


class Sent:
    """What came of what was sent."""

    taken = 0
    refused = 0
    without_word = 0


@contextmanager
def sending(client: httpx.Client, *, patiently: bool) -> Iterator[Sent]:
    """Send jobs for as long as the block lasts: never more than may run and wait, but always as many; or on and on."""
    sent, is_over = Sent(), threading.Event()

    def send() -> None:
        while not is_over.is_set():
            if patiently and len(client.get("/jobs?status=queued&limit=5").json()["jobs"]) >= QUEUED - 1:
                time.sleep(0.02)
                continue
            answer = client.post("/generate", json=SHORT)
            if answer.status_code == 202:
                sent.taken += 1
            else:
                assert answer.status_code == 429, answer.text
                sent.refused += 1
                after = int(answer.headers.get("retry-after", 0))
                sent.without_word += not (1 <= after <= 120 and "ratelimit" in answer.headers)
            time.sleep(0.02)

    with ThreadPoolExecutor(1 if patiently else 2) as senders:
        asked = [senders.submit(send) for _ in range(1 if patiently else 2)]
        yield sent
        is_over.set()
    for one in asked:
        one.result()


def mean_wait_s(client: httpx.Client) -> float:
    """How long the jobs of some bursts waited, each burst after the one before."""
    waits: list[float] = []
    for _ in range(BURSTS):
        ids = [client.post("/generate", json=SHORT).json()["id"] for _ in range(BURST)]
        waits += [waited_s(finished(client, job_id)) for job_id in ids]
    return mean(waits)


def finished(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """The job, once it is at its end."""
    until(lambda: client.get(f"/jobs/{job_id}").json()["finished_at"] is not None, 60)
    job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
    return job


async def _limit(url: str, tenant: str) -> None:
    queue = Queue(url)
    await queue.keys.limit_tenant(tenant, QUOTAS)
    await queue.close()
