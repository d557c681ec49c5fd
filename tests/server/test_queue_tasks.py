"""The queue's part in the jobs beside /generate: how they end where no worker holds them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, replace
from typing import Any

import redis

from r3core.types import Image, Round, Trajectory
from server.held import LATE_ERROR, HeldJob, Ready
from server.queue import NewJob, Queue
from server.queue_records import Ending
from server.queue_worker import WorkerQueue
from tests.server.jobs import MODEL, REQUEST, job, leased, names, picture_done, stored


def task(**fields: Any) -> NewJob:
    """A round trip that is to be taken."""
    request = {"request": asdict(replace(REQUEST, kind="roundtrip"))}
    return job(request=request, **fields)


async def lost_with_a_picture(queue: Queue, worker: WorkerQueue, new: NewJob) -> None:
    """The job waits again, for its worker is gone after the first picture."""
    await queue.submit(new)
    lease = leased(worker)
    worker.checkpoint(new.id, lease.token, picture_done(lease, 1))
    worker.release(new.id, lease.token, forgive=True)


async def test_a_deadline_that_passes_while_one_waits_fails_it_whatever_it_has(
    queue: Queue, worker: WorkerQueue
) -> None:
    new = task(deadline_at_ms=int(time.time() * 1000) + 300)
    await lost_with_a_picture(queue, worker, new)
    await asyncio.sleep(0.4)
    assert worker.lease(MODEL, 1, 0) == []
    ended = await stored(queue, new.id)
    assert (ended.status, ended.error) == (
        "failed",
        {"code": "deadline_exceeded", "message": "its deadline passed before it was finished"},
    )
    assert (await names(queue, new.id))[-2:] == ["image", "job.failed"]


async def test_one_that_is_stopped_while_it_waits_tells_of_no_trajectory(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    new = task()
    await lost_with_a_picture(queue, worker, new)
    assert await queue.stop(new.id) == "accepted"
    assert (await stored(queue, new.id)).status == "succeeded"
    assert (await names(queue, new.id))[-2:] == ["image", "job.succeeded"]


async def test_a_deadline_that_passes_while_one_runs_fails_it_whatever_it_has(
    queue: Queue, worker: WorkerQueue
) -> None:
    await queue.submit(task())
    lease = leased(worker)
    asked = replace(REQUEST, kind="roundtrip")
    half = Trajectory(asked, rounds=(Round(0, Image("img_1", 64, 48)),))
    held = HeldJob.begun(Ready(lease, asked, ((half, ()),)), now_s=0.0)
    assert held.has_picture
    held.turn_to("deadline")
    assert held.ending() == Ending("failed", LATE_ERROR)
