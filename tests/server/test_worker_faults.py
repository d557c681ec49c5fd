"""Worker processes that are killed, stopped, told to leave or cut off from Redis: nothing is lost or said twice."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from server.embedded import EmbeddedServer
from server.queue import NewJob, Queue, QueuePolicy, QueueUnavailable, StoredJob
from tests.server.promises import promised
from tests.server.working import ASKED, LONG, ended, new_job, read, until, until_event, whole

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals that only Linux has")
LEASE_S = 2.0


class WorkerProcess:
    """`r3 worker` with the fake model."""

    def __init__(self, url: str, data_dir: Path, log: Path, **settings: Any) -> None:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
        given = {
            "redis_url": url,
            "data_dir": data_dir,
            "checkpoint": data_dir / "none",  # so that its model is called "fake"
            "runner": "fake",
            "fake_step_s": 0.02,
            "worker_port": 0,
            "lease_s": LEASE_S,
            "renew_s": 0.2,
            "max_trajectories": 4,
            **settings,
        }
        environment = {**plain, **{f"R3_{name.upper()}": str(value) for name, value in given.items()}}
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server.cli", "worker"], env=environment, stdout=out, stderr=out
            )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def probe(self, path: str) -> int:
        """The status of a probe, 0 before the port is open."""
        port = re.search(r'"port": (\d+)', self.log.read_text())
        if port is None:
            return 0
        connection = http.client.HTTPConnection("127.0.0.1", int(port[1]), timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


Start = Callable[..., WorkerProcess]


@pytest.fixture
def start(queue_server: EmbeddedServer, queue: Queue, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes."""
    started: list[WorkerProcess] = []

    def begin(url: str = queue_server.url, **settings: Any) -> WorkerProcess:
        started.append(WorkerProcess(url, tmp_path, tmp_path / f"worker-{len(started)}.log", **settings))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.kill()


async def probed(worker: WorkerProcess, path: str, status: int) -> None:
    async def so() -> bool:
        return await asyncio.to_thread(worker.probe, path) == status

    await until(so)


async def test_a_killed_workers_job_goes_on_with_another_from_its_last_picture(queue: Queue, start: Start) -> None:
    killed = start()
    new = new_job(replace(ASKED, refine=LONG))
    await queue.submit(new)
    await until_event(queue, new.id, "reflect.done")  # in the middle of round 1
    killed.kill()
    with promised(LEASE_S + 1.0):
        start(fake_step_s=0.0)
        await until_event(queue, new.id, "job.started", count=2)
    job = await ended(queue, new.id)
    started = [event.data for event in await queue.events(new.id) if event.name == "job.started"]
    assert [(data["attempt"], data["resumed_from_round"]) for data in started] == [(1, None), (2, [0])]
    await whole(queue, job, attempts=2)


async def test_a_stopped_worker_that_wakes_up_is_fenced(queue: Queue, start: Start) -> None:
    zombie = start()
    new = new_job(replace(ASKED, refine=LONG))
    await queue.submit(new)
    await until_event(queue, new.id, "reflect.done")
    zombie.send(signal.SIGSTOP)
    start(fake_step_s=0.002)
    await until_event(queue, new.id, "job.started", count=2)
    zombie.send(signal.SIGCONT)
    job = await ended(queue, new.id)
    await whole(queue, job, attempts=2)
    await until(lambda: said(zombie, "lost"))
    other = new_job()
    await queue.submit(other)  # and it is of use again
    assert (await ended(queue, other.id)).status == "succeeded"


async def said(worker: WorkerProcess, word: str) -> bool:
    return word in worker.log.read_text()


async def test_sigterm_finishes_the_picture_in_hand_gives_the_rest_back_and_ends_with_zero(
    queue: Queue, start: Start
) -> None:
    leaving = start(lease_s=10)
    jobs = [new_job(replace(ASKED, generate=LONG, refine=LONG)) for _ in range(3)]
    for new in jobs:
        await queue.submit(new)
    for new in jobs:
        await until_event(queue, new.id, "reason.done")
    other = start(lease_s=10, fake_step_s=0.0)
    await probed(other, "/readyz", 200)
    leaving.send(signal.SIGTERM)
    assert await asyncio.to_thread(leaving.process.wait, 40) == 0
    with promised(2.0):
        for new in jobs:
            assert len((await read(queue, new.id)).images) >= 1
            await until_event(queue, new.id, "job.started", count=2)
    for new in jobs:
        await whole(queue, await ended(queue, new.id), attempts=2)


