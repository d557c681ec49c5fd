"""Worker processes that are killed, stopped, told to leave or cut off from Redis: nothing is lost or said twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from r3core.types import Request
from server.embedded import EmbeddedServer
from server.queue import Queue, QueuePolicy
from tests.recorded import Record
from tests.server.processes import LEASE_S, StartWorker, WorkerProcess, worker_processes
from tests.server.promises import promised
from tests.server.working import (
    ASKED,
    FOR_EVER,
    LONG,
    between_two,
    ended,
    given_up,
    new_job,
    read,
    until,
    until_event,
    whole,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sends signals that only Linux has")


@pytest.fixture
def start(queue_server: EmbeddedServer, queue: Queue, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes."""
    with worker_processes(queue_server.url, tmp_path) as start:
        yield start


async def probed(worker: WorkerProcess, path: str, status: int) -> None:
    async def so() -> bool:
        return await asyncio.to_thread(worker.probe, path) == status

    await until(so)


@pytest.mark.row("R1")
async def test_a_killed_workers_job_goes_on_with_another_from_its_last_picture(
    queue: Queue, start: StartWorker
) -> None:
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


@pytest.mark.row("R4")
async def test_a_worker_that_slept_for_three_leases_is_fenced(queue: Queue, start: StartWorker, record: Record) -> None:
    """It wakes up in the middle of a picture, and so does one that was about to end its job."""
    zombie = start()
    new, short = new_job(replace(ASKED, refine=LONG)), new_job()
    await queue.submit(new)
    await until_event(queue, new.id, "reflect.done")
    await queue.submit(short)
    await until_event(queue, short.id, "image")
    zombie.send(signal.SIGSTOP)
    start(fake_step_s=0.002)
    for one in (new, short):
        await until_event(queue, one.id, "job.started", count=2)
    await asyncio.sleep(3 * LEASE_S)
    before = {one.id: await queue.events(one.id) for one in (new, short)}
    zombie.send(signal.SIGCONT)
    await until(lambda: all_lost(zombie, [new.id, short.id]))
    for one in (new, short):
        job = await ended(queue, one.id)
        await whole(queue, job, attempts=2)
        assert (await queue.events(one.id))[: len(before[one.id])] == before[one.id]
    record(
        "R4",
        f"a sleep of {3 * LEASE_S:.0f} s: two jobs went on elsewhere, whole; the sleeper was told that both are lost",
    )
    other = new_job()
    await queue.submit(other)  # and it is of use again
    assert (await ended(queue, other.id)).status == "succeeded"


async def all_lost(worker: WorkerProcess, job_ids: list[str]) -> bool:
    """Whether the worker has dropped these jobs because they are not its own any more."""
    return set(job_ids) <= {line["job_id"] for line in worker.said("job left") if line["outcome"] == "lost"}


@pytest.mark.row("R3")
async def test_sigterm_finishes_the_picture_in_hand_gives_the_rest_back_and_ends_with_zero(
    queue: Queue, start: StartWorker, record: Record
) -> None:
    leaving = start(lease_s=10)
    jobs = [new_job(replace(ASKED, generate=LONG, refine=LONG)) for _ in range(3)]
    for new in jobs:
        await queue.submit(new)
    for new in jobs:
        await until_event(queue, new.id, "reason.done")
    leaving.send(signal.SIGTERM)
    await until(lambda: said(leaving, "leaving"))
    later = new_job()
    await queue.submit(later)
    other = start(lease_s=10, fake_step_s=0.0)
    assert await asyncio.to_thread(leaving.process.wait, 40) == 0
    for new in jobs:
        assert len((await read(queue, new.id)).images) >= 1
    await probed(other, "/readyz", 200)
    with promised(2.0) as went_on:
        for new in jobs:
            await until_event(queue, new.id, "job.started", count=2)
    for new in jobs:
        await whole(queue, await ended(queue, new.id), attempts=2)
    assert later.id not in {line["job_id"] for line in leaving.said("job leased")}
    assert (await ended(queue, later.id)).attempt == 1
    figure = f"3 pictures in hand finished, exit code 0; others went on after {went_on.took_s:.1f} s; no job failed"
    record("R3", figure, kept=went_on.is_kept)


