"""Builds of two versions on one queue: a worker is given what it can read, and nothing waits behind what it cannot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis

from r3core.versions import STORED_VERSION
from server.queue import NewJob, Queue
from server.queue_records import dumps
from server.queue_worker import WorkerQueue
from tests.server.jobs import job, lapse, leased, leased_ids, names, picture_done, stored, submitted, trajectory

NEWER = STORED_VERSION + 1
NewWorker = Callable[..., WorkerQueue]


def of_version(version: int | None, prompt: str = "a cat") -> NewJob:
    """A job as a build of that version submits it; None: from before there were versions."""
    plain = job()
    request = {**plain.request, "request": {**plain.request["request"], "prompt": prompt}}
    return replace(plain, request=request if version is None else {"version": version, **request})


async def test_what_a_newer_api_submitted_is_left_to_newer_workers(
    queue: Queue, worker: WorkerQueue, new_worker: NewWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = [(await queue.submit(of_version(NEWER))).id for _ in range(2)]
    ours = [(await queue.submit(of_version(version))).id for version in (STORED_VERSION, None)]
    assert leased_ids(worker, 4) == ours
    assert worker.left_to_newer == tuple(newer)
    for job_id in newer:
        left = await stored(queue, job_id)
        assert (left.status, left.attempt) == ("queued", 0)
        assert await names(queue, job_id) == ["job.queued"]
    monkeypatch.setattr("server.queue_worker.STORED_VERSION", NEWER)
    upgraded = new_worker()
    assert leased_ids(upgraded, 4) == newer
    assert upgraded.left_to_newer == ()


async def test_what_a_newer_worker_went_on_with_is_not_given_to_an_older_one(
    queue: Queue, worker: WorkerQueue, db: redis.Redis
) -> None:
    job_id = await submitted(queue)
    lease = leased(worker)
    made = json.loads(json.dumps(trajectory(1)))
    done = replace(picture_done(lease, 1), trajectory={**made, "version": NEWER})
    assert worker.checkpoint(job_id, lease.token, done) == "ok"
    lapse(db, job_id)
    assert leased_ids(worker, 4) == []
    assert worker.left_to_newer == (job_id,)
    db.hset(f"{{r3}}:job:{job_id}", "t:0", dumps(made))
    assert leased_ids(worker, 4) == [job_id]


@pytest.mark.parametrize("prompt", ['"version":99', '{"version":99}', '\\"version\\":99', '"\\"version":99'])
async def test_no_prompt_passes_for_a_version(queue: Queue, worker: WorkerQueue, prompt: str) -> None:
    job_ids = [(await queue.submit(of_version(version, prompt))).id for version in (STORED_VERSION, None)]
    assert leased_ids(worker, 4) == job_ids


async def test_a_hundred_newer_jobs_at_the_head_are_passed_over_and_no_more_are_looked_at(
    queue: Queue, worker: WorkerQueue
) -> None:
    for _ in range(99):
        await queue.submit(of_version(NEWER))
    ours = (await queue.submit(of_version(STORED_VERSION))).id
    assert leased_ids(worker, 1) == [ours]
    assert len(worker.left_to_newer) == 99


async def test_one_behind_more_than_a_hundred_newer_jobs_waits(queue: Queue, worker: WorkerQueue) -> None:
    """Each that is passed over is read, by the one thread that Redis has."""
    for _ in range(101):
        await queue.submit(of_version(NEWER))
    await queue.submit(of_version(STORED_VERSION))
    assert leased_ids(worker, 1) == []
    assert len(worker.left_to_newer) == 100
