"""A job that came to nothing, submitted once more as a new one whose parent it is, for its tenant.

The same request with the same seed. Asked twice it is the same new job, so that an answer that was lost, or two
operators at once, do not make two of them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import replace
from typing import Any

import structlog

from server.faults import ApiError
from server.given_pictures import given_pictures, stored_as
from server.images import ImageMissing
from server.keys import TenantLimits
from server.queue import NewJob, StoredJob, Submitted
from server.queue_errors import REFUSALS
from server.queue_records import new_job_id
from server.schemas import MAX_DEADLINE_S
from server.service import Service
from server.start_image import RECORD_TTL_S

Json = dict[str, Any]


async def submit_again(parts: Service, job: StoredJob) -> Submitted:
    """Raises ApiError not_finished, already_finished (it succeeded), model_not_found, or image_not_found where the
    picture that it started from is gone; and what a submission raises.
    """
    _refuse(job)
    await parts.catalogue.find(job.model)  # nobody would ever take it
    job_id = new_job_id()
    limits = (await parts.authority.ring()).limits_of(job.tenant)
    request, params = await _with_start_pictures(parts, job, job_id)
    try:
        with parts.traces.submitting({}, again=job.request.get("trace")) as span:
            new = _again(job, job_id, ({**request, "trace": span.trace}, params), limits)
            submitted = await parts.queue.submit(new)
            span.about |= {"job.id": submitted.id, "replayed": submitted.replayed, "model": job.model}
    except REFUSALS:
        await _forget(parts, job, job_id)  # after anything else the new job may be there, and need its picture
        raise
    if submitted.replayed:
        await _forget(parts, job, job_id)
    else:
        parts.metrics.jobs_submitted.inc()
    return submitted


def _again(job: StoredJob, job_id: str, asked: tuple[Json, Json], limits: TenantLimits) -> NewJob:
    request, params = asked
    deadline_s = params.get("deadline_s")
    return NewJob(
        id=job_id,
        tenant=job.tenant,
        model=job.model,
        request={**request, "request_id": structlog.contextvars.get_contextvars().get("request_id")},
        params=params,
        cost=job.cost,
        priority=job.priority,
        idempotency_key=f"\tretry {job.id}",  # no client can send a tab in one
        body_hash=job.id,
        deadline_at_ms=None if deadline_s is None else int((time.time() + min(deadline_s, MAX_DEADLINE_S)) * 1000),
        metadata=job.metadata,
        parent={"job": job.id, "trajectory": None, "round": None},
        webhook=job.webhook,
        quotas=replace(limits, jobs_per_min=None, queued=None),  # an operator's wish, not the tenant's
    )


def _refuse(job: StoredJob) -> None:
    if not job.is_finished:
        raise ApiError("not_finished", f"{job.id} is {job.status}; cancel it first, or wait for its end")
    if job.status == "succeeded":
        raise ApiError("already_finished", f"{job.id} has succeeded; there is nothing to try again")


async def _forget(parts: Service, job: StoredJob, job_id: str) -> None:
    """Remove the picture of a job that did not come about; what is left behind all the same is swept later."""
    await asyncio.to_thread(parts.images.delete_job, job.tenant, job_id)


async def _with_start_pictures(parts: Service, job: StoredJob, job_id: str) -> tuple[Json, Json]:
    """The job's request and params, with copies of the pictures that it started from: the first are erased with it."""
    given = [record for record in given_pictures(job.request).values() if record is not None]
    if not given:
        return job.request, job.params
    copies = dict([await _copied(parts, job, job_id, record) for record in given])
    named = {"images": list(copies)} if "images" in job.params else {"image": next(iter(copies))}
    return {**job.request, **stored_as(copies)}, {**job.params, **named}


async def _copied(parts: Service, job: StoredJob, job_id: str, record: Json) -> tuple[str, Json]:
    """A picture's id and record under the new job."""
    try:
        content = await asyncio.to_thread(parts.images.get, record["tenant"], record["job"], record["master_sha256"])
    except ImageMissing as error:
        detail = f"the picture that {job.id} started from is gone; submit it anew with the picture"
        raise ApiError("image_not_found", detail) from error
    await asyncio.to_thread(parts.images.put, job.tenant, job_id, content)
    image_id = f"img_{secrets.token_hex(16)}"
    own = {**record, "job": job_id}
    await parts.queue.register_image(image_id, own, RECORD_TTL_S)
    return image_id, own