async def test_a_job_that_kills_its_worker_is_given_up_and_those_beside_it_succeed(queue: Queue, start: Start) -> None:
    killer = new_job(replace(ASKED, prompt="a bomb kill=generate"))
    beside = [new_job() for _ in range(2)]
    for new in (beside[0], killer, beside[1]):
        await queue.submit(new)
    for _ in range(3):
        worker = start(fake_step_s=0.005)
        assert await asyncio.to_thread(worker.process.wait, 20) == 137
    start(fake_step_s=0.005)
    job = await ended(queue, killer.id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.attempt) == ("failed", "poison_job", 3)
    for new in beside:
        await whole(queue, done := await ended(queue, new.id), attempts=done.attempt)


async def test_a_worker_outlives_its_redis(own_server: EmbeddedServer, start: Start) -> None:
    queue = Queue(own_server.url, QueuePolicy(lease_s=LEASE_S))
    worker = start(own_server.url, lease_s=10)
    await probed(worker, "/readyz", 200)
    new = new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGKILL)
    await probed(worker, "/readyz", 503)
    assert await asyncio.to_thread(worker.probe, "/livez") == 200
    assert not own_server.is_running()
    own_server.start()
    job = await ended(queue, new.id)
    await whole(queue, job, attempts=1)
    await probed(worker, "/readyz", 200)
    await queue.close()


async def test_a_worker_waits_for_a_redis_that_is_not_there_yet(own_server: EmbeddedServer, start: Start) -> None:
    own_server.stop()
    worker = start(own_server.url)
    await probed(worker, "/livez", 200)
    await probed(worker, "/startupz", 200)
    assert await asyncio.to_thread(worker.probe, "/readyz") == 503
    Path(own_server.url.removeprefix("unix://")).parent.mkdir(mode=0o700, exist_ok=True)
    own_server.start()
    await probed(worker, "/readyz", 200)
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, 20) == 0


async def test_a_worker_logs_json_lines_without_prompts(queue: Queue, start: Start) -> None:
    worker = start()
    new = new_job(replace(ASKED, prompt="a secret wish edits=0"))
    await queue.submit(new)
    await ended(queue, new.id)
    worker.send(signal.SIGTERM)
    assert await asyncio.to_thread(worker.process.wait, 20) == 0
    text = worker.log.read_text()
    assert "secret" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["event"] for line in lines} >= {
        "worker starts",
        "model loaded",
        "job leased",
        "job left",
        "worker ends",
    }


async def test_its_port_shows_metrics_and_probes_and_nothing_else(queue: Queue, start: Start) -> None:
    worker = start()
    await probed(worker, "/readyz", 200)
    for path, status in {"/livez": 200, "/startupz": 200, "/metrics": 200, "/": 404, "/jobs": 404}.items():
        assert await asyncio.to_thread(worker.probe, path) == status


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_workers_killed_at_random_lose_nothing(queue: Queue, start: Start, seed: int) -> None:
    chance = random.Random(seed)
    jobs = [new_job() for _ in range(40)]
    for new in jobs:
        await queue.submit(new)
    workers = [start(fake_step_s=0.01, lease_s=1) for _ in range(2)]
    for _ in range(17):
        await asyncio.sleep(1.0 + chance.random())  # long enough for a picture between two deaths of one job
        victim = chance.randrange(2)
        workers[victim].kill()
        workers[victim] = start(fake_step_s=0.01, lease_s=1)
    for new in jobs:
        job: StoredJob = await ended(queue, new.id, timeout_s=120)
        await whole(queue, job, attempts=job.attempt)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_redis_killed_four_times_loses_no_accepted_job(own_server: EmbeddedServer, start: Start) -> None:
    queue = Queue(own_server.url, QueuePolicy(lease_s=5.0))
    jobs = [new_job(replace(ASKED, prompt=f"cat {number} edits=2")) for number in range(60)]
    for _ in range(2):
        start(own_server.url, lease_s=5.0, fake_step_s=0.01)
    for number, new in enumerate(jobs):
        await submitted_somehow(queue, new)
        if number % 15 == 7:
            assert own_server.pid is not None
            os.kill(own_server.pid, signal.SIGKILL)
            await asyncio.sleep(0.3)
            assert not own_server.is_running()
            own_server.start()
    for new in jobs:
        job = await ended(queue, new.id, timeout_s=120)
        await whole(queue, job, attempts=job.attempt)
    await queue.close()


async def submitted_somehow(queue: Queue, new: NewJob) -> None:
    """As a client does: the same submission again until it is accepted."""
    async with asyncio.timeout(30):
        while True:
            try:
                await queue.submit(new)
            except QueueUnavailable:
                await asyncio.sleep(0.1)
            else:
                return
