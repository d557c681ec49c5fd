"""From a request that was judged to a job in the queue: what /generate and /v1 have in common."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog
from fastapi import Request

from r3core.checkpoint import Description
from r3core.versions import STORED_VERSION
from server.callers import Caller
from server.cost import job_cost
from server.errors import invalid_request
from server.faults import ApiError, Fault
from server.hook_rules import allowed
from server.keys import TenantLimits
from server.queue import NewJob, StoredJob, Submitted
from server.queue_errors import REFUSALS
from server.queue_records import new_job_id
from server.rate_limits import note
from server.resolve import SEEDS_DRAWN_BELOW, Read, faults_against, resolved, shown_params
from server.schemas import MAX_DEADLINE_S, GenerationCreate
from server.service import Service
from server.start_image import StartImage, take_start_image
from server.traces import Carrier, trace_id_of

log = structlog.get_logger("r3.api")

MAX_KEY_CHARS: Final = 255


@dataclass(frozen=True)
class Asked:
    """A request that was judged, and who sent it. `upload` is the file that its `image` stands for."""

    caller: Caller
    body: GenerationCreate
    description: Description
    idempotency_key: str | None
    body_hash: str
    upload: bytes | None = None

    @property
    def is_lost_unanswered(self) -> bool:
        """Whether nobody would know of the job, nor could ask for it again, if this request were not answered."""
        return bool(self.body.cancel_on_disconnect) and self.idempotency_key is None


async def judge(parts: Service, read: Read) -> Description:
    """The model that is meant. Raises ApiError that lists every fault."""
    try:
        description = await parts.catalogue.find(None if "model" in read.wrong else read.body.model)
    except ApiError as error:
        if read.faults:
            raise invalid_request([*read.faults, *error.faults]) from error
        raise
    if faults := faults_against(read, description, allowed(parts.settings.webhook_allow)):
        raise invalid_request(faults)
    return description


async def submit(request: Request, parts: Service, asked: Asked) -> tuple[StoredJob, bool]:
    """The job, and whether the key had made it before. The answer to the request will tell of the tenant's limits."""
    submitted = await _submitted(request, parts, asked)
    note(request.scope, submitted.limits)
    try:
        return await parts.job_of(asked.caller.tenant, submitted.id), submitted.replayed
    except BaseException:
        if asked.is_lost_unanswered:
            parts.giving_up.on(submitted.id)
        raise


async def _submitted(request: Request, parts: Service, asked: Asked) -> Submitted:
    with parts.traces.submitting(request.headers) as span:
        submitted = await _queued(parts, asked, span.trace)
        span.about |= {"job.id": submitted.id, "replayed": submitted.replayed, "model": asked.description.name}
        span.about |= {"n": asked.body.n, "priority": asked.body.priority}
    return submitted


async def _queued(parts: Service, asked: Asked, trace: Carrier) -> Submitted:
    job_id, tenant, body = new_job_id(), asked.caller.tenant, asked.body
    quotas = (await parts.authority.ring()).limits_of(tenant)
    start = None
    if body.image is not None:
        given = body.image if asked.upload is None else asked.upload
        start = await take_start_image(parts, tenant, job_id, given, asked.description)
    try:
        new = _new_job(job_id, asked, start, quotas, trace)
        submitted = await parts.queue.submit(new)
    except REFUSALS:
        await _forget(parts, tenant, job_id, start)  # after anything else the job may be there, and need its picture
        raise
    except BaseException:
        if asked.is_lost_unanswered:
            parts.giving_up.on(job_id, may_come=True)
        raise
    if submitted.replayed:
        await _forget(parts, tenant, job_id, start)
    else:
        parts.metrics.jobs_submitted.inc()
        what = {"job_id": job_id, "model": asked.description.name, "n": body.n, "priority": body.priority}
        log.info("job submitted", **what, **trace_id_of(new.request))
    return submitted


def _new_job(job_id: str, submission: Asked, start: StartImage | None, quotas: TenantLimits, trace: Carrier) -> NewJob:
    body, description = submission.body, submission.description
    seed = secrets.randbelow(SEEDS_DRAWN_BELOW) if body.seed is None else body.seed
    asked = resolved(body, description, seed, None if start is None else (start.width, start.height))
    start_id = None if start is None else start.id
    deadline_s = None if body.deadline_s is None else min(body.deadline_s, MAX_DEADLINE_S)
    return NewJob(
        id=job_id,
        tenant=submission.caller.tenant,
        model=description.name,
        request={
            "version": STORED_VERSION,
            "request": asdict(asked),
            "start_image": start_id,
            "start_record": None if start is None else start.record,
            "output_format": body.output_format,
            "output_compression": body.output_compression,
            "request_id": structlog.contextvars.get_contextvars().get("request_id"),
            **({"trace": trace} if trace else {}),
        },
        params=shown_params(asked, body, start_id),
        cost=job_cost(asked),
        priority=body.priority,
        idempotency_key=submission.idempotency_key,
        body_hash=submission.body_hash,
        deadline_at_ms=None if deadline_s is None else int((time.time() + deadline_s) * 1000),
        metadata=body.metadata,
        parent=None if start is None else start.parent,
        quotas=quotas,
        webhook=None if body.webhook is None else body.webhook.model_dump(),
    )


async def _forget(parts: Service, tenant: str, job_id: str, start: StartImage | None) -> None:
    """Remove the picture of a job that did not come about; what is left behind all the same is swept later."""
    if start is not None:
        await asyncio.to_thread(parts.images.delete_job, tenant, job_id)


def check_key(keys: Sequence[str]) -> None:
    """Refuse what is no Idempotency-Key. Raises ApiError."""
    if len(keys) > 1:
        raise invalid_request([Fault("/Idempotency-Key", f"is there {len(keys)} times; send one")])
    for key in keys:
        if not (1 <= len(key) <= MAX_KEY_CHARS and key.isprintable()):
            detail = f"has {len(key)} characters; it must have 1 to {MAX_KEY_CHARS}, all printable"
            raise invalid_request([Fault("/Idempotency-Key", detail)])


def hash_of(value: Any) -> str:
    """The hash of the body's meaning: spaces and the order of names do not make it another."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
