"""How jobs, events and checkpoints are written as arguments of the scripts, and read from their answers. No I/O."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from server.queue_errors import IdempotencyMismatch, QueueFull, RateLimited
from server.queue_records import (
    WEIGHT_OF,
    Checkpoint,
    Event,
    Json,
    Lease,
    Live,
    LoggedEvent,
    NewJob,
    StoredJob,
    Submitted,
    dumps,
)
from server.rate_limits import JOBS, QUEUED, Limit


def enqueue_args(job: NewJob) -> list[str | float]:
    """The arguments of the `enqueue` script."""
    return [
        job.id,
        job.tenant,
        job.model,
        job.priority,
        WEIGHT_OF[job.priority] * job.quotas.weight,
        job.cost,
        job.trajectories,
        job.idempotency_key or "",
        job.body_hash,
        "" if job.deadline_at_ms is None else job.deadline_at_ms,
        dumps(job.request),
        dumps(job.params),
        dumps(job.metadata),
        "" if job.parent is None else dumps(job.parent),
        "" if job.webhook is None else dumps(job.webhook),
        *("" if quota is None else quota for quota in (job.quotas.queued, job.quotas.running, job.quotas.jobs_per_min)),
    ]


def submitted(job: NewJob, answer: Sequence[Any]) -> Submitted:
    """What the `enqueue` script says of a job. Raises QueueFull, RateLimited, IdempotencyMismatch."""
    quotas = job.quotas
    match answer:
        case ["full", scope, seconds]:
            is_quota = scope == "tenant" and quotas.queued is not None
            raise QueueFull(scope, float(seconds), Limit(QUEUED, quotas.queued or 0, 0) if is_quota else None)
        case ["limited", seconds]:
            raise RateLimited(Limit(JOBS, quotas.jobs_per_min or 0, 0, int(seconds)))
        case ["mismatch"]:
            raise IdempotencyMismatch(job.idempotency_key or "")
        case ["new", job_id, queued, jobs, seconds]:
            return Submitted(job_id, replayed=False, limits=tuple(_left(job, queued, jobs, seconds)))
        case [outcome, job_id]:
            return Submitted(job_id, replayed=outcome == "replayed")
    raise AssertionError(f"enqueue answered {answer}")


def _left(job: NewJob, queued: str, jobs: str, seconds: str) -> Iterator[Limit]:
    if jobs != "" and job.quotas.jobs_per_min is not None:
        yield Limit(JOBS, job.quotas.jobs_per_min, int(jobs), int(seconds))
    if queued != "" and job.quotas.queued is not None:
        yield Limit(QUEUED, job.quotas.queued, int(queued))


def checkpoint_args(checkpoint: Checkpoint) -> list[str | float]:
    """The arguments of the `checkpoint` script after id, token and call."""
    ending = checkpoint.ending
    return [
        checkpoint.number,
        "" if checkpoint.index is None else checkpoint.index,
        "" if checkpoint.trajectory is None else dumps(checkpoint.trajectory),
        dumps(dict(checkpoint.usage)),
        "" if ending is None else ending.status,
        "" if ending is None or ending.error is None else dumps(ending.error),
        len(checkpoint.images),
        *(part for name, record in checkpoint.images.items() for part in (name, dumps(record))),
        *event_args(checkpoint.events),
    ]


def event_args(events: Sequence[tuple[str, Json]]) -> list[str]:
    """Events as scripts take them: name, data, name, data, …"""
    return [part for name, data in events for part in (name, dumps(data))]


def logged_event(entry_id: str, fields: Mapping[str, str]) -> LoggedEvent:
    """The event of one stream entry."""
    return LoggedEvent(int(entry_id.partition("-")[0]), fields["name"], json.loads(fields["data"]))


def live_message(payload: str) -> Live:
    """What a message on the live channel says: `<job> <number or -> <name> <data>`."""
    job_id, number, name, data = payload.split(" ", 3)
    return Live(job_id, None if number == "-" else int(number), Event(name, json.loads(data)))


def live_payload(job_id: str, event: tuple[str, Json]) -> str:
    """The message that announces an event that is not logged."""
    return f"{job_id} - {event[0]} {dumps(event[1])}"


def lease_from_answer(answer: Sequence[Any]) -> Lease:
    """The lease in one row of the `lease` script's answer: id, token, alone, then the hash's fields and values."""
    job_id, token, alone, flat = answer
    stored = dict(zip(flat[::2], flat[1::2], strict=True))
    return Lease(
        id=job_id,
        token=int(token),
        attempt=int(stored["attempt"]),
        alone=bool(int(alone)),
        checkpoint=int(stored.get("checkpoint", 0)),
        job=StoredJob.from_hash(job_id, stored),
    )
