"""Jobs for tests of the queue: small, and as real as the queue looks at."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any, cast

import redis

from r3core.types import Image, Request, Round, StopReason, Trajectory
from server.queue import NewJob, Queue, StoredJob
from server.queue_records import Checkpoint, Json, Lease, new_job_id
from server.queue_worker import WorkerQueue

MODEL = "tiny"
REQUEST = Request(prompt="a cat", width=64, height=64, seed=2**53 - 1)


def job(tenant: str = "local", *, n: int = 1, cost: float = 4.0, **fields: Any) -> NewJob:
    """A new job with an id of its own."""
    request = {"request": asdict(replace(REQUEST, n=n)), "start_image": None, "output_format": "png"}
    given = {"id": new_job_id(), "model": MODEL, "params": {"seed": 1}, "request": request, **fields}
    return NewJob(tenant=tenant, cost=cost, **given)


async def submitted(queue: Queue, *args: Any, **fields: Any) -> str:
    """The id of a job that was put into the queue."""
    return (await queue.submit(job(*args, **fields))).id


def leased(worker: WorkerQueue, room: int = 1, holding: int = 0) -> Lease:
    """The one job that the worker is given."""
    [lease] = worker.lease(MODEL, room, holding)
    return lease


def leased_ids(worker: WorkerQueue, room: int, holding: int = 0) -> list[str]:
    """Which jobs the worker is given, in order."""
    return [lease.id for lease in worker.lease(MODEL, room, holding)]


def trajectory(rounds: int, index: int = 0, stop_reason: StopReason | None = None) -> Json:
    """A stored trajectory with that many finished rounds, whose pictures are `img_<trajectory>_<round>`."""
    made = tuple(Round(i, Image(f"img_{index}_{i}", 64, 64)) for i in range(rounds))
    return cast(
        Json, json.loads(json.dumps(Trajectory(REQUEST, index, rounds=made, stop_reason=stop_reason).to_json()))
    )


def record(job_id: str, index: int, round_: int) -> Json:
    """An image record."""
    digest = f"{index}{round_}" * 32
    place = {"tenant": "local", "job": job_id, "trajectory": index, "round": round_, "preview": False}
    return {**place, "width": 64, "height": 64, "format": "png", "sha256": digest, "master_sha256": digest}


def picture_done(lease: Lease, number: int, round_: int = 0, index: int = 0, **fields: Any) -> Checkpoint:
    """The checkpoint of a finished picture."""
    data = {"job_id": lease.id, "trajectory": index, "at": "2026-01-01T00:00:00.000Z", "round": round_}
    return Checkpoint(
        number,
        index,
        trajectory(round_ + 1, index),
        events=[("image", data)],
        images={f"img_{index}_{round_}": record(lease.id, index, round_)},
        usage={"denoise_steps": 49, "forwards": 90, "compute_s": 0.25, "cost": 1.0},
        **fields,
    )


async def names(queue: Queue, job_id: str) -> list[str]:
    """The names of a job's events, after a look at their numbers: 1, 2, 3, …"""
    events = await queue.events(job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert all(event.data["job_id"] == job_id for event in events)
    return [event.name for event in events]


async def stored(queue: Queue, job_id: str) -> StoredJob:
    """The job as it stands, which must be there."""
    found = await queue.job(job_id)
    assert found is not None
    return found


def lapse(db: redis.Redis, *job_ids: str) -> None:
    """The leases of these jobs have run out, as of now: what a test need not wait for.

    A test that was held up since its last call is no outage.
    """
    db.delete("{r3}:visits")
    db.zadd(f"{{r3}}:lease:{MODEL}", dict.fromkeys(job_ids, 1.0), xx=True)