@pytest.mark.row("R3")
async def test_sigterm_over_the_drain_limit_ends_with_the_step_in_hand(
    queue: Queue, start: StartWorker, record: Record
) -> None:
    leaving = start(lease_s=10, drain_s=0.5)
    endless = Request("a cat edits=2", width=64, height=48, seed=7, generate=FOR_EVER)
    jobs = [new_job(endless), new_job(endless)]
    for new in jobs:
        await queue.submit(new)
        await until_event(queue, new.id, "reason.done")
    other = start(lease_s=10, max_trajectories=1)
    await probed(other, "/readyz", 200)
    leaving.send(signal.SIGTERM)
    with promised(2.5) as went_on:
        await until_event(queue, jobs[0].id, "job.started", count=2)
    assert await asyncio.to_thread(leaving.process.wait, 20) == 0
    waiting = await read(queue, jobs[1].id)
    assert (waiting.status, waiting.attempt, waiting.error) == ("queued", 1, None)
    figure = f"a drain limit of 0.5 s, pictures that never end: others went on {went_on.took_s:.1f} s after SIGTERM"
    record("R3", figure, kept=went_on.is_kept)


async def said(worker: WorkerProcess, word: str) -> bool:
    return word in worker.log.read_text()


@pytest.mark.row("R6")
async def test_a_job_that_kills_its_worker_is_given_up_and_those_beside_it_succeed(
    queue: Queue, start: StartWorker, record: Record
) -> None:
    killer, beside = await between_two(queue, "a bomb kill=generate")
    for _ in range(3):
        worker = start(fake_step_s=0.005)
        assert await asyncio.to_thread(worker.process.wait, 20) == 137
    start(fake_step_s=0.005)
    await given_up(queue, killer, beside)
    record("R6", "given up after 3 attempts as `poison_job`; the 2 jobs beside it succeeded")


async def test_a_job_that_its_device_does_not_come_back_from_is_given_up_and_those_beside_it_succeed(
    queue: Queue, start: StartWorker
) -> None:
    """Leases are renewed all the while: without its watchdog a worker that hangs would keep its jobs for ever."""
    hanging, beside = await between_two(queue, "a tar pit hang=generate")
    for _ in range(3):
        worker = start(fake_step_s=0.005, hung_after_s=1, lease_s=60)
        assert await asyncio.to_thread(worker.process.wait, 20) == 1
        told = worker.said("the engine does not come back; its jobs are given back")
        assert [line["after_s"] for line in told] == [1]
        assert "time.sleep(_FOR_EVER_S)" in told[0]["where"]
    start(fake_step_s=0.005, lease_s=60)
    await given_up(queue, hanging, beside)


async def test_a_worker_that_was_stopped_for_long_does_not_count_as_one_that_hangs(
    queue: Queue, start: StartWorker
) -> None:
    worker = start(fake_step_s=0.02, hung_after_s=2, lease_s=60)
    new = new_job(replace(ASKED, generate=LONG))
    await queue.submit(new)
    await until_event(queue, new.id, "reason.done")
    worker.send(signal.SIGSTOP)
    await asyncio.sleep(3)
    worker.send(signal.SIGCONT)
    await whole(queue, await ended(queue, new.id), attempts=1)


@pytest.mark.row("R8")
async def test_a_worker_outlives_its_redis(own_server: EmbeddedServer, start: StartWorker) -> None:
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


@pytest.mark.row("R8")
async def test_a_worker_waits_for_a_redis_that_is_not_there_yet(own_server: EmbeddedServer, start: StartWorker) -> None:
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


async def test_a_worker_logs_json_lines_without_prompts(queue: Queue, start: StartWorker) -> None:
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


async def test_its_port_shows_metrics_and_probes_and_nothing_else(queue: Queue, start: StartWorker) -> None:
    worker = start()
    await probed(worker, "/readyz", 200)
    for path, status in {"/livez": 200, "/startupz": 200, "/metrics": 200, "/": 404, "/jobs": 404}.items():
        assert await asyncio.to_thread(worker.probe, path) == status
